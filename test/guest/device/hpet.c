/* The HPET: its counter, and comparators through the I/O APIC. */
#include "device.h"

#define CAPABILITIES 0x00
#define PERIOD       0x04 /* of the counter, in fs */
#define CONFIG       0x10
#define STATUS       0x20
#define COUNTER      0xf0
#define TIMER(n)     (0x100 + 0x20 * (n))
#define ROUTES       4
#define COMPARATOR   8

#define ENABLE        1u
#define LEGACY        2u
#define TIMER_LEVEL   0x02u
#define TIMER_ON      0x04u
#define TIMER_REPEATS 0x08u
#define CAN_REPEAT    0x10u
#define SET_VALUE     0x40u

#define TIMER_32 0x100u

#define VECTOR 0x55

static uint32_t get(unsigned reg)
{
	return load32(HPET_BASE + reg);
}

static void set(unsigned reg, uint32_t v)
{
	store32(HPET_BASE + reg, v);
}

static uint64_t get64(unsigned reg)
{
	return *(volatile uint64_t *)(HPET_BASE + reg);
}

static void set64(unsigned reg, uint64_t v)
{
	*(volatile uint64_t *)(HPET_BASE + reg) = v;
}

static uint32_t ticks(uint64_t us)
{
	return (uint32_t)(us * 1000000000 / get(PERIOD));
}

static void test_counter(void)
{
	struct stopwatch w;
	uint64_t before, us;

	ok("a revision and a vendor", (get(CAPABILITIES) & 0xff) && get(CAPABILITIES) >> 16);
	ok("at least 3 timers", (get(CAPABILITIES) >> 8 & 0x1f) >= 2);
	ok("a period of 100 ns at most", get(PERIOD) && get(PERIOD) <= 100000000);
	set(CONFIG, 0);
	set64(COUNTER, 0x123456789a);
	delay_us(1000);
	ok_equal("the counter stands while off", get64(COUNTER), 0x123456789a);
	set(CONFIG, ENABLE);
	before = get64(COUNTER);
	stopwatch_start(&w);
	delay_us(10000);
	us = stopwatch_us(&w);
	ok("and keeps time while on", is_near(get64(COUNTER) - before, ticks(us), 20));
	ok("halves read alone", get(COUNTER + 4) == 0x12);
}

static unsigned pick_route(unsigned timer)
{
	unsigned pin = 23;

	while (pin && !(get(TIMER(timer) + ROUTES) >> pin & 1))
		pin--;
	return pin;
}

static void test_one_shot(void)
{
	unsigned pin = pick_route(2);
	struct stopwatch w;

	ok("a timer can reach an I/O APIC pin", pin);
	irq_clear();
	ioapic_route(pin, 0, VECTOR);
	stopwatch_start(&w);
	set(TIMER(2), TIMER_32 | pin << 9);
	set(TIMER(2) + COMPARATOR, get(COUNTER) + ticks(10000));
	set(TIMER(2), TIMER_32 | TIMER_ON | pin << 9);
	ok_equal("the route reads back", get(TIMER(2)) >> 9 & 0x1f, pin);
	while (!irq_mine()->of[VECTOR])
		irq_sleep();
	ok("one shot, not early", stopwatch_us(&w) >= 9900);
	irq_enable();
	delay_us(5000);
	irq_disable();
	ok_equal("once", irq_mine()->total, 1);
	set(TIMER(2), 0);
	ioapic_route(pin, 0, APIC_MASKED);
}

static void end_level(unsigned vector)
{
	set(STATUS, 4);
	apic_end(vector);
}

static void test_level(void)
{
	unsigned pin = pick_route(2);

	irq_clear();
	irq_end = end_level;
	ioapic_route(pin, 0, VECTOR | 0x8000);
	set(TIMER(2) + COMPARATOR, get(COUNTER) + ticks(1000));
	set(TIMER(2), TIMER_32 | TIMER_ON | TIMER_LEVEL | pin << 9);
	ok("a level shows in the status", WAIT_FOR(get(STATUS) & 4, 1000));
	irq_window();
	ok_equal("and interrupts", irq_mine()->of[VECTOR], 1);
	ok("until the status is cleared", !(get(STATUS) & 4));
	irq_window();
	ok_equal("once", irq_mine()->total, 1);
	set(TIMER(2), 0);
	ioapic_route(pin, 0, APIC_MASKED);
	irq_end = apic_end;
}

/* The order of IA-PC HPET 1.0a 2.3.9.2.2: comparator, then period. */
static void test_periodic(void)
{
	struct stopwatch w;

	ok("timer 0 can repeat", get(TIMER(0)) & CAN_REPEAT);
	irq_clear();
	ioapic_route(2, 0, VECTOR);
	set(CONFIG, 0);
	set64(COUNTER, 0);
	set(TIMER(0), TIMER_ON | TIMER_REPEATS | SET_VALUE | TIMER_32);
	set(TIMER(0) + COMPARATOR, ticks(5000));
	set(TIMER(0) + COMPARATOR, ticks(5000));
	set(CONFIG, ENABLE | LEGACY);
	stopwatch_start(&w);
	while (irq_mine()->of[VECTOR] < 10)
		irq_sleep();
	ok("periodic through the PIT's line", is_near(stopwatch_us(&w), 50000, 30));
	set(TIMER(0), 0);
	irq_clear();
	pit_start(1000);
	irq_enable();
	delay_us(10000);
	irq_disable();
	ok_equal("which the PIT has lost", irq_mine()->total, 0);
	set(CONFIG, 0);
	irq_enable();
	ok("until legacy mode ends", WAIT_FOR(irq_mine()->of[VECTOR] >= 3, 1000));
	irq_disable();
	pit_stop();
}

/* A stack in device memory: an engine may have somebody else do the PUSH and go on behind it, where
 * its operand's neighbours are read, which it may have looked up together with the operand. */
static void test_stack(void)
{
	static uint64_t at[2][3] = { { 1, 2, 3 }, { 4, 5, 6 } };

	for (unsigned n = 0; n < 2; n++) {
		word sp, two, three;

		__asm__ volatile("mov %%rsp, %0\n"
		                 "mov %3, %%rsp\n"
		                 "jmp 1f\n"
		                 "1: pushq (%4)\n"
		                 "mov 8(%4), %1\n"
		                 "mov 16(%4), %2\n"
		                 "mov %0, %%rsp\n"
		                 : "=&r"(sp), "=&r"(two), "=&r"(three)
		                 : "r"(HPET_BASE + 0x3f8), "r"(at[n])
		                 : "memory");
		ok_equal("read behind a PUSH to a device", two, at[n][1]);
		ok_equal("  and behind that", three, at[n][2]);
	}
}

void guest_run(void)
{
	pic_disable();
	apic_enable();
	apic_write(APIC_LVT_LINT0, APIC_MASKED);
	irq_begin(apic_end);
	test_stack();
	test_counter();
	test_one_shot();
	test_level();
	test_periodic();
}

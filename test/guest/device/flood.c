/* A MiB to the serial port without a look at its status, and the shortest periods of all timers. */
#include "device.h"

#define COM1  0x3f8
#define LINES (1 << 14) /* of 64 bytes */

static void test_serial(void)
{
	static const char line[] =
	        "a line of sixty-four bytes for the serial port to take or lose\r\n";

	for (unsigned i = 0; i < LINES; i++) {
		const char *at = line;
		word n = sizeof(line) - 1;

		__asm__ volatile("rep outsb" : "+S"(at), "+c"(n) : "d"(COM1) : "memory");
	}
	ok("1 MiB to the serial port", true);
}

/* Work must get on between the interrupts. */
static void test_storm(const char *name)
{
	uint64_t work = 0;
	struct stopwatch w;

	irq_clear();
	irq_enable();
	stopwatch_start(&w);
	while (stopwatch_us(&w) < 5000000 && (work < 1000 || irq_mine()->total < 20))
		work++;
	irq_disable();
	ok(name, work >= 1000 && irq_mine()->total >= 20);
}

static void test_lapic(void)
{
	apic_write(APIC_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, APIC_PERIODIC | 0x60);
	apic_write(APIC_INITIAL, 1);
	test_storm("local APIC timer");
	apic_write(APIC_LVT_TIMER, APIC_MASKED);
	apic_write(APIC_INITIAL, 0);
}

static void test_pit(void)
{
	ioapic_route(2, 0, 0x61);
	out8(PORT_PIT0 + 3, 0x34);
	out8(PORT_PIT0, 2);
	out8(PORT_PIT0, 0);
	test_storm("PIT");
	pit_stop();
}

static void test_hpet(void)
{
	store32(HPET_BASE + 0x10, 0);
	store32(HPET_BASE + 0x100, 0x14c); /* on, periodic, 32 bits, set the comparator */
	store32(HPET_BASE + 0x108, 1);
	store32(HPET_BASE + 0x108, 1);
	store32(HPET_BASE + 0x10, 3);
	test_storm("HPET");
	store32(HPET_BASE + 0x100, 0);
	store32(HPET_BASE + 0x10, 0);
	ioapic_route(2, 0, APIC_MASKED);
}

void guest_run(void)
{
	pic_disable();
	apic_enable();
	apic_write(APIC_LVT_LINT0, APIC_MASKED);
	irq_begin(apic_end);
	test_serial();
	test_lapic();
	test_pit();
	test_hpet();
}

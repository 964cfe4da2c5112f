#include "lapic_checks.h"

#include "device.h"

#define DIVIDE_BY_1 0xb
#define DIVIDE_BY_2 0x0

static void send_self(unsigned vector)
{
	apic_send(0, ICR_SELF | ICR_ASSERT | vector);
}

static void begin(void (*end)(unsigned vector))
{
	irq_disable();
	irq_begin(end);
	irq_clear();
	apic_enable();
}

static void check_identity(void)
{
	uint32_t version = apic_read(APIC_VERSION);

	ok_equal("id of the first CPU", apic_read(APIC_ID), 0);
	ok_equal("an integrated APIC", version >> 4 & 0xf, 1);
	ok("with at least 5 LVT entries", (version >> 16 & 0xff) >= 4);
	ok_equal("spurious vector register", apic_read(APIC_SVR), 0x1ff);
	ok("the bootstrap processor", read_msr(MSR_APIC_BASE) & 0x100);
}

static void check_self_ipi(void)
{
	begin(NULL);
	send_self(0x60);
	ok("a self-IPI is requested", apic_test(APIC_IRR, 0x60) && !apic_test(APIC_ISR, 0x60));
	send_self(0x60);
	irq_window();
	ok_equal("and comes", irq_mine()->of[0x60], 1);
	ok("and is in service", !apic_test(APIC_IRR, 0x60) && apic_test(APIC_ISR, 0x60));
	apic_end(0x60);
	ok("until its EOI", !apic_test(APIC_ISR, 0x60));
	irq_window();
	ok_equal("two requests of a vector are one", irq_mine()->of[0x60], 1);
	apic_end(0x60);
	ok_equal("an EOI too many does nothing", irq_mine()->total, 1);
}

static void check_priorities(void)
{
	volatile uint8_t *log = irq_mine()->log;

	begin(apic_end);
	send_self(0x51);
	send_self(0x71);
	send_self(0x61);
	irq_window();
	ok("the highest vector first", log[0] == 0x71 && log[1] == 0x61 && log[2] == 0x51);
	begin(NULL);
	send_self(0x61);
	irq_window();
	ok_equal("priority while one is served", apic_read(APIC_PPR), 0x60);
	send_self(0x6f);
	irq_window();
	ok_equal("the same class waits", irq_mine()->total, 1);
	send_self(0x71);
	irq_window();
	ok_equal("a higher one comes", irq_mine()->of[0x71], 1);
	apic_end(0x71);
	ok_equal("EOI ends the highest", apic_read(APIC_PPR), 0x60);
	irq_window();
	ok_equal("which lets no equal in", irq_mine()->of[0x6f], 0);
	apic_end(0x61);
	irq_window();
	ok_equal("until that is ended too", irq_mine()->of[0x6f], 1);
	apic_end(0x6f);
	ok_equal("nothing is served", apic_read(APIC_PPR), 0);
}

static void write_cr8(word v)
{
	__asm__ volatile("mov %0, %%cr8" : : "r"(v) : "memory");
}

static word read_cr8(void)
{
	word v;
	__asm__ volatile("mov %%cr8, %0" : "=r"(v) : : "memory");
	return v;
}

static void check_tpr(void)
{
	begin(apic_end);
	apic_write(APIC_TPR, 0x6f);
	ok_equal("TPR reads back", apic_read(APIC_TPR), 0x6f);
	ok_equal("PPR follows it", apic_read(APIC_PPR), 0x6f);
	ok_equal("CR8 is its upper half", read_cr8(), 6);
	send_self(0x6f);
	send_self(0x70);
	irq_window();
	ok("it holds back its class and lower",
	   irq_mine()->of[0x70] == 1 && irq_mine()->total == 1);
	write_cr8(5);
	ok_equal("CR8 writes it", apic_read(APIC_TPR), 0x50);
	irq_window();
	ok_equal("and lets the waiting one in", irq_mine()->of[0x6f], 1);
	ok("CR8 has four bits", TRY("mov %0, %%cr8", : : "r"(16ul) : "memory") == EXC_GP);
	write_cr8(0);
}

/* Counts in ms. */
static uint32_t count_rate(uint32_t divide)
{
	struct stopwatch w;
	uint64_t us;
	uint32_t counted;

	apic_write(APIC_LVT_TIMER, APIC_MASKED | 0x80);
	apic_write(APIC_DIVIDE, divide);
	stopwatch_start(&w);
	apic_write(APIC_INITIAL, 0xffffffff);
	do {
		us = stopwatch_us(&w);
	} while (us < 10000);
	counted = 0xffffffff - apic_read(APIC_CURRENT);
	us = stopwatch_us(&w);
	apic_write(APIC_INITIAL, 0);
	return (uint32_t)(counted * 1000ull / us);
}

static void check_timer(void)
{
	uint32_t rate, half;

	begin(apic_end);
	half = count_rate(DIVIDE_BY_2);
	rate = count_rate(DIVIDE_BY_1);
	ok("the divider divides", is_near(rate, half * 2ull, 25));
	ok_equal("a count of 0 stops", apic_read(APIC_CURRENT), 0);
	apic_write(APIC_LVT_TIMER, 0x80);
	apic_write(APIC_INITIAL, rate);
	while (!irq_mine()->total)
		irq_sleep();
	ok_equal("one shot wakes from HLT", irq_mine()->of[0x80], 1);
	irq_enable();
	delay_us(5000);
	irq_disable();
	ok_equal("once", irq_mine()->of[0x80], 1);
	ok_equal("the count stays 0", apic_read(APIC_CURRENT), 0);
	ok_equal("the initial count stays", apic_read(APIC_INITIAL), rate);
	irq_clear();
	apic_write(APIC_LVT_TIMER, APIC_PERIODIC | 0x81);
	apic_write(APIC_INITIAL, rate);
	while (irq_mine()->of[0x81] < 5)
		irq_sleep();
	ok("the count is within the period", apic_read(APIC_CURRENT) <= rate);
	apic_write(APIC_LVT_TIMER, APIC_PERIODIC | APIC_MASKED | 0x81);
	irq_window();
	irq_clear();
	irq_enable();
	delay_us(3000);
	irq_disable();
	ok_equal("a masked timer is silent", irq_mine()->total, 0);
	ok("and counts on", WAIT_FOR(apic_read(APIC_CURRENT) != 0, 100));
	apic_write(APIC_INITIAL, 0);
}

static void check_errors(void)
{
	begin(apic_end);
	apic_write(APIC_LVT_ERROR, 0x82);
	apic_write(APIC_ESR, 0);
	send_self(ILLEGAL_VECTOR);
	apic_write(APIC_ESR, 0);
	ok_equal("sending an illegal vector is an error", apic_read(APIC_ESR), 0x20);
	irq_window();
	ok_equal("with an interrupt", irq_mine()->of[0x82], 1);
	apic_write(APIC_ESR, 0);
	ok_equal("a write of ESR clears it", apic_read(APIC_ESR), 0);
	apic_write(APIC_LVT_ERROR, APIC_MASKED);
}

static void check_disabled(void)
{
	begin(apic_end);
	apic_write(APIC_LVT_TIMER, 0x83);
	apic_write(APIC_SVR, 0xff);
	ok("software disabling masks the LVT", apic_read(APIC_LVT_TIMER) & APIC_MASKED);
	apic_write(APIC_LVT_TIMER, 0x83);
	ok("and keeps it masked", apic_read(APIC_LVT_TIMER) & APIC_MASKED);
	send_self(0x60);
	irq_window();
	ok_equal("and takes no interrupts", irq_mine()->total, 0);
	apic_enable();
	ok("which enabling does not undo", apic_read(APIC_LVT_TIMER) & APIC_MASKED);
	irq_window();
	ok_equal("nor bring back", irq_mine()->total, 0);
}

void check_lapic(void)
{
	begin(apic_end);
	check_identity();
	check_self_ipi();
	check_priorities();
	check_tpr();
	check_timer();
	check_errors();
	check_disabled();
	apic_enable();
}

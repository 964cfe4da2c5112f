/* INIT and SIPI to CPUs in every state. */
#include "smp.h"

static volatile unsigned turns;
static volatile bool halted;

static void spin(unsigned cpu)
{
	for (;;)
		turns++;
}

static void halt(unsigned cpu)
{
	halted = true;
	for (;;)
		__asm__ volatile("cli; hlt");
}

static bool turns_advance(void)
{
	unsigned before = turns;

	return WAIT_FOR(turns != before, 500);
}

static void note_turn(unsigned cpu)
{
	turns++;
}

static bool works(void)
{
	unsigned before = turns;

	smp_begin(1, note_turn);
	return smp_wait(1) && turns == before + 1;
}

static void test_running(void)
{
	smp_begin(1, spin);
	ok("it runs", turns_advance());
	apic_send(1, ICR_STARTUP | ICR_ASSERT | 8);
	ok("a SIPI does nothing to it", turns_advance());
	apic_send(1, ICR_INIT | ICR_ASSERT);
	delay_us(10000);
	ok("an INIT stops it", !turns_advance());
	apic_send(1, ICR_ASSERT | 0x60);
	apic_send(1, ICR_ASSERT | ICR_NMI);
	ok("interrupts do not start it", !turns_advance());
	smp_boot(1);
	ok("a SIPI does", WAIT_FOR(smp_is_up(1), 2000));
	ok("it works", works());
}

static void test_halted(void)
{
	smp_begin(1, halt);
	WAIT_FOR(halted, 2000);
	delay_us(2000);
	smp_boot(1);
	ok("a halted one starts anew", WAIT_FOR(smp_is_up(1), 2000) && works());
}

static void test_often(void)
{
	bool all = true;

	for (unsigned i = 0; i < 20 && all; i++) {
		smp_begin(1, spin);
		all = turns_advance();
		smp_boot(1);
		all = all && WAIT_FOR(smp_is_up(1), 2000) && works();
	}
	ok("again and again", all);
}

static volatile uint32_t lvt;
static volatile uint64_t base;

static void note_state(unsigned cpu)
{
	lvt = apic_read(APIC_LVT_TIMER);
	base = read_msr(MSR_APIC_BASE);
}

static void dirty_state(unsigned cpu)
{
	apic_write(APIC_LVT_TIMER, APIC_PERIODIC | 0x77);
}

static void test_apic(void)
{
	smp_begin(1, dirty_state);
	smp_wait(1);
	smp_boot(1);
	ok("it comes again", WAIT_FOR(smp_is_up(1), 2000));
	smp_begin(1, note_state);
	smp_wait(1);
	ok_equal("INIT resets the APIC's registers", lvt, APIC_MASKED);
	ok_equal("but not its base", base & ~0xffful, LAPIC_BASE);
}

void guest_run(void)
{
	irq_begin(apic_end);
	ok_equal("all CPUs come", smp_start(), 2);
	test_running();
	test_halted();
	test_often();
	test_apic();
}

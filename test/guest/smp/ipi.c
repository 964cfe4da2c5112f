/* Interprocessor interrupts: delivery modes, destinations, shorthands, sleepers. */
#include "smp.h"

#define VECTOR     0x60
#define HAS_X2APIC (1u << 21) /* CPUID.1:ECX */

static unsigned present;
static volatile bool asleep[MAX_CPUS];

static unsigned seen(unsigned cpu, unsigned vector)
{
	return irq_counts[cpu].of[vector];
}

static unsigned seen_by_all(unsigned vector)
{
	unsigned n = 0;

	for (unsigned cpu = 0; cpu < present; cpu++)
		n += seen(cpu, vector);
	return n;
}

static void clear_counts(void)
{
	memset(irq_counts, 0, sizeof(irq_counts));
}

/* Sends, then waits until so many CPUs have it and makes sure that there are no more. */
static bool reaches(uint32_t dest, uint32_t icr, unsigned vector, unsigned want)
{
	bool came;

	clear_counts();
	irq_enable();
	apic_send(dest, icr | ICR_ASSERT);
	came = WAIT_FOR(seen_by_all(vector) == want, 2000);
	delay_us(2000);
	irq_disable();
	return came && seen_by_all(vector) == want;
}

static void test_fixed(void)
{
	bool each = true;

	for (unsigned cpu = 0; cpu < present; cpu++)
		each = reaches(cpu, ICR_FIXED | VECTOR, VECTOR, 1) && seen(cpu, VECTOR) == 1 &&
		       each;
	ok("fixed, to each", each);
	ok("to all but self",
	   reaches(0, ICR_OTHERS | VECTOR, VECTOR, present - 1) && !seen(0, VECTOR));
	ok("to all", reaches(0, ICR_ALL | VECTOR, VECTOR, present) && seen(0, VECTOR));
	ok("to self", reaches(1, ICR_SELF | VECTOR, VECTOR, 1) && seen(0, VECTOR));
	ok("broadcast", reaches(apic_x2 ? UINT32_MAX : 0xff, ICR_FIXED | VECTOR, VECTOR, present));
	ok("to nobody", reaches(0x77, ICR_FIXED | VECTOR, VECTOR, 0));
}

static void set_logical_id(unsigned cpu)
{
	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_LDR, cpu < 8 ? 1u << (24 + cpu) : 0);
}

static void test_logical(void)
{
	smp_run(set_logical_id);
	ok("logical, to two",
	   reaches(3, ICR_LOGICAL | VECTOR, VECTOR, 2) && seen(0, VECTOR) && seen(1, VECTOR));
	ok("lowest priority, to one of two",
	   reaches(3, ICR_LOGICAL | ICR_LOWEST | VECTOR, VECTOR, 1));
	apic_write(APIC_TPR, 0xf0);
	ok("to the less busy",
	   reaches(3, ICR_LOGICAL | ICR_LOWEST | VECTOR, VECTOR, 1) && seen(1, VECTOR));
	apic_write(APIC_TPR, 0);
}

static void test_nmi(void)
{
	ok("NMI to one", reaches(1, ICR_NMI, EXC_NMI, 1) && seen(1, EXC_NMI));
	ok("NMI to the others", reaches(0, ICR_OTHERS | ICR_NMI, EXC_NMI, present - 1));
}

static void sleep_once(unsigned cpu)
{
	irq_disable();
	asleep[cpu] = true;
	irq_sleep();
	asleep[cpu] = false;
	irq_enable();
}

static void sleep_deaf(unsigned cpu)
{
	asleep[cpu] = true;
	__asm__ volatile("cli; hlt; sti" : : : "memory");
	asleep[cpu] = false;
}

/* Many times over, for a wake-up that comes while the CPU falls asleep. */
static void test_sleepers(void)
{
	bool woke = true;

	for (unsigned i = 0; i < 100 && woke; i++) {
		smp_begin(1, sleep_once);
		WAIT_FOR(asleep[1], 2000);
		for (unsigned spin = i % 50 * 20; spin; spin--)
			pause();
		apic_send(1, ICR_ASSERT | VECTOR);
		woke = smp_wait(1);
	}
	ok("an IPI wakes a halted CPU", woke);
	smp_begin(1, sleep_deaf);
	WAIT_FOR(asleep[1], 2000);
	delay_us(2000);
	clear_counts();
	apic_send(1, ICR_ASSERT | VECTOR);
	ok("not with interrupts off", !WAIT_FOR(!asleep[1], 20));
	apic_send(1, ICR_ASSERT | ICR_NMI);
	ok("an NMI does", smp_wait(1));
	ok("and then the IPI comes", WAIT_FOR(seen(1, VECTOR) == 1, 1000));
}

/* Each sends to the next as fast as it can. */
#define STORM 200
static volatile unsigned storm_sent[MAX_CPUS];

static void send_to_next(unsigned cpu)
{
	unsigned next = (cpu + 1) % present;

	irq_enable();
	for (unsigned i = 0; i < STORM; i++) {
		unsigned before = seen(next, VECTOR + cpu);

		apic_send(next, ICR_ASSERT | (VECTOR + cpu));
		if (!WAIT_FOR(seen(next, VECTOR + cpu) != before, 5000))
			return;
		storm_sent[cpu]++;
	}
}

static void test_storm(void)
{
	bool all = true;

	clear_counts();
	smp_run(send_to_next);
	irq_disable();
	for (unsigned cpu = 0; cpu < present; cpu++)
		all = all && storm_sent[cpu] == STORM &&
		      seen((cpu + 1) % present, VECTOR + cpu) == STORM;
	ok("none is lost or doubled", all);
}

static void enter_x2apic(unsigned cpu)
{
	write_msr(MSR_APIC_BASE, read_msr(MSR_APIC_BASE) | BASE_EXTD);
}

static void test_x2apic(void)
{
	smp_run(enter_x2apic);
	apic_x2 = true;
	note("in x2APIC mode:");
	test_fixed();
	ok("logical, to two",
	   reaches(3, ICR_LOGICAL | VECTOR, VECTOR, 2) && seen(0, VECTOR) && seen(1, VECTOR));
	ok("logical, to a cluster without CPUs", reaches(0x10001, ICR_LOGICAL | VECTOR, VECTOR, 0));
	test_nmi();
}

void guest_run(void)
{
	irq_begin(apic_end);
	present = smp_start();
	ok_equal("all CPUs come", present, smp_cpus());
	test_fixed();
	test_logical();
	test_nmi();
	test_sleepers();
	test_storm();
	if (cpuid(1, 0).c & HAS_X2APIC)
		test_x2apic();
}

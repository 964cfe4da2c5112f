/* x2APIC mode: the ways in and out, the MSRs, the TSC-deadline timer. */
#include "device.h"
#include "lapic_checks.h"

#define CPUID_APIC     (1u << 9)
#define CPUID_X2APIC   (1u << 21)
#define CPUID_DEADLINE (1u << 24)

static int set_mode(uint64_t mode)
{
	uint64_t base = read_msr(MSR_APIC_BASE) & ~(BASE_EN | BASE_EXTD);

	return try_write_msr(MSR_APIC_BASE, base | mode);
}

static bool mode_is(uint64_t mode)
{
	return (read_msr(MSR_APIC_BASE) & (BASE_EN | BASE_EXTD)) == mode;
}

static void test_from_xapic(void)
{
	uint64_t v, base = read_msr(MSR_APIC_BASE);

	ok("it starts as an xAPIC", mode_is(BASE_EN));
	ok_equal("a page at the usual place", base & ~0xffful, LAPIC_BASE);
	ok("its MSRs fault", try_read_msr(MSR_X2APIC + 2, &v) == EXC_GP);
	ok("reserved bits of the base fault",
	   try_write_msr(MSR_APIC_BASE, base | 1) == EXC_GP &&
	           try_write_msr(MSR_APIC_BASE, base | 1ul << 60) == EXC_GP);
	ok("EXTD without EN faults", set_mode(BASE_EXTD) == EXC_GP && mode_is(BASE_EN));
	ok("xAPIC to x2APIC", set_mode(BASE_EN | BASE_EXTD) == NO_TRAP);
	ok("is there", mode_is(BASE_EN | BASE_EXTD));
}

static void test_transitions(void)
{
	ok("x2APIC to xAPIC faults", set_mode(BASE_EN) == EXC_GP);
	ok("x2APIC to EXTD alone faults", set_mode(BASE_EXTD) == EXC_GP);
	ok("x2APIC to disabled", set_mode(0) == NO_TRAP);
	ok("CPUID hides a disabled APIC", !(cpuid(1, 0).d & CPUID_APIC));
	ok("disabled to x2APIC faults", set_mode(BASE_EN | BASE_EXTD) == EXC_GP);
	ok("disabled to xAPIC", set_mode(BASE_EN) == NO_TRAP);
	ok("CPUID shows it", cpuid(1, 0).d & CPUID_APIC);
	apic_x2 = false;
	ok_equal("it has been reset", apic_read(APIC_SVR), 0xff);
	ok("xAPIC to x2APIC again", set_mode(BASE_EN | BASE_EXTD) == NO_TRAP);
	apic_x2 = true;
	apic_enable();
}

static void test_msrs(void)
{
	static const struct {
		const char *name;
		unsigned reg;
		uint64_t value;
	} bad[] = {
		{ "the id is read-only", APIC_ID, 0 },
		{ "the version is read-only", APIC_VERSION, 0 },
		{ "the PPR is read-only", APIC_PPR, 0 },
		{ "the LDR is read-only", APIC_LDR, 0 },
		{ "the IRR is read-only", APIC_IRR, 0 },
		{ "the current count is read-only", APIC_CURRENT, 0 },
		{ "there is no DFR", APIC_DFR, 0xffffffff },
		{ "there is no upper ICR", APIC_ICR_HIGH, 0 },
		{ "EOI takes only 0", APIC_EOI, 1 },
		{ "ESR takes only 0", APIC_ESR, 1 },
		{ "the TPR has 8 bits", APIC_TPR, 0x100 },
		{ "the LVT has reserved bits", APIC_LVT_TIMER, 0x80000000 },
		{ "registers have 32 bits", APIC_TPR, 1ul << 32 },
		{ "self-IPI has 8 bits", APIC_SELF, 0x100 },
	};
	uint64_t v;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ok(bad[i].name,
		   try_write_msr(MSR_X2APIC + bad[i].reg / 16, bad[i].value) == EXC_GP);
	ok("EOI is write-only", try_read_msr(MSR_X2APIC + APIC_EOI / 16, &v) == EXC_GP);
	ok("self-IPI is write-only", try_read_msr(MSR_X2APIC + APIC_SELF / 16, &v) == EXC_GP);
	ok("a register that is none faults", try_read_msr(MSR_X2APIC + 4, &v) == EXC_GP);
	ok("beyond the registers", try_read_msr(MSR_X2APIC + 0xff, &v) == EXC_GP);
	ok_equal("the logical id follows from the id", apic_read(APIC_LDR), 1);
	ok_equal("CPUID has the id", cpuid(0xb, 0).d, 0);
	write_msr(MSR_X2APIC + APIC_ICR / 16, 0xabcdef0100004061);
	ok_equal("the ICR has 64 bits", read_msr(MSR_X2APIC + APIC_ICR / 16), 0xabcdef0100004061);
	irq_clear();
	write_msr(MSR_X2APIC + APIC_SELF / 16, 0x62);
	irq_window();
	ok_equal("self-IPI register", irq_mine()->of[0x62], 1);
	apic_send(0x00000001, ICR_LOGICAL | ICR_ASSERT | 0x63);
	irq_window();
	ok_equal("logical destination", irq_mine()->of[0x63], 1);
	apic_send(0xffffffff, ICR_ASSERT | 0x63);
	irq_window();
	ok_equal("broadcast", irq_mine()->of[0x63], 2);
	apic_send(0xff, ICR_ASSERT | 0x63);
	irq_window();
	ok_equal("0xff is an ordinary id", irq_mine()->of[0x63], 2);
}

static void test_deadline(void)
{
	uint64_t deadline, came;

	irq_clear();
	apic_write(APIC_LVT_TIMER, 0x90);
	write_msr(MSR_TSC_DEADLINE, read_tsc());
	irq_window();
	ok("no deadline in one-shot mode", !irq_mine()->total && !read_msr(MSR_TSC_DEADLINE));
	apic_write(APIC_LVT_TIMER, APIC_DEADLINE | 0x90);
	deadline = read_tsc() + 10000000;
	write_msr(MSR_TSC_DEADLINE, deadline);
	ok_equal("an armed deadline reads back", read_msr(MSR_TSC_DEADLINE), deadline);
	while (!irq_mine()->total)
		irq_sleep();
	came = read_tsc();
	ok("not before the TSC gets there", came >= deadline);
	ok_equal("then disarmed", read_msr(MSR_TSC_DEADLINE), 0);
	ok_equal("the count is not used", apic_read(APIC_CURRENT), 0);
	write_msr(MSR_TSC_DEADLINE, 1);
	irq_window();
	ok_equal("a deadline in the past comes at once", irq_mine()->of[0x90], 2);
	write_msr(MSR_TSC_DEADLINE, read_tsc() + 10000000);
	write_msr(MSR_TSC_DEADLINE, 0);
	irq_enable();
	delay_us(20000);
	irq_disable();
	ok_equal("0 disarms", irq_mine()->total, 2);
	write_msr(MSR_TSC_DEADLINE, read_tsc() + 10000000);
	apic_write(APIC_LVT_TIMER, 0x90);
	ok_equal("so does another mode", read_msr(MSR_TSC_DEADLINE), 0);
	apic_write(APIC_LVT_TIMER, APIC_DEADLINE | 0x90);
	deadline = read_tsc() + 20000000;
	write_msr(MSR_TSC_DEADLINE, deadline);
	write_msr(MSR_TSC, deadline - 1000000);
	ok("setting the TSC forward brings it nearer", ({
		   while (irq_mine()->total < 3)
			   irq_sleep();
		   read_tsc() >= deadline;
	   }));
}

void guest_run(void)
{
	uint32_t features = cpuid(1, 0).c;

	pic_disable();
	irq_begin(apic_end);
	ok("CPUID has x2APIC", features & CPUID_X2APIC);
	ok("CPUID has the TSC deadline", features & CPUID_DEADLINE);
	test_from_xapic();
	apic_x2 = true;
	check_lapic();
	test_msrs();
	test_transitions();
	test_deadline();
}

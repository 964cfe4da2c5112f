/* Every CPU comes up, knows who it is, and shares memory with the others. */
#include "smp.h"

static volatile uint32_t ids[MAX_CPUS];
static volatile uint64_t bases[MAX_CPUS];
static volatile bool long_mode[MAX_CPUS];
static volatile unsigned arrivals;

static void introduce(unsigned cpu)
{
	ids[cpu] = apic_read(APIC_ID) >> 24;
	bases[cpu] = read_msr(MSR_APIC_BASE);
	long_mode[cpu] = read_msr(MSR_EFER) & EFER_LMA;
	__atomic_add_fetch(&arrivals, 1, __ATOMIC_SEQ_CST);
}

void guest_run(void)
{
	unsigned n = smp_cpus(), came = smp_start();
	bool same = true, own = true;

	ok_equal("all CPUs come", came, n);
	for (unsigned round = 0; round < 50; round++)
		smp_run(introduce);
	ok_equal("and work", arrivals, 50 * n);
	for (unsigned cpu = 0; cpu < came; cpu++) {
		same = same && ids[cpu] == cpu && long_mode[cpu];
		own = own && (bases[cpu] & 0x100 ? cpu == 0 : cpu > 0);
	}
	ok("each as itself", same);
	ok("one of them is the bootstrap processor", own);
}

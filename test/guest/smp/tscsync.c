/* The CPUs' TSCs show one time: read one after another on different CPUs, they never go back. */
#include "smp.h"

#define TURNS      20000
#define MSR_ADJUST 0x3b
#define HAS_ADJUST 2u /* CPUID.7.0:EBX */

static volatile uint32_t lock;
static volatile uint64_t last, back, farthest;
static volatile uint64_t adjust[MAX_CPUS];

static void look(void)
{
	uint64_t now;

	while (__atomic_exchange_n(&lock, 1, __ATOMIC_SEQ_CST))
		pause();
	now = read_tsc();
	if (now < last) {
		back++;
		if (last - now > farthest)
			farthest = last - now;
	}
	last = now;
	__atomic_store_n(&lock, 0, __ATOMIC_SEQ_CST);
}

static void look_often(unsigned cpu)
{
	for (unsigned i = 0; i < TURNS; i++)
		look();
	if (cpuid(7, 0).b & HAS_ADJUST)
		adjust[cpu] = read_msr(MSR_ADJUST);
}

void guest_run(void)
{
	unsigned present = smp_start();
	uint64_t adjusted = 0;

	ok_equal("all CPUs come", present, smp_cpus());
	smp_run(look_often);
	ok_equal("no CPU is behind another", back, 0);
	for (unsigned cpu = 0; cpu < present; cpu++)
		adjusted |= adjust[cpu];
	ok_equal("none is adjusted", adjusted, 0);
}

/*
 * Memory order: what x86's total store order forbids must not be seen, however often it is tried
 * (SDM 3A 8.2.3). Each test runs over many places in memory without a pause, so that the CPUs meet
 * in all phases.
 */
#include "smp.h"

#define PLACES 2048
#define ROUNDS 40
#define CPUS   4 /* at most */

/* One try: two variables in cache lines of their own, and what was read. */
struct place {
	volatile uint64_t x __attribute__((aligned(64)));
	volatile uint64_t y __attribute__((aligned(64)));
	volatile uint64_t r[CPUS];
};

static struct place places[PLACES];
static struct barrier barrier;

struct litmus {
	const char *name;
	unsigned cpus;
	void (*go)(unsigned cpu, struct place *p);
	bool (*forbidden)(const struct place *p);
	bool may; /* it is allowed after all: only counted */
};

static void store_buffer(unsigned cpu, struct place *p)
{
	if (cpu == 0) {
		p->x = 1;
		p->r[0] = p->y;
	} else {
		p->y = 1;
		p->r[1] = p->x;
	}
}

static void store_buffer_fenced(unsigned cpu, struct place *p)
{
	if (cpu == 0) {
		p->x = 1;
		__asm__ volatile("mfence" : : : "memory");
		p->r[0] = p->y;
	} else {
		p->y = 1;
		__asm__ volatile("mfence" : : : "memory");
		p->r[1] = p->x;
	}
}

static void exchange(volatile uint64_t *at)
{
	uint64_t one = 1;

	__asm__ volatile("xchg %0, %1" : "+r"(one), "+m"(*at) : : "memory");
}

static void store_buffer_locked(unsigned cpu, struct place *p)
{
	if (cpu == 0) {
		exchange(&p->x);
		p->r[0] = p->y;
	} else {
		exchange(&p->y);
		p->r[1] = p->x;
	}
}

static bool both_read_zero(const struct place *p)
{
	return !p->r[0] && !p->r[1];
}

static void pass_message(unsigned cpu, struct place *p)
{
	if (cpu == 0) {
		p->x = 1;
		p->y = 1;
	} else {
		p->r[0] = p->y;
		p->r[1] = p->x;
	}
}

static bool message_before_data(const struct place *p)
{
	return p->r[0] && !p->r[1];
}

static void load_buffer(unsigned cpu, struct place *p)
{
	if (cpu == 0) {
		p->r[0] = p->x;
		p->y = 1;
	} else {
		p->r[1] = p->y;
		p->x = 1;
	}
}

static bool both_read_one(const struct place *p)
{
	return p->r[0] && p->r[1];
}

static void write_twice(unsigned cpu, struct place *p)
{
	if (cpu == 0) {
		p->x = 1;
		p->y = 2;
	} else {
		p->y = 1;
		p->x = 2;
	}
}

static bool first_writes_last(const struct place *p)
{
	return p->x == 1 && p->y == 1;
}

static void write_and_watch(unsigned cpu, struct place *p)
{
	switch (cpu) {
	case 0:
		p->x = 1;
		break;
	case 1:
		p->y = 1;
		break;
	case 2:
		p->r[0] = p->x;
		p->r[1] = p->y;
		break;
	default:
		p->r[2] = p->y;
		p->r[3] = p->x;
	}
}

static bool watchers_disagree(const struct place *p)
{
	return p->r[0] && !p->r[1] && p->r[2] && !p->r[3];
}

static const struct litmus tests[] = {
	{ "SB: stores may wait behind loads", 2, store_buffer, both_read_zero, true },
	{ "SB with fences", 2, store_buffer_fenced, both_read_zero, false },
	{ "SB with locked stores", 2, store_buffer_locked, both_read_zero, false },
	{ "MP: stores in order, loads in order", 2, pass_message, message_before_data, false },
	{ "LB: loads before later stores", 2, load_buffer, both_read_one, false },
	{ "2+2W: one order of stores", 2, write_twice, first_writes_last, false },
	{ "IRIW: the same for all", 4, write_and_watch, watchers_disagree, false },
};

static const struct litmus *test;

static void run_places(unsigned cpu)
{
	if (cpu >= test->cpus)
		return;
	barrier_wait(&barrier, test->cpus);
	for (unsigned i = 0; i < PLACES; i++)
		test->go(cpu, &places[i]);
}

static unsigned count_forbidden(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PLACES; i++) {
		struct place *p = &places[i];

		n += test->forbidden(p);
		p->x = p->y = p->r[0] = p->r[1] = p->r[2] = p->r[3] = 0;
	}
	return n;
}

static void run_test(const struct litmus *t)
{
	unsigned forbidden = 0;

	test = t;
	for (unsigned round = 0; round < ROUNDS; round++) {
		smp_run(run_places);
		forbidden += count_forbidden();
	}
	if (t->may) {
		print("# seen ");
		print_hex(forbidden);
		print(" times: ");
		print(t->name);
		print("\n");
	} else {
		ok_equal(t->name, forbidden, 0);
	}
}

/* Aligned stores are seen whole, as are unaligned ones within a cache line (SDM 3A 8.1.1). */
static uint8_t line[64] __attribute__((aligned(64)));
static volatile unsigned torn;
static volatile bool stop;

static void flip_or_read(unsigned cpu)
{
	volatile uint64_t *aligned = (void *)line;
	volatile uint32_t *unaligned = (void *)(line + 17);

	if (cpu == 0) {
		for (unsigned i = 0; i < 200000; i++) {
			*aligned = i & 1 ? 0 : UINT64_MAX;
			*unaligned = i & 1 ? 0 : UINT32_MAX;
		}
		stop = true;
	}
	while (!stop) {
		uint64_t a = *aligned;
		uint32_t u = *unaligned;

		if ((a && a != UINT64_MAX) || (u && u != UINT32_MAX))
			torn++;
	}
}

void guest_run(void)
{
	unsigned came = smp_start();

	ok_equal("all CPUs come", came, smp_cpus());
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
		if (tests[i].cpus <= came)
			run_test(&tests[i]);
	}
	smp_run(flip_or_read);
	ok_equal("no torn reads", torn, 0);
}

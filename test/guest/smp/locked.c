/* Locked instructions of all kinds on shared memory: no increment is lost. (Operands on two pages
 * are not here: the interpreter does not lock them, see src/interp/rmw.h.) */
#include "smp.h"

#define TURNS 20000
#define BITS  32768

static unsigned present;
static volatile uint64_t counter __attribute__((aligned(64)));
static struct {
	uint8_t bytes[4096];
} area __attribute__((aligned(4096)));
static volatile uint64_t *target;

static void add(unsigned cpu)
{
	for (unsigned i = 0; i < TURNS; i++)
		__asm__ volatile("lock addq $1, %0" : "+m"(*target) : : "cc");
}

static void increment(unsigned cpu)
{
	for (unsigned i = 0; i < TURNS; i++)
		__asm__ volatile("lock incl %0" : "+m"(*(volatile uint32_t *)target) : : "cc");
}

static void subtract_bytes(unsigned cpu)
{
	for (unsigned i = 0; i < TURNS; i++)
		__asm__ volatile("lock subb $1, %0" : "+m"(*(volatile uint8_t *)target) : : "cc");
}

static void exchange_add(unsigned cpu)
{
	for (unsigned i = 0; i < TURNS; i++) {
		uint64_t one = 1;

		__asm__ volatile("lock xaddq %0, %1" : "+r"(one), "+m"(*target) : : "cc");
	}
}

static void compare_exchange(unsigned cpu)
{
	for (unsigned i = 0; i < TURNS; i++) {
		uint64_t old = *target;
		bool done;

		do {
			__asm__ volatile("lock cmpxchgq %3, %1; sete %2"
			                 : "+a"(old), "+m"(*target), "=q"(done)
			                 : "r"(old + 1)
			                 : "cc");
		} while (!done);
	}
}

static void compare_exchange8(unsigned cpu)
{
	for (unsigned i = 0; i < TURNS; i++) {
		uint64_t old = *target;
		uint32_t low = (uint32_t)old, high = (uint32_t)(old >> 32);
		bool done;

		do {
			uint64_t next = ((uint64_t)high << 32 | low) + 1;

			__asm__ volatile("lock cmpxchg8b %2; sete %3"
			                 : "+a"(low), "+d"(high), "+m"(*target), "=q"(done)
			                 : "b"((uint32_t)next), "c"((uint32_t)(next >> 32))
			                 : "cc");
		} while (!done);
	}
}

/* The two halves stay each other's complement. */
static void compare_exchange16(unsigned cpu)
{
	volatile uint64_t *pair = (void *)area.bytes;

	for (unsigned i = 0; i < TURNS; i++) {
		uint64_t low = pair[0], high = pair[1];
		bool done;

		do {
			__asm__ volatile("lock cmpxchg16b %2; sete %3"
			                 : "+a"(low), "+d"(high), "+m"(*(volatile __int128 *)pair),
			                   "=q"(done)
			                 : "b"(low + 1), "c"(~(low + 1))
			                 : "cc");
		} while (!done);
	}
}

static volatile uint32_t lock;
static uint64_t guarded;

static void spinlock(unsigned cpu)
{
	for (unsigned i = 0; i < TURNS; i++) {
		uint32_t taken;

		do {
			taken = 1;
			__asm__ volatile("xchgl %0, %1" : "+r"(taken), "+m"(lock) : : "memory");
			if (taken)
				pause();
		} while (taken);
		guarded++;
		__asm__ volatile("" : : : "memory");
		lock = 0;
	}
}

static volatile uint64_t wins[MAX_CPUS];

static void claim_bits(unsigned cpu)
{
	wins[cpu] = 0;
	for (uint64_t bit = 0; bit < BITS; bit++) {
		bool was;

		__asm__ volatile("lock btsq %2, %1; setc %0"
		                 : "=q"(was), "+m"(area)
		                 : "r"(bit)
		                 : "cc");
		wins[cpu] += !was;
	}
}

static void release_bits(unsigned cpu)
{
	wins[cpu] = 0;
	for (uint64_t bit = BITS; bit--;) {
		bool was;

		__asm__ volatile("lock btrq %2, %1; setc %0"
		                 : "=q"(was), "+m"(area)
		                 : "r"(bit)
		                 : "cc");
		wins[cpu] += was;
	}
}

static uint64_t all_wins(void)
{
	uint64_t n = 0;

	for (unsigned cpu = 0; cpu < present; cpu++)
		n += wins[cpu];
	return n;
}

static void test_count(const char *name, smp_fn fn, void *at)
{
	target = at;
	*target = 0;
	smp_run(fn);
	ok_equal(name, *target, (uint64_t)TURNS * present);
}

void guest_run(void)
{
	volatile uint64_t *pair = (void *)area.bytes;

	present = smp_start();
	ok_equal("all CPUs come", present, smp_cpus());
	test_count("ADD", add, (void *)&counter);
	test_count("INC", increment, (void *)&counter);
	test_count("XADD", exchange_add, (void *)&counter);
	test_count("CMPXCHG", compare_exchange, (void *)&counter);
	test_count("CMPXCHG8B", compare_exchange8, (void *)&counter);
	test_count("ADD across cache lines", add, area.bytes + 60);
	counter = 0;
	target = &counter;
	smp_run(subtract_bytes);
	ok_equal("SUB of bytes", counter, (uint8_t) - (TURNS * present));
	pair[0] = 0;
	pair[1] = UINT64_MAX;
	smp_run(compare_exchange16);
	ok("CMPXCHG16B", pair[0] == (uint64_t)TURNS * present && pair[1] == ~pair[0]);
	smp_run(spinlock);
	ok_equal("XCHG spinlock", guarded, (uint64_t)TURNS * present);
	memset(&area, 0, sizeof(area));
	smp_run(claim_bits);
	ok_equal("BTS: each bit is one CPU's", all_wins(), BITS);
	smp_run(release_bits);
	ok_equal("BTR", all_wins(), BITS);
}

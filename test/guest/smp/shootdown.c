/*
 * TLB shootdown: CPU 0 gives a page another frame and asks the others by IPI to forget the old
 * translation. Once they have answered, none may see the old frame.
 */
#include "smp.h"

#define TURNS  500
#define VECTOR 0x60
#define WINDOW (4ul << 30) /* the page in question */

static unsigned present;
static uint64_t *entry;
static volatile uint64_t *const page = (void *)WINDOW;
static volatile uint64_t turn;
static volatile uint64_t flushed[MAX_CPUS];
static volatile unsigned stale;
static volatile uint64_t reads[MAX_CPUS];
static volatile bool stop;

static void invalidate(void)
{
	__asm__ volatile("invlpg (%0)" : : "r"(WINDOW) : "memory");
}

static void flush(unsigned vector)
{
	uint64_t now = turn;

	invalidate();
	flushed[this_cpu()->index] = now;
	apic_end(vector);
}

static void map_window(void)
{
	uint64_t *pointers = (void *)(boot_pml4[0] & ~0xffful);
	uint64_t *directory = page_alloc(), *table = page_alloc();

	entry = table;
	directory[0] = (uintptr_t)table | 3;
	pointers[WINDOW >> 30] = (uintptr_t)directory | 3;
}

/* The frame holds the number of its turn, or 0 once it is given up. */
static void read_page(unsigned cpu)
{
	while (!stop) {
		uint64_t least = flushed[cpu];

		__asm__ volatile("" : : : "memory");
		if (*page < least)
			stale++;
		reads[cpu]++;
	}
}

static bool all_flushed(void)
{
	for (unsigned cpu = 1; cpu < present; cpu++) {
		if (flushed[cpu] != turn)
			return false;
	}
	return true;
}

static bool replace(volatile uint64_t *frame, volatile uint64_t *old)
{
	*frame = turn + 1;
	*(volatile uint64_t *)entry = (uintptr_t)frame | 3;
	turn++;
	invalidate();
	apic_send(0, ICR_OTHERS | ICR_ASSERT | VECTOR);
	if (!WAIT_FOR(all_flushed(), 10000))
		return false;
	*old = 0;
	return *page == turn;
}

void guest_run(void)
{
	volatile uint64_t *frames[2] = { page_alloc(), page_alloc() };
	bool right = true;

	irq_begin(flush);
	present = smp_start();
	ok_equal("all CPUs come", present, smp_cpus());
	map_window();
	*entry = (uintptr_t)frames[0] | 3;
	for (unsigned cpu = 1; cpu < present; cpu++)
		smp_begin(cpu, read_page);
	for (unsigned cpu = 1; cpu < present; cpu++)
		WAIT_FOR(reads[cpu], 2000);
	for (unsigned i = 1; i <= TURNS && right; i++)
		right = replace(frames[i & 1], frames[~i & 1]);
	stop = true;
	for (unsigned cpu = 1; cpu < present; cpu++)
		right = smp_wait(cpu) && right;
	ok("all answer each time", right);
	ok_equal("none reads a frame that was given up", stale, 0);
}

/* The ACPI PM timer and the TSC: monotonic, and of one mind about how long things take. */
#include "device.h"

#define TURNS 20000

static void test_monotonic(void)
{
	uint32_t last = in32(PORT_PM_TIMER), now;
	uint64_t last_tsc = read_tsc(), now_tsc;
	unsigned back = 0, tsc_back = 0, moved = 0;

	for (unsigned i = 0; i < TURNS; i++) {
		now = in32(PORT_PM_TIMER);
		now_tsc = read_tsc();
		back += ((now - last) & 0xffffff) >= 0x800000;
		moved += now != last;
		tsc_back += now_tsc <= last_tsc;
		last = now;
		last_tsc = now_tsc;
	}
	ok_equal("the PM timer never goes back", back, 0);
	ok("and moves", moved > 10);
	ok_equal("the TSC always goes forward", tsc_back, 0);
}

static uint64_t tsc_for(uint64_t us)
{
	struct stopwatch w;
	uint64_t start, took;

	stopwatch_start(&w);
	start = read_tsc();
	do {
		took = stopwatch_us(&w);
	} while (took < us);
	return (read_tsc() - start) * us / took;
}

static void test_rate(void)
{
	uint64_t shorter = tsc_for(50000), longer = tsc_for(200000);

	ok("the TSC keeps pace with it", is_near(longer, shorter * 4, 10));
	ok("at 100 MHz or more", shorter > 50000 * 100);
}

static void test_widths(void)
{
	uint32_t whole = in32(PORT_PM_TIMER);
	uint32_t low = in16(PORT_PM_TIMER), high = in16(PORT_PM_TIMER + 2);

	ok("words are its parts",
	   ((low - whole) & 0xffff) < 0x8000 && ((high - (whole >> 16)) & 0xff) <= 1);
	out32(PORT_PM_TIMER, 0);
	ok("writes do nothing", ((in32(PORT_PM_TIMER) - whole) & 0xffffff) < 0x100000);
}

void guest_run(void)
{
	test_monotonic();
	test_rate();
	test_widths();
}

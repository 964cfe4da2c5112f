/* The HPET: counter, one-shot and periodic comparators, edge and level lines, legacy replacement.
 */
#include "device/hpet.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "fake_time.h"

#define MSEC 100000ull /* in ticks */

enum {
	CAPS = 0x000,
	CONFIG = 0x010,
	STATUS = 0x020,
	COUNTER = 0x0f0,
	T0 = 0x100,
	T1 = 0x120,
	T2 = 0x140,
	CMP = 8,
};
#define LEVEL     0x002
#define ENABLE    0x004
#define PERIODIC  0x008
#define SET_VALUE 0x040
#define MODE32    0x100
#define ROUTE(n)  ((uint64_t)(n) << 9)

static struct fixture {
	struct bus bus;
	struct hpet hpet;
	bool level[3][24];
	int edges[3][24];
} f;

enum { GSI, ISA, LEGACY };

static void set_line(void *opaque, unsigned n, bool level)
{
	int kind = *(int *)opaque;

	if (level && !f.level[kind][n])
		f.edges[kind][n]++;
	f.level[kind][n] = level;
}

static int setup(void **state)
{
	static int kind[] = { GSI, ISA, LEGACY };

	memset(&f, 0, sizeof(f));
	if (bus_init(&f.bus))
		return -1;
	hpet_init(&f.hpet, &f.bus, NULL, (struct irq_line){ set_line, &kind[GSI], 0 },
	          (struct irq_line){ set_line, &kind[ISA], 0 },
	          (struct irq_line){ set_line, &kind[LEGACY], 0 });
	return 0;
}

static int teardown(void **state)
{
	hpet_fini(&f.hpet);
	bus_fini(&f.bus);
	return 0;
}

static void wr(uint64_t off, unsigned size, uint64_t value)
{
	bus_lock(&f.bus);
	hpet_ops.write(&f.hpet, off, size, value);
	bus_unlock(&f.bus);
}

static uint64_t rd(uint64_t off)
{
	uint64_t value;

	bus_lock(&f.bus);
	value = hpet_ops.read(&f.hpet, off, 8);
	bus_unlock(&f.bus);
	return value;
}

static bool line(int kind, unsigned n)
{
	bool level;

	bus_lock(&f.bus);
	level = f.level[kind][n];
	bus_unlock(&f.bus);
	return level;
}

static bool wait_edges(int kind, unsigned pin, int n)
{
	for (int i = 0; i < 5000; i++) {
		if (f.edges[kind][pin] >= n)
			return true;
		fake_advance(1000000);
	}
	return false;
}

static void test_counter(void **state)
{
	uint64_t a, b;

	assert_int_equal(rd(CAPS), 0x009896808086a201ull);
	assert_int_equal(rd(COUNTER), 0);
	wr(COUNTER, 8, 0x100000000ull);
	assert_int_equal(rd(COUNTER), 0x100000000ull);
	wr(COUNTER + 4, 4, 7);
	wr(COUNTER, 4, 0xfffffff0);
	assert_int_equal(rd(COUNTER), 0x7fffffff0ull);
	wr(CONFIG, 4, 1);
	fake_advance(2000000);
	a = rd(COUNTER);
	assert_true(a >= 0x7fffffff0ull + 2 * MSEC);
	wr(COUNTER, 8, 0); /* not while it runs */
	assert_true(rd(COUNTER) >= a);
	wr(CONFIG, 4, 0);
	b = rd(COUNTER);
	fake_advance(1000000);
	assert_int_equal(rd(COUNTER), b);
	assert_int_equal(rd(0x3f8), 0);
	assert_int_equal(rd(T2 + 0x20), 0);
	wr(0x3fc, 4, ~0ull);
	hpet_reset(&f.hpet);
	assert_int_equal(rd(COUNTER), 0);
}

static void test_timer_registers(void **state)
{
	assert_int_equal(rd(T0), 0x00ff010400000030ull);
	wr(T0, 8, ~0ull);
	assert_int_equal(rd(T0), 0x00ff010400003f7eull);
	assert_int_equal(rd(T1 + CMP), ~0ull);
	wr(T1, 4, MODE32);
	assert_int_equal(rd(T1 + CMP), 0xffffffff);
	wr(T1, 4, 0);
	wr(T1 + CMP, 4, 0x1234);
	wr(T1 + CMP + 4, 4, 0x5678);
	assert_int_equal(rd(T1 + CMP), 0x567800001234ull);
}

static void test_oneshot(void **state)
{
	uint64_t start, at;

	wr(T2, 4, ENABLE | ROUTE(20));
	wr(CONFIG, 4, 1);
	start = clock_ns();
	at = rd(COUNTER) + 5 * MSEC;
	wr(T2 + CMP, 8, at);
	assert_true(wait_edges(GSI, 20, 1));
	assert_true(clock_ns() - start >= 5000000);
	assert_true(rd(COUNTER) >= at);
	assert_int_equal(rd(STATUS), 0); /* edge */
	wr(T2 + CMP, 8, rd(COUNTER) + MSEC);
	assert_true(wait_edges(GSI, 20, 2));
	wr(T2 + CMP, 8, rd(COUNTER) - MSEC); /* passed: it waits for the wrap */
	fake_advance(3000000);
	assert_int_equal(f.edges[GSI][20], 2);
	wr(T2, 4, 0);
	assert_false(line(GSI, 20));
	wr(T2 + CMP, 8, rd(COUNTER) + MSEC); /* not enabled */
	fake_advance(3000000);
	assert_int_equal(f.edges[GSI][20], 2);
}

static void test_periodic(void **state)
{
	uint64_t first;

	wr(CONFIG, 4, 1);
	wr(T0, 4, ENABLE | PERIODIC | SET_VALUE | MODE32 | ROUTE(2));
	first = (uint32_t)(rd(COUNTER) + 2 * MSEC);
	wr(T0 + CMP, 4, first); /* as Linux does: comparator, then period */
	wr(T0 + CMP, 4, MSEC);
	assert_true(wait_edges(GSI, 2, 5));
	assert_true(rd(COUNTER) >= first + 4 * MSEC);
	assert_int_equal((rd(T0 + CMP) - first) % MSEC, 0);
	f.edges[GSI][2] = 0;
	wr(T0 + CMP, 4, 1); /* an absurd period does not eat the host */
	fake_advance(20000000);
	assert_in_range(f.edges[GSI][2], 1, 1000);
	wr(T0 + CMP, 4, 0);
	fake_advance(1000000);
	wr(T0, 4, 0);
}

static void test_level(void **state)
{
	wr(CONFIG, 4, 1);
	wr(T1, 4, ENABLE | LEVEL | ROUTE(8));
	wr(T1 + CMP, 8, rd(COUNTER) + MSEC);
	assert_true(wait_edges(GSI, 8, 1));
	assert_int_equal(rd(STATUS), 2);
	assert_true(line(GSI, 8));
	wr(STATUS, 4, 1);
	assert_true(line(GSI, 8));
	wr(STATUS, 4, 2);
	assert_false(line(GSI, 8));
	assert_int_equal(rd(STATUS), 0);
	wr(T1, 4, LEVEL | ROUTE(8)); /* status without interrupt */
	wr(T1 + CMP, 8, rd(COUNTER) + MSEC);
	fake_advance(5000000);
	assert_int_equal(rd(STATUS), 2);
	assert_false(line(GSI, 8));
	wr(T1, 4, ENABLE | LEVEL | ROUTE(3)); /* a pin it does not reach */
	assert_false(line(GSI, 3));
}

static void test_legacy(void **state)
{
	wr(CONFIG, 4, 3);
	assert_true(line(LEGACY, 0));
	wr(T0, 4, ENABLE);
	wr(T1, 4, ENABLE);
	wr(T0 + CMP, 8, rd(COUNTER) + MSEC);
	wr(T1 + CMP, 8, rd(COUNTER) + MSEC);
	assert_true(wait_edges(ISA, 0, 1));
	assert_true(wait_edges(ISA, 8, 1));
	wr(CONFIG, 4, 1);
	assert_false(line(LEGACY, 0));
	assert_false(line(ISA, 0));
	wr(CONFIG, 4, 0);
	hpet_reset(&f.hpet);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_counter),  TEST(test_timer_registers), TEST(test_oneshot),
		TEST(test_periodic), TEST(test_level),           TEST(test_legacy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

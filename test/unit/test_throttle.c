/* The limits of a disk, with time as an argument. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "block/throttle.h"

#define SECOND 1000000000ull

/* How many requests pass in a second of somebody who always has one more. */
static uint64_t passes(struct throttle *t, uint64_t start, uint64_t bytes)
{
	uint64_t now = start, n = 0;

	while (now < start + SECOND) {
		uint64_t wait = throttle_take(t, now, bytes);

		n += !wait;
		now += wait;
	}
	return n;
}

static void test_no_limit(void **state)
{
	struct throttle t = { 0 };

	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(throttle_take(&t, 5, UINT64_MAX), 0);
}

static void test_iops(void **state)
{
	struct throttle t = { .iops = 200 };

	assert_in_range(passes(&t, SECOND, 4096), 200, 222); /* a burst of a tenth more */
	assert_in_range(passes(&t, 2 * SECOND, 4096), 199, 201);
	/* Idle time is saved up to the burst only. */
	assert_in_range(passes(&t, 100 * SECOND, 4096), 200, 222);
}

static void test_bytes(void **state)
{
	struct throttle t = { .bytes_per_s = 1000000 };

	assert_in_range(passes(&t, SECOND, 1000), 1000, 1102);
	assert_in_range(passes(&t, 2 * SECOND, 10000), 99, 101);
}

/* A request that is more than all that a second gives passes, and the next one waits for it. */
static void test_large(void **state)
{
	struct throttle t = { .bytes_per_s = 1000 };

	assert_int_equal(throttle_take(&t, SECOND, 5000), 0);
	assert_in_range(throttle_take(&t, SECOND, 1), 49 * SECOND / 10, 5 * SECOND);
	assert_int_equal(throttle_take(&t, 6 * SECOND, 1), 0);
}

static void test_both(void **state)
{
	struct throttle t = { .iops = 10, .bytes_per_s = 1000000 };

	assert_in_range(passes(&t, SECOND, 512), 10, 12);
	assert_in_range(passes(&t, 2 * SECOND, 500000), 1, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_limit), cmocka_unit_test(test_iops),
		cmocka_unit_test(test_bytes),    cmocka_unit_test(test_large),
		cmocka_unit_test(test_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

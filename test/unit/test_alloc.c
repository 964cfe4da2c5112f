/* The allocator: grants are disjoint, within their space, and refusals say who and what. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "monitor/alloc.h"

static void grants_are_disjoint(void **state)
{
	struct alloc a;
	char err[200];

	alloc_init(&a);
	assert_int_equal(alloc_grant(&a, RES_PORTS, 0x3f8, 8, "uart", err, sizeof(err)), 0);
	assert_int_equal(alloc_grant(&a, RES_PORTS, 0x400, 8, "other", err, sizeof(err)), 0);
	assert_int_equal(alloc_grant(&a, RES_PORTS, 0x3ff, 1, "late", err, sizeof(err)), -EEXIST);
	assert_string_equal(err, "late: ports 0x3ff-0x3ff belong to uart already (0x3f8-0x3ff)");
	/* The same numbers in another space are free. */
	assert_int_equal(alloc_grant(&a, RES_PAGES, 0x3f8, 8, "ram", err, sizeof(err)), 0);
	assert_string_equal(alloc_find(&a, RES_PORTS, 0x3ff)->owner, "uart");
	assert_null(alloc_find(&a, RES_PORTS, 0x408));
}

static void ranges_are_bounded(void **state)
{
	struct alloc a;
	char err[200];

	alloc_init(&a);
	assert_int_equal(alloc_grant(&a, RES_PORTS, 0xfff8, 8, "a", err, sizeof(err)), 0);
	assert_int_equal(alloc_grant(&a, RES_PORTS, 0xfff8, 9, "b", err, sizeof(err)), -EINVAL);
	assert_string_equal(err, "b: ports 0xfff8, length 0x9: not within 0..0xffff");
	assert_int_equal(alloc_grant(&a, RES_PORTS, 0, 0, "c", err, sizeof(err)), -EINVAL);
	assert_int_equal(alloc_grant(&a, RES_PAGES, UINT64_MAX, 2, "d", err, sizeof(err)), -EINVAL);
	assert_int_equal(alloc_grant(&a, RES_IRQ, 24, 1, "e", err, sizeof(err)), -EINVAL);
}

static void the_table_fills(void **state)
{
	struct alloc a;
	char err[200];

	alloc_init(&a);
	for (unsigned i = 0; i < ALLOC_MAX_GRANTS; i++)
		assert_int_equal(alloc_grant(&a, RES_PORTS, i, 1, "x", err, sizeof(err)), 0);
	assert_int_equal(alloc_grant(&a, RES_PORTS, 0x100, 1, "y", err, sizeof(err)), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grants_are_disjoint),
		cmocka_unit_test(ranges_are_bounded),
		cmocka_unit_test(the_table_fills),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

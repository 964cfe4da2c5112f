/*
 * Stock kernels: TRAPEZE_KERNELS is a colon-separated list of bzImages. Each is loaded both ways;
 * the vmlinux that the host unpacks must have Linux's banner in it. Skipped when the variable is
 * not set.
 */
#include "loader_fixture.h"

#define SKIP 77

static bool has_banner(struct fixture *f)
{
	static const char banner[] = "Linux version ";
	uint64_t len = f->r.kernel_end - f->r.kernel_base;

	return memmem(guest(f, f->r.kernel_base, len), len, banner, sizeof(banner) - 1);
}

static void check_kernel(const char *path)
{
	struct fixture f = { .args = { .kernel = path } };

	assert_int_equal(mem_new(&f.m, 512 * MiB), 0);
	for (int guest_unpacks = 0; guest_unpacks < 2; guest_unpacks++) {
		uint64_t start = clock_ns();

		f.args.guest_decompresses = guest_unpacks;
		if (loader_load(f.m, &f.args, &f.r, f.err, sizeof(f.err)))
			fail_msg("%s", f.err);
		print_message("%s: %s, %llu ms\n", path, f.r.format,
		              (unsigned long long)(clock_ns() - start) / 1000000);
		assert_in_range(f.r.entry, f.r.kernel_base, f.r.kernel_end - 1);
		if (!guest_unpacks)
			assert_true(has_banner(&f));
	}
	mem_free(f.m);
}

static void stock_kernels(void **state)
{
	char *list = strdup(getenv("TRAPEZE_KERNELS")), *save = NULL;

	for (char *path = strtok_r(list, ":", &save); path; path = strtok_r(NULL, ":", &save))
		check_kernel(path);
	free(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(stock_kernels) };

	if (!getenv("TRAPEZE_KERNELS"))
		return SKIP;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

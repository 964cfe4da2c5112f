/*
 * The walk over an option table, and the numbers and sizes that people write.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "cli/options.h"

struct parsed {
	const char *name;
	unsigned flags;
};

static int parse_name(void *opts, const struct option_row *row, const char *value)
{
	((struct parsed *)opts)->name = value;
	return *value ? 0 : -EINVAL;
}

static int parse_flag(void *opts, const struct option_row *row, const char *value)
{
	assert_null(value);
	((struct parsed *)opts)->flags++;
	return 0;
}

static const struct option_row table[] = {
	{ "--name", NULL, "NAME", parse_name, "a name" },
	{ "--flag", "-f", NULL, parse_flag, "a flag" },
	{ 0 },
};

#define WORDS 6

static const struct {
	char *argv[WORDS]; /* after the verb */
	int rc;
	const char *name;
	unsigned flags;
} walks[] = {
	{ { NULL }, 0, NULL, 0 },
	{ { "--name", "a" }, 0, "a", 0 },
	{ { "--name=a" }, 0, "a", 0 },
	{ { "--name=a=b" }, 0, "a=b", 0 },
	{ { "--name", "--flag" }, 0, "--flag", 0 },
	{ { "--name", "a", "--name", "b" }, 0, "b", 0 },
	{ { "--flag", "-f", "--name", "a" }, 0, "a", 2 },
	{ { "--name" }, -EINVAL, NULL, 0 },
	{ { "--name=" }, -EINVAL, NULL, 0 },
	{ { "--flag=yes" }, -EINVAL, NULL, 0 },
	{ { "--names", "a" }, -EINVAL, NULL, 0 },
	{ { "--nam", "a" }, -EINVAL, NULL, 0 },
	{ { "a" }, -EINVAL, NULL, 0 },
	{ { "" }, -EINVAL, NULL, 0 },
	{ { "--" }, -EINVAL, NULL, 0 },
};

static void test_walks(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(walks); i++) {
		char *argv[WORDS + 1] = { "verb" };
		struct parsed p = { 0 };
		int argc = 1;

		for (; walks[i].argv[argc - 1]; argc++)
			argv[argc] = walks[i].argv[argc - 1];
		assert_int_equal(options_parse(table, &p, argc, argv), walks[i].rc);
		if (walks[i].rc)
			continue;
		assert_int_equal(p.flags, walks[i].flags);
		if (walks[i].name)
			assert_string_equal(p.name, walks[i].name);
		else
			assert_null(p.name);
	}
}

static const struct {
	const char *text;
	int rc;
	uint64_t bytes;
} sizes[] = {
	{ "512M", 0, 512 * MiB },
	{ "512m", 0, 512 * MiB },
	{ "512", 0, 512 * MiB },
	{ "6G", 0, 6 * GiB },
	{ "1T", 0, 1024 * GiB },
	{ "4K", 0, 4 * KiB },
	{ "0", 0, 0 },
	{ "17592186044415", 0, 17592186044415 * MiB },
	{ "17592186044416", -EINVAL, 0 },
	{ "18446744073709551616K", -EINVAL, 0 },
	{ "", -EINVAL, 0 },
	{ "M", -EINVAL, 0 },
	{ "-1M", -EINVAL, 0 },
	{ "+1M", -EINVAL, 0 },
	{ " 1M", -EINVAL, 0 },
	{ "1MB", -EINVAL, 0 },
	{ "1.5G", -EINVAL, 0 },
	{ "0x10M", -EINVAL, 0 },
};

static void test_sizes(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint64_t bytes = 0;

		assert_int_equal(options_parse_bytes(sizes[i].text, &bytes), sizes[i].rc);
		assert_int_equal(bytes, sizes[i].bytes);
	}
}

static void test_numbers(void **state)
{
	uint64_t n = 0;

	assert_int_equal(options_parse_number(table, "1", 1, 16, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(options_parse_number(table, "16", 1, 16, &n), 0);
	assert_int_equal(n, 16);
	assert_int_equal(options_parse_number(table, "0", 1, 16, &n), -EINVAL);
	assert_int_equal(options_parse_number(table, "17", 1, 16, &n), -EINVAL);
	assert_int_equal(options_parse_number(table, "-1", 1, 16, &n), -EINVAL);
	assert_int_equal(options_parse_number(table, "1x", 1, 16, &n), -EINVAL);
	assert_int_equal(options_parse_number(table, "", 1, 16, &n), -EINVAL);
	assert_int_equal(options_parse_number(table, "18446744073709551617", 1, 16, &n), -EINVAL);
	assert_int_equal(n, 16);
}

static void test_bytes_for_people(void **state)
{
	char buf[32];

	assert_string_equal(options_format_bytes(0, buf, sizeof(buf)), "0 bytes");
	assert_string_equal(options_format_bytes(1023, buf, sizeof(buf)), "1023 bytes");
	assert_string_equal(options_format_bytes(32 * MiB, buf, sizeof(buf)), "32 MiB");
	assert_string_equal(options_format_bytes(1536 * MiB, buf, sizeof(buf)), "1.5 GiB");
	assert_string_equal(options_format_bytes(UINT64_MAX, buf, sizeof(buf)), "16 EiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_walks),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_bytes_for_people),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

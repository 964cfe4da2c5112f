#include "cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* "--name" or "--name=value": the row that it means, and where a value after '=' starts. */
static const struct option_row *find_row(const struct option_row *table, const char *word,
                                         const char **inline_value)
{
	*inline_value = NULL;
	for (; table->name; table++) {
		size_t len = strlen(table->name);

		if (table->name[0] != '-') {
			*inline_value = word;
			if (word[0] != '-')
				return table;
			continue;
		}
		*inline_value = NULL;
		if (table->letter && !strcmp(word, table->letter))
			return table;
		if (strncmp(word, table->name, len))
			continue;
		if (word[len] == '=')
			*inline_value = word + len + 1;
		if (word[len] == '=' || !word[len])
			return table;
	}
	return NULL;
}

static int refuse_word(const char *word)
{
	if (word[0] == '-')
		log_error("unknown option '%s' (--help lists them)", word);
	else
		log_error("unexpected argument '%s' (--help lists the options)", word);
	return -EINVAL;
}

int options_parse(const struct option_row *table, void *opts, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *value;
		const struct option_row *row = find_row(table, argv[i], &value);

		if (!row)
			return refuse_word(argv[i]);
		if (!row->arg && value) {
			log_error("%s takes no value", row->name);
			return -EINVAL;
		}
		if (row->arg && !value) {
			if (i + 1 == argc) {
				log_error("%s needs a value: %s", row->name, row->arg);
				return -EINVAL;
			}
			value = argv[++i];
		}
		if (row->parse(opts, row, value))
			return -EINVAL;
	}
	return 0;
}

#define HELP_COLUMN 27

void options_print_help(const struct option_row *table, FILE *f)
{
	for (; table->name; table++) {
		int width = fprintf(f, "  %s%s%s", table->letter ? table->letter : "",
		                    table->letter ? ", " : "", table->name);

		if (table->arg)
			width += fprintf(f, " %s", table->arg);
		if (width >= HELP_COLUMN) {
			fputc('\n', f);
			width = 0;
		}
		/* Further lines of a help text are indented to the same column. */
		fprintf(f, "%*s", HELP_COLUMN - width, "");
		for (const char *p = table->help; *p; p++) {
			fputc(*p, f);
			if (*p == '\n')
				fprintf(f, "%*s", HELP_COLUMN, "");
		}
		fputc('\n', f);
	}
}

int options_parse_number(const struct option_row *row, const char *value, uint64_t lowest,
                         uint64_t highest, uint64_t *out)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(value, &end, 10);
	if (!isdigit((unsigned char)value[0]) || *end || errno || n < lowest || n > highest) {
		log_error("%s %s: not a number from %" PRIu64 " to %" PRIu64, row->name, value,
		          lowest, highest);
		return -EINVAL;
	}
	*out = n;
	return 0;
}

static const struct {
	char letter;
	unsigned shift;
} suffixes[] = { { 'B', 0 }, { 'K', 10 }, { 'M', 20 }, { 'G', 30 }, { 'T', 40 } };

int options_parse_bytes(const char *value, uint64_t *out)
{
	unsigned shift = 20; /* a bare number is MiB, as everywhere */
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(value, &end, 10);
	if (!isdigit((unsigned char)value[0]) || errno)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(suffixes) && *end; i++)
		if (toupper((unsigned char)*end) == suffixes[i].letter) {
			shift = suffixes[i].shift;
			end++;
			break;
		}
	if (*end || n > UINT64_MAX >> shift)
		return -EINVAL;
	*out = n << shift;
	return 0;
}

const char *options_format_bytes(uint64_t bytes, char *buf, size_t size)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned unit = 0;
	double n = (double)bytes;

	for (; n >= 1024 && unit + 1 < ARRAY_SIZE(units); unit++)
		n /= 1024;
	/* At most one decimal, none where it would be 0. */
	snprintf(buf, size, n - (double)(uint64_t)n < 0.05 ? "%.0f %s" : "%.1f %s", n, units[unit]);
	return buf;
}

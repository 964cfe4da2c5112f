/*
 * Options of a verb as one const table: parsing, --help and the checks all derive from it.
 */
#pragma once

#include <stdio.h>

#include "base/base.h"

struct option_row {
	const char *name;   /* "--memory"; without dashes: takes the words that are no options */
	const char *letter; /* "-v", or NULL */
	const char *arg;    /* name of the argument for help, NULL when it takes none */
	/* Stores into opts; value is NULL when there is no argument. Logs its own one-line error
	 * and returns -EINVAL when it will not have the value. */
	int (*parse)(void *opts, const struct option_row *row, const char *value);
	const char *help;
};

/* Walks argv[1..] over the table, which ends in a row without a name. 0 or -EINVAL, logged. */
int options_parse(const struct option_row *table, void *opts, int argc, char **argv);
void options_print_help(const struct option_row *table, FILE *f);

/* A number, lowest..highest, decimal. -EINVAL, with what is wrong logged under the row's name. */
int options_parse_number(const struct option_row *row, const char *value, uint64_t lowest,
                         uint64_t highest, uint64_t *out);
/* Bytes with a suffix K, M, G or T (powers of 1024), or MiB without one. -EINVAL, not logged. */
int options_parse_bytes(const char *value, uint64_t *out);
/* "1.5 GiB"-like text for messages. */
const char *options_format_bytes(uint64_t bytes, char *buf, size_t size);

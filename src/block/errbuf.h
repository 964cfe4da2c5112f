/* One line for the user, written where the error is known. Private to this folder. */
#pragma once

#include "base/base.h"

struct errbuf {
	char *text; /* may be NULL */
	size_t size;
};

/* Writes the line and returns rc, a -errno. */
int block_fail(const struct errbuf *e, int rc, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

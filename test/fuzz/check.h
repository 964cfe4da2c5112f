/* What the fuzzers that translate addresses check. */
#pragma once

#include <stdlib.h>

#include "mem/mem.h"

static inline void check(bool holds)
{
	if (!holds)
		abort();
}

/* [host, host + len) is guest memory, and RAM if it may be written. */
static inline void check_host(const struct mem *m, uintptr_t host, unsigned len, bool writable)
{
	for (unsigned n = 0; n < m->nr_banks; n++) {
		const struct mem_bank *b = &m->bank[n];
		uintptr_t off = host - (uintptr_t)b->host;

		if (off < b->size && len <= b->size - off) {
			check(!writable || !b->readonly);
			return;
		}
	}
	abort();
}

/*
 * A token bucket: how many bytes may pass, by a clock that is an argument. Debt is allowed, so that
 * a frame longer than the bucket passes as well and is paid for afterwards.
 */
#pragma once

#include "base/base.h"

struct rate {
	uint64_t bytes_per_s; /* 0: no limit */
	uint64_t burst;       /* bytes that pass at once after a rest */
	int64_t tokens;       /* billionths of a byte */
	uint64_t at_ns;       /* when tokens was right */
};

#define RATE_MAX_BITS 1000000000000ull

/* bits: a second, at most RATE_MAX_BITS; 0 for no limit. */
void rate_init(struct rate *r, uint64_t bits, uint64_t now_ns);
/* 0 when something may pass now, else the time when it may, in ns. */
uint64_t rate_wait_until(struct rate *r, uint64_t now_ns);
/* So much has passed. */
void rate_take(struct rate *r, uint64_t bytes);

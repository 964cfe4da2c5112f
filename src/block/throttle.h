/*
 * A limit of requests and bytes a second. Pure: time is an argument. Private to this folder.
 *
 * Each limit is a bucket that holds THROTTLE_BURST_NS worth of it, kept as the time at which the
 * bucket will be full again. A request passes when there is something in the bucket, takes its
 * whole cost, and may leave a debt that the following ones wait for: so one longer than a bucket
 * passes.
 */
#pragma once

#include "base/base.h"

#define THROTTLE_BURST_NS 100000000ull

struct throttle {
	uint64_t iops, bytes_per_s; /* 0: no limit */
	uint64_t iops_full_ns, bytes_full_ns;
};

/* 0: the request passes, and is paid for. Else how many ns to wait before asking again. */
uint64_t throttle_take(struct throttle *t, uint64_t now_ns, uint64_t bytes);

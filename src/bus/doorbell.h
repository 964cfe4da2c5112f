/*
 * Doorbells: addresses at which a write carries no more than "look". Where the engine can, the
 * host's kernel turns such a write into an event on a descriptor without leaving the guest for us;
 * the device then watches the descriptor. Elsewhere, and for writes that do not match, the device's
 * own routine is called as ever, so that it serves both ways.
 */
#pragma once

#include "bus/bus.h"

struct doorbell {
	enum bus_space space;
	uint64_t addr;
	unsigned size; /* bytes of a write that counts: 1, 2, 4, 8, or 0 for any */
	bool match;    /* only writes of value count (size is not 0 then) */
	uint64_t value;
	int fd; /* an eventfd */
};

struct doorbell_ops {
	/* From any thread. 0 or -errno: -EEXIST when there is one, -ENOSPC. */
	int (*add)(void *opaque, const struct doorbell *d);
	int (*remove)(void *opaque, const struct doorbell *d);
};

struct doorbells {
	const struct doorbell_ops *ops;
	void *opaque;
};

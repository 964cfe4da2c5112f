/*
 * The allocator: which part of the machine owns which guest pages, ports and interrupt lines.
 *
 * Popek and Goldberg's second module, for the resources that are given once and kept: nothing
 * becomes part of a machine unless it was granted here, so two chips can never answer at one
 * address and a ROM cannot hide a device. (CPU time is given again and again, which is the
 * scheduler's work.) All grants are made before the vCPUs run; the map is constant from then on and
 * needs no lock.
 */
#pragma once

#include "base/base.h"

enum resource { RES_PAGES, RES_PORTS, RES_IRQ, RES_KINDS };

#define ALLOC_MAX_GRANTS 64

struct grant {
	enum resource kind;
	uint64_t base, len; /* bytes of guest physical memory, ports, or interrupt lines (GSIs) */
	const char *owner;
};

struct alloc {
	unsigned nr;
	struct grant grant[ALLOC_MAX_GRANTS];
};

void alloc_init(struct alloc *a);

/* Grants [base, base+len) to owner (a string that lives on). -EINVAL for an empty range or one
 * beyond the space, -EEXIST when part of it has an owner, -ENOSPC; err then gets one line that says
 * so. */
int alloc_grant(struct alloc *a, enum resource kind, uint64_t base, uint64_t len, const char *owner,
                char *err, size_t errlen);
/* The grant that holds addr, or NULL. */
const struct grant *alloc_find(const struct alloc *a, enum resource kind, uint64_t addr);

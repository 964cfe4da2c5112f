#include "monitor/alloc.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "cpu/cpuid.h"
#include "machine/layout.h"

/* The spaces that are handed out. */
static const struct {
	const char *what;
	uint64_t size;
} space[RES_KINDS] = {
	[RES_PAGES] = { "guest memory", BIT(CPUID_PHYS_BITS) },
	[RES_PORTS] = { "ports", 0x10000 },
	[RES_IRQ] = { "interrupt lines", GSI_COUNT },
};

void alloc_init(struct alloc *a)
{
	*a = (struct alloc){ 0 };
}

static const struct grant *find_overlap(const struct alloc *a, enum resource kind, uint64_t base,
                                        uint64_t len)
{
	for (unsigned i = 0; i < a->nr; i++) {
		const struct grant *g = &a->grant[i];

		if (g->kind == kind && base < g->base + g->len && g->base < base + len)
			return g;
	}
	return NULL;
}

int alloc_grant(struct alloc *a, enum resource kind, uint64_t base, uint64_t len, const char *owner,
                char *err, size_t errlen)
{
	const struct grant *other;

	if (!len || base >= space[kind].size || len > space[kind].size - base) {
		snprintf(err, errlen,
		         "%s: %s 0x%" PRIx64 ", length 0x%" PRIx64 ": not within 0..0x%" PRIx64,
		         owner, space[kind].what, base, len, space[kind].size - 1);
		return -EINVAL;
	}
	other = find_overlap(a, kind, base, len);
	if (other) {
		snprintf(err, errlen,
		         "%s: %s 0x%" PRIx64 "-0x%" PRIx64 " belong to %s already (0x%" PRIx64
		         "-0x%" PRIx64 ")",
		         owner, space[kind].what, base, base + len - 1, other->owner, other->base,
		         other->base + other->len - 1);
		return -EEXIST;
	}
	if (a->nr == ALLOC_MAX_GRANTS) {
		snprintf(err, errlen, "%s: all %d grants of the machine are taken", owner,
		         ALLOC_MAX_GRANTS);
		return -ENOSPC;
	}
	a->grant[a->nr++] =
	        (struct grant){ .kind = kind, .base = base, .len = len, .owner = owner };
	return 0;
}

const struct grant *alloc_find(const struct alloc *a, enum resource kind, uint64_t addr)
{
	return find_overlap(a, kind, addr, 1);
}

/*
 * Read-modify-write of a memory operand. One TLB check for both halves: rmw_begin() finds the host
 * address with write permission (so a fault reports a write, as the CPU does) or, for devices and
 * page crossings, NULL after probing, and then the two halves go through the slow path.
 *
 * A locked instruction compares and swaps on the host address. A locked operand that crosses a page
 * is not atomic against other vCPUs; no known software relies on it.
 */
#pragma once

#include "interp/access.h"

static inline void *rmw_begin(struct cpu *c, gva_t va, unsigned size, unsigned seg)
{
	const struct tlb_entry *t = access_tlb(c, va);
	void *p;

	if (likely(t->write == access_tag(c, va, size)))
		return (void *)(va + t->addend);
	if (c->tlb == c->mmu->tlb[MMU_MODES]) { /* accesses are being checked: no short cut */
		mmu_probe(c, va, size, MMU_WRITE, seg);
		return NULL;
	}
	p = mmu_host(c, va, size, MMU_WRITE, seg);
	if (!p)
		mmu_probe(c, va, size, MMU_WRITE, seg);
	return p;
}

static inline __attribute__((always_inline)) uint64_t rmw_load(struct cpu *c, void *p, gva_t va,
                                                               unsigned size, unsigned seg)
{
	if (unlikely(!p))
		return mmu_load(c, va, size, seg);
	return host_load(p, size);
}

static inline __attribute__((always_inline)) void rmw_store(struct cpu *c, void *p, gva_t va,
                                                            unsigned size, uint64_t v, unsigned seg)
{
	if (unlikely(!p)) {
		mmu_store(c, va, size, v, seg);
		return;
	}
	host_store(p, size, v);
	access_check_code(c, (uintptr_t)p);
}

/* Stores v if memory still holds *expect; else updates *expect and returns false. */
static inline bool rmw_swap(struct cpu *c, void *p, unsigned size, uint64_t *expect, uint64_t v)
{
	bool done;

	switch (size) {
	case 1: {
		uint8_t old = *expect;
		done = __atomic_compare_exchange_n((uint8_t *)p, &old, (uint8_t)v, false,
		                                   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		*expect = old;
		break;
	}
	case 2: {
		uint16_t old = *expect;
		done = __atomic_compare_exchange_n((uint16_t *)p, &old, (uint16_t)v, false,
		                                   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		*expect = old;
		break;
	}
	case 4: {
		uint32_t old = *expect;
		done = __atomic_compare_exchange_n((uint32_t *)p, &old, (uint32_t)v, false,
		                                   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		*expect = old;
		break;
	}
	default:
		done = __atomic_compare_exchange_n((uint64_t *)p, expect, v, false,
		                                   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		break;
	}
	access_check_code(c, (uintptr_t)p);
	return done;
}

/*
 * Guest memory as instruction routines see it: effective addresses, and loads and stores that hit
 * the software TLB inline and go to mmu.c otherwise. All of these raise on a fault and do not
 * return.
 *
 * x86-TSO: an aligned access is one host access of the same size (mmu/host.h), and the host's own
 * ordering is the guest's.
 */
#pragma once

#include "cpu/flags.h"
#include "interp/insn.h"
#include "interp/interp.h"
#include "mmu/host.h"
#include "mmu/mmu.h"

/* Effective address checked against its segment, truncated to the address size: the INSN_SLOW path.
 */
gva_t access_ea_slow(struct cpu *c, const struct insn *i, unsigned size, bool write);
/* Linear address of seg:off for an access of size bytes, with type and limit checks; any mode. off
 * is truncated to 32 bits outside 64-bit mode. Raises #GP(0), or #SS(0) for SEG_SS. */
gva_t access_linear(struct cpu *c, unsigned seg, uint64_t off, uint64_t size, bool write);

/* The offset alone, as LEA computes it (before truncation to the operand size). */
static inline uint64_t access_offset(const struct cpu *c, const struct insn *i)
{
	uint64_t ea = c->gpr[i->base] + (c->gpr[i->index] << i->scale) + (int64_t)i->disp;

	if (i->asize == 8)
		return ea;
	return i->asize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

/* Linear address of the memory operand of an instruction. */
static inline gva_t access_ea(struct cpu *c, const struct insn *i, unsigned size, bool write)
{
	if (unlikely(i->flags & INSN_SLOW))
		return access_ea_slow(c, i, size, write);
	return c->gpr[i->base] + (c->gpr[i->index] << i->scale) + (int64_t)i->disp;
}

static inline struct tlb_entry *access_tlb(const struct cpu *c, gva_t va)
{
	return &c->tlb[(va >> 12) & (TLB_ENTRIES - 1)];
}

/* The tag that an access of size bytes at va needs: it differs from the page's own when the access
 * leaves the page, so that a crossing access misses. */
static inline uint64_t access_tag(const struct cpu *c, gva_t va, unsigned size)
{
	return ((va + size - 1) & PAGE_MASK) | c->tlb_tag;
}

/* A store into the page that runs ends the block after this instruction, see block.c. */
static inline void access_check_code(struct cpu *c, uintptr_t host)
{
	if (unlikely(((host ^ c->code_page) & PAGE_MASK) == 0))
		c->stop_at = NULL;
}

#define ACCESS_LOAD(bits)                                                                     \
	static inline uint##bits##_t load##bits(struct cpu *c, gva_t va, unsigned seg)        \
	{                                                                                     \
		const struct tlb_entry *t = access_tlb(c, va);                                \
		if (likely(t->read == access_tag(c, va, bits / 8)))                           \
			return (uint##bits##_t)host_load((void *)(va + t->addend), bits / 8); \
		return (uint##bits##_t)mmu_load(c, va, bits / 8, seg);                        \
	}
#define ACCESS_STORE(bits)                                                            \
	static inline void store##bits(struct cpu *c, gva_t va, uint##bits##_t value, \
	                               unsigned seg)                                  \
	{                                                                             \
		const struct tlb_entry *t = access_tlb(c, va);                        \
		if (likely(t->write == access_tag(c, va, bits / 8))) {                \
			host_store((void *)(va + t->addend), bits / 8, value);        \
			access_check_code(c, va + t->addend);                         \
			return;                                                       \
		}                                                                     \
		mmu_store(c, va, bits / 8, value, seg);                               \
	}
ACCESS_LOAD(8)
ACCESS_LOAD(16)
ACCESS_LOAD(32)
ACCESS_LOAD(64)
ACCESS_STORE(8)
ACCESS_STORE(16)
ACCESS_STORE(32)
ACCESS_STORE(64)

/* The same by size in bytes; a constant size folds to one of the above. */
static inline __attribute__((always_inline)) uint64_t load_size(struct cpu *c, gva_t va,
                                                                unsigned size, unsigned seg)
{
	switch (size) {
	case 1:
		return load8(c, va, seg);
	case 2:
		return load16(c, va, seg);
	case 4:
		return load32(c, va, seg);
	default:
		return load64(c, va, seg);
	}
}
static inline __attribute__((always_inline)) void store_size(struct cpu *c, gva_t va, unsigned size,
                                                             uint64_t value, unsigned seg)
{
	switch (size) {
	case 1:
		store8(c, va, value, seg);
		break;
	case 2:
		store16(c, va, value, seg);
		break;
	case 4:
		store32(c, va, value, seg);
		break;
	default:
		store64(c, va, value, seg);
		break;
	}
}

/* Registers by operand size. A 32-bit write clears the upper half; byte numbers 16..19 are AH..BH.
 */
static inline __attribute__((always_inline)) uint64_t reg_get(const struct cpu *c, unsigned n,
                                                              unsigned size)
{
	switch (size) {
	case 1:
		return n < 16 ? (uint8_t)c->gpr[n] : (uint8_t)(c->gpr[n - 16] >> 8);
	case 2:
		return (uint16_t)c->gpr[n];
	case 4:
		return (uint32_t)c->gpr[n];
	default:
		return c->gpr[n];
	}
}
static inline __attribute__((always_inline)) void reg_set(struct cpu *c, unsigned n, unsigned size,
                                                          uint64_t value)
{
	switch (size) {
	case 1:
		if (n < 16)
			*(uint8_t *)&c->gpr[n] = value;
		else
			((uint8_t *)&c->gpr[n - 16])[1] = value;
		break;
	case 2:
		*(uint16_t *)&c->gpr[n] = value;
		break;
	case 4:
		c->gpr[n] = (uint32_t)value;
		break;
	default:
		c->gpr[n] = value;
		break;
	}
}

/* Sign extension of a size-byte value. */
static inline __attribute__((always_inline)) uint64_t sext(uint64_t v, unsigned size)
{
	switch (size) {
	case 1:
		return (int64_t)(int8_t)v;
	case 2:
		return (int64_t)(int16_t)v;
	case 4:
		return (int64_t)(int32_t)v;
	default:
		return v;
	}
}

static inline bool access_canonical(const struct cpu *c, gva_t va)
{
	unsigned shift = c->cr4 & CR4_LA57 ? 7 : 16;

	return (gva_t)((int64_t)(va << shift) >> shift) == va;
}

/* Stack: pushes and pops of the operand size with the stack-segment's own address size. A push
 * commits RSP only after the store; a pop only after the load. */
unsigned stack_address_size(const struct cpu *c); /* 2, 4 or 8 */
void stack_push(struct cpu *c, unsigned size, uint64_t value);
uint64_t stack_pop(struct cpu *c, unsigned size);
uint64_t stack_peek(struct cpu *c, uint64_t offset,
                    unsigned size);           /* SS:rSP+offset, nothing popped */
void stack_add(struct cpu *c, int64_t bytes); /* rSP += bytes, at its address size */

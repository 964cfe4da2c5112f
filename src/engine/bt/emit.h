/*
 * Writing host machine code. A register is its number, 0 to 15; GS-relative operands are offsets
 * into struct bt.
 */
#pragma once

#include <string.h>
#include "engine/bt/bt.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

struct emit {
	uint8_t *p;    /* where the next byte goes, in the writable mapping */
	uint8_t *base; /* of the writable mapping: offsets in the cache count from here */
};

static inline uint32_t emit_offset(const struct emit *e)
{
	return (uint32_t)(e->p - e->base);
}

static inline void emit_bytes(struct emit *e, const void *bytes, size_t n)
{
	memcpy(e->p, bytes, n);
	e->p += n;
}
#define EMIT(e, ...) \
	emit_bytes(e, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static inline void emit8(struct emit *e, uint8_t v)
{
	*e->p++ = v;
}
static inline void emit32(struct emit *e, uint32_t v)
{
	memcpy(e->p, &v, 4);
	e->p += 4;
}
static inline void emit64(struct emit *e, uint64_t v)
{
	memcpy(e->p, &v, 8);
	e->p += 8;
}

/* op reg, gs:[off] or its like: opcode is one byte; wide: 64-bit operands. */
static inline void emit_gs(struct emit *e, bool wide, uint8_t opcode, unsigned reg, size_t off)
{
	EMIT(e, 0x65, (wide ? 0x48 : 0x40) | (reg & 8) >> 1, opcode, 0x04 | (reg & 7) << 3, 0x25);
	emit32(e, (uint32_t)off);
}
/* op reg, gs:[index + off] */
static inline void emit_gs_indexed(struct emit *e, uint8_t opcode, unsigned reg, unsigned index,
                                   size_t off)
{
	EMIT(e, 0x65, 0x48 | (reg & 8) >> 1 | index >> 3, opcode,
	     0x80 | (reg & 7) << 3 | (index & 7));
	emit32(e, (uint32_t)off); /* index is no RSP or R12 */
}
#define GS(member) offsetof(struct bt, member)
static inline void emit_load_gs(struct emit *e, unsigned reg, size_t off)
{
	emit_gs(e, true, 0x8b, reg, off);
}
static inline void emit_store_gs(struct emit *e, unsigned reg, size_t off)
{
	emit_gs(e, true, 0x89, reg, off);
}
/* op qword gs:[off], imm32 for the group-1 operation /n */
static inline void emit_alu_gs_imm(struct emit *e, unsigned n, size_t off, int32_t imm)
{
	EMIT(e, 0x65, 0x48, 0x81, 0x04 | n << 3, 0x25);
	emit32(e, (uint32_t)off);
	emit32(e, (uint32_t)imm);
}
static inline void emit_mov_gs_imm32(struct emit *e, size_t off, uint32_t imm)
{
	EMIT(e, 0x65, 0xc7, 0x04, 0x25);
	emit32(e, (uint32_t)off);
	emit32(e, imm);
}

static inline void emit_mov_rr(struct emit *e, unsigned dst, unsigned src)
{
	EMIT(e, 0x48 | (src & 8) >> 1 | dst >> 3, 0x89, 0xc0 | (src & 7) << 3 | (dst & 7));
}
static inline void emit_mov_imm32(struct emit *e, unsigned reg, uint32_t imm)
{
	if (reg >> 3)
		emit8(e, 0x41);
	emit8(e, 0xb8 | (reg & 7));
	emit32(e, imm);
}
static inline void emit_mov_imm64(struct emit *e, unsigned reg, uint64_t imm)
{
	EMIT(e, 0x48 | reg >> 3, 0xb8 | (reg & 7));
	emit64(e, imm);
}

/* ModRM, SIB and displacement of [base + disp] for a reg field; any base. */
static inline void emit_modrm_mem(struct emit *e, unsigned reg, unsigned base, int32_t disp)
{
	bool small = disp >= -128 && disp < 128, none = !disp && (base & 7) != 5;

	emit8(e, (none ? 0 : small ? 0x40 : 0x80) | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == 4)
		emit8(e, 0x24);
	if (none)
		return;
	if (small)
		emit8(e, (uint8_t)disp);
	else
		emit32(e, (uint32_t)disp);
}
/* lea dst, [base + disp]; wide: 64 bits, else the result is cut to 32 */
static inline void emit_lea(struct emit *e, bool wide, unsigned dst, unsigned base, int32_t disp)
{
	uint8_t rex = (wide ? 0x48 : 0x40) | (dst & 8) >> 1 | base >> 3;

	if (rex != 0x40)
		emit8(e, rex);
	emit8(e, 0x8d);
	emit_modrm_mem(e, dst, base, disp);
}
/* lea dst, [base + index << scale + disp]; base < 0: none. index is not RSP. */
static inline void emit_lea_sib(struct emit *e, bool wide, unsigned dst, int base, unsigned index,
                                unsigned scale, int32_t disp)
{
	bool small = disp >= -128 && disp < 128;
	unsigned b = base < 0 ? 5 : (unsigned)base;
	uint8_t mod = base < 0 ? 0 : !disp && (b & 7) != 5 ? 0 : small ? 0x40 : 0x80;

	EMIT(e, (wide ? 0x48 : 0x40) | (dst & 8) >> 1 | (index & 8) >> 2 | b >> 3, 0x8d,
	     mod | (dst & 7) << 3 | 4, scale << 6 | (index & 7) << 3 | (b & 7));
	if (base < 0 || mod == 0x80)
		emit32(e, (uint32_t)disp);
	else if (mod == 0x40)
		emit8(e, (uint8_t)disp);
}

/* Jumps to an offset in the cache. */
static inline void emit_rel32(struct emit *e, uint32_t target)
{
	emit32(e, target - (emit_offset(e) + 4));
}
static inline void emit_jmp(struct emit *e, uint32_t target)
{
	emit8(e, 0xe9);
	emit_rel32(e, target);
}
static inline void emit_jcc(struct emit *e, unsigned cc, uint32_t target)
{
	EMIT(e, 0x0f, 0x80 | cc);
	emit_rel32(e, target);
}
/* A jump whose target comes later: returns the place of its displacement, to be given to
 * emit_here(). */
static inline uint8_t *emit_jcc_later(struct emit *e, unsigned cc)
{
	EMIT(e, 0x0f, 0x80 | cc);
	emit32(e, 0);
	return e->p - 4;
}
static inline uint8_t *emit_jmp_later(struct emit *e)
{
	emit8(e, 0xe9);
	emit32(e, 0);
	return e->p - 4;
}
static inline void emit_here(struct emit *e, uint8_t *place)
{
	uint32_t rel = (uint32_t)(e->p - (place + 4));

	memcpy(place, &rel, 4);
}

/* Saves RFLAGS in the red zone's first slot: two instructions, no register. */
static inline void emit_save_flags(struct emit *e)
{
	EMIT(e, 0x9c, 0x48, 0x8d, 0x64, 0x24, 0x08); /* pushfq; lea rsp, [rsp + 8] */
}
#define EMIT_SAVE_FLAGS_BYTES 6

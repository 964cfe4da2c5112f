/*
 * Lazy arithmetic flags. See cpu.h for the scheme.
 *
 * flag_res  the last result, sign extended: ZF = (res == 0), SF = bit 63 ^ SFD, PF = parity of the
 *           low byte ^ PDB.
 * flag_aux  bit 31 CF; bit 30 PO, the carry into the sign bit, so that OF = CF ^ PO; bit 3 AF;
 *           bit 0 SFD; bits 15:8 PDB, a byte whose parity is the correction. SFD and PDB are zero
 *           after arithmetic; they let any combination of flags be represented (POPF, SAHF).
 */
#pragma once

#include "cpu/cpu.h"

#define AUX_CF  0x80000000u
#define AUX_PO  0x40000000u
#define AUX_AF  0x8u
#define AUX_SFD 0x1u
#define AUX_PDB 0xff00u

static inline bool flag_cf(const struct cpu *c)
{
	return c->flag_aux >> 31;
}
static inline bool flag_of(const struct cpu *c)
{
	return ((c->flag_aux << 1) ^ c->flag_aux) >> 31;
}
static inline bool flag_af(const struct cpu *c)
{
	return c->flag_aux & AUX_AF;
}
static inline bool flag_zf(const struct cpu *c)
{
	return c->flag_res == 0;
}
static inline bool flag_sf(const struct cpu *c)
{
	return (c->flag_res >> 63) ^ (c->flag_aux & AUX_SFD);
}
static inline bool flag_pf(const struct cpu *c)
{
	return !__builtin_parity((uint8_t)c->flag_res ^ ((c->flag_aux & AUX_PDB) >> 8));
}

/* The six arithmetic flags as they are kept, to put them back. */
struct flags_saved {
	uint64_t res;
	uint32_t aux;
};
static inline struct flags_saved flags_save(const struct cpu *c)
{
	return (struct flags_saved){ c->flag_res, c->flag_aux };
}
static inline void flags_restore(struct cpu *c, struct flags_saved s)
{
	c->flag_res = s.res;
	c->flag_aux = s.aux;
}

/* Takes the six arithmetic flags from rflags. */
static inline void flags_set_arith(struct cpu *c, uint64_t rflags)
{
	bool cf = rflags & RFLAGS_CF, of = rflags & RFLAGS_OF;
	uint64_t res = rflags & RFLAGS_ZF ? 0 : 1; /* positive; parity of 0 is even, of 1 odd */
	bool pf_now = res == 0;

	c->flag_res = res;
	c->flag_aux = (cf ? AUX_CF : 0) | (cf != of ? AUX_PO : 0) |
	              (rflags & RFLAGS_AF ? AUX_AF : 0) | (rflags & RFLAGS_SF ? AUX_SFD : 0) |
	              ((bool)(rflags & RFLAGS_PF) != pf_now ? 0x100 : 0);
}

static inline uint64_t flags_get_arith(const struct cpu *c)
{
	return (flag_cf(c) ? RFLAGS_CF : 0) | (flag_pf(c) ? RFLAGS_PF : 0) |
	       (flag_af(c) ? RFLAGS_AF : 0) | (flag_zf(c) ? RFLAGS_ZF : 0) |
	       (flag_sf(c) ? RFLAGS_SF : 0) | (flag_of(c) ? RFLAGS_OF : 0);
}

/* Bit n is the carry out of position n: of an addition, or the borrow of a subtraction. */
static inline uint64_t carries_add(uint64_t a, uint64_t b, uint64_t res)
{
	return (a & b) | ((a | b) & ~res);
}
static inline uint64_t carries_sub(uint64_t a, uint64_t b, uint64_t res)
{
	return (~a & b) | ((~a ^ b) & res);
}

/* Sets all six from a result of `bits` width (already sign extended) and its carries. */
static inline __attribute__((always_inline)) void flags_set_carries(struct cpu *c, unsigned bits,
                                                                    uint64_t res, uint64_t carries)
{
	uint32_t top;

	if (bits == 64)
		top = carries >> 32;
	else
		top = (uint32_t)carries << (32 - bits);
	c->flag_res = res;
	c->flag_aux = (top & (AUX_CF | AUX_PO)) | ((uint32_t)carries & AUX_AF);
}

/* Logic operations: CF = OF = AF = 0. res is sign extended. */
static inline void flags_set_logic(struct cpu *c, uint64_t res)
{
	c->flag_res = res;
	c->flag_aux = 0;
}

static inline void flag_set_cf_of(struct cpu *c, bool cf, bool of)
{
	c->flag_aux =
	        (c->flag_aux & ~(AUX_CF | AUX_PO)) | (cf ? AUX_CF : 0) | (cf != of ? AUX_PO : 0);
}

/* The sixteen conditions of Jcc, SETcc and CMOVcc (SDM 2 appendix B.1.4.7). */
static inline __attribute__((always_inline)) bool flags_cond(const struct cpu *c, unsigned cc)
{
	bool r = false;

	switch (cc >> 1) {
	case 0:
		r = flag_of(c);
		break;
	case 1:
		r = flag_cf(c);
		break;
	case 2:
		r = flag_zf(c);
		break;
	case 3:
		r = flag_cf(c) || flag_zf(c);
		break;
	case 4:
		r = flag_sf(c);
		break;
	case 5:
		r = flag_pf(c);
		break;
	case 6:
		r = flag_sf(c) != flag_of(c);
		break;
	case 7:
		r = flag_zf(c) || flag_sf(c) != flag_of(c);
		break;
	}
	return r ^ (cc & 1);
}

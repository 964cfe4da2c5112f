/*
 * MUL, IMUL, DIV, IDIV, MULX and the sign extensions that prepare them.
 */
#include "interp/ops.h"
#include "interp/access.h"

/* The r/m operand; it is operand 0 (dst) in the one-operand forms. */
static uint64_t operand(struct cpu *c, const struct insn *i, unsigned reg)
{
	unsigned size = i->opsize;

	if (i->flags & INSN_MEM)
		return load_size(c, access_ea(c, i, size, false), size, i->seg);
	return reg_get(c, reg, size);
}

/* SF, ZF, AF and PF are undefined after a multiplication; those of the low half are what CPUs give.
 */
static void mul_flags(struct cpu *c, unsigned size, uint64_t low, bool overflow)
{
	flags_set_logic(c, sext(low, size));
	flag_set_cf_of(c, overflow, overflow);
}

static void set_product(struct cpu *c, unsigned size, uint64_t low, uint64_t high)
{
	if (size == 1) {
		reg_set(c, R_RAX, 2, (uint8_t)low | high << 8);
		return;
	}
	reg_set(c, R_RAX, size, low);
	reg_set(c, R_RDX, size, high);
}

static void mul(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, bits = size * 8;
	unsigned __int128 r = (unsigned __int128)reg_get(c, R_RAX, size) * operand(c, i, i->dst);
	uint64_t high = r >> bits;

	set_product(c, size, r, high);
	mul_flags(c, size, r, sext(high, size) != 0);
}

static void imul_one(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, bits = size * 8;
	__int128 r = (__int128)(int64_t)sext(reg_get(c, R_RAX, size), size) *
	             (int64_t)sext(operand(c, i, i->dst), size);

	set_product(c, size, r, (uint64_t)(r >> bits));
	mul_flags(c, size, r, r != (int64_t)sext(r, size));
}

static void imul_into(struct cpu *c, const struct insn *i, uint64_t a, uint64_t b)
{
	unsigned size = i->opsize;
	__int128 r = (__int128)(int64_t)sext(a, size) * (int64_t)sext(b, size);

	reg_set(c, i->dst, size, r);
	mul_flags(c, size, r, r != (int64_t)sext(r, size));
}

static void imul_two(struct cpu *c, const struct insn *i)
{
	imul_into(c, i, reg_get(c, i->dst, i->opsize), operand(c, i, i->src));
}

static void imul_three(struct cpu *c, const struct insn *i)
{
	imul_into(c, i, operand(c, i, i->src), i->imm);
}

static insn_fn pick_imul(const struct op_decode *d, struct insn *i)
{
	switch (d->z->operand_count_visible) {
	case 1:
		return imul_one;
	case 2:
		return imul_two;
	default:
		return imul_three;
	}
}

/* The dividend in AX, DX:AX, EDX:EAX or RDX:RAX. */
static unsigned __int128 dividend(const struct cpu *c, unsigned size)
{
	if (size == 1)
		return (uint16_t)c->rax;
	return (unsigned __int128)reg_get(c, R_RDX, size) << (8 * size) | reg_get(c, R_RAX, size);
}

static void set_quotient(struct cpu *c, unsigned size, uint64_t q, uint64_t r)
{
	if (size == 1) {
		reg_set(c, R_RAX, 2, (uint8_t)q | (uint64_t)(uint8_t)r << 8);
		return;
	}
	reg_set(c, R_RAX, size, q);
	reg_set(c, R_RDX, size, r);
}

/* The usual case, a high half of zero, spares the library's 128-bit division. */
static void udiv(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t b = operand(c, i, i->dst);
	unsigned __int128 a = dividend(c, size);

	if (!b || (uint64_t)(a >> (8 * size)) >= b)
		cpu_raise(c, EXC_DE, 0);
	if (!(a >> 64))
		set_quotient(c, size, (uint64_t)a / b, (uint64_t)a % b);
	else
		set_quotient(c, size, a / b, a % b);
}

static void idiv(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, shift = 128 - 16 * size;
	int64_t b = sext(operand(c, i, i->dst), size);
	__int128 a = (__int128)(dividend(c, size) << shift) >> shift, q;

	if (!b)
		cpu_raise(c, EXC_DE, 0);
	if (b == -1) { /* the one division that can overflow 128 bits */
		if (a == (__int128)((unsigned __int128)1 << 127))
			cpu_raise(c, EXC_DE, 0);
		q = -a;
	} else {
		q = a / b;
	}
	if (q != (int64_t)sext(q, size))
		cpu_raise(c, EXC_DE, 0);
	set_quotient(c, size, q, a - q * b);
}

/* BMI2: dst is the high half, src the low, from RDX and the third operand. No flags. */
static void mulx(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	unsigned __int128 r = (unsigned __int128)reg_get(c, R_RDX, size) * operand(c, i, i->aux);

	reg_set(c, i->src, size, r);
	reg_set(c, i->dst, size, r >> (8 * size));
}

/* CBW, CWDE, CDQE: the low half of rAX into all of it. */
static void extend_accumulator(struct cpu *c, const struct insn *i)
{
	reg_set(c, R_RAX, i->aux, sext(c->rax, i->aux / 2));
}

/* CWD, CDQ, CQO: the sign of rAX into rDX. */
static void extend_to_dx(struct cpu *c, const struct insn *i)
{
	reg_set(c, R_RDX, i->aux, sext(reg_get(c, R_RAX, i->aux), i->aux) >> 63 ? ~0ull : 0);
}

static insn_fn pick_extend(const struct op_decode *d, struct insn *i)
{
	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_CBW:
		i->aux = 2;
		return extend_accumulator;
	case ZYDIS_MNEMONIC_CWDE:
		i->aux = 4;
		return extend_accumulator;
	case ZYDIS_MNEMONIC_CDQE:
		i->aux = 8;
		return extend_accumulator;
	case ZYDIS_MNEMONIC_CWD:
		i->aux = 2;
		return extend_to_dx;
	case ZYDIS_MNEMONIC_CDQ:
		i->aux = 4;
		return extend_to_dx;
	default:
		i->aux = 8;
		return extend_to_dx;
	}
}

const struct op_row ops_muldiv[] = {
	{ ZYDIS_MNEMONIC_MUL, 0, mul, NULL },
	{ ZYDIS_MNEMONIC_IMUL, 0, NULL, pick_imul },
	{ ZYDIS_MNEMONIC_DIV, 0, udiv, NULL },
	{ ZYDIS_MNEMONIC_IDIV, 0, idiv, NULL },
	{ ZYDIS_MNEMONIC_MULX, 0, mulx, NULL },
	{ ZYDIS_MNEMONIC_CBW, 0, NULL, pick_extend },
	{ ZYDIS_MNEMONIC_CWDE, 0, NULL, pick_extend },
	{ ZYDIS_MNEMONIC_CDQE, 0, NULL, pick_extend },
	{ ZYDIS_MNEMONIC_CWD, 0, NULL, pick_extend },
	{ ZYDIS_MNEMONIC_CDQ, 0, NULL, pick_extend },
	{ ZYDIS_MNEMONIC_CQO, 0, NULL, pick_extend },
	{ 0 },
};

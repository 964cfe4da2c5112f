/*
 * Decimal arithmetic and the other instructions that 64-bit mode dropped: AAA, AAD, AAM, AAS, DAA,
 * DAS, BOUND. (SDM 2A; undefined flags are left as the defined ones make them.)
 */
#include "interp/ops.h"
#include "interp/access.h"

static uint8_t al(const struct cpu *c)
{
	return (uint8_t)c->rax;
}

static void set_adjusted(struct cpu *c, bool af, bool cf)
{
	flags_set_arith(c, (flags_get_arith(c) & ~(RFLAGS_AF | RFLAGS_CF)) | (af ? RFLAGS_AF : 0) |
	                           (cf ? RFLAGS_CF : 0));
}

static void aaa_aas(struct cpu *c, const struct insn *i)
{
	bool adjust = (al(c) & 15) > 9 || flag_af(c);
	uint16_t ax = c->rax;

	if (adjust)
		ax = i->aux2 ? ax - 0x106 : ax + 0x106;
	reg_set(c, R_RAX, 2, ax & 0xff0f);
	set_adjusted(c, adjust, adjust);
}

static void daa_das(struct cpu *c, const struct insn *i)
{
	uint8_t old = al(c), v = old;
	bool low = (old & 15) > 9 || flag_af(c), high = old > 0x99 || flag_cf(c);
	bool cf = high;

	if (low) {
		v = i->aux2 ? v - 6 : v + 6;
		cf |= i->aux2 ? old < 6 : false;
	}
	if (high)
		v = i->aux2 ? v - 0x60 : v + 0x60;
	reg_set(c, R_RAX, 1, v);
	flags_set_logic(c, sext(v, 1));
	set_adjusted(c, low, cf);
}

static void aam(struct cpu *c, const struct insn *i)
{
	uint8_t base = i->imm, v = al(c);

	if (!base)
		cpu_raise(c, EXC_DE, 0);
	reg_set(c, R_RAX, 2, (v / base) << 8 | v % base);
	flags_set_logic(c, sext(v % base, 1));
}

static void aad(struct cpu *c, const struct insn *i)
{
	uint8_t v = al(c) + (uint8_t)(c->rax >> 8) * (uint8_t)i->imm;

	reg_set(c, R_RAX, 2, v);
	flags_set_logic(c, sext(v, 1));
}

static insn_fn pick_adjust(const struct op_decode *d, struct insn *i)
{
	i->aux2 = d->z->mnemonic == ZYDIS_MNEMONIC_AAS || d->z->mnemonic == ZYDIS_MNEMONIC_DAS;
	return d->z->mnemonic == ZYDIS_MNEMONIC_AAA || d->z->mnemonic == ZYDIS_MNEMONIC_AAS
	               ? aaa_aas
	               : daa_das;
}

static void bound(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	gva_t va = access_ea(c, i, 2 * size, false);
	int64_t v = sext(reg_get(c, i->dst, size), size);
	int64_t low = sext(load_size(c, va, size, i->seg), size);
	int64_t high = sext(load_size(c, va + size, size, i->seg), size);

	if (v < low || v > high)
		cpu_raise(c, EXC_BR, 0);
}

const struct op_row ops_bcd[] = {
	{ ZYDIS_MNEMONIC_AAA, 0, NULL, pick_adjust }, { ZYDIS_MNEMONIC_AAS, 0, NULL, pick_adjust },
	{ ZYDIS_MNEMONIC_DAA, 0, NULL, pick_adjust }, { ZYDIS_MNEMONIC_DAS, 0, NULL, pick_adjust },
	{ ZYDIS_MNEMONIC_AAM, 0, aam, NULL },         { ZYDIS_MNEMONIC_AAD, 0, aad, NULL },
	{ ZYDIS_MNEMONIC_BOUND, 0, bound, NULL },     { 0 },
};

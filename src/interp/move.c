/*
 * Moves: MOV, MOVZX, MOVSX, LEA, XCHG, CMOVcc, SETcc, XLAT, flags to and from AH, and flag bits.
 */
#include "cpu/cpuid.h"
#include "interp/far.h"
#include "interp/rmw.h"

#define MOVE_ROUTINES(bits)                                                                   \
	static void mov##bits##_rr(struct cpu *c, const struct insn *i)                       \
	{                                                                                     \
		reg_set(c, i->dst, bits / 8, reg_get(c, i->src, bits / 8));                   \
	}                                                                                     \
	static void mov##bits##_ri(struct cpu *c, const struct insn *i)                       \
	{                                                                                     \
		reg_set(c, i->dst, bits / 8, i->imm);                                         \
	}                                                                                     \
	static void mov##bits##_rm(struct cpu *c, const struct insn *i)                       \
	{                                                                                     \
		reg_set(c, i->dst, bits / 8,                                                  \
		        load##bits(c, access_ea(c, i, bits / 8, false), i->seg));             \
	}                                                                                     \
	static void mov##bits##_mr(struct cpu *c, const struct insn *i)                       \
	{                                                                                     \
		store##bits(c, access_ea(c, i, bits / 8, true), reg_get(c, i->src, bits / 8), \
		            i->seg);                                                          \
	}                                                                                     \
	static void mov##bits##_mi(struct cpu *c, const struct insn *i)                       \
	{                                                                                     \
		store##bits(c, access_ea(c, i, bits / 8, true), i->imm, i->seg);              \
	}
MOVE_ROUTINES(8)
MOVE_ROUTINES(16)
MOVE_ROUTINES(32)
MOVE_ROUTINES(64)

#define MOVE_ROW(bits)                                                                         \
	{                                                                                      \
		mov##bits##_rr, mov##bits##_ri, mov##bits##_rm, mov##bits##_mr, mov##bits##_mi \
	}
static const insn_fn mov_fns[4][FORMS] = { MOVE_ROW(8), MOVE_ROW(16), MOVE_ROW(32), MOVE_ROW(64) };

/* MOV between the accumulator and an absolute 64-bit address, which is in imm. */
static void mov_from_offset(struct cpu *c, const struct insn *i)
{
	gva_t va = access_linear(c, i->seg, i->imm, i->opsize, false);

	reg_set(c, R_RAX, i->opsize, load_size(c, va, i->opsize, i->seg));
}

static void mov_to_offset(struct cpu *c, const struct insn *i)
{
	gva_t va = access_linear(c, i->seg, i->imm, i->opsize, true);

	store_size(c, va, i->opsize, reg_get(c, R_RAX, i->opsize), i->seg);
}

static bool general_register(const ZydisDecodedOperand *op)
{
	switch (ZydisRegisterGetClass(op->reg.value)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return true;
	default:
		return false;
	}
}

static bool is_general(const ZydisDecodedOperand *op)
{
	return op->type != ZYDIS_OPERAND_TYPE_REGISTER || general_register(op);
}

static insn_fn pick_mov(const struct op_decode *d, struct insn *i)
{
	enum op_form form = op_form(d);

	if (!is_general(&d->op[0]) || !is_general(&d->op[1]))
		return far_pick(d, i);
	if (d->z->opcode >= 0xa0 && d->z->opcode <= 0xa3 &&
	    d->z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT) {
		i->imm = d->op[form == FORM_MR ? 0 : 1].mem.disp.value;
		if (i->asize < 8) /* Zydis sign-extends it; an offset is unsigned */
			i->imm &= (int64_t)(BIT(i->asize * 8) - 1);
		return form == FORM_MR ? mov_to_offset : mov_from_offset;
	}
	return mov_fns[__builtin_ctz(i->opsize)][form];
}

/* MOVZX, MOVSX, MOVSXD: aux2 is the source size. */
#define EXTEND_ROUTINES(bits)                                                                \
	static void movzx##bits##_r(struct cpu *c, const struct insn *i)                     \
	{                                                                                    \
		reg_set(c, i->dst, i->opsize, reg_get(c, i->src, bits / 8));                 \
	}                                                                                    \
	static void movzx##bits##_m(struct cpu *c, const struct insn *i)                     \
	{                                                                                    \
		reg_set(c, i->dst, i->opsize,                                                \
		        load##bits(c, access_ea(c, i, bits / 8, false), i->seg));            \
	}                                                                                    \
	static void movsx##bits##_r(struct cpu *c, const struct insn *i)                     \
	{                                                                                    \
		reg_set(c, i->dst, i->opsize, sext(reg_get(c, i->src, bits / 8), bits / 8)); \
	}                                                                                    \
	static void movsx##bits##_m(struct cpu *c, const struct insn *i)                     \
	{                                                                                    \
		uint64_t v = load##bits(c, access_ea(c, i, bits / 8, false), i->seg);        \
		reg_set(c, i->dst, i->opsize, sext(v, bits / 8));                            \
	}
EXTEND_ROUTINES(8)
EXTEND_ROUTINES(16)
EXTEND_ROUTINES(32)

static insn_fn pick_extend(const struct op_decode *d, struct insn *i)
{
	static const insn_fn fns[2][3][2] = {
		{ { movzx8_r, movzx8_m }, { movzx16_r, movzx16_m }, { movzx32_r, movzx32_m } },
		{ { movsx8_r, movsx8_m }, { movsx16_r, movsx16_m }, { movsx32_r, movsx32_m } },
	};
	unsigned size = d->op[1].size / 8;

	/* Intel's MOVSXD to 16 bits reads no more than these (SDM 2B). */
	if (d->z->mnemonic == ZYDIS_MNEMONIC_MOVSXD && i->opsize == 2 && !cpuid_is_amd(d->c->cpuid))
		size = 2;
	return fns[d->z->mnemonic != ZYDIS_MNEMONIC_MOVZX][__builtin_ctz(size)]
	          [(i->flags & INSN_MEM) != 0];
}

static void lea64(struct cpu *c, const struct insn *i)
{
	c->gpr[i->dst] = c->gpr[i->base] + (c->gpr[i->index] << i->scale) + (int64_t)i->disp;
}

static void lea(struct cpu *c, const struct insn *i)
{
	reg_set(c, i->dst, i->opsize, access_offset(c, i));
}

static insn_fn pick_lea(const struct op_decode *d, struct insn *i)
{
	return i->opsize == 8 && i->asize == 8 ? lea64 : lea;
}

static void xchg_reg(struct cpu *c, const struct insn *i)
{
	uint64_t a = reg_get(c, i->dst, i->opsize), b = reg_get(c, i->src, i->opsize);

	reg_set(c, i->dst, i->opsize, b);
	reg_set(c, i->src, i->opsize, a);
}

/* Locked by definition. aux2 is the register. */
static void xchg_mem(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	gva_t va = access_ea(c, i, size, true);
	void *p = rmw_begin(c, va, size, i->seg);
	uint64_t v = reg_get(c, i->aux2, size), old = rmw_load(c, p, va, size, i->seg);

	if (p) {
		while (!rmw_swap(c, p, size, &old, v))
			;
	} else {
		mmu_store(c, va, size, v, i->seg);
	}
	reg_set(c, i->aux2, size, old);
}

static insn_fn pick_xchg(const struct op_decode *d, struct insn *i)
{
	i->aux2 = d->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER ? i->dst : i->src;
	return i->flags & INSN_MEM ? xchg_mem : xchg_reg;
}

/* Conditions: aux is the low nibble of the opcode. A CMOV always loads, and always clears the upper
 * half of a 32-bit destination (SDM 2 "CMOVcc"). */
static void cmov(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t v = i->flags & INSN_MEM ? load_size(c, access_ea(c, i, size, false), size, i->seg)
	                                 : reg_get(c, i->src, size);

	if (flags_cond(c, i->aux))
		reg_set(c, i->dst, size, v);
	else if (size == 4)
		reg_set(c, i->dst, 4, c->gpr[i->dst]);
}

static void set_reg(struct cpu *c, const struct insn *i)
{
	reg_set(c, i->dst, 1, flags_cond(c, i->aux));
}

static void set_mem(struct cpu *c, const struct insn *i)
{
	store8(c, access_ea(c, i, 1, true), flags_cond(c, i->aux), i->seg);
}

static insn_fn pick_cmov(const struct op_decode *d, struct insn *i)
{
	i->aux = d->z->opcode & 15;
	return cmov;
}

static insn_fn pick_setcc(const struct op_decode *d, struct insn *i)
{
	i->aux = d->z->opcode & 15;
	return i->flags & INSN_MEM ? set_mem : set_reg;
}

static void xlat(struct cpu *c, const struct insn *i)
{
	uint64_t off = c->rbx + (uint8_t)c->rax;

	off = i->asize == 8 ? off : i->asize == 4 ? (uint32_t)off : (uint16_t)off;
	reg_set(c, R_RAX, 1, load8(c, access_linear(c, i->seg, off, 1, false), i->seg));
}

static insn_fn pick_xlat(const struct op_decode *d, struct insn *i)
{
	i->seg = SEG_DS;
	for (unsigned n = 0; n < d->z->operand_count; n++)
		if (d->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			i->seg = (uint8_t)ZydisRegisterGetId(d->op[n].mem.segment);
	return xlat;
}

#define AH_FLAGS (RFLAGS_SF | RFLAGS_ZF | RFLAGS_AF | RFLAGS_PF | RFLAGS_CF)

static void lahf(struct cpu *c, const struct insn *i)
{
	reg_set(c, 16, 1, (flags_get_arith(c) & AH_FLAGS) | RFLAGS_1);
}

static void sahf(struct cpu *c, const struct insn *i)
{
	uint64_t ah = reg_get(c, 16, 1);

	flags_set_arith(c, (flags_get_arith(c) & RFLAGS_OF) | (ah & AH_FLAGS));
}

static void clc(struct cpu *c, const struct insn *i)
{
	flag_set_cf_of(c, false, flag_of(c));
}

static void stc(struct cpu *c, const struct insn *i)
{
	flag_set_cf_of(c, true, flag_of(c));
}

static void cmc(struct cpu *c, const struct insn *i)
{
	flag_set_cf_of(c, !flag_cf(c), flag_of(c));
}

static void cld(struct cpu *c, const struct insn *i)
{
	c->rflags &= ~RFLAGS_DF;
}

static void std(struct cpu *c, const struct insn *i)
{
	c->rflags |= RFLAGS_DF;
}

static void salc(struct cpu *c, const struct insn *i)
{
	reg_set(c, R_RAX, 1, flag_cf(c) ? 0xff : 0);
}

static void nop(struct cpu *c, const struct insn *i)
{
}

/* MOVNTI; MOVDIRI is the same store. */
static insn_fn pick_store(const struct op_decode *d, struct insn *i)
{
	return mov_fns[__builtin_ctz(i->opsize)][FORM_MR];
}

#define CMOV(cc)                                            \
	{                                                   \
		ZYDIS_MNEMONIC_CMOV##cc, 0, NULL, pick_cmov \
	}
#define SETCC(cc)                                           \
	{                                                   \
		ZYDIS_MNEMONIC_SET##cc, 0, NULL, pick_setcc \
	}
const struct op_row ops_move[] = {
	{ ZYDIS_MNEMONIC_MOV, 0, NULL, pick_mov },
	{ ZYDIS_MNEMONIC_MOVZX, 0, NULL, pick_extend },
	{ ZYDIS_MNEMONIC_MOVSX, 0, NULL, pick_extend },
	{ ZYDIS_MNEMONIC_MOVSXD, 0, NULL, pick_extend },
	{ ZYDIS_MNEMONIC_LEA, 0, NULL, pick_lea },
	{ ZYDIS_MNEMONIC_XCHG, 0, NULL, pick_xchg },
	{ ZYDIS_MNEMONIC_XLAT, 0, NULL, pick_xlat },
	{ ZYDIS_MNEMONIC_LAHF, 0, lahf, NULL },
	{ ZYDIS_MNEMONIC_SAHF, 0, sahf, NULL },
	{ ZYDIS_MNEMONIC_CLC, 0, clc, NULL },
	{ ZYDIS_MNEMONIC_STC, 0, stc, NULL },
	{ ZYDIS_MNEMONIC_CMC, 0, cmc, NULL },
	{ ZYDIS_MNEMONIC_CLD, 0, cld, NULL },
	{ ZYDIS_MNEMONIC_STD, 0, std, NULL },
	{ ZYDIS_MNEMONIC_SALC, 0, salc, NULL },
	{ ZYDIS_MNEMONIC_NOP, 0, nop, NULL },
	{ ZYDIS_MNEMONIC_MOVNTI, 0, NULL, pick_store },
	CMOV(O),
	CMOV(NO),
	CMOV(B),
	CMOV(NB),
	CMOV(Z),
	CMOV(NZ),
	CMOV(BE),
	CMOV(NBE),
	CMOV(S),
	CMOV(NS),
	CMOV(P),
	CMOV(NP),
	CMOV(L),
	CMOV(NL),
	CMOV(LE),
	CMOV(NLE),
	SETCC(O),
	SETCC(NO),
	SETCC(B),
	SETCC(NB),
	SETCC(Z),
	SETCC(NZ),
	SETCC(BE),
	SETCC(NBE),
	SETCC(S),
	SETCC(NS),
	SETCC(P),
	SETCC(NP),
	SETCC(L),
	SETCC(NL),
	SETCC(LE),
	SETCC(NLE),
	{ 0 },
};

/*
 * Decoding: Zydis finds the instruction and its operands, the rows of ops.h say which routine means
 * it.
 */
#include <stdlib.h>
#include <string.h>
#include "interp/decode.h"
#include "interp/interp.h"

struct decoder {
	ZydisDecoder z[MODE_COUNT];
	const struct op_row *row[ZYDIS_MNEMONIC_MAX_VALUE + 1];
	const struct op_row
	        *second[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* asked when row's pick passes */
};

static const struct op_row *const tables[] = {
	ops_alu,    ops_shift,   ops_muldiv, ops_bits,   ops_bcd, ops_move,   ops_stack,
	ops_string, ops_control, ops_far,    ops_system, ops_fpu, ops_native,
};

static void raise_gp(struct cpu *c, const struct insn *i)
{
	cpu_raise(c, EXC_GP, 0);
}

void op_undefined(struct cpu *c, const struct insn *i)
{
	cpu_raise(c, EXC_UD, 0);
}

enum op_form op_form(const struct op_decode *d)
{
	bool mem = d->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY;

	switch (d->op[1].type) {
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return mem ? FORM_MI : FORM_RI;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return FORM_RM;
	default:
		return mem ? FORM_MR : FORM_RR;
	}
}

struct decoder *decoder_new(void)
{
	struct decoder *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	ZydisDecoderInit(&d->z[MODE_16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	ZydisDecoderInit(&d->z[MODE_32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&d->z[MODE_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct op_row *r = tables[t]; r->fn || r->pick; r++) {
			d->second[r->mnemonic] = d->row[r->mnemonic];
			d->row[r->mnemonic] = r;
		}
	return d;
}

void decoder_free(struct decoder *d)
{
	free(d);
}

/* Register number as insn.h has them. */
static unsigned reg_number(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_AH:
		return 16;
	case ZYDIS_REGISTER_CH:
		return 17;
	case ZYDIS_REGISTER_DH:
		return 18;
	case ZYDIS_REGISTER_BH:
		return 19;
	case ZYDIS_REGISTER_SPL:
	case ZYDIS_REGISTER_BPL:
	case ZYDIS_REGISTER_SIL:
	case ZYDIS_REGISTER_DIL:
		return R_RSP + (r - ZYDIS_REGISTER_SPL);
	case ZYDIS_REGISTER_RIP:
	case ZYDIS_REGISTER_EIP:
		return GPR_RIP;
	case ZYDIS_REGISTER_NONE:
		return GPR_ZERO;
	default:
		break;
	}
	if (r >= ZYDIS_REGISTER_R8B && r <= ZYDIS_REGISTER_R15B)
		return 8 + (r - ZYDIS_REGISTER_R8B);
	return (uint8_t)ZydisRegisterGetId(r);
}

/* Under a 67 prefix Zydis 4.0 takes a SIB base of 5 with REX.B for R13D even where mod is 0, which
 * means no base but a displacement (SDM 2A table 2-3). */
static bool is_base_misread(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	return op->mem.base == ZYDIS_REGISTER_R13D && z->raw.modrm.mod == 0 &&
	       z->raw.sib.base == 5 && z->raw.modrm.rm == 4;
}

static void fill_memory(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op,
                        struct insn *i, enum cpu_mode mode)
{
	i->flags |= INSN_MEM;
	i->base = reg_number(op->mem.base);
	i->index = reg_number(op->mem.index);
	i->scale = op->mem.scale ? __builtin_ctz(op->mem.scale) : 0;
	i->disp = (int32_t)op->mem.disp.value;
	if (is_base_misread(z, op)) {
		i->base = GPR_ZERO;
		i->disp = (int32_t)z->raw.disp.value;
	}
	i->seg = (uint8_t)ZydisRegisterGetId(op->mem.segment);
	if (mode != MODE_64 || i->asize != 8 || i->seg >= SEG_FS)
		i->flags |= INSN_SLOW;
}

static void fill_operands(const struct op_decode *d, struct insn *i, enum cpu_mode mode)
{
	uint8_t *const slot[] = { &i->dst, &i->src, &i->aux, &i->aux2 };

	for (unsigned n = 0; n < d->z->operand_count_visible; n++) {
		const ZydisDecodedOperand *op = &d->op[n];

		switch (op->type) {
		case ZYDIS_OPERAND_TYPE_REGISTER:
			if (n < ARRAY_SIZE(slot))
				*slot[n] = reg_number(op->reg.value);
			break;
		case ZYDIS_OPERAND_TYPE_MEMORY:
			fill_memory(d->z, op, i, mode);
			break;
		case ZYDIS_OPERAND_TYPE_IMMEDIATE:
			/* ENTER has two; the routine picks the second from aux. */
			if (n == 1 && d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
				i->aux = op->imm.value.u;
			else
				i->imm = op->imm.is_signed ? op->imm.value.s
				                           : (int64_t)op->imm.value.u;
			break;
		case ZYDIS_OPERAND_TYPE_POINTER:
			i->imm = op->ptr.offset;
			i->disp = op->ptr.segment;
			break;
		default:
			break;
		}
	}
}

static void fill_prefixes(const ZydisDecodedInstruction *z, struct insn *i)
{
	i->len = z->length;
	i->opsize = z->operand_width / 8;
	i->asize = z->address_width / 8;
	if (z->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		i->flags |= INSN_LOCK;
	if (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		i->flags |= INSN_REP;
	if (z->attributes & ZYDIS_ATTRIB_HAS_REPNE)
		i->flags |= INSN_REPNE;
	if (z->attributes & ZYDIS_ATTRIB_HAS_REX)
		i->flags |= INSN_REX;
	i->base = i->index = GPR_ZERO;
}

static unsigned undecodable(ZyanStatus st, unsigned avail, struct insn *i)
{
	if (st == ZYDIS_STATUS_NO_MORE_DATA && avail < INSN_MAX)
		return 0;
	*i = (struct insn){ .fn = op_undefined, .len = 1, .flags = INSN_END };
	if (st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || st == ZYDIS_STATUS_NO_MORE_DATA)
		i->fn = raise_gp;
	return 1;
}

/* Takes the routine from a row; false when the row has none for these operands. */
static bool take_routine(const struct op_row *row, const struct op_decode *d, struct insn *i)
{
	if (!row)
		return false;
	i->fn = row->fn ? row->fn : row->pick(d, i);
	if (i->fn)
		i->flags |= row->flags;
	return i->fn;
}

unsigned decode(struct decoder *dec, struct cpu *c, enum cpu_mode mode, const uint8_t *bytes,
                unsigned avail, struct insn *i)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	struct op_decode d = { .c = c, .z = &z, .op = op, .bytes = bytes };
	ZyanStatus st = ZydisDecoderDecodeFull(&dec->z[mode], bytes,
	                                       avail < INSN_MAX ? avail : INSN_MAX, &z, op);

	if (!ZYAN_SUCCESS(st))
		return undecodable(st, avail, i);
	*i = (struct insn){ 0 };
	fill_prefixes(&z, i);
	fill_operands(&d, i, mode);
	if (!take_routine(dec->row[z.mnemonic], &d, i) &&
	    !take_routine(dec->second[z.mnemonic], &d, i)) {
		i->fn = op_undefined;
		i->flags |= INSN_END;
	}
	return z.length;
}

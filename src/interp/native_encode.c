/*
 * Normalising an instruction: the same opcode with slots for registers, see native_stub.c. The
 * bytes are rebuilt from the fields that the decoder found instead of patched, so that superfluous
 * prefixes, unused REX bits and the two- or three-byte VEX choice make no difference.
 */
#include <string.h>
#include "interp/native.h"

#define HOST_GPR 0 /* RAX */
#define HOST_MEM 6 /* [RSI], as ModRM.rm with mod 0 */

struct encoding {
	uint8_t reg, rm; /* fields of ModRM, and */
	uint8_t vvvv;    /* of VEX, not inverted */
	bool is_mem;
	int is4; /* register in the immediate, -1 when none */
};

static unsigned slot_kind(ZydisRegisterClass class)
{
	switch (class) {
	case ZYDIS_REGCLASS_MMX:
		return SLOT_MMX;
	case ZYDIS_REGCLASS_XMM:
		return SLOT_XMM;
	case ZYDIS_REGCLASS_YMM:
		return SLOT_YMM;
	default:
		return SLOT_NONE;
	}
}

/* Puts a host register number where the operand's own number was. */
static void place(struct encoding *e, ZydisOperandEncoding where, uint8_t host)
{
	switch (where) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		e->reg = host;
		break;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		e->rm = host;
		break;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		e->vvvv = host;
		break;
	case ZYDIS_OPERAND_ENCODING_IS4:
		e->is4 = host;
		break;
	default:
		break;
	}
}

static void add_vector(struct native_form *f, struct insn *i, unsigned n, unsigned kind,
                       unsigned host, const ZydisDecodedOperand *op)
{
	uint8_t *const number[NATIVE_SLOTS] = { &i->dst, &i->src, &i->aux, &i->aux2 };
	unsigned id = (uint8_t)ZydisRegisterGetId(op->reg.value);
	bool vex = f->flags & FORM_VEX;

	*number[n] = kind == SLOT_MMX ? id : id + SLOT_OF_XMM;
	f->slot[n].kind = kind;
	f->slot[n].host = host;
	/* A legacy instruction may leave part of its destination as it was. */
	f->slot[n].load = !vex || (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ);
	f->slot[n].store = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	if (kind == SLOT_MMX)
		f->flags |= FORM_MMX;
	else if (!vex)
		f->flags |= FORM_SSE;
}

static void add_general(struct native_form *f, struct insn *i, const ZydisDecodedOperand *op)
{
	i->opsize = (uint8_t)ZydisRegisterGetId(op->reg.value);
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		f->flags |= FORM_GPR_IN;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		f->flags |= FORM_GPR_OUT;
}

static void add_implicit(struct native_form *f, struct insn *i, const ZydisDecodedOperand *op)
{
	switch (ZydisRegisterGetClass(op->reg.value)) {
	case ZYDIS_REGCLASS_XMM:
		add_vector(f, i, NATIVE_SLOTS - 1, SLOT_XMM, 0, op);
		break;
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			f->flags |= FORM_RCX_OUT;
		else
			f->flags |= FORM_LENGTHS;
		break;
	case ZYDIS_REGCLASS_FLAGS:
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			f->flags |= FORM_FLAGS;
		break;
	default:
		break;
	}
}

static void add_memory(struct native_form *f, struct encoding *e, const ZydisDecodedOperand *op)
{
	e->is_mem = true;
	e->rm = HOST_MEM;
	f->mem_size = op->size / 8;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		f->flags |= FORM_LOAD;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		f->flags |= FORM_STORE;
}

/* Classifies the operands; false for one that has no place here. */
static bool add_operands(const struct op_decode *d, struct native_form *f, struct encoding *e,
                         struct insn *i)
{
	unsigned slot = 0;

	for (unsigned k = 0; k < d->z->operand_count; k++) {
		const ZydisDecodedOperand *op = &d->op[k];
		unsigned kind;

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
				return false;
			add_memory(f, e, op);
		}
		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		kind = slot_kind(ZydisRegisterGetClass(op->reg.value));
		if (op->encoding == ZYDIS_OPERAND_ENCODING_NONE) {
			add_implicit(f, i, op);
		} else if (kind == SLOT_NONE) {
			add_general(f, i, op);
			place(e, op->encoding, HOST_GPR);
		} else {
			add_vector(f, i, slot, kind, slot + 1, op);
			place(e, op->encoding, ++slot);
		}
	}
	return true;
}

static uint8_t mandatory_prefix(const ZydisDecodedInstruction *z)
{
	for (unsigned k = 0; k < z->raw.prefix_count; k++)
		if (z->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			return z->raw.prefixes[k].value;
	return 0;
}

static void put_byte(struct native_form *f, uint8_t byte)
{
	f->bytes[f->len++] = byte;
}

static void put_legacy(const ZydisDecodedInstruction *z, struct native_form *f)
{
	uint8_t prefix = mandatory_prefix(z);

	if (prefix)
		put_byte(f, prefix);
	if ((z->attributes & ZYDIS_ATTRIB_HAS_REX) && z->raw.rex.W)
		put_byte(f, 0x48);
	if (z->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		put_byte(f, 0x0f);
	if (z->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		put_byte(f, 0x38);
	if (z->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		put_byte(f, 0x3a);
}

/* Outside 64-bit mode VEX.W is ignored where it would choose a 64-bit general register (SDM 2C 5).
 */
static bool vex_w(const ZydisDecodedInstruction *z, const struct native_form *f)
{
	bool general = f->flags & (FORM_GPR_IN | FORM_GPR_OUT | FORM_LENGTHS);
	bool moves_doubleword = z->mnemonic == ZYDIS_MNEMONIC_VMOVD ||
	                        z->mnemonic == ZYDIS_MNEMONIC_VPINSRD ||
	                        z->mnemonic == ZYDIS_MNEMONIC_VPEXTRD;

	if (z->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
		return z->raw.vex.W;
	if (z->mnemonic == ZYDIS_MNEMONIC_VCVTSI2SD || z->mnemonic == ZYDIS_MNEMONIC_VCVTSI2SS)
		return false;
	return z->raw.vex.W && !general && !moves_doubleword;
}

static void put_vex(const ZydisDecodedInstruction *z, struct native_form *f,
                    const struct encoding *e)
{
	put_byte(f, 0xc4);
	put_byte(f, 0xe0 | z->raw.vex.m_mmmm);
	put_byte(f, vex_w(z, f) << 7 | (~e->vvvv & 0xf) << 3 | (z->raw.vex.L & 1) << 2 |
	                    z->raw.vex.pp);
}

static void put_immediates(const ZydisDecodedInstruction *z, struct native_form *f,
                           const struct encoding *e)
{
	for (unsigned k = 0; k < ARRAY_SIZE(z->raw.imm) && z->raw.imm[k].size; k++)
		put_byte(f, e->is4 < 0 ? (uint8_t)z->raw.imm[k].value.u : e->is4 << 4);
}

bool native_encode(const struct op_decode *d, struct native_form *f, struct insn *i)
{
	const ZydisDecodedInstruction *z = d->z;
	struct encoding e = { .reg = z->raw.modrm.reg, .rm = z->raw.modrm.rm, .is4 = -1 };

	memset(f, 0, sizeof(*f));
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		f->flags |= FORM_VEX;
	else if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return false;
	if (!(z->attributes & ZYDIS_ATTRIB_HAS_MODRM) || !add_operands(d, f, &e, i))
		return false;
	if (f->flags & FORM_VEX)
		put_vex(z, f, &e);
	else
		put_legacy(z, f);
	put_byte(f, z->opcode);
	put_byte(f, (e.is_mem ? 0 : 0xc0) | (e.reg & 7) << 3 | (e.rm & 7));
	put_immediates(z, f, &e);
	return true;
}

/* x87: the stack is a matter of FXRSTOR, so only memory needs another name. */
void native_encode_x87(const struct op_decode *d, struct native_form *f)
{
	const ZydisDecodedInstruction *z = d->z;
	struct encoding e = { .rm = z->raw.modrm.rm };

	memset(f, 0, sizeof(*f));
	f->flags = FORM_X87;
	for (unsigned k = 0; k < z->operand_count; k++)
		if (d->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			add_memory(f, &e, &d->op[k]);
	if (z->cpu_flags->tested)
		f->flags |= FORM_FLAGS_IN;
	if (z->cpu_flags->modified | z->cpu_flags->set_0 | z->cpu_flags->set_1)
		f->flags |= FORM_FLAGS;
	put_byte(f, z->opcode);
	put_byte(f, (e.is_mem ? 0 : 0xc0) | z->raw.modrm.reg << 3 | e.rm);
}

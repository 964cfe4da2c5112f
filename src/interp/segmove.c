/* Moves of segment registers: MOV, PUSH and POP, and the loads of far pointers. */
#include "interp/access.h"
#include "interp/far.h"
#include "interp/segment.h"

/* LDS, LES, LFS, LGS, LSS: aux is the segment. */
static void op_load_far(struct cpu *c, const struct insn *i)
{
	uint64_t off;
	uint16_t sel = far_load_pointer(c, i, &off);

	segment_load(c, i->aux, sel);
	reg_set(c, i->dst, i->opsize, off);
}

insn_fn segment_pick_far(const struct op_decode *d, struct insn *i)
{
	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_LDS:
		i->aux = SEG_DS;
		break;
	case ZYDIS_MNEMONIC_LES:
		i->aux = SEG_ES;
		break;
	case ZYDIS_MNEMONIC_LFS:
		i->aux = SEG_FS;
		break;
	case ZYDIS_MNEMONIC_LGS:
		i->aux = SEG_GS;
		break;
	default:
		i->aux = SEG_SS;
		break;
	}
	return i->flags & INSN_MEM ? op_load_far : NULL;
}

/* MOV to a segment register. Loading SS holds off interrupts for one instruction (SDM 3A 6.8.3). */
static void op_mov_to_seg(struct cpu *c, const struct insn *i)
{
	uint16_t sel;

	if (i->flags & INSN_MEM)
		sel = load16(c, access_ea(c, i, 2, false), i->seg);
	else
		sel = (uint16_t)c->gpr[i->src];
	segment_load(c, i->dst, sel);
	if (i->dst == SEG_SS)
		c->shadow = true;
}

static void op_mov_from_seg(struct cpu *c, const struct insn *i)
{
	if (i->flags & INSN_MEM)
		store16(c, access_ea(c, i, 2, true), c->seg[i->src].sel, i->seg);
	else
		reg_set(c, i->dst, i->opsize, c->seg[i->src].sel);
}

static void op_push_seg(struct cpu *c, const struct insn *i)
{
	stack_push(c, i->opsize, c->seg[i->dst].sel);
}

/* RSP moves as the old SS says, even when SS itself is popped. */
static void op_pop_seg(struct cpu *c, const struct insn *i)
{
	uint16_t sel = (uint16_t)stack_peek(c, 0, i->opsize);
	uint64_t before = c->rsp, after;

	stack_add(c, i->opsize);
	after = c->rsp;
	c->rsp = before;
	segment_load(c, i->dst, sel);
	c->rsp = after;
	if (i->dst == SEG_SS)
		c->shadow = true;
}

static bool is_segment(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_SEGMENT;
}

insn_fn segment_pick(const struct op_decode *d, struct insn *i)
{
	bool first = is_segment(&d->op[0]);

	if (!first && (d->z->mnemonic != ZYDIS_MNEMONIC_MOV || !is_segment(&d->op[1])))
		return NULL;
	if (first && d->z->mnemonic != ZYDIS_MNEMONIC_PUSH)
		i->flags |= INSN_END;
	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		return op_push_seg;
	case ZYDIS_MNEMONIC_POP:
		return op_pop_seg;
	default:
		if (!first && !(i->flags & INSN_MEM))
			i->opsize = (uint8_t)(d->op[0].size / 8);
		return first ? op_mov_to_seg : op_mov_from_seg;
	}
}

/*
 * Near control transfers: JMP, Jcc, CALL, RET, LOOP, JrCXZ. Targets are checked at the branch, so
 * that the fault's RIP is the branch's own (SDM 3A 6.15, #GP).
 */
#include "interp/ops.h"
#include "cpu/cpuid.h"
#include "interp/access.h"
#include "interp/far.h"

static void check_target(struct cpu *c, uint64_t target)
{
	if (c->mode == MODE_64 ? !access_canonical(c, target) : target > c->seg[SEG_CS].limit)
		cpu_raise(c, EXC_GP, 0);
}

/* Truncates as the operand size and mode ask. */
static uint64_t truncate(const struct cpu *c, const struct insn *i, uint64_t target)
{
	if (c->mode == MODE_64)
		return target;
	return i->opsize == 2 ? (uint16_t)target : (uint32_t)target;
}

static inline void jump(struct cpu *c, const struct insn *i, uint64_t target)
{
	target = truncate(c, i, target);
	check_target(c, target);
	c->rip = target;
}

/* Displacements are 32 bits: in 64-bit mode one may leave the canonical half only across its edge,
 * which the fetch finds; outside, limits and truncation matter. */
static inline void jump_relative(struct cpu *c, const struct insn *i)
{
	if (likely(c->mode == MODE_64))
		c->rip += i->imm;
	else
		jump(c, i, c->rip + i->imm);
}

static void jmp_relative(struct cpu *c, const struct insn *i)
{
	jump_relative(c, i);
}

static uint64_t target_operand(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;

	if (i->flags & INSN_MEM)
		return load_size(c, access_ea(c, i, size, false), size, i->seg);
	return reg_get(c, i->dst, size);
}

static void jmp_indirect(struct cpu *c, const struct insn *i)
{
	jump(c, i, target_operand(c, i));
}

/* A call to where there can be no code. The stack's faults come first; Intel's processors have even
 * stored the return address by the time they look at the target, though RSP stays as it was. */
static void refuse_call64(struct cpu *c)
{
	if (cpuid_is_amd(c->cpuid))
		mmu_probe(c, c->rsp - 8, 8, MMU_WRITE, SEG_SS);
	else
		store64(c, c->rsp - 8, c->rip, SEG_SS);
	cpu_raise(c, EXC_GP, 0);
}

static void call_to(struct cpu *c, const struct insn *i, uint64_t target)
{
	if (likely(c->mode == MODE_64)) {
		if (unlikely(!access_canonical(c, target)))
			refuse_call64(c);
		store64(c, c->rsp - 8, c->rip, SEG_SS);
		c->rsp -= 8;
	} else {
		target = truncate(c, i, target);
		check_target(c, target);
		stack_push(c, i->opsize, c->rip);
	}
	c->rip = target;
}

static void call_relative(struct cpu *c, const struct insn *i)
{
	call_to(c, i, c->rip + i->imm);
}

static void call_indirect(struct cpu *c, const struct insn *i)
{
	call_to(c, i, target_operand(c, i));
}

static void ret(struct cpu *c, const struct insn *i)
{
	uint64_t target;

	if (likely(c->mode == MODE_64)) {
		target = load64(c, c->rsp, SEG_SS);
		check_target(c, target);
		c->rsp += 8 + i->imm;
		c->rip = target;
		return;
	}
	target = truncate(c, i, stack_peek(c, 0, i->opsize));
	check_target(c, target);
	stack_add(c, i->opsize + i->imm);
	c->rip = target;
}

static insn_fn pick_jmp(const struct op_decode *d, struct insn *i)
{
	if (d->z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return far_pick(d, i);
	return d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? jmp_relative : jmp_indirect;
}

static insn_fn pick_call(const struct op_decode *d, struct insn *i)
{
	if (d->z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return far_pick(d, i);
	return d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? call_relative : call_indirect;
}

static insn_fn pick_ret(const struct op_decode *d, struct insn *i)
{
	return d->z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? far_pick(d, i) : ret;
}

#define JCC(cc, number)                                            \
	static void jump_##cc(struct cpu *c, const struct insn *i) \
	{                                                          \
		if (flags_cond(c, number))                         \
			jump_relative(c, i);                       \
	}
JCC(o, 0)
JCC(no, 1)
JCC(b, 2)
JCC(nb, 3)
JCC(z, 4)
JCC(nz, 5)
JCC(be, 6)
JCC(nbe, 7)
JCC(s, 8)
JCC(ns, 9)
JCC(p, 10)
JCC(np, 11)
JCC(l, 12)
JCC(nl, 13)
JCC(le, 14)
JCC(nle, 15)

/* The counter has the address size; imm holds the displacement. */
static void jrcxz(struct cpu *c, const struct insn *i)
{
	if (!reg_get(c, R_RCX, i->aux))
		jump_relative(c, i);
}

enum { LOOP_ALWAYS, LOOP_WHILE_ZERO, LOOP_WHILE_NOT_ZERO };

static void loop(struct cpu *c, const struct insn *i)
{
	uint64_t n = reg_get(c, R_RCX, i->asize) - 1;
	bool more = i->asize == 8 ? n != 0 : i->asize == 4 ? (uint32_t)n != 0 : (uint16_t)n != 0;

	if (i->aux != LOOP_ALWAYS && flag_zf(c) != (i->aux == LOOP_WHILE_ZERO))
		more = false;
	if (more)
		jump_relative(c, i);
	reg_set(c, R_RCX, i->asize, n);
}

static insn_fn pick_loop(const struct op_decode *d, struct insn *i)
{
	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_LOOPE:
		i->aux = LOOP_WHILE_ZERO;
		return loop;
	case ZYDIS_MNEMONIC_LOOPNE:
		i->aux = LOOP_WHILE_NOT_ZERO;
		return loop;
	case ZYDIS_MNEMONIC_LOOP:
		i->aux = LOOP_ALWAYS;
		return loop;
	case ZYDIS_MNEMONIC_JCXZ:
		i->aux = 2;
		return jrcxz;
	case ZYDIS_MNEMONIC_JECXZ:
		i->aux = 4;
		return jrcxz;
	default:
		i->aux = 8;
		return jrcxz;
	}
}

const struct op_row ops_control[] = {
	{ ZYDIS_MNEMONIC_JMP, INSN_END, NULL, pick_jmp },
	{ ZYDIS_MNEMONIC_CALL, INSN_END, NULL, pick_call },
	{ ZYDIS_MNEMONIC_RET, INSN_END, NULL, pick_ret },
	{ ZYDIS_MNEMONIC_JO, INSN_END, jump_o, NULL },
	{ ZYDIS_MNEMONIC_JNO, INSN_END, jump_no, NULL },
	{ ZYDIS_MNEMONIC_JB, INSN_END, jump_b, NULL },
	{ ZYDIS_MNEMONIC_JNB, INSN_END, jump_nb, NULL },
	{ ZYDIS_MNEMONIC_JZ, INSN_END, jump_z, NULL },
	{ ZYDIS_MNEMONIC_JNZ, INSN_END, jump_nz, NULL },
	{ ZYDIS_MNEMONIC_JBE, INSN_END, jump_be, NULL },
	{ ZYDIS_MNEMONIC_JNBE, INSN_END, jump_nbe, NULL },
	{ ZYDIS_MNEMONIC_JS, INSN_END, jump_s, NULL },
	{ ZYDIS_MNEMONIC_JNS, INSN_END, jump_ns, NULL },
	{ ZYDIS_MNEMONIC_JP, INSN_END, jump_p, NULL },
	{ ZYDIS_MNEMONIC_JNP, INSN_END, jump_np, NULL },
	{ ZYDIS_MNEMONIC_JL, INSN_END, jump_l, NULL },
	{ ZYDIS_MNEMONIC_JNL, INSN_END, jump_nl, NULL },
	{ ZYDIS_MNEMONIC_JLE, INSN_END, jump_le, NULL },
	{ ZYDIS_MNEMONIC_JNLE, INSN_END, jump_nle, NULL },
	{ ZYDIS_MNEMONIC_LOOP, INSN_END, NULL, pick_loop },
	{ ZYDIS_MNEMONIC_LOOPE, INSN_END, NULL, pick_loop },
	{ ZYDIS_MNEMONIC_LOOPNE, INSN_END, NULL, pick_loop },
	{ ZYDIS_MNEMONIC_JCXZ, INSN_END, NULL, pick_loop },
	{ ZYDIS_MNEMONIC_JECXZ, INSN_END, NULL, pick_loop },
	{ ZYDIS_MNEMONIC_JRCXZ, INSN_END, NULL, pick_loop },
	{ 0 },
};

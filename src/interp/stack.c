/*
 * The stack: PUSH and POP of general registers and flags, ENTER, LEAVE, and the functions that
 * calls, returns and far transfers share.
 */
#include "interp/far.h"
#include "interp/rmw.h"

unsigned stack_address_size(const struct cpu *c)
{
	if (c->mode == MODE_64)
		return 8;
	return c->seg[SEG_SS].attr & SEG_DB ? 4 : 2;
}

static gva_t stack_linear(struct cpu *c, uint64_t sp, unsigned asize, unsigned size, bool write)
{
	if (likely(asize == 8))
		return sp;
	return access_linear(c, SEG_SS, asize == 4 ? (uint32_t)sp : (uint16_t)sp, size, write);
}

/* Unlike reg_set(), a 16-bit stack pointer keeps the upper half of RSP and a 32-bit one clears it.
 */
static void set_sp(struct cpu *c, unsigned asize, uint64_t sp)
{
	reg_set(c, R_RSP, asize, sp);
}

void stack_push(struct cpu *c, unsigned size, uint64_t value)
{
	unsigned asize = stack_address_size(c);
	uint64_t sp = c->rsp - size;

	store_size(c, stack_linear(c, sp, asize, size, true), size, value, SEG_SS);
	set_sp(c, asize, sp);
}

uint64_t stack_pop(struct cpu *c, unsigned size)
{
	unsigned asize = stack_address_size(c);
	uint64_t v = load_size(c, stack_linear(c, c->rsp, asize, size, false), size, SEG_SS);

	set_sp(c, asize, c->rsp + size);
	return v;
}

uint64_t stack_peek(struct cpu *c, uint64_t offset, unsigned size)
{
	unsigned asize = stack_address_size(c);

	return load_size(c, stack_linear(c, c->rsp + offset, asize, size, false), size, SEG_SS);
}

void stack_add(struct cpu *c, int64_t bytes)
{
	set_sp(c, stack_address_size(c), c->rsp + bytes);
}

/* 64-bit code with 8-byte operands: what nearly every push and pop is. */
static void push64_r(struct cpu *c, const struct insn *i)
{
	uint64_t sp = c->rsp - 8;

	store64(c, sp, c->gpr[i->dst], SEG_SS);
	c->rsp = sp;
}

static void pop64_r(struct cpu *c, const struct insn *i)
{
	uint64_t v = load64(c, c->rsp, SEG_SS);

	c->rsp += 8;
	c->gpr[i->dst] = v; /* POP RSP: the value wins */
}

static void push_r(struct cpu *c, const struct insn *i)
{
	stack_push(c, i->opsize, reg_get(c, i->dst, i->opsize));
}

static void push_i(struct cpu *c, const struct insn *i)
{
	stack_push(c, i->opsize, i->imm);
}

static void push_m(struct cpu *c, const struct insn *i)
{
	gva_t va = access_ea(c, i, i->opsize, false);

	stack_push(c, i->opsize, load_size(c, va, i->opsize, i->seg));
}

static void pop_r(struct cpu *c, const struct insn *i)
{
	uint64_t v = stack_pop(c, i->opsize);

	reg_set(c, i->dst, i->opsize, v);
}

/* The address is computed with RSP already incremented (SDM 2 "POP"). */
static void pop_m(struct cpu *c, const struct insn *i)
{
	unsigned asize = stack_address_size(c);
	uint64_t v = stack_peek(c, 0, i->opsize), old = c->rsp;
	gva_t va;

	if (i->base == R_RSP) {
		uint64_t off = access_offset(c, i) + i->opsize;

		va = access_linear(c, i->seg, i->asize == 8 ? off : (uint32_t)off, i->opsize, true);
	} else {
		va = access_ea(c, i, i->opsize, true);
	}
	store_size(c, va, i->opsize, v, i->seg);
	set_sp(c, asize, old + i->opsize);
}

static bool general_or_memory(const struct op_decode *d)
{
	const ZydisDecodedOperand *op = &d->op[0];

	return op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
	       ZydisRegisterGetClass(op->reg.value) != ZYDIS_REGCLASS_SEGMENT;
}

static insn_fn pick_push(const struct op_decode *d, struct insn *i)
{
	if (!general_or_memory(d))
		return far_pick(d, i);
	if (d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return push_i;
	if (i->flags & INSN_MEM)
		return push_m;
	return d->z->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 && i->opsize == 8 ? push64_r
	                                                                          : push_r;
}

static insn_fn pick_pop(const struct op_decode *d, struct insn *i)
{
	if (!general_or_memory(d))
		return far_pick(d, i);
	if (i->flags & INSN_MEM)
		return pop_m;
	return d->z->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 && i->opsize == 8 ? pop64_r : pop_r;
}

/* In virtual-8086 mode below IOPL 3 flags are the monitor's business (SDM 3B 20.2.7), with VME
 * apart. */
static bool v86_restricted(const struct cpu *c)
{
	return (c->rflags & RFLAGS_VM) && (c->rflags & RFLAGS_IOPL) != RFLAGS_IOPL;
}

static bool v86_vme16(const struct cpu *c, unsigned size)
{
	return (c->cr4 & CR4_VME) && size == 2;
}

static void pushf(struct cpu *c, const struct insn *i)
{
	uint64_t f = cpu_get_rflags(c) & ~(RFLAGS_VM | RFLAGS_RF);

	if (v86_restricted(c)) {
		if (!v86_vme16(c, i->aux))
			cpu_raise(c, EXC_GP, 0);
		f = (f & ~RFLAGS_IF) | RFLAGS_IOPL | (f & RFLAGS_VIF ? RFLAGS_IF : 0);
	}
	stack_push(c, i->aux, f);
}

/* Which bits POPF may change, by privilege (SDM 2 "POPF"). */
static uint64_t popf_mask(const struct cpu *c, unsigned size)
{
	uint64_t mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

	if (size > 2)
		mask |= RFLAGS_AC | RFLAGS_ID;
	if (c->cpl == 0)
		mask |= RFLAGS_IOPL;
	if (c->cpl <= (c->rflags & RFLAGS_IOPL) >> 12)
		mask |= RFLAGS_IF;
	return mask;
}

static void popf(struct cpu *c, const struct insn *i)
{
	unsigned size = i->aux;
	uint64_t mask = popf_mask(c, size), new, old = cpu_get_rflags(c);
	bool vme = v86_restricted(c);

	if (vme && !v86_vme16(c, size))
		cpu_raise(c, EXC_GP, 0);
	new = stack_peek(c, 0, size);
	if (vme) { /* SDM 3B 20.3: IF goes to VIF */
		if ((new &RFLAGS_TF) || ((new &RFLAGS_IF) && (old & RFLAGS_VIP)))
			cpu_raise(c, EXC_GP, 0);
		mask = (mask & ~RFLAGS_IF) | RFLAGS_VIF;
		new = (new & ~RFLAGS_VIF) | (new &RFLAGS_IF ? RFLAGS_VIF : 0);
	}
	stack_add(c, size);
	cpu_set_rflags(c, ((old & ~mask) | (new &mask)) & ~RFLAGS_RF);
	mmu_update_mode(c);
}

static insn_fn pick_flags(const struct op_decode *d, struct insn *i)
{
	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_POPF:
		i->aux = 2;
		break;
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_POPFD:
		i->aux = 4;
		break;
	default:
		i->aux = 8;
		break;
	}
	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
		return pushf;
	default:
		return popf;
	}
}

static void pusha(struct cpu *c, const struct insn *i)
{
	unsigned size = i->aux, asize = stack_address_size(c);
	uint64_t sp = c->rsp;

	/* Reach both ends first, so that nothing is pushed when something would fault. */
	mmu_probe(c, stack_linear(c, sp - 8 * size, asize, size, true), 8 * size, MMU_WRITE,
	          SEG_SS);
	for (unsigned n = 0; n < 8; n++) {
		uint64_t at = sp - (n + 1) * size;

		store_size(c, stack_linear(c, at, asize, size, true), size,
		           n == R_RSP ? sp : c->gpr[n], SEG_SS);
	}
	set_sp(c, asize, sp - 8 * size);
}

static void popa(struct cpu *c, const struct insn *i)
{
	unsigned size = i->aux;
	uint64_t v[8];

	for (unsigned n = 0; n < 8; n++)
		v[7 - n] = stack_peek(c, n * size, size);
	for (unsigned n = 0; n < 8; n++)
		if (n != R_RSP)
			reg_set(c, n, size, v[n]);
	stack_add(c, 8 * size);
}

static insn_fn pick_all(const struct op_decode *d, struct insn *i)
{
	i->aux = d->z->mnemonic == ZYDIS_MNEMONIC_PUSHAD || d->z->mnemonic == ZYDIS_MNEMONIC_POPAD
	                 ? 4
	                 : 2;
	return d->z->mnemonic == ZYDIS_MNEMONIC_PUSHA || d->z->mnemonic == ZYDIS_MNEMONIC_PUSHAD
	               ? pusha
	               : popa;
}

/* ENTER: imm is the frame size, aux the nesting level. */
static void enter(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, level = i->aux & 31, asize = stack_address_size(c);
	uint64_t sp = c->rsp - size, frame = asize == 2 ? (uint16_t)sp : sp, bp = c->rbp;

	store_size(c, stack_linear(c, sp, asize, size, true), size, c->rbp, SEG_SS);
	for (unsigned n = 1; n < level; n++) {
		uint64_t v;

		bp -= size;
		v = load_size(c, stack_linear(c, bp, asize, size, false), size, SEG_SS);
		sp -= size;
		store_size(c, stack_linear(c, sp, asize, size, true), size, v, SEG_SS);
	}
	if (level) {
		sp -= size;
		store_size(c, stack_linear(c, sp, asize, size, true), size, frame, SEG_SS);
	}
	sp -= (uint16_t)i->imm;
	/* The new top must be writable now, not at the next push. */
	mmu_probe(c, stack_linear(c, sp, asize, size, true), size, MMU_WRITE, SEG_SS);
	reg_set(c, R_RBP, size, frame);
	set_sp(c, asize, sp);
}

static void leave(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, asize = stack_address_size(c);
	uint64_t v = load_size(c, stack_linear(c, c->rbp, asize, size, false), size, SEG_SS);

	set_sp(c, asize, c->rbp + size);
	reg_set(c, R_RBP, size, v);
}

const struct op_row ops_stack[] = {
	{ ZYDIS_MNEMONIC_PUSH, 0, NULL, pick_push },
	{ ZYDIS_MNEMONIC_POP, 0, NULL, pick_pop },
	{ ZYDIS_MNEMONIC_PUSHF, 0, NULL, pick_flags },
	{ ZYDIS_MNEMONIC_PUSHFD, 0, NULL, pick_flags },
	{ ZYDIS_MNEMONIC_PUSHFQ, 0, NULL, pick_flags },
	{ ZYDIS_MNEMONIC_POPF, INSN_END, NULL, pick_flags },
	{ ZYDIS_MNEMONIC_POPFD, INSN_END, NULL, pick_flags },
	{ ZYDIS_MNEMONIC_POPFQ, INSN_END, NULL, pick_flags },
	{ ZYDIS_MNEMONIC_PUSHA, 0, NULL, pick_all },
	{ ZYDIS_MNEMONIC_PUSHAD, 0, NULL, pick_all },
	{ ZYDIS_MNEMONIC_POPA, 0, NULL, pick_all },
	{ ZYDIS_MNEMONIC_POPAD, 0, NULL, pick_all },
	{ ZYDIS_MNEMONIC_ENTER, 0, enter, NULL },
	{ ZYDIS_MNEMONIC_LEAVE, 0, leave, NULL },
	{ 0 },
};

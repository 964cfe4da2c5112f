/*
 * Far JMP, CALL and RET, software interrupts, and the forms of MOV, PUSH, POP and LxS that load
 * segment registers (SDM 2A; 3A 5.8 for the checks).
 *
 * A transfer is resolved into a struct target before anything is written; pushes come next, since
 * they may fault too; code_enter() commits last.
 */
#include "interp/far.h"

#include "interp/access.h"
#include "interp/segment.h"

struct target {
	struct segment cs;
	uint64_t rip;
	unsigned cpl;
};

static uint64_t truncate_size(uint64_t v, unsigned size)
{
	return size == 8 ? v : v & (BIT(8 * size) - 1);
}

static void read_descriptor(struct cpu *c, uint16_t sel, struct descriptor *d)
{
	if (selector_is_null(sel))
		segment_raise(c, EXC_GP, 0);
	if (!descriptor_read(c, sel, d))
		segment_raise(c, EXC_GP, sel);
}

/* Presence, L and D, accessed bit; what every code segment goes through last. */
static void take_code(struct cpu *c, uint16_t sel, struct descriptor *d, struct target *t)
{
	if (cpu_long_mode(c) && (d->hi & (DESC_L | DESC_DB)) == (DESC_L | DESC_DB))
		segment_raise(c, EXC_GP, sel);
	if (!(d->hi & DESC_P))
		segment_raise(c, EXC_NP, sel);
	descriptor_set_accessed(c, sel, d);
	segment_from_descriptor(&t->cs, sel, d);
	code_check_rip(c, &t->cs, t->rip);
}

/* A code segment named by the instruction itself: no change of privilege. */
static void resolve_code(struct cpu *c, uint16_t sel, struct descriptor *d, struct target *t)
{
	bool bad = desc_is_conforming(d) ? DESC_DPL(d) > c->cpl
	                                 : (sel & 3u) > c->cpl || DESC_DPL(d) != c->cpl;

	if (bad)
		segment_raise(c, EXC_GP, sel);
	t->cpl = c->cpl;
	take_code(c, sel, d, t);
}

static void check_gate_access(struct cpu *c, uint16_t sel, const struct descriptor *d)
{
	if (DESC_DPL(d) < c->cpl || DESC_DPL(d) < (sel & 3u))
		segment_raise(c, EXC_GP, sel);
	if (!(d->hi & DESC_P))
		segment_raise(c, EXC_NP, sel);
}

/* Code behind a call gate. A JMP keeps the privilege level, a CALL may raise it. */
static void resolve_call_gate(struct cpu *c, uint16_t sel, const struct descriptor *gate, bool call,
                              struct target *t)
{
	uint16_t cs = (uint16_t)(gate->lo >> 16);
	struct descriptor d;
	unsigned dpl;

	check_gate_access(c, sel, gate);
	t->rip = gate->lo & 0xffff;
	if (gate->hi & BIT(11))
		t->rip |= gate->hi & 0xffff0000;
	if (cpu_long_mode(c))
		t->rip |= (uint64_t)descriptor_read_upper(c, sel) << 32;
	read_descriptor(c, cs, &d);
	dpl = DESC_DPL(&d);
	if (!desc_is_code(&d) || dpl > c->cpl)
		segment_raise(c, EXC_GP, cs);
	if (!call && !desc_is_conforming(&d) && dpl != c->cpl)
		segment_raise(c, EXC_GP, cs);
	if (cpu_long_mode(c) && (d.hi & (DESC_L | DESC_DB)) != DESC_L)
		segment_raise(c, EXC_GP, cs);
	t->cpl = desc_is_conforming(&d) ? c->cpl : dpl;
	take_code(c, cs, &d, t);
}

/* Task gate or TSS: true when the switch is done. */
static bool try_task(struct cpu *c, uint16_t sel, const struct descriptor *d, bool call)
{
	unsigned type = DESC_TYPE(d);
	bool gate = type == TYPE_TASK_GATE;

	if (cpu_long_mode(c) || !(gate || type == TYPE_TSS16 || type == TYPE_TSS32))
		return false;
	check_gate_access(c, sel, d);
	task_switch(c, gate ? (uint16_t)(d->lo >> 16) : sel, call ? TASK_CALL : TASK_JMP, false, 0);
	return true;
}

static bool is_call_gate(const struct cpu *c, const struct descriptor *d)
{
	unsigned type = DESC_TYPE(d);

	return type == TYPE_CALL32 || (type == TYPE_CALL16 && !cpu_long_mode(c));
}

static void jump_real(struct cpu *c, uint16_t sel, uint64_t rip)
{
	if (rip > c->seg[SEG_CS].limit)
		cpu_raise(c, EXC_GP, 0);
	if (cpu_v86(c))
		segment_load_v86(c, SEG_CS, sel);
	else
		segment_load_real(c, SEG_CS, sel);
	c->rip = rip;
}

static void far_jump(struct cpu *c, uint16_t sel, uint64_t rip)
{
	struct target t = { .rip = rip };
	struct descriptor d;

	if (cpu_real_or_v86(c)) {
		jump_real(c, sel, rip);
		return;
	}
	read_descriptor(c, sel, &d);
	if (desc_is_code(&d))
		resolve_code(c, sel, &d, &t);
	else if (d.hi & DESC_S)
		segment_raise(c, EXC_GP, sel);
	else if (is_call_gate(c, &d))
		resolve_call_gate(c, sel, &d, false, &t);
	else if (try_task(c, sel, &d, false))
		return;
	else
		segment_raise(c, EXC_GP, sel);
	code_enter(c, &t.cs, t.rip, t.cpl);
}

static void push_return(struct cpu *c, struct stack *s, unsigned size)
{
	stack_store(c, s, size, c->seg[SEG_CS].sel);
	stack_store(c, s, size, c->rip);
}

static void call_real(struct cpu *c, uint16_t sel, uint64_t rip, unsigned size)
{
	struct stack s = stack_current(c);

	if (rip > c->seg[SEG_CS].limit)
		cpu_raise(c, EXC_GP, 0);
	push_return(c, &s, size);
	stack_commit(c, &s);
	jump_real(c, sel, rip);
}

/* Parameters move from the outer to the inner stack (SDM 3A 5.8.5). */
static void copy_parameters(struct cpu *c, struct stack *s, unsigned count, unsigned size)
{
	uint32_t value[31];

	for (unsigned n = 0; n < count; n++)
		value[n] = (uint32_t)stack_peek(c, (uint64_t)n * size, size);
	while (count)
		stack_store(c, s, size, value[--count]);
}

static void call_gate(struct cpu *c, uint16_t sel, const struct descriptor *gate)
{
	unsigned size = cpu_long_mode(c) ? 8 : gate->hi & BIT(11) ? 4 : 2;
	struct target t = { 0 };
	struct stack s;

	resolve_call_gate(c, sel, gate, true, &t);
	if (t.cpl == c->cpl) {
		s = stack_current(c);
	} else {
		s = stack_from_tss(c, t.cpl);
		stack_store(c, &s, size, c->seg[SEG_SS].sel);
		stack_store(c, &s, size, c->rsp);
		if (size != 8)
			copy_parameters(c, &s, gate->hi & 31, size);
	}
	push_return(c, &s, size);
	stack_commit(c, &s);
	code_enter(c, &t.cs, t.rip, t.cpl);
}

static void far_call(struct cpu *c, uint16_t sel, uint64_t rip, unsigned size)
{
	struct target t = { .rip = rip };
	struct descriptor d;
	struct stack s;

	if (cpu_real_or_v86(c)) {
		call_real(c, sel, rip, size);
		return;
	}
	read_descriptor(c, sel, &d);
	if (!desc_is_code(&d)) {
		if (d.hi & DESC_S)
			segment_raise(c, EXC_GP, sel);
		else if (is_call_gate(c, &d))
			call_gate(c, sel, &d);
		else if (!try_task(c, sel, &d, true))
			segment_raise(c, EXC_GP, sel);
		return;
	}
	resolve_code(c, sel, &d, &t);
	s = stack_current(c);
	push_return(c, &s, size);
	stack_commit(c, &s);
	code_enter(c, &t.cs, t.rip, t.cpl);
}

uint16_t far_load_pointer(struct cpu *c, const struct insn *i, uint64_t *off)
{
	gva_t va = access_ea(c, i, i->opsize + 2u, false);

	*off = load_size(c, va, i->opsize, i->seg);
	return load16(c, va + i->opsize, i->seg);
}

static void op_jmp_far(struct cpu *c, const struct insn *i)
{
	far_jump(c, (uint16_t)i->disp, truncate_size((uint64_t)i->imm, i->opsize));
}

static void op_jmp_far_mem(struct cpu *c, const struct insn *i)
{
	uint64_t off;
	uint16_t sel = far_load_pointer(c, i, &off);

	far_jump(c, sel, off);
}

static void op_call_far(struct cpu *c, const struct insn *i)
{
	far_call(c, (uint16_t)i->disp, truncate_size((uint64_t)i->imm, i->opsize), i->opsize);
}

static void op_call_far_mem(struct cpu *c, const struct insn *i)
{
	uint64_t off;
	uint16_t sel = far_load_pointer(c, i, &off);

	far_call(c, sel, off, i->opsize);
}

static void ret_outer(struct cpu *c, const struct insn *i, const struct target *t)
{
	uint64_t at = 2ull * i->opsize + (uint16_t)i->imm;
	uint64_t rsp = stack_peek(c, at, i->opsize);
	uint16_t sel = (uint16_t)stack_peek(c, at + i->opsize, i->opsize);
	struct segment ss;

	if (selector_is_null(sel) && code_is_64(c, &t->cs) && t->cpl != 3 && (sel & 3u) == t->cpl)
		ss = (struct segment){ .sel = sel, .attr = (uint32_t)SEG_UNUSABLE | t->cpl << 5 };
	else
		stack_segment_read(c, sel, t->cpl, EXC_GP, &ss);
	c->seg[SEG_SS] = ss;
	code_enter(c, &t->cs, t->rip, t->cpl);
	stack_set_pointer(c, rsp);
	stack_add(c, (uint16_t)i->imm);
	segments_drop_inner(c);
}

static void op_ret_far(struct cpu *c, const struct insn *i)
{
	struct target t = { .rip = stack_peek(c, 0, i->opsize) };
	uint16_t sel = (uint16_t)stack_peek(c, i->opsize, i->opsize);
	int64_t frame = 2 * (int64_t)i->opsize + (uint16_t)i->imm;
	struct descriptor d;
	unsigned dpl;

	if (cpu_real_or_v86(c)) {
		jump_real(c, sel, t.rip);
		stack_add(c, frame);
		return;
	}
	read_descriptor(c, sel, &d);
	t.cpl = sel & 3u;
	dpl = DESC_DPL(&d);
	if (!desc_is_code(&d) || t.cpl < c->cpl)
		segment_raise(c, EXC_GP, sel);
	if (desc_is_conforming(&d) ? dpl > t.cpl : dpl != t.cpl)
		segment_raise(c, EXC_GP, sel);
	take_code(c, sel, &d, &t);
	if (t.cpl > c->cpl) {
		ret_outer(c, i, &t);
		return;
	}
	stack_add(c, frame);
	code_enter(c, &t.cs, t.rip, t.cpl);
}

/* CR4.VME: a clear bit in the 32 bytes before the I/O bitmap sends INT n to the virtual-8086
 * program's own table (SDM 3A 20.3.3). */
static bool redirect_v86(struct cpu *c, unsigned vector)
{
	const struct segment *tr = &c->seg[SEG_TR];
	struct stack s = stack_current(c);
	uint64_t flags = cpu_get_rflags(c);
	uint32_t map, target;

	if (!(c->cr4 & CR4_VME) || tr->limit < 103)
		return false;
	map = (uint32_t)mmu_load_system(c, tr->base + 102, 2) + vector / 8 - 32;
	if (map > tr->limit || mmu_load_system(c, tr->base + map, 1) >> (vector % 8) & 1)
		return false;
	target = load32(c, vector * 4, SEG_DS);
	if (cpu_iopl(c) < 3)
		flags = (flags & ~RFLAGS_IF) | RFLAGS_IOPL | (flags & RFLAGS_VIF ? RFLAGS_IF : 0);
	stack_store(c, &s, 2, flags);
	push_return(c, &s, 2);
	stack_commit(c, &s);
	c->rflags &= ~(RFLAGS_TF | (cpu_iopl(c) < 3 ? RFLAGS_VIF : RFLAGS_IF));
	segment_load_v86(c, SEG_CS, (uint16_t)(target >> 16));
	c->rip = target & 0xffff;
	return true;
}

static void op_int(struct cpu *c, const struct insn *i)
{
	unsigned vector = (uint8_t)i->imm;

	if (cpu_v86(c)) {
		if (redirect_v86(c, vector))
			return;
		if (cpu_iopl(c) < 3)
			cpu_raise(c, EXC_GP, 0);
	}
	event_deliver(c, vector, false, 0, EVENT_SOFT);
}

static void op_int3(struct cpu *c, const struct insn *i)
{
	event_deliver(c, EXC_BP, false, 0, EVENT_SOFT);
}

static void op_int1(struct cpu *c, const struct insn *i)
{
	event_deliver(c, EXC_DB, false, 0, EVENT_SOFT_INT1);
}

static void op_into(struct cpu *c, const struct insn *i)
{
	if (flag_of(c))
		event_deliver(c, EXC_OF, false, 0, EVENT_SOFT);
}

static bool is_far(const struct op_decode *d)
{
	return d->z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

insn_fn far_pick(const struct op_decode *d, struct insn *i)
{
	bool mem = i->flags & INSN_MEM;
	insn_fn fn = NULL;

	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		fn = crmove_pick(d, i);
		return fn ? fn : segment_pick(d, i);
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		return segment_pick(d, i);
	case ZYDIS_MNEMONIC_JMP:
		fn = mem ? op_jmp_far_mem : op_jmp_far;
		break;
	case ZYDIS_MNEMONIC_CALL:
		fn = mem ? op_call_far_mem : op_call_far;
		break;
	case ZYDIS_MNEMONIC_RET:
		fn = op_ret_far;
		break;
	default:
		break;
	}
	if (!fn || !is_far(d))
		return NULL;
	i->flags |= INSN_END;
	return fn;
}

const struct op_row ops_far[] = {
	{ ZYDIS_MNEMONIC_INT, INSN_END, op_int, NULL },
	{ ZYDIS_MNEMONIC_INT1, INSN_END, op_int1, NULL },
	{ ZYDIS_MNEMONIC_INT3, INSN_END, op_int3, NULL },
	{ ZYDIS_MNEMONIC_INTO, INSN_END, op_into, NULL },
	{ ZYDIS_MNEMONIC_IRET, INSN_END, op_iret, NULL },
	{ ZYDIS_MNEMONIC_IRETD, INSN_END, op_iret, NULL },
	{ ZYDIS_MNEMONIC_IRETQ, INSN_END, op_iret, NULL },
	{ ZYDIS_MNEMONIC_LDS, INSN_END, NULL, segment_pick_far },
	{ ZYDIS_MNEMONIC_LES, INSN_END, NULL, segment_pick_far },
	{ ZYDIS_MNEMONIC_LFS, INSN_END, NULL, segment_pick_far },
	{ ZYDIS_MNEMONIC_LGS, INSN_END, NULL, segment_pick_far },
	{ ZYDIS_MNEMONIC_LSS, INSN_END, NULL, segment_pick_far },
	{ ZYDIS_MNEMONIC_SYSCALL, INSN_END, op_syscall, NULL },
	{ ZYDIS_MNEMONIC_SYSRET, INSN_END, op_sysret, NULL },
	{ ZYDIS_MNEMONIC_SYSENTER, INSN_END, op_sysenter, NULL },
	{ ZYDIS_MNEMONIC_SYSEXIT, INSN_END, op_sysexit, NULL },
	{ 0, 0, NULL, NULL },
};

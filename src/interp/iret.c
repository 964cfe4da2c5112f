/* IRET in all its cases (SDM 2A IRET/IRETD/IRETQ; 3A 6.14.3, 20.2.2). */
#include "interp/access.h"
#include "interp/debug.h"
#include "interp/far.h"
#include "interp/segment.h"

#define FLAGS_USER (RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT)
#define FLAGS_WIDE (RFLAGS_RF | RFLAGS_AC | RFLAGS_ID)
#define FLAGS_V86  (RFLAGS_VM | RFLAGS_VIF | RFLAGS_VIP)

/* What is popped, before anything is believed. */
struct frame {
	uint64_t rip, flags, rsp;
	uint16_t cs, ss;
};

/* The bits of RFLAGS that IRET may change here. */
static uint64_t flags_mask(const struct cpu *c, unsigned size)
{
	uint64_t mask = FLAGS_USER;

	if (size >= 4)
		mask |= FLAGS_WIDE;
	if (c->cpl <= cpu_iopl(c))
		mask |= RFLAGS_IF;
	if (c->cpl == 0)
		mask |= RFLAGS_IOPL | (size >= 4 ? RFLAGS_VIF | RFLAGS_VIP : 0);
	return mask;
}

static struct frame peek_frame(struct cpu *c, unsigned size)
{
	struct frame f;

	f.rip = stack_peek(c, 0, size);
	f.cs = (uint16_t)stack_peek(c, size, size);
	f.flags = stack_peek(c, 2ull * size, size);
	return f;
}

static void peek_stack(struct cpu *c, unsigned size, struct frame *f)
{
	f->rsp = stack_peek(c, 3ull * size, size);
	f->ss = (uint16_t)stack_peek(c, 4ull * size, size);
}

/* SDM 3A 20.3.1.1 item: IRET under VME with IOPL < 3 moves IF to VIF. */
static void iret_v86_vme(struct cpu *c, const struct frame *f)
{
	uint64_t mask = FLAGS_USER & ~RFLAGS_NT;

	if (f->flags & RFLAGS_TF || (f->flags & RFLAGS_IF && c->rflags & RFLAGS_VIP))
		cpu_raise(c, EXC_GP, 0);
	segment_load_v86(c, SEG_CS, f->cs);
	c->rip = f->rip;
	stack_add(c, 6);
	flags_load(c, f->flags | (f->flags & RFLAGS_IF ? RFLAGS_VIF : 0),
	           mask | RFLAGS_NT | RFLAGS_VIF);
}

static void iret_v86(struct cpu *c, unsigned size)
{
	struct frame f = peek_frame(c, size);

	if (cpu_iopl(c) < 3) {
		if (size != 2 || !(c->cr4 & CR4_VME))
			cpu_raise(c, EXC_GP, 0);
		iret_v86_vme(c, &f);
		return;
	}
	code_check_rip(c, &c->seg[SEG_CS], f.rip);
	segment_load_v86(c, SEG_CS, f.cs);
	c->rip = f.rip;
	stack_add(c, 3 * (int64_t)size);
	flags_load(c, f.flags, FLAGS_USER | RFLAGS_IF | (size == 4 ? FLAGS_WIDE : 0));
}

static void iret_real(struct cpu *c, unsigned size)
{
	struct frame f = peek_frame(c, size);

	code_check_rip(c, &c->seg[SEG_CS], f.rip);
	stack_add(c, 3 * (int64_t)size);
	segment_load_real(c, SEG_CS, f.cs);
	c->rip = f.rip;
	flags_load(c, f.flags, FLAGS_USER | RFLAGS_IF | RFLAGS_IOPL | (size == 4 ? FLAGS_WIDE : 0));
}

static void iret_to_v86(struct cpu *c, const struct frame *f)
{
	static const uint8_t order[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	uint16_t sel[ARRAY_SIZE(order)];
	uint32_t esp = (uint32_t)stack_peek(c, 12, 4);
	uint16_t ss = (uint16_t)stack_peek(c, 16, 4);

	for (size_t n = 0; n < ARRAY_SIZE(order); n++)
		sel[n] = (uint16_t)stack_peek(c, 20 + 4 * n, 4);
	if (f->rip > 0xffff)
		cpu_raise(c, EXC_GP, 0);
	cpu_set_rflags(
	        c, (f->flags & (FLAGS_USER | FLAGS_WIDE | FLAGS_V86 | RFLAGS_IF | RFLAGS_IOPL)));
	for (size_t n = 0; n < ARRAY_SIZE(order); n++)
		segment_load_v86(c, order[n], sel[n]);
	segment_load_v86(c, SEG_SS, ss);
	segment_load_v86(c, SEG_CS, f->cs);
	c->rsp = esp;
	c->rip = f->rip;
	cpu_set_cpl(c, 3);
	cpu_update_mode(c);
}

static void read_code(struct cpu *c, const struct frame *f, struct segment *cs)
{
	unsigned rpl = f->cs & 3u;
	struct descriptor d;

	if (selector_is_null(f->cs))
		cpu_raise(c, EXC_GP, 0);
	if (!descriptor_read(c, f->cs, &d) || !desc_is_code(&d) || rpl < c->cpl)
		segment_raise(c, EXC_GP, f->cs);
	if (desc_is_conforming(&d) ? DESC_DPL(&d) > rpl : DESC_DPL(&d) != rpl)
		segment_raise(c, EXC_GP, f->cs);
	if (cpu_long_mode(c) && (d.hi & (DESC_L | DESC_DB)) == (DESC_L | DESC_DB))
		segment_raise(c, EXC_GP, f->cs);
	if (!(d.hi & DESC_P))
		segment_raise(c, EXC_NP, f->cs);
	descriptor_set_accessed(c, f->cs, &d);
	segment_from_descriptor(cs, f->cs, &d);
}

/* A null SS may be returned to in 64-bit mode below CPL 3. */
static void read_stack(struct cpu *c, const struct frame *f, const struct segment *cs,
                       struct segment *ss)
{
	unsigned cpl = f->cs & 3u;

	if (selector_is_null(f->ss) && code_is_64(c, cs) && cpl != 3 && (f->ss & 3u) == cpl)
		*ss = (struct segment){ .sel = f->ss, .attr = (uint32_t)SEG_UNUSABLE | cpl << 5 };
	else
		stack_segment_read(c, f->ss, cpl, EXC_GP, ss);
}

static void iret_protected(struct cpu *c, unsigned size)
{
	struct frame f = peek_frame(c, size);
	uint64_t mask = flags_mask(c, size);
	unsigned cpl = f.cs & 3u;
	struct segment cs, ss;
	bool outer, pops_stack;

	if (f.flags & RFLAGS_VM && c->cpl == 0 && size == 4 && !cpu_long_mode(c)) {
		iret_to_v86(c, &f);
		return;
	}
	read_code(c, &f, &cs);
	outer = cpl > c->cpl;
	pops_stack = outer || c->mode == MODE_64;
	if (pops_stack) {
		peek_stack(c, size, &f);
		read_stack(c, &f, &cs, &ss);
	}
	code_check_rip(c, &cs, f.rip);
	if (!pops_stack)
		stack_add(c, 3 * (int64_t)size);
	flags_load(c, f.flags, mask);
	if (pops_stack)
		c->seg[SEG_SS] = ss;
	code_enter(c, &cs, f.rip, cpl);
	if (pops_stack)
		stack_set_pointer(c, f.rsp);
	if (outer)
		segments_drop_inner(c);
}

/* NT set: the caller is the task that the back link names (SDM 3A 7.4). */
static void iret_task(struct cpu *c)
{
	uint16_t link;

	if (cpu_long_mode(c))
		cpu_raise(c, EXC_GP, 0);
	link = (uint16_t)mmu_load_system(c, c->seg[SEG_TR].base, 2);
	task_switch(c, link, TASK_IRET, false, 0);
}

void op_iret(struct cpu *c, const struct insn *i)
{
	c->nmi_masked = false; /* even if a fault follows (SDM 3A 6.7.1) */
	if (!cpu_protected(c))
		iret_real(c, i->opsize);
	else if (cpu_v86(c))
		iret_v86(c, i->opsize);
	else if (c->rflags & RFLAGS_NT)
		iret_task(c);
	else
		iret_protected(c, i->opsize);
	/* RF would end with the next instruction; without breakpoints it means nothing. */
	if (!(c->dr7 & DR7_ACTIVE))
		c->rflags &= ~RFLAGS_RF;
}

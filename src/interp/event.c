/*
 * Delivery of exceptions and interrupts (SDM 3A chapter 6, 20.3 for virtual-8086 mode).
 *
 * Everything is read and checked first, then the frame is written to the new stack, then registers
 * change. A fault on the way leaves by longjmp with cpu->delivering set and comes back here as a
 * new event; escalate() then decides between a second exception, a double fault and shutdown.
 * Software interrupts do not set cpu->delivering: a fault while one is delivered is a fault of the
 * instruction.
 */
#include "interp/access.h"
#include "interp/segment.h"
#include "interp/state.h"
#include "cpu/msr.h"

#define ERR_IDT 2u /* the error code's index refers to the IDT */

struct event {
	unsigned vector;
	bool has_error;
	uint32_t error;
	enum event_kind kind;
};

struct gate {
	unsigned type, dpl, ist;
	bool present;
	uint16_t sel;
	uint64_t offset;
};

/* SDM 3A table 6-4. */
static bool is_contributory(int vector)
{
	const uint32_t set = BIT(EXC_DE) | BIT(EXC_TS) | BIT(EXC_NP) | BIT(EXC_SS) | BIT(EXC_GP);

	return vector < 32 && set >> vector & 1;
}

/* SDM 3A table 6-5. */
static bool makes_double_fault(int first, int second)
{
	if (first == EXC_PF)
		return second == EXC_PF || is_contributory(second);
	return is_contributory(first) && is_contributory(second);
}

_Noreturn static void shut_down(struct cpu *c)
{
	c->exit->reason = EXIT_SHUTDOWN;
	interp_leave(c);
}

/* A fault arose while c->delivering was on its way. */
static void escalate(struct cpu *c, struct event *ev)
{
	if (c->delivering == EXC_DF)
		shut_down(c);
	if (makes_double_fault(c->delivering, (int)ev->vector))
		*ev = (struct event){ .vector = EXC_DF, .has_error = true, .kind = EVENT_FAULT };
}

/* What a fault inside is to be combined with; interrupts are benign, as NMI and #DB are. */
static int delivering_class(const struct event *ev)
{
	switch (ev->kind) {
	case EVENT_FAULT:
		return (int)ev->vector;
	case EVENT_EXTERNAL:
		return EXC_NMI;
	case EVENT_SOFT_INT1:
		return EXC_DB;
	default:
		return -1;
	}
}

_Noreturn static void raise_idt(struct cpu *c, int vector, const struct event *ev)
{
	cpu_raise(c, vector, ev->vector * 8 | ERR_IDT | (c->delivering >= 0));
}

static struct gate read_gate(struct cpu *c, const struct event *ev)
{
	unsigned size = cpu_long_mode(c) ? 16 : 8;
	uint32_t at = ev->vector * size;
	struct gate g = { 0 };
	uint64_t raw;

	if (at + size - 1 > c->idtr.limit)
		raise_idt(c, EXC_GP, ev);
	raw = mmu_load_system(c, c->idtr.base + at, 8);
	g.sel = (uint16_t)(raw >> 16);
	g.offset = (raw & 0xffff) | (raw >> 32 & 0xffff0000);
	g.ist = raw >> 32 & 7;
	g.type = raw >> 40 & 0x1f; /* with S, which must be 0 */
	g.dpl = raw >> 45 & 3;
	g.present = raw >> 47 & 1;
	if (size == 16)
		g.offset |= mmu_load_system(c, c->idtr.base + at + 8, 8) << 32;
	return g;
}

static void check_gate(struct cpu *c, const struct event *ev, const struct gate *g)
{
	const uint32_t legacy = BIT(TYPE_TASK_GATE) | BIT(TYPE_INT16) | BIT(TYPE_TRAP16) |
	                        BIT(TYPE_INT32) | BIT(TYPE_TRAP32);
	const uint32_t allowed = cpu_long_mode(c) ? BIT(TYPE_INT32) | BIT(TYPE_TRAP32) : legacy;

	if (!(allowed >> g->type & 1))
		raise_idt(c, EXC_GP, ev);
	if (ev->kind == EVENT_SOFT && g->dpl < c->cpl)
		raise_idt(c, EXC_GP, ev);
	if (!g->present)
		raise_idt(c, EXC_NP, ev);
}

/* Reads the handler's code segment and says at which CPL it will run. */
static unsigned read_handler(struct cpu *c, const struct gate *g, struct segment *cs)
{
	struct descriptor d;
	unsigned dpl, cpl;

	if (selector_is_null(g->sel))
		segment_raise(c, EXC_GP, 0);
	if (!descriptor_read(c, g->sel, &d) || !desc_is_code(&d))
		segment_raise(c, EXC_GP, g->sel);
	dpl = DESC_DPL(&d);
	cpl = desc_is_conforming(&d) ? c->cpl : dpl;
	if (dpl > c->cpl || (cpu_v86(c) && cpl != 0))
		segment_raise(c, EXC_GP, g->sel);
	if (!(d.hi & DESC_P))
		segment_raise(c, EXC_NP, g->sel);
	if (cpu_long_mode(c) && (d.hi & (DESC_L | DESC_DB)) != DESC_L)
		segment_raise(c, EXC_GP, g->sel);
	descriptor_set_accessed(c, g->sel, &d);
	segment_from_descriptor(cs, g->sel, &d);
	return cpl;
}

static void clear_flags(struct cpu *c, uint64_t flags)
{
	c->rflags &= ~flags;
}

static uint64_t flags_to_clear(const struct gate *g)
{
	bool interrupt = g->type == TYPE_INT16 || g->type == TYPE_INT32;

	return RFLAGS_TF | RFLAGS_VM | RFLAGS_RF | RFLAGS_NT | (interrupt ? RFLAGS_IF : 0);
}

/* SDM 3A 6.14: RSP from the IST or TSS, or the current one; aligned to 16; always SS:RSP pushed. */
static struct stack choose_stack64(struct cpu *c, const struct gate *g, unsigned cpl)
{
	const struct segment *tr = &c->seg[SEG_TR];
	uint32_t ist = 0x24 + 8 * (g->ist - 1);
	struct stack s;

	if (cpl != c->cpl) {
		s = g->ist ? (struct stack){ .ss = { .sel = (uint16_t)cpl,
			                             .attr = (uint32_t)SEG_UNUSABLE | cpl << 5 } }
		           : stack_from_tss(c, cpl);
	} else {
		s = stack_current(c);
		s.sp = c->rsp;
	}
	if (g->ist) {
		if (ist + 7 > tr->limit)
			segment_raise(c, EXC_TS, tr->sel);
		s.sp = mmu_load_system(c, tr->base + ist, 8);
	}
	s.cpl = cpl;
	s.wide = true;
	s.sp &= ~15ull;
	return s;
}

static void deliver_long(struct cpu *c, const struct event *ev)
{
	struct gate g = read_gate(c, ev);
	struct segment cs;
	struct stack s;
	unsigned cpl;

	check_gate(c, ev, &g);
	cpl = read_handler(c, &g, &cs);
	s = choose_stack64(c, &g, cpl);
	code_check_rip(c, &cs, g.offset);
	stack_store(c, &s, 8, c->seg[SEG_SS].sel);
	stack_store(c, &s, 8, c->rsp);
	stack_store(c, &s, 8, cpu_get_rflags(c));
	stack_store(c, &s, 8, c->seg[SEG_CS].sel);
	stack_store(c, &s, 8, c->rip);
	if (ev->has_error)
		stack_store(c, &s, 8, ev->error);
	clear_flags(c, flags_to_clear(&g));
	c->seg[SEG_SS] = s.ss;
	c->rsp = s.sp;
	code_enter(c, &cs, g.offset, cpl);
}

static void push_v86_segments(struct cpu *c, struct stack *s, unsigned size)
{
	static const uint8_t order[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };

	for (size_t n = 0; n < ARRAY_SIZE(order); n++)
		stack_store(c, s, size, c->seg[order[n]].sel);
}

static void drop_v86_segments(struct cpu *c)
{
	static const uint8_t data[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };

	for (size_t n = 0; n < ARRAY_SIZE(data); n++)
		segment_load_null(c, data[n], 0);
}

static void deliver_task_gate(struct cpu *c, const struct event *ev, const struct gate *g)
{
	task_switch(c, g->sel, TASK_GATE, ev->has_error, ev->error);
}

static void deliver_protected(struct cpu *c, const struct event *ev)
{
	struct gate g = read_gate(c, ev);
	bool v86 = cpu_v86(c);
	struct segment cs;
	struct stack s;
	unsigned cpl, size;

	check_gate(c, ev, &g);
	if (g.type == TYPE_TASK_GATE) {
		deliver_task_gate(c, ev, &g);
		return;
	}
	size = g.type & TYPE_32 ? 4 : 2;
	if (size == 2)
		g.offset &= 0xffff;
	cpl = read_handler(c, &g, &cs);
	s = cpl != c->cpl ? stack_from_tss(c, cpl) : stack_current(c);
	code_check_rip(c, &cs, g.offset);
	if (v86)
		push_v86_segments(c, &s, size);
	if (cpl != c->cpl) {
		stack_store(c, &s, size, c->seg[SEG_SS].sel);
		stack_store(c, &s, size, c->rsp);
	}
	stack_store(c, &s, size, cpu_get_rflags(c));
	stack_store(c, &s, size, c->seg[SEG_CS].sel);
	stack_store(c, &s, size, c->rip);
	if (ev->has_error)
		stack_store(c, &s, size, ev->error);
	clear_flags(c, flags_to_clear(&g));
	if (v86)
		drop_v86_segments(c);
	stack_commit(c, &s);
	code_enter(c, &cs, g.offset, cpl);
}

/* SDM 3A 20.1.4: a far pointer of 4 bytes a vector, no privilege, no error codes. */
static void deliver_real(struct cpu *c, const struct event *ev)
{
	uint32_t at = ev->vector * 4;
	struct stack s = stack_current(c);
	uint32_t target;

	if (at + 3 > c->idtr.limit)
		cpu_raise(c, EXC_GP, 0);
	target = (uint32_t)mmu_load_system(c, c->idtr.base + at, 4);
	stack_store(c, &s, 2, cpu_get_rflags(c));
	stack_store(c, &s, 2, c->seg[SEG_CS].sel);
	stack_store(c, &s, 2, c->rip);
	clear_flags(c, RFLAGS_IF | RFLAGS_TF | RFLAGS_RF | RFLAGS_AC);
	stack_commit(c, &s);
	segment_load_real(c, SEG_CS, (uint16_t)(target >> 16));
	c->rip = target & 0xffff;
	cpu_update_mode(c);
}

void event_deliver(struct cpu *c, unsigned vector, bool has_error, uint32_t error,
                   enum event_kind kind)
{
	struct event ev = {
		.vector = vector, .has_error = has_error, .error = error, .kind = kind
	};

	c->interp->soft_event = kind == EVENT_SOFT || kind == EVENT_SOFT_INT1;
	if (kind == EVENT_FAULT && c->delivering >= 0)
		escalate(c, &ev);
	c->delivering = delivering_class(&ev);
	if (!cpu_protected(c))
		deliver_real(c, &ev);
	else if (cpu_long_mode(c))
		deliver_long(c, &ev);
	else
		deliver_protected(c, &ev);
	if (ev.vector == EXC_DB && kind == EVENT_FAULT)
		c->msr.debugctl &= ~(DEBUGCTL_BTF | DEBUGCTL_LBR); /* SDM 3B 17.4.4 */
	c->delivering = -1;
}

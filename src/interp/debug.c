/* Debug registers and single step; see debug.h. */
#include "interp/debug.h"

#include "cpu/msr.h"
#include "interp/access.h"
#include "interp/state.h"

enum { BREAK_EXECUTE, BREAK_WRITE, BREAK_IO, BREAK_ACCESS };

struct breakpoint {
	bool armed;
	unsigned kind, len;
	uint64_t addr;
};

static struct breakpoint breakpoint_read(const struct cpu *c, unsigned n)
{
	static const uint8_t lengths[] = { 1, 2, 8, 4 };
	struct breakpoint b = {
		.armed = c->dr7 >> (2 * n) & 3,
		.kind = c->dr7 >> (16 + 4 * n) & 3,
		.len = lengths[c->dr7 >> (18 + 4 * n) & 3],
	};

	b.addr = c->dr[n] & ~(uint64_t)(b.len - 1);
	return b;
}

static bool overlaps(const struct breakpoint *b, uint64_t at, unsigned len)
{
	return at < b->addr + b->len && b->addr < at + len;
}

/* DR6 collects: B0 to B3 are replaced, BD, BS and BT only ever set (SDM 3B 17.2.3). */
_Noreturn static void raise_debug(struct cpu *c, uint32_t cause)
{
	c->dr6 = (c->dr6 & ~0xfull) | cause;
	c->dr7 &= ~BIT(13);
	c->db_pending = 0;
	cpu_raise(c, EXC_DB, 0);
}

static uint32_t find_execute(const struct cpu *c)
{
	gva_t va = c->mode == MODE_64 ? c->rip : (uint32_t)(c->seg[SEG_CS].base + c->rip);
	uint32_t hit = 0;

	for (unsigned n = 0; n < 4; n++) {
		struct breakpoint b = breakpoint_read(c, n);

		if (b.armed && b.kind == BREAK_EXECUTE && b.addr == va)
			hit |= (uint32_t)BIT(n);
	}
	return hit;
}

void debug_before_insn(struct cpu *c)
{
	uint32_t hit;

	if (c->db_pending & DR6_BT)
		raise_debug(c, c->db_pending);
	hit = c->rflags & RFLAGS_RF ? 0 : find_execute(c);
	if (hit)
		raise_debug(c, hit);
	c->rflags &= ~RFLAGS_RF;
	c->interp->traced_from = c->rip;
}

/* With DEBUGCTL.BTF, TF traps on taken branches only (SDM 3B 17.4.3). */
static bool step_is_due(const struct cpu *c)
{
	const struct interp *in = c->interp;

	return !(c->msr.debugctl & DEBUGCTL_BTF) || c->rip != in->traced_from + in->one.len;
}

/* MOV SS and POP SS hold traps off for one instruction as they do interrupts: what was hit stays
 * pending. */
void debug_after_insn(struct cpu *c, bool tf)
{
	if (tf && step_is_due(c))
		c->db_pending |= DR6_BS;
	if (c->db_pending && !c->shadow)
		raise_debug(c, c->db_pending);
}

void debug_check_io(struct cpu *c, uint16_t port, unsigned size)
{
	if (!(c->cr4 & CR4_DE))
		return;
	for (unsigned n = 0; n < 4; n++) {
		struct breakpoint b = breakpoint_read(c, n);

		if (b.armed && b.kind == BREAK_IO && overlaps(&b, port, size))
			c->db_pending |= (uint32_t)BIT(n);
	}
}

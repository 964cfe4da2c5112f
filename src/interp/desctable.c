/* Descriptor-table registers, LDTR and TR, and the instructions that ask about descriptors. */
#include <string.h>

#include "interp/access.h"
#include "interp/system.h"

/* Bytes of the base that LGDT reads: 10-byte operand in 64-bit mode, else 6. */
static unsigned base_size(const struct cpu *c)
{
	return c->mode == MODE_64 ? 8 : 4;
}

static void load_table(struct cpu *c, const struct insn *i, struct dtable *t)
{
	unsigned size = base_size(c);
	uint64_t base;
	uint16_t limit;
	gva_t va;

	require_cpl0(c);
	va = access_ea(c, i, 2 + size, false);
	limit = load16(c, va, i->seg);
	base = load_size(c, va + 2, size, i->seg);
	if (size == 4 && i->opsize == 2)
		base &= 0xffffff;
	if (cpu_long_mode(c) && !access_canonical(c, base))
		cpu_raise(c, EXC_GP, 0);
	*t = (struct dtable){ .base = base, .limit = limit };
}

static void store_table(struct cpu *c, const struct insn *i, const struct dtable *t)
{
	unsigned size = base_size(c);
	uint8_t image[10];

	require_no_umip(c);
	memcpy(image, &t->limit, 2);
	memcpy(image + 2, &t->base, 8);
	mmu_copy_out(c, access_ea(c, i, 2 + size, true), image, 2 + size, i->seg);
}

void op_lgdt(struct cpu *c, const struct insn *i)
{
	load_table(c, i, &c->gdtr);
}

void op_lidt(struct cpu *c, const struct insn *i)
{
	load_table(c, i, &c->idtr);
}

void op_sgdt(struct cpu *c, const struct insn *i)
{
	store_table(c, i, &c->gdtr);
}

void op_sidt(struct cpu *c, const struct insn *i)
{
	store_table(c, i, &c->idtr);
}

static void require_protected(struct cpu *c)
{
	if (cpu_real_or_v86(c))
		cpu_raise(c, EXC_UD, 0);
}

/* A 16-bit source that is operand 0 (`reg` = dst) or 1 (`reg` = src). */
static uint16_t read_selector(struct cpu *c, const struct insn *i, unsigned reg)
{
	if (i->flags & INSN_MEM)
		return load16(c, access_ea(c, i, 2, false), i->seg);
	return (uint16_t)c->gpr[reg];
}

/* Reads a system descriptor from the GDT and builds the segment; types is a bit set. */
static void read_system(struct cpu *c, uint16_t sel, uint32_t types, struct segment *s)
{
	struct descriptor d;

	if (sel & 4 || !descriptor_read(c, sel, &d))
		segment_raise(c, EXC_GP, sel);
	if (d.hi & DESC_S || !(types >> DESC_TYPE(&d) & 1))
		segment_raise(c, EXC_GP, sel);
	if (!(d.hi & DESC_P))
		segment_raise(c, EXC_NP, sel);
	segment_from_descriptor(s, sel, &d);
	if (!cpu_long_mode(c))
		return;
	s->base |= (uint64_t)descriptor_read_upper(c, sel) << 32;
	if (!access_canonical(c, s->base))
		segment_raise(c, EXC_GP, sel);
}

void op_lldt(struct cpu *c, const struct insn *i)
{
	struct segment ldtr = { .attr = SEG_UNUSABLE };

	require_protected(c);
	require_cpl0(c);
	ldtr.sel = read_selector(c, i, i->dst);
	if (!selector_is_null(ldtr.sel))
		read_system(c, ldtr.sel, BIT(TYPE_LDT), &ldtr);
	c->seg[SEG_LDTR] = ldtr;
}

void op_ltr(struct cpu *c, const struct insn *i)
{
	uint32_t types = BIT(TYPE_TSS32) | (cpu_long_mode(c) ? 0 : BIT(TYPE_TSS16));
	struct segment tr;
	uint16_t sel;
	gva_t va;

	require_protected(c);
	require_cpl0(c);
	sel = read_selector(c, i, i->dst);
	if (selector_is_null(sel))
		cpu_raise(c, EXC_GP, 0);
	read_system(c, sel, types, &tr);
	tr.attr |= TYPE_BUSY;
	if (descriptor_locate(c, sel, 8, &va))
		mmu_store_system(c, va + 5, 1, tr.attr & 0xff);
	c->seg[SEG_TR] = tr;
}

static void store_selector(struct cpu *c, const struct insn *i, unsigned seg)
{
	require_protected(c);
	require_no_umip(c);
	if (i->flags & INSN_MEM)
		store16(c, access_ea(c, i, 2, true), c->seg[seg].sel, i->seg);
	else
		reg_set(c, i->dst, i->opsize, c->seg[seg].sel);
}

void op_sldt(struct cpu *c, const struct insn *i)
{
	store_selector(c, i, SEG_LDTR);
}

void op_str(struct cpu *c, const struct insn *i)
{
	store_selector(c, i, SEG_TR);
}

/* Whether the caller may see the descriptor: CPL and RPL against DPL, but for conforming code. */
static bool visible(const struct cpu *c, uint16_t sel, const struct descriptor *d)
{
	return desc_is_conforming(d) || (c->cpl <= DESC_DPL(d) && (sel & 3u) <= DESC_DPL(d));
}

/* Reads a descriptor for LAR or LSL; system_types are those the instruction knows. */
static bool examine(struct cpu *c, uint16_t sel, uint32_t system_types, struct descriptor *d)
{
	if (selector_is_null(sel) || !descriptor_read(c, sel, d))
		return false;
	if (!(d->hi & DESC_S) && !(system_types >> DESC_TYPE(d) & 1))
		return false;
	return visible(c, sel, d);
}

static void set_zf(struct cpu *c, bool zf)
{
	flags_set_arith(c, (flags_get_arith(c) & ~RFLAGS_ZF) | (zf ? RFLAGS_ZF : 0));
}

/* SDM 2A tables 3-53 and 3-57: types valid in long mode, and those that legacy mode adds. */
#define TYPES_LSL_LONG (BIT(TYPE_LDT) | BIT(TYPE_TSS32) | BIT(TYPE_TSS32_BUSY))
#define TYPES_LSL      (TYPES_LSL_LONG | BIT(TYPE_TSS16) | BIT(TYPE_TSS16_BUSY))
#define TYPES_LAR_LONG (TYPES_LSL_LONG | BIT(TYPE_CALL32))
#define TYPES_LAR      (TYPES_LSL | BIT(TYPE_CALL16) | BIT(TYPE_TASK_GATE) | BIT(TYPE_CALL32))

void op_lar(struct cpu *c, const struct insn *i)
{
	struct descriptor d;
	bool ok;

	require_protected(c);
	ok = examine(c, read_selector(c, i, i->src), cpu_long_mode(c) ? TYPES_LAR_LONG : TYPES_LAR,
	             &d);
	if (ok)
		reg_set(c, i->dst, i->opsize, d.hi & 0x00f0ff00);
	set_zf(c, ok);
}

void op_lsl(struct cpu *c, const struct insn *i)
{
	struct descriptor d;
	struct segment s;
	bool ok;

	require_protected(c);
	ok = examine(c, read_selector(c, i, i->src), cpu_long_mode(c) ? TYPES_LSL_LONG : TYPES_LSL,
	             &d);
	if (ok) {
		segment_from_descriptor(&s, 0, &d);
		reg_set(c, i->dst, i->opsize, s.limit);
	}
	set_zf(c, ok);
}

void op_verr(struct cpu *c, const struct insn *i)
{
	struct descriptor d;
	uint16_t sel;

	require_protected(c);
	sel = read_selector(c, i, i->dst);
	set_zf(c, examine(c, sel, 0, &d) && desc_is_readable(&d));
}

void op_verw(struct cpu *c, const struct insn *i)
{
	struct descriptor d;
	uint16_t sel;

	require_protected(c);
	sel = read_selector(c, i, i->dst);
	set_zf(c, examine(c, sel, 0, &d) && desc_is_writable(&d));
}

void op_arpl(struct cpu *c, const struct insn *i)
{
	uint16_t rpl = (uint16_t)c->gpr[i->src] & 3, sel;
	gva_t va = 0;
	bool raise;

	require_protected(c);
	if (i->flags & INSN_MEM) {
		va = access_ea(c, i, 2, true);
		sel = load16(c, va, i->seg);
	} else {
		sel = (uint16_t)c->gpr[i->dst];
	}
	raise = (sel & 3) < rpl;
	if (raise)
		sel = (uint16_t)((sel & ~3) | rpl);
	if (raise && i->flags & INSN_MEM)
		store16(c, va, sel, i->seg);
	else if (raise)
		reg_set(c, i->dst, 2, sel);
	set_zf(c, raise);
}

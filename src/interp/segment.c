/*
 * Segment registers, descriptors and the stacks of privilege changes (SDM 3A chapters 3, 5 and 7).
 */
#include "interp/segment.h"

#include "interp/access.h"

#define ATTR_V86 0xf3u /* present, DPL 3, writable, accessed */

_Noreturn void segment_raise(struct cpu *c, int vector, uint16_t sel)
{
	cpu_raise(c, vector, (sel & 0xfffcu) | (c->delivering >= 0));
}

void cpu_set_cpl(struct cpu *c, unsigned cpl)
{
	if (cpl == 3 && !c->stats.user_ns && !cpu_v86(c))
		c->stats.user_ns = clock_ns();
	c->cpl = (uint8_t)cpl;
	mmu_update_mode(c);
}

void flags_load(struct cpu *c, uint64_t value, uint64_t mask)
{
	uint64_t old = cpu_get_rflags(c), now = (old & ~mask) | (value & mask);

	cpu_set_rflags(c, now);
	if ((old ^ now) & RFLAGS_AC)
		mmu_update_mode(c);
}

uint32_t descriptor_base(const struct descriptor *d)
{
	return d->lo >> 16 | (d->hi & 0xff) << 16 | (d->hi & 0xff000000);
}

static uint32_t descriptor_limit(const struct descriptor *d)
{
	uint32_t limit = (d->lo & 0xffff) | (d->hi & 0xf0000);

	return d->hi & DESC_G ? limit << 12 | 0xfff : limit;
}

bool descriptor_locate(struct cpu *c, uint16_t sel, unsigned size, gva_t *va)
{
	uint32_t last = (sel & 0xfff8u) + size - 1;

	if (!(sel & 4)) {
		*va = c->gdtr.base + (sel & 0xfff8u);
		return last <= c->gdtr.limit;
	}
	if (c->seg[SEG_LDTR].attr & SEG_UNUSABLE)
		return false;
	*va = c->seg[SEG_LDTR].base + (sel & 0xfff8u);
	return last <= c->seg[SEG_LDTR].limit;
}

bool descriptor_read(struct cpu *c, uint16_t sel, struct descriptor *d)
{
	uint64_t raw;
	gva_t va;

	if (!descriptor_locate(c, sel, 8, &va))
		return false;
	raw = mmu_load_system(c, va, 8);
	d->lo = (uint32_t)raw;
	d->hi = (uint32_t)(raw >> 32);
	return true;
}

/* SDM 3A 7.2.3: the type field of the upper half must be zero. */
uint32_t descriptor_read_upper(struct cpu *c, uint16_t sel)
{
	uint64_t raw;
	gva_t va;

	if (!descriptor_locate(c, sel, 16, &va))
		segment_raise(c, EXC_GP, sel);
	raw = mmu_load_system(c, va + 8, 8);
	if (raw >> 40 & 0x1f)
		segment_raise(c, EXC_GP, sel);
	return (uint32_t)raw;
}

void descriptor_set_accessed(struct cpu *c, uint16_t sel, struct descriptor *d)
{
	gva_t va;

	if (d->hi & BIT(8) || !descriptor_locate(c, sel, 8, &va))
		return;
	d->hi |= BIT(8);
	mmu_store_system(c, va + 5, 1, (d->hi >> 8) & 0xff);
}

void segment_from_descriptor(struct segment *s, uint16_t sel, const struct descriptor *d)
{
	s->sel = sel;
	s->base = descriptor_base(d);
	s->limit = descriptor_limit(d);
	s->attr = (d->hi >> 8) & 0xf0ff;
}

struct segment segment_flat(uint16_t sel, uint32_t attr)
{
	return (struct segment){ .sel = sel, .limit = UINT32_MAX, .attr = attr };
}

/* Limit and attributes stay as they were: "unreal" mode depends on it. */
void segment_load_real(struct cpu *c, unsigned seg, uint16_t sel)
{
	c->seg[seg].sel = sel;
	c->seg[seg].base = (uint64_t)sel << 4;
	c->seg[seg].attr &= ~(uint32_t)SEG_UNUSABLE;
	cpu_update_mode(c);
}

void segment_load_v86(struct cpu *c, unsigned seg, uint16_t sel)
{
	c->seg[seg] = (struct segment){
		.sel = sel, .base = (uint64_t)sel << 4, .limit = 0xffff, .attr = ATTR_V86
	};
	cpu_update_mode(c);
}

void segment_load_null(struct cpu *c, unsigned seg, uint16_t sel)
{
	uint32_t dpl = seg == SEG_SS ? (sel & 3u) << 5 : 0;

	c->seg[seg] = (struct segment){ .sel = sel, .attr = (uint32_t)SEG_UNUSABLE | dpl };
	cpu_update_mode(c);
}

void stack_segment_read(struct cpu *c, uint16_t sel, unsigned cpl, int vector, struct segment *out)
{
	struct descriptor d;

	if (selector_is_null(sel))
		segment_raise(c, vector, 0);
	if (!descriptor_read(c, sel, &d))
		segment_raise(c, vector, sel);
	if ((sel & 3u) != cpl || DESC_DPL(&d) != cpl || !desc_is_writable(&d))
		segment_raise(c, vector, sel);
	if (!(d.hi & DESC_P))
		segment_raise(c, EXC_SS, sel);
	descriptor_set_accessed(c, sel, &d);
	segment_from_descriptor(out, sel, &d);
}

static void load_stack_segment(struct cpu *c, uint16_t sel)
{
	struct segment s;

	if (selector_is_null(sel) && c->mode == MODE_64 && c->cpl < 3 && (sel & 3) == c->cpl) {
		segment_load_null(c, SEG_SS, sel);
		return;
	}
	stack_segment_read(c, sel, c->cpl, EXC_GP, &s);
	c->seg[SEG_SS] = s;
	cpu_update_mode(c);
}

static void load_data_segment(struct cpu *c, unsigned seg, uint16_t sel)
{
	struct descriptor d;

	if (selector_is_null(sel)) {
		segment_load_null(c, seg, sel);
		return;
	}
	if (!descriptor_read(c, sel, &d) || !desc_is_readable(&d))
		segment_raise(c, EXC_GP, sel);
	if (!desc_is_conforming(&d) && ((sel & 3u) > DESC_DPL(&d) || c->cpl > DESC_DPL(&d)))
		segment_raise(c, EXC_GP, sel);
	if (!(d.hi & DESC_P))
		segment_raise(c, EXC_NP, sel);
	descriptor_set_accessed(c, sel, &d);
	segment_from_descriptor(&c->seg[seg], sel, &d);
	cpu_update_mode(c);
}

void segment_load(struct cpu *c, unsigned seg, uint16_t sel)
{
	if (cpu_v86(c))
		segment_load_v86(c, seg, sel);
	else if (!cpu_protected(c))
		segment_load_real(c, seg, sel);
	else if (seg == SEG_SS)
		load_stack_segment(c, sel);
	else
		load_data_segment(c, seg, sel);
}

/* A register that is null already keeps its base: 64-bit code sets FS and GS bases that way. */
void segments_drop_inner(struct cpu *c)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (size_t n = 0; n < ARRAY_SIZE(data); n++) {
		const struct segment *s = &c->seg[data[n]];
		bool conforming = (s->attr & 0xc) == 0xc;

		if (!selector_is_null(s->sel) && !conforming && SEG_DPL(s->attr) < c->cpl)
			segment_load_null(c, data[n], 0);
	}
}

void code_check_rip(struct cpu *c, const struct segment *cs, uint64_t rip)
{
	if (code_is_64(c, cs) ? !access_canonical(c, rip) : rip > cs->limit)
		segment_raise(c, EXC_GP, 0);
}

void code_enter(struct cpu *c, const struct segment *cs, uint64_t rip, unsigned cpl)
{
	c->seg[SEG_CS] = *cs;
	c->seg[SEG_CS].sel = (uint16_t)((cs->sel & 0xfffc) | cpl);
	c->rip = rip;
	cpu_set_cpl(c, cpl);
	cpu_update_mode(c);
}

static unsigned pointer_size(const struct segment *ss, bool wide)
{
	return wide ? 8 : ss->attr & SEG_DB ? 4 : 2;
}

static uint64_t truncate_pointer(uint64_t value, unsigned size)
{
	return size == 8 ? value : value & (BIT(8 * size) - 1);
}

struct stack stack_current(const struct cpu *c)
{
	struct stack s = { .ss = c->seg[SEG_SS], .cpl = c->cpl, .wide = c->mode == MODE_64 };

	s.sp = truncate_pointer(c->rsp, pointer_size(&s.ss, s.wide));
	return s;
}

/* Expand-down segments hold what lies above the limit (SDM 3A 5.3). */
static bool within_segment(const struct segment *s, uint64_t first, uint64_t last)
{
	if ((s->attr & 0xc) != 4)
		return first <= last && last <= s->limit;
	return first > s->limit && last <= (s->attr & SEG_DB ? UINT32_MAX : 0xffff) &&
	       first <= last;
}

void stack_store(struct cpu *c, struct stack *s, unsigned size, uint64_t value)
{
	uint64_t sp = truncate_pointer(s->sp - size, pointer_size(&s->ss, s->wide));
	gva_t va = sp;

	if (s->wide) {
		if (!access_canonical(c, sp) || !access_canonical(c, sp + size - 1))
			segment_raise(c, EXC_SS, s->name);
	} else {
		if (!within_segment(&s->ss, sp, sp + size - 1))
			segment_raise(c, EXC_SS, s->name);
		va = (uint32_t)(s->ss.base + sp);
	}
	if (s->cpl == c->cpl)
		mmu_store(c, va, size, value, SEG_SS);
	else
		mmu_store_system(c, va, size, value);
	s->sp = sp;
}

static void set_pointer(struct cpu *c, uint64_t value, unsigned size)
{
	if (size == 2)
		*(uint16_t *)&c->rsp = (uint16_t)value;
	else
		c->rsp = truncate_pointer(value, size);
}

void stack_commit(struct cpu *c, const struct stack *s)
{
	c->seg[SEG_SS] = s->ss;
	set_pointer(c, s->sp, pointer_size(&s->ss, s->wide));
}

void stack_set_pointer(struct cpu *c, uint64_t value)
{
	set_pointer(c, value, pointer_size(&c->seg[SEG_SS], c->mode == MODE_64));
}

static uint64_t load_tss(struct cpu *c, uint32_t offset, unsigned size)
{
	const struct segment *tr = &c->seg[SEG_TR];

	if (offset + size - 1 > tr->limit)
		segment_raise(c, EXC_TS, tr->sel);
	return mmu_load_system(c, tr->base + offset, size);
}

/* 64-bit TSS: RSP0 to RSP2 at 4; SS becomes null with the new RPL. */
static struct stack stack_from_tss64(struct cpu *c, unsigned cpl)
{
	struct stack s = { .cpl = cpl, .wide = true };

	s.sp = load_tss(c, 4 + 8 * cpl, 8);
	s.ss = (struct segment){ .sel = (uint16_t)cpl, .attr = (uint32_t)SEG_UNUSABLE | cpl << 5 };
	return s;
}

struct stack stack_from_tss(struct cpu *c, unsigned cpl)
{
	struct stack s = { .cpl = cpl };
	uint16_t sel;

	if (cpu_long_mode(c))
		return stack_from_tss64(c, cpl);
	if (c->seg[SEG_TR].attr & TYPE_32) {
		sel = (uint16_t)load_tss(c, 8 + 8 * cpl, 2);
		s.sp = load_tss(c, 4 + 8 * cpl, 4);
	} else {
		sel = (uint16_t)load_tss(c, 4 + 4 * cpl, 2);
		s.sp = load_tss(c, 2 + 4 * cpl, 2);
	}
	stack_segment_read(c, sel, cpl, EXC_TS, &s.ss);
	s.sp = truncate_pointer(s.sp, pointer_size(&s.ss, false));
	s.name = sel;
	return s;
}

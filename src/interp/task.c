/*
 * Hardware task switches (SDM 3A 7.3), 32-bit and 16-bit, in legacy protected mode.
 *
 * The switch commits when the new registers are loaded; descriptor faults after that belong to the
 * new task, as the manual has it, and are raised as #TS, #NP or #SS with the selector. The run loop
 * takes the length of the instruction in execution off RIP when a fault arrives, and that is still
 * one of the old task: so while segments are loaded RIP stands that much too high.
 */
#include "interp/access.h"
#include "interp/segment.h"

/* Byte offsets, SDM 3A figures 7-2 and 7-10. LDT is `ldt`; segments are ES CS SS DS FS GS from
 * `seg`. */
struct layout {
	unsigned size; /* of a general register and of an entry of each array */
	unsigned ip, flags, gpr, seg, nr_seg, ldt, min_limit;
};
static const struct layout layout32 = { 4, 32, 36, 40, 72, 6, 96, 103 };
static const struct layout layout16 = { 2, 14, 16, 18, 34, 4, 42, 43 };
#define TSS32_CR3  28
#define TSS32_TRAP 100

struct image {
	uint32_t ip, flags, cr3, gpr[8];
	uint16_t seg[6], ldt;
	bool trap;
};

static const struct layout *layout_of(uint32_t attr)
{
	return attr & TYPE_32 ? &layout32 : &layout16;
}

static void save_old(struct cpu *c, uint64_t flags)
{
	const struct segment *tr = &c->seg[SEG_TR];
	const struct layout *l = layout_of(tr->attr);

	mmu_store_system(c, tr->base + l->ip, l->size, c->rip);
	mmu_store_system(c, tr->base + l->flags, l->size, flags);
	for (unsigned n = 0; n < 8; n++)
		mmu_store_system(c, tr->base + l->gpr + n * l->size, l->size, c->gpr[n]);
	for (unsigned n = 0; n < l->nr_seg; n++)
		mmu_store_system(c, tr->base + l->seg + n * l->size, 2, c->seg[n].sel);
}

static void read_image(struct cpu *c, const struct segment *tss, struct image *im)
{
	const struct layout *l = layout_of(tss->attr);
	gva_t base = tss->base;

	*im = (struct image){ 0 };
	im->ip = (uint32_t)mmu_load_system(c, base + l->ip, l->size);
	im->flags = (uint32_t)mmu_load_system(c, base + l->flags, l->size);
	for (unsigned n = 0; n < 8; n++)
		im->gpr[n] = (uint32_t)mmu_load_system(c, base + l->gpr + n * l->size, l->size);
	for (unsigned n = 0; n < l->nr_seg; n++)
		im->seg[n] = (uint16_t)mmu_load_system(c, base + l->seg + n * l->size, 2);
	im->ldt = (uint16_t)mmu_load_system(c, base + l->ldt, 2);
	if (l == &layout32) {
		im->cr3 = (uint32_t)mmu_load_system(c, base + TSS32_CR3, 4);
		im->trap = mmu_load_system(c, base + TSS32_TRAP, 2) & 1;
	}
}

/* Finds and checks the new TSS; *d is its descriptor as it stands in the GDT. */
static void find_tss(struct cpu *c, uint16_t sel, enum task_reason why, struct descriptor *d,
                     struct segment *tss)
{
	int vector = why == TASK_IRET ? EXC_TS : EXC_GP;
	unsigned type;

	if (sel & 4 || !descriptor_read(c, sel, d) || d->hi & DESC_S)
		segment_raise(c, vector, sel);
	type = DESC_TYPE(d);
	if ((type & ~(TYPE_BUSY | TYPE_32)) != TYPE_TSS16)
		segment_raise(c, vector, sel);
	if (!(type & TYPE_BUSY) != (why != TASK_IRET))
		segment_raise(c, vector, sel);
	if (!(d->hi & DESC_P))
		segment_raise(c, EXC_NP, sel);
	segment_from_descriptor(tss, sel, d);
	if (tss->limit < layout_of(tss->attr)->min_limit)
		segment_raise(c, EXC_TS, sel);
}

static void set_busy(struct cpu *c, uint16_t sel, bool busy)
{
	gva_t va;
	uint64_t type;

	if (!descriptor_locate(c, sel, 8, &va))
		return;
	type = mmu_load_system(c, va + 5, 1);
	mmu_store_system(c, va + 5, 1, busy ? type | TYPE_BUSY : type & ~TYPE_BUSY);
}

static void load_ldt(struct cpu *c, uint16_t sel)
{
	struct descriptor d;

	c->seg[SEG_LDTR] = (struct segment){ .sel = sel, .attr = SEG_UNUSABLE };
	if (selector_is_null(sel))
		return;
	if (sel & 4 || !descriptor_read(c, sel, &d) || d.hi & DESC_S || DESC_TYPE(&d) != TYPE_LDT ||
	    !(d.hi & DESC_P))
		segment_raise(c, EXC_TS, sel);
	segment_from_descriptor(&c->seg[SEG_LDTR], sel, &d);
}

static void load_code(struct cpu *c, uint16_t sel)
{
	struct descriptor d;

	if (selector_is_null(sel) || !descriptor_read(c, sel, &d) || !desc_is_code(&d))
		segment_raise(c, EXC_TS, sel);
	if (desc_is_conforming(&d) ? DESC_DPL(&d) > (sel & 3u) : DESC_DPL(&d) != (sel & 3u))
		segment_raise(c, EXC_TS, sel);
	if (!(d.hi & DESC_P))
		segment_raise(c, EXC_NP, sel);
	descriptor_set_accessed(c, sel, &d);
	segment_from_descriptor(&c->seg[SEG_CS], sel, &d);
}

static void load_stack(struct cpu *c, uint16_t sel)
{
	struct descriptor d;

	if (selector_is_null(sel) || !descriptor_read(c, sel, &d) || !desc_is_writable(&d) ||
	    DESC_DPL(&d) != c->cpl || (sel & 3u) != c->cpl)
		segment_raise(c, EXC_TS, sel);
	if (!(d.hi & DESC_P))
		segment_raise(c, EXC_SS, sel);
	descriptor_set_accessed(c, sel, &d);
	segment_from_descriptor(&c->seg[SEG_SS], sel, &d);
}

static void load_data(struct cpu *c, unsigned seg, uint16_t sel)
{
	struct descriptor d;

	if (selector_is_null(sel))
		return;
	if (!descriptor_read(c, sel, &d) || !desc_is_readable(&d))
		segment_raise(c, EXC_TS, sel);
	if (!desc_is_conforming(&d) && ((sel & 3u) > DESC_DPL(&d) || c->cpl > DESC_DPL(&d)))
		segment_raise(c, EXC_TS, sel);
	if (!(d.hi & DESC_P))
		segment_raise(c, EXC_NP, sel);
	descriptor_set_accessed(c, sel, &d);
	segment_from_descriptor(&c->seg[seg], sel, &d);
}

static void load_segments(struct cpu *c, const struct image *im)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	if (cpu_v86(c)) {
		for (unsigned n = 0; n < 6; n++)
			segment_load_v86(c, n, im->seg[n]);
		return;
	}
	load_code(c, im->seg[SEG_CS]);
	load_stack(c, im->seg[SEG_SS]);
	for (size_t n = 0; n < ARRAY_SIZE(data); n++)
		load_data(c, data[n], im->seg[data[n]]);
}

/* Everything that cannot fault; segments hold selectors only until load_segments(). */
static void commit(struct cpu *c, const struct image *im, const struct segment *tss)
{
	bool paged = c->cr0 & CR0_PG && tss->attr & TYPE_32;

	c->seg[SEG_TR] = *tss;
	c->seg[SEG_TR].attr |= TYPE_BUSY;
	c->cr0 |= CR0_TS;
	c->dr7 &= ~0x155ull; /* local breakpoints and LE end with the task */
	for (unsigned n = 0; n < 8; n++)
		c->gpr[n] = im->gpr[n];
	for (unsigned n = 0; n < 6; n++)
		c->seg[n] = (struct segment){ .sel = im->seg[n], .attr = SEG_UNUSABLE };
	c->rip = im->ip;
	cpu_set_rflags(c, im->flags & 0x3f7fd5);
	if (paged)
		mmu_set_cr3(c, im->cr3);
	mmu_flush_all(c);
	cpu_set_cpl(c, cpu_v86(c) ? 3 : im->seg[SEG_CS] & 3u);
}

static void push_error(struct cpu *c, const struct segment *tss, uint32_t error)
{
	struct stack s = stack_current(c);

	stack_store(c, &s, layout_of(tss->attr)->size, error);
	stack_commit(c, &s);
}

void task_switch(struct cpu *c, uint16_t tss_sel, enum task_reason why, bool has_error,
                 uint32_t error)
{
	bool nested = why == TASK_CALL || why == TASK_GATE;
	uint16_t old_sel = c->seg[SEG_TR].sel;
	uint64_t old_flags = cpu_get_rflags(c);
	struct descriptor d;
	struct segment tss;
	struct image im;

	find_tss(c, tss_sel, why, &d, &tss);
	if (why == TASK_IRET)
		old_flags &= ~RFLAGS_NT;
	read_image(c, &tss, &im);
	if (c->cr0 & CR0_PG && c->cr4 & CR4_PAE && tss.attr & TYPE_32 &&
	    !mmu_load_pdptes(c, im.cr3))
		segment_raise(c, EXC_GP, 0);
	save_old(c, old_flags);
	if (!nested)
		set_busy(c, old_sel, false);
	if (nested) {
		mmu_store_system(c, tss.base, 2, old_sel);
		im.flags |= RFLAGS_NT;
	}
	if (why != TASK_IRET)
		set_busy(c, tss_sel, true);
	commit(c, &im, &tss);
	c->rip += c->cur->len;
	load_ldt(c, im.ldt);
	load_segments(c, &im);
	cpu_update_mode(c);
	if (has_error)
		push_error(c, &tss, error);
	if (im.ip > c->seg[SEG_CS].limit)
		segment_raise(c, EXC_GP, 0);
	c->rip = im.ip;
	if (im.trap)
		c->db_pending |= BIT(15); /* DR6.BT */
}

/*
 * Memory operands: from a guest address to a host address in a scratch register.
 *
 * The check is tlb.c's. One check serves all accesses of the block from the same base register, as
 * far as they lie within one page: before it is written, the rest of the block is looked through
 * for operands at constant distances from it (or from the same base and index), through pushes,
 * pops and additions of constants. The check then covers the whole range, and the register that
 * holds the host address stays reserved for it. If the range turns out to cross a page, or to be no
 * plain memory, C goes on in a block that was translated with BT_KEY_UNMERGED, where each access is
 * checked by itself.
 *
 * A range on the stack is checked against the write tags at once, since a push is seldom far.
 */
#include "engine/bt/xlat.h"

#define GROUP_MAX 256 /* bytes of a range */

void access_forget(struct bt_xlat *x)
{
	x->cached[0].valid = x->cached[1].valid = false;
	hold_forget_all(x);
}

void access_forget_host(struct bt_xlat *x, unsigned host)
{
	for (unsigned n = 0; n < 2; n++)
		if (x->cached[n].host == host)
			x->cached[n].valid = false;
	hold_forget(x, host);
}

/* By how much the registers of an address change with an instruction; false: not by a constant. */
static bool place_step(const struct guest_insn *g, const struct place *p, int64_t *step)
{
	int64_t base = 0, index = 0;

	if ((p->base >= 0 && !scan_step(g, p->base, &base)) ||
	    (p->index >= 0 && !scan_step(g, p->index, &index)))
		return false;
	*step = base + (int64_t)((uint64_t)index << p->scale);
	return true;
}

static struct place place_of(const struct operand *o)
{
	return (struct place){ .base = o->base, .index = o->index, .scale = o->scale };
}

static bool same_place(const struct place *p, const struct operand *o)
{
	return p->base == o->base && p->index == o->index && p->scale == o->scale;
}

/* The registers have new values: the same memory is at other distances from them. */
void access_insn_done(struct bt_xlat *x, const struct guest_insn *g)
{
	for (unsigned n = 0; n < 2; n++) {
		struct cached *c = &x->cached[n];
		int64_t step;

		if (!c->valid)
			continue;
		if (!place_step(g, &c->place, &step)) {
			c->valid = false;
			continue;
		}
		c->lo -= step;
		c->hi -= step;
		c->bias -= step;
	}
}

static bool mergeable(const struct bt_xlat *x, const struct operand *o)
{
	unsigned natural = x->key & BT_KEY_32 ? 4 : 8;

	return o->present && (o->base != NO_REG || o->index != NO_REG) && o->base != REG_BIT &&
	       o->seg == NO_REG && o->asize == natural && !(x->key & BT_KEY_UNMERGED);
}

/* The accesses that one check can serve; places are as at the first of them. */
struct group {
	struct place place;
	int64_t lo, hi;
	bool write;
	bool certain; /* what is looked at will be executed, if nothing faults */
	unsigned members;
};

/* The right to write is asked for at once if it is needed for certain: not for what comes behind a
 * jump, for the page may be one that is only read. */
static void group_add(const struct bt_xlat *x, struct group *r, const struct operand *o,
                      int64_t step)
{
	int64_t lo = o->disp + step, hi = lo + o->size;

	if (!mergeable(x, o) || !same_place(&r->place, o) || (!o->read && !o->write) ||
	    (o->write && !r->write && !r->certain))
		return;
	lo = lo < r->lo ? lo : r->lo;
	hi = hi > r->hi ? hi : r->hi;
	if (hi - lo > GROUP_MAX)
		return;
	r->lo = lo;
	r->hi = hi;
	r->write = r->write || o->write;
	r->members++;
}

/* The accesses from here on that one check can serve. */
static struct group find_group(const struct bt_xlat *x, const struct operand *o)
{
	struct group r = {
		.place = place_of(o),
		.lo = o->disp,
		.hi = o->disp + o->size,
		.write = o->write || o->base == R_RSP,
		.certain = true,
	};
	int64_t step = 0, one;

	for (unsigned n = x->at; n < x->nr; n++) {
		const struct guest_insn *g = &x->insn[n];

		if (g->class == ISA_OTHER || g->class == ISA_OTHER_END || g->class == ISA_STAC ||
		    g->class == ISA_CLAC || g->class == ISA_SWAPGS)
			break;
		r.certain = r.certain && !xlat_branches(g);
		group_add(x, &r, &g->mem, step);
		group_add(x, &r, &g->stack, step);
		if (!place_step(g, &r.place, &one))
			break;
		step += one;
	}
	return r;
}

static bool covers(const struct bt_xlat *x, const struct cached *c, const struct operand *o,
                   int64_t step)
{
	return mergeable(x, o) && same_place(&c->place, o) && o->disp + step >= c->lo &&
	       o->disp + step + o->size <= c->hi && (c->write || !o->write);
}

static struct cached *find_cached(struct bt_xlat *x, const struct operand *o, uint32_t avoid)
{
	for (unsigned n = 0; n < 2; n++) {
		struct cached *c = &x->cached[n];

		if (c->valid && covers(x, c, o, 0) && !(avoid >> c->host & 1))
			return c;
	}
	return NULL;
}

bool access_is_live(const struct bt_xlat *x, unsigned host)
{
	const struct cached *c = &x->cached[x->cached[0].host != host];
	int64_t step = 0, one;

	if (!c->valid)
		return false;
	for (unsigned n = x->at; n < x->nr; n++) {
		const struct guest_insn *g = &x->insn[n];

		/* Of the instruction at hand the access may have been dealt with; its step has not.
		 */
		if (n > x->at && (covers(x, c, &g->mem, step) || covers(x, c, &g->stack, step)))
			return true;
		if (!place_step(g, &c->place, &one))
			return false;
		step += one;
	}
	return false;
}

/* The scratch register for an address. */
static struct cached *pick_register(struct bt_xlat *x, uint32_t avoid)
{
	unsigned host = hold_pick(x, avoid | 1u << R15, true);

	return &x->cached[x->cached[0].host != host];
}

void access_address(struct bt_xlat *x, const struct operand *o, unsigned to)
{
	struct emit *e = &x->e;
	bool wide = o->asize == 8;
	int base = o->base, index = o->index;

	if (index != NO_REG && bt_host_reg[index] == NO_HOST && hold_find(x, index) == (int)to &&
	    base != NO_REG) {
		emit_mov_rr(e, R15, to); /* before the base takes its place */
		hold_forget(x, R15);
		index = R15;
	} else if (index != NO_REG) {
		if (base != NO_REG && hold_find(x, base) == R15)
			hold_forget(x, R15);
		index = (int)rewrite_read(x, index, R15);
	}
	if (base == REG_PC) {
		emit_load_gs(e, to, GS(pc));
		base = (int)to;
	} else if (base == REG_BIT) {
		emit_load_gs(e, to, GS(bit_address));
		base = (int)to;
	} else if (base != NO_REG) {
		base = (int)rewrite_read(x, base, to);
	}
	if (o->index != NO_REG)
		emit_lea_sib(e, wide, to, base, (unsigned)index, o->scale, (int32_t)o->disp);
	else if (base == NO_REG && wide && o->disp != (int32_t)o->disp)
		emit_mov_imm64(e, to, (uint64_t)o->disp);
	else if (base == NO_REG)
		EMIT(e, (wide ? 0x48 : 0x40) | to >> 3, 0xc7, 0xc0 | (to & 7), (uint8_t)o->disp,
		     (uint8_t)(o->disp >> 8), (uint8_t)(o->disp >> 16),
		     (uint8_t)(o->disp >> 24)); /* mov to, imm32 */
	else
		emit_lea(e, wide, to, (unsigned)base, (int32_t)o->disp);
	if (o->seg != NO_REG) {
		emit_load_gs(e, R15, GS(seg_base) + 8 * (size_t)o->seg);
		emit_lea_sib(e, !(x->key & BT_KEY_32), to, (int)to, R15, 0, 0);
	}
}

static void emit_check(struct bt_xlat *x, unsigned reg, unsigned span, bool write)
{
	struct emit *e = &x->e;
	size_t table = GS(tlb) + (x->mode * 2u + write) * sizeof(x->b->tlb[0][0]);

	if (x->bmi2)
		EMIT(e, 0xc4, 0x43, 0x7b, 0xf0, 0xf8 | (reg & 7), 8); /* rorx r15d, reg, 8 */
	else
		EMIT(e, 0x45, 0x89, 0xc7 | (reg & 7) << 3, 0x41, 0xc1, 0xef, 8); /* mov; shr */
	EMIT(e, 0x41, 0x81, 0xe7);                                               /* and r15d, */
	emit32(e, (BT_TLB_ENTRIES - 1) * sizeof(struct bt_tlb_entry));
	emit_gs_indexed(e, 0x33, reg, R15, table + offsetof(struct bt_tlb_entry, tag));
	EMIT(e, 0x49, 0x81, 0xf8 | (reg & 7)); /* cmp reg, */
	emit32(e, (uint32_t)(PAGE_SIZE - span));
}

static void emit_add_host(struct bt_xlat *x, unsigned reg, bool write)
{
	size_t table = GS(tlb) + (x->mode * 2u + write) * sizeof(x->b->tlb[0][0]);

	emit_gs_indexed(&x->e, 0x03, reg, R15, table + offsetof(struct bt_tlb_entry, host));
}

/* Host address of the operand, which may stand for a range, into the register. */
static void check_operand(struct bt_xlat *x, const struct operand *o, unsigned reg, bool write_tag,
                          bool write, bool group)
{
	struct bt_site *s = xlat_site(x, &x->insn[x->at], SITE_ACCESS);
	struct pending *p;

	flags_free(x);
	hold_forget(x, R15);
	s->flags = (uint8_t)x->flags;
	s->recipe = x->recipe;
	s->span = o->size;
	s->mode = x->mode;
	s->write_tag = write_tag;
	s->write = write;
	s->group = group;
	s->addr_reg = (uint8_t)reg;
	access_address(x, o, reg);
	s->retry = emit_offset(&x->e); /* bt_fill() leaves the register alone */
	hold_forget(x, reg);
	emit_check(x, reg, o->size, write_tag);
	p = xlat_pending(x, PENDING_ACCESS, emit_jcc_later(&x->e, 7));
	p->site = s;
	p->operand = *o;
	p->address = reg;
	emit_add_host(x, reg, write_tag);
	s->hit = emit_offset(&x->e);
}

static struct reach reach_by(const struct cached *c, const struct operand *o)
{
	return (struct reach){ .base = c->host, .disp = (int32_t)(o->disp - c->bias) };
}

struct reach access_reach(struct bt_xlat *x, const struct operand *o, uint32_t avoid)
{
	struct cached *c = mergeable(x, o) ? find_cached(x, o, avoid) : NULL;
	struct operand range = *o;
	struct group r = { 0 };

	if (c)
		return reach_by(c, o);
	c = pick_register(x, avoid);
	c->valid = false;
	if (mergeable(x, o))
		r = find_group(x, o);
	if (r.members < 2) {
		check_operand(x, o, c->host, o->write, o->write, false);
		return (struct reach){ .base = c->host };
	}
	range.disp = r.lo;
	range.size = (uint16_t)(r.hi - r.lo);
	check_operand(x, &range, c->host, r.write, o->write, true);
	x->sites_checked = x->nr_sites;
	*c = (struct cached){ .valid = true,
		              .host = c->host,
		              .place = r.place,
		              .lo = r.lo,
		              .hi = r.hi,
		              .bias = r.lo,
		              .write = r.write };
	return reach_by(c, o);
}

/*
 * Memory operands: from a guest address to a host address in a scratch register.
 *
 * The check is tlb.c's; for the stack there is a shorter one against a page at hand (bt.stack). One
 * check serves all accesses of the block from the same registers, as far as they lie within one
 * page: place.c says which. If the range turns out to cross a page, or to be no plain memory, C
 * goes on in a block that was translated with BT_KEY_UNMERGED, where each access is checked by
 * itself.
 *
 * A range on the stack is checked against the write tags at once, since a push is seldom far.
 */
#include "engine/bt/place.h"
#include "engine/bt/xlat.h"

void access_address(struct bt_xlat *x, const struct operand *o, unsigned to)
{
	struct emit *e = &x->e;
	bool wide = o->asize == 8;
	int base = o->base, index = o->index;

	if (base == R_RSP || index == R_RSP)
		insn_settle_rsp(x);

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

static size_t stack_entry(const struct bt_xlat *x)
{
	return GS(stack) + x->mode * sizeof(x->b->stack[0]);
}

/* The page of the stack is at hand: no index, and nothing to wait for. */
static void emit_stack_check(struct bt_xlat *x, unsigned reg, unsigned span)
{
	emit_gs(&x->e, true, 0x33, reg, stack_entry(x) + offsetof(struct bt_tlb_entry, tag));
	EMIT(&x->e, 0x49, 0x81, 0xf8 | (reg & 7)); /* cmp reg, */
	emit32(&x->e, (uint32_t)(PAGE_SIZE - span));
}

/* What a check is for: an operand, which may stand for a range. */
struct check {
	struct operand o;
	bool write_tag; /* against the write tags */
	bool write;     /* the access at hand */
	bool group, single;
	bool stack;
};

static bool on_stack(const struct bt_xlat *x, const struct operand *o)
{
	return place_is_mergeable(x, o) && o->base == R_RSP && o->index == NO_REG;
}

static struct bt_site *check_site(struct bt_xlat *x, const struct check *k, unsigned reg)
{
	struct bt_site *s = xlat_site(x, &x->insn[x->at], SITE_ACCESS);

	flags_free(x);
	hold_forget(x, R15);
	s->flags = (uint8_t)x->flags;
	s->recipe = x->recipe;
	s->span = k->o.size;
	s->mode = x->mode;
	s->write_tag = k->write_tag;
	s->write = k->write;
	s->group = k->group;
	s->single = k->single;
	s->stack = k->stack;
	s->addr_reg = (uint8_t)reg;
	return s;
}

/* The check in full, from a guest address to a host address in the register. */
static void full_check(struct bt_xlat *x, struct bt_site *s, const struct operand *o)
{
	struct pending *p;
	unsigned reg = s->addr_reg;

	access_address(x, o, reg);
	s->retry = emit_offset(&x->e); /* bt_fill() leaves the register alone */
	hold_forget(x, reg);
	if (s->stack)
		emit_stack_check(x, reg, s->span);
	else
		emit_check(x, reg, s->span, s->write_tag);
	p = xlat_pending(x, PENDING_ACCESS, emit_jcc_later(&x->e, 7));
	p->site = s;
	p->operand = *o;
	p->address = reg;
	if (s->stack)
		emit_gs(&x->e, true, 0x03, reg,
		        stack_entry(x) + offsetof(struct bt_tlb_entry, host));
	else
		emit_add_host(x, reg, s->write_tag);
}

static struct reach reach_by(const struct cached *c, const struct operand *o)
{
	return (struct reach){ .base = c->host, .disp = (int32_t)(o->disp - c->bias) };
}

/* Checks an operand by itself, for this access only. */
static struct reach reach_once(struct bt_xlat *x, const struct operand *o, uint32_t avoid)
{
	bool stack = on_stack(x, o);
	struct check k = {
		.o = *o, .write_tag = o->write || stack, .write = o->write, .stack = stack
	};
	struct cached *c = place_pick(x, avoid);
	struct bt_site *s;

	s = check_site(x, &k, c->host);
	full_check(x, s, o);
	s->hit = emit_offset(&x->e);
	return (struct reach){ .base = c->host };
}

/* Checks a range, whose address is kept. */
static struct reach reach_range(struct bt_xlat *x, const struct operand *o, const struct group *r,
                                uint32_t avoid)
{
	struct check k = { .o = *o,
		           .write_tag = r->write,
		           .write = o->write,
		           .group = true,
		           .single = r->members < 2 || place_moves(x, &r->place),
		           .stack = on_stack(x, o) };
	struct cached *c;
	struct bt_site *site;

	k.o.disp = r->lo;
	k.o.size = (uint16_t)(r->hi - r->lo);
	c = place_pick(x, avoid);
	site = check_site(x, &k, c->host);
	full_check(x, site, &k.o);
	site->hit = emit_offset(&x->e);
	x->sites_checked = x->nr_sites;
	*c = (struct cached){ .valid = true,
		              .host = c->host,
		              .place = r->place,
		              .lo = r->lo,
		              .hi = r->hi,
		              .bias = r->lo,
		              .write = k.write_tag,
		              .home = c->home };
	return reach_by(c, o);
}

struct reach access_reach(struct bt_xlat *x, const struct operand *o, uint32_t avoid)
{
	struct cached *c;
	struct group r;

	if (!place_is_mergeable(x, o))
		return reach_once(x, o, avoid);
	c = place_find(x, o, avoid);
	if (c)
		return reach_by(c, o);
	r = place_group(x, o);
	if (r.members < 2 && !place_is_carried(x, &r.place))
		return reach_once(x, o, avoid);
	return reach_range(x, o, &r, avoid);
}

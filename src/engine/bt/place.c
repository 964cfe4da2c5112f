/*
 * Which accesses one check can serve, and where the addresses are that checks have found.
 *
 * Before a check is written, the rest of the block is looked through for operands at constant
 * distances from the one at hand: from the same base and index, through pushes, pops and additions
 * of constants. The check covers their whole range, and its result stays in R13 or R14 for them.
 * When there are more places than registers, results go to bt.spill and come back from there: two
 * moves, where another check would cost seven instructions and the flags.
 *
 * The second copy of a loop (translate.c) begins with what the first has found. Each range moves on
 * by what its registers gain in a turn; if that leads out of the page, the first copy does the
 * turn. All this comes before the first instruction, so that nothing in the loop touches the flags.
 */
#include "engine/bt/place.h"

#include <string.h>

#define GROUP_MAX 256  /* bytes of a range */
#define STEP_MAX  2048 /* bytes that a range may move in a turn */

void place_forget(struct bt_xlat *x)
{
	x->cached[0].valid = x->cached[1].valid = false;
	for (unsigned n = 0; n < BT_SPILLS; n++)
		x->spilled[n].valid = false;
	hold_forget_all(x);
}

void place_forget_host(struct bt_xlat *x, unsigned host)
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
static void move_place(struct cached *c, const struct guest_insn *g)
{
	int64_t step;

	c->valid = c->valid && place_step(g, &c->place, &step);
	if (!c->valid)
		return;
	c->lo -= step;
	c->hi -= step;
	c->bias -= step;
}

void place_insn_done(struct bt_xlat *x, const struct guest_insn *g)
{
	for (unsigned n = 0; n < 2; n++)
		move_place(&x->cached[n], g);
	for (unsigned n = 0; n < BT_SPILLS; n++)
		move_place(&x->spilled[n], g);
}

bool place_is_mergeable(const struct bt_xlat *x, const struct operand *o)
{
	unsigned natural = x->key & BT_KEY_32 ? 4 : 8;

	return o->present && (o->base != NO_REG || o->index != NO_REG) && o->base != REG_BIT &&
	       o->seg == NO_REG && o->asize == natural && !(x->key & BT_KEY_UNMERGED);
}

/* The right to write is asked for at once if it is needed for certain: not for what comes behind a
 * jump, for the page may be one that is only read. */
static void group_add(const struct bt_xlat *x, struct group *r, const struct operand *o,
                      int64_t step)
{
	int64_t lo = o->disp + step, hi = lo + o->size;

	if (!place_is_mergeable(x, o) || !same_place(&r->place, o) || (!o->read && !o->write) ||
	    (o->write && !r->write && !r->certain))
		return;
	lo = lo < r->lo ? lo : r->lo;
	hi = hi > r->hi ? hi : r->hi;
	if (hi - lo > GROUP_MAX || lo < INT32_MIN || hi > INT32_MAX)
		return;
	r->lo = lo;
	r->hi = hi;
	r->write = r->write || o->write;
	r->members++;
}

struct group place_group(const struct bt_xlat *x, const struct operand *o)
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
	return place_is_mergeable(x, o) && same_place(&c->place, o) && o->disp + step >= c->lo &&
	       o->disp + step + o->size <= c->hi && (c->write || !o->write);
}

/* Does the address serve an access to come before the block or the turn ends? */
static bool serves(const struct bt_xlat *x, const struct cached *c)
{
	int64_t step = 0, one;

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

/* By how much the place moves in a turn of the loop; false: not by a constant, or too far. */
static bool turn_step(const struct bt_xlat *x, const struct place *p, int64_t *step)
{
	int64_t one;

	*step = 0;
	for (unsigned n = 0; n < x->loop; n++) {
		if (!place_step(&x->insn[n], p, &one))
			return false;
		*step += one;
	}
	return *step > -STEP_MAX && *step < STEP_MAX;
}

bool place_is_carried(const struct bt_xlat *x, const struct place *p)
{
	int64_t step;

	return !x->second && x->at < x->loop && turn_step(x, p, &step);
}

static bool is_live(const struct bt_xlat *x, const struct cached *c)
{
	return c->pinned || serves(x, c) || place_is_carried(x, &c->place);
}

bool place_is_live(const struct bt_xlat *x, unsigned host)
{
	const struct cached *c = &x->cached[x->cached[0].host != host];

	return c->valid && is_live(x, c);
}

/* A word of bt.spill for an address, other than that one: free, or missed least. */
static unsigned pick_home(const struct bt_xlat *x, int but)
{
	for (int n = 0; n < BT_SPILLS; n++)
		if (n != but && (!x->spilled[n].valid || !is_live(x, &x->spilled[n])))
			return (unsigned)n;
	return (unsigned)(but + 1) % BT_SPILLS;
}

static bool at_same_place(const struct cached *a, const struct cached *b)
{
	return a->valid && !memcmp(&a->place, &b->place, sizeof(a->place));
}

/* The register is wanted for something else: what it holds goes to memory, if it is missed.
 * Nobody may go on behind this instruction from a site before that. */
static void evict(struct bt_xlat *x, struct cached *c, int but)
{
	struct cached *home = c->home == NO_REG ? NULL : &x->spilled[(int)c->home];

	if (!c->valid || !is_live(x, c) ||
	    (home && at_same_place(home, c) && home->bias == c->bias))
		return;
	if (!home || c->home == but || (home->valid && !at_same_place(home, c)))
		c->home = (int8_t)pick_home(x, but);
	emit_store_gs(&x->e, c->host, GS(spill) + 8 * (size_t)c->home);
	x->spilled[(int)c->home] = *c;
	x->sites_checked = x->nr_sites;
}

/* A scratch register for an address; the word `but` is about to be read. */
static struct cached *pick_register(struct bt_xlat *x, uint32_t avoid, int but)
{
	unsigned host = hold_pick(x, avoid | 1u << R15, true);
	struct cached *c = &x->cached[x->cached[0].host != host];

	evict(x, c, but);
	c->valid = false;
	c->home = NO_REG;
	return c;
}

static struct cached *bring_back(struct bt_xlat *x, int home, uint32_t avoid)
{
	struct cached *c = pick_register(x, avoid, home);
	uint8_t host = c->host;

	*c = x->spilled[home];
	c->host = host;
	c->home = (int8_t)home;
	hold_forget(x, host);
	emit_load_gs(&x->e, host, GS(spill) + 8 * (size_t)home);
	x->sites_checked = x->nr_sites;
	return c;
}

struct cached *place_find(struct bt_xlat *x, const struct operand *o, uint32_t avoid)
{
	for (unsigned n = 0; n < 2; n++) {
		struct cached *c = &x->cached[n];

		if (c->valid && covers(x, c, o, 0) && !(avoid >> c->host & 1))
			return c;
	}
	for (int n = 0; n < BT_SPILLS; n++)
		if (x->spilled[n].valid && covers(x, &x->spilled[n], o, 0))
			return bring_back(x, n, avoid);
	return NULL;
}

struct cached *place_pick(struct bt_xlat *x, uint32_t avoid)
{
	return pick_register(x, avoid, NO_REG);
}

bool place_moves(const struct bt_xlat *x, const struct place *p)
{
	int64_t step;

	return place_is_carried(x, p) && turn_step(x, p, &step) && step;
}

/* ---- loops ---- */

/* Both ranges are on one page, or on to the first copy of the loop, which checks in full. With the
 * page's offset in R15. */
static void step_check(struct bt_xlat *x, const struct cached *c, int32_t step)
{
	struct emit *e = &x->e;
	uint32_t span = (uint32_t)(c->hi - c->lo);

	EMIT(e, 0x41, 0x81, 0xe7); /* and r15d, */
	emit32(e, PAGE_SIZE - 1);
	if (step < 0) {
		EMIT(e, 0x41, 0x81, 0xc7); /* add r15d, */
		emit32(e, (uint32_t)step);
	}
	EMIT(e, 0x41, 0x81, 0xff); /* cmp r15d, */
	emit32(e, PAGE_SIZE - span - (step > 0 ? (uint32_t)step : 0));
	emit_jcc(e, 7, x->block->entry_slot);
}

static void step_on(struct cached *c, int64_t step)
{
	c->lo += step;
	c->hi += step;
	c->bias += step;
	c->pinned = true;
}

static void step_register(struct bt_xlat *x, struct cached *c)
{
	struct emit *e = &x->e;
	int64_t step;

	if (!c->valid || !turn_step(x, &c->place, &step))
		return;
	if (step) {
		EMIT(e, 0x45, 0x89, 0xc7 | (c->host & 7) << 3); /* mov r15d, host */
		step_check(x, c, (int32_t)step);
		emit_lea(e, true, c->host, c->host, (int32_t)step);
	}
	step_on(c, step);
}

static void step_spilled(struct bt_xlat *x, unsigned home)
{
	size_t word = GS(spill) + 8 * (size_t)home;
	struct cached *c = &x->spilled[home];
	int64_t step;

	if (!c->valid || !turn_step(x, &c->place, &step))
		return;
	if (step) {
		emit_gs(&x->e, false, 0x8b, R15, word); /* mov r15d, gs:[word] */
		step_check(x, c, (int32_t)step);
		emit_alu_gs_imm(&x->e, 0, word, (int32_t)step);
	}
	step_on(c, step);
}

bool place_steps(const struct bt_xlat *x)
{
	int64_t step;

	for (unsigned n = 0; n < 2; n++)
		if (x->cached[n].valid && turn_step(x, &x->cached[n].place, &step) && step)
			return true;
	for (unsigned n = 0; n < BT_SPILLS; n++)
		if (x->spilled[n].valid && turn_step(x, &x->spilled[n].place, &step) && step)
			return true;
	return false;
}

void place_begin_turn(struct bt_xlat *x)
{
	for (unsigned n = 0; n < BT_SPILLS; n++)
		step_spilled(x, n);
	for (unsigned n = 0; n < 2; n++)
		step_register(x, &x->cached[n]);
}

void place_end_turn(struct bt_xlat *x, const struct cached first[2])
{
	for (unsigned n = 0; n < 2; n++) {
		if (!first[n].valid || at_same_place(&x->cached[n], &first[n]))
			continue;
		for (int home = 0; home < BT_SPILLS; home++) {
			if (!at_same_place(&x->spilled[home], &first[n]))
				continue;
			x->cached[n] = x->spilled[home];
			x->cached[n].host = first[n].host;
			hold_forget(x, first[n].host);
			emit_load_gs(&x->e, first[n].host, GS(spill) + 8 * (size_t)home);
			break;
		}
	}
}

bool place_is_wanted_again(const struct bt_xlat *x, const struct cached *c)
{
	int64_t step;

	return c->valid && turn_step(x, &c->place, &step);
}

/* Does the address serve an operand of instruction n, as far as can be seen from the one at hand?
 */
static bool reaches(const struct bt_xlat *x, const struct cached *c, const struct operand *o,
                    unsigned n)
{
	int64_t step = 0, one;

	if (!c->valid)
		return false;
	for (unsigned k = x->at; k < n; k++) {
		if (!place_step(&x->insn[k], &c->place, &one))
			return false;
		step += one;
	}
	return covers(x, c, o, step);
}

static bool is_at_hand(const struct bt_xlat *x, const struct operand *o, unsigned n)
{
	for (unsigned k = 0; k < 2; k++)
		if (reaches(x, &x->cached[k], o, n))
			return true;
	for (unsigned k = 0; k < BT_SPILLS; k++)
		if (reaches(x, &x->spilled[k], o, n))
			return true;
	return !o->present;
}

bool place_is_at_hand(const struct bt_xlat *x, unsigned n)
{
	const struct guest_insn *g = &x->insn[n];

	return is_at_hand(x, &g->mem, n) && is_at_hand(x, &g->stack, n);
}

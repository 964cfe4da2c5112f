/*
 * How blocks end: jumps to known addresses, which get linked, and to addresses in a register, which
 * the jump cache finds.
 *
 * Within the page a link is one jump. A block belongs to a physical page, whose neighbours in the
 * linear address space are another matter; so a jump across pages is linked
 *  - for the kernel only if the target's page is global, and unlinked when translations of global
 *    pages are dropped (run.c);
 *  - for user code behind a compare of the address space's id.
 * Both move bt.pc, the linear address of the page in execution.
 */
#include <assert.h>
#include "engine/bt/stubs.h"
#include "engine/bt/xlat.h"

/* A loop of one block that has found its ranges across pages stays unmerged. */
static uint8_t exit_key(const struct bt_xlat *x, int64_t target)
{
	uint32_t drop = BT_KEY_MMU | BT_KEY_SPAN;

	if (target != x->insn[0].off)
		drop |= BT_KEY_UNMERGED;
	return (uint8_t)((x->key & ~drop) | x->mode);
}

static unsigned new_exit(struct bt_xlat *x, int64_t target, bool slot, bool cross)
{
	unsigned n = x->nr_exits++;

	assert(n < XLAT_EXITS);
	x->exit[n] = (struct bt_exit){
		.off = target & (PAGE_SIZE - 1),
		.key = exit_key(x, target),
		.slot = slot,
		.cross = cross,
	};
	return n;
}

/* The displacement at place, to be aimed at the exit's stub and then at what it is linked to. */
static void exit_by(struct bt_xlat *x, unsigned n, uint8_t *place)
{
	x->exit[n].patch = (uint32_t)(place - x->e.base);
	xlat_pending(x, PENDING_EXIT, place)->exit = n;
}

static uint8_t *jump_later(struct emit *e, int cc)
{
	if (cc >= 0 && cc < FLOW_RCX_ZERO)
		return emit_jcc_later(e, (unsigned)cc);
	if (cc == FLOW_ECX_ZERO || cc == FLOW_ECX)
		emit8(e, 0x67);
	if (cc == FLOW_RCX_ZERO || cc == FLOW_ECX_ZERO)
		EMIT(e, 0xe3, 2, 0xeb, 5); /* jrcxz to the jump; jmp behind it */
	else if (cc >= 0)
		EMIT(e, 0xe3, 5); /* jrcxz behind the jump */
	emit8(e, 0xe9);
	emit32(e, 0);
	return e->p - 4;
}

/* bt.pc += delta */
static void move_page(struct bt_xlat *x, int64_t target)
{
	int64_t delta = target & ~(int64_t)(PAGE_SIZE - 1);

	if (x->key & BT_KEY_32) {
		EMIT(&x->e, 0x65, 0x81, 0x04, 0x25); /* add dword gs:[pc], delta */
		emit32(&x->e, GS(pc));
		emit32(&x->e, (uint32_t)delta);
	} else {
		emit_alu_gs_imm(&x->e, 0, GS(pc), (int32_t)delta);
	}
}

static struct bt_site *jump_site(struct bt_xlat *x, const struct guest_insn *g)
{
	struct bt_site *s = xlat_site(x, g, SITE_CHECK);

	s->flags = BT_FLAGS_SLOT;
	s->recipe.imm = 0;
	return s;
}

/* op reg, gs:[r15 * 4 + member of an entry] */
static void entry_word(struct emit *e, uint8_t opcode, unsigned reg, size_t member)
{
	EMIT(e, 0x65, 0x4a | (reg & 8) >> 1, opcode, 0x04 | (reg & 7) << 3, 0xbd);
	emit32(e, (uint32_t)(GS(jc) + member));
}

/* Jump cache: from the address in R14, flags in the slot. Uses R13 and R15. */
static void emit_lookup(struct bt_xlat *x, const struct bt_site *s)
{
	struct emit *e = &x->e;
	struct bt_window *w = &x->window[x->nr_windows++];
	uint8_t *miss;

	assert(x->nr_windows <= XLAT_EXITS);
	_Static_assert(sizeof(struct bt_jc_entry) == 32, "8, times the scale of 4");
	w->start = emit_offset(e);
	/* bt_jc_index() in machine code */
	if (x->bmi2)
		EMIT(e, 0xc4, 0x43, 0x7b, 0xf0, 0xfe, 9); /* rorx r15d, r14d, 9 */
	else
		EMIT(e, 0x45, 0x89, 0xf7, 0x41, 0xc1, 0xef, 9); /* mov r15d, r14d; shr r15d, 9 */
	EMIT(e, 0x47, 0x8d, 0x3c, 0xf7);                        /* lea r15d, [r15 + r14 * 8] */
	EMIT(e, 0x41, 0x81, 0xe7);                              /* and r15d, */
	emit32(e, (BT_JC_ENTRIES - 1) << 3);
	emit_mov_rr(e, R13, R14);
	emit_gs(e, true, 0x33, R13,
	        GS(space) + 8 * (size_t)bt_space(x->key, x->mode));  /* xor r13, gs:[space] */
	entry_word(e, 0x3b, R13, offsetof(struct bt_jc_entry, tag)); /* cmp */
	miss = emit_jcc_later(e, 5);
	entry_word(e, 0x8b, R13, offsetof(struct bt_jc_entry, page)); /* mov */
	emit_store_gs(e, R13, GS(pc));
	entry_word(e, 0xff, 4, offsetof(struct bt_jc_entry, code)); /* jmp */
	w->end = emit_offset(e);
	emit_here(e, miss);
	emit_mov_imm32(e, R15, cache_meta_offset(x->b, s));
	emit_jmp(e, x->b->cache->stub_lookup);
}

void flow_indirect(struct bt_xlat *x, const struct guest_insn *g, int undo)
{
	struct bt_site *s = jump_site(x, g);

	s->write = true;      /* the jump itself faults, see follow_jump() */
	s->recipe.imm = undo; /* added to RSP, takes back what the jump did, if the target faults */
	emit_lookup(x, s);
}

/* Out of the page, flags in the slot. */
static void cross(struct bt_xlat *x, int64_t target)
{
	unsigned n = new_exit(x, target, true, true);
	struct emit *e = &x->e;
	uint8_t *miss = NULL;

	if (x->user) {
		EMIT(e, 0x65, 0x81, 0x3c, 0x25); /* cmp dword gs:[space_id], */
		emit32(e, GS(space_id));
		x->exit[n].guard = emit_offset(e);
		emit32(e, 0);
		miss = emit_jcc_later(e, 5);
	}
	move_page(x, target);
	emit8(e, 0xe9);
	emit32(e, 0);
	if (!x->user) {
		exit_by(x, n, e->p - 4);
		return;
	}
	x->exit[n].patch = emit_offset(e) - 4;
	x->exit[n].miss = (uint32_t)(miss - e->base);
	x->exit[n].lookup = emit_offset(e);
	emit_load_gs(e, R14, GS(pc));
	emit_lea(e, !(x->key & BT_KEY_32), R14, R14, (int32_t)target);
	emit_lookup(x, jump_site(x, &x->insn[x->nr - 1]));
	/* Not linked, the miss leads here: the stub, with bt.pc moved. */
	emit_here(e, miss);
	x->exit[n].stub = emit_offset(e);
	move_page(x, target);
	xlat_pending(x, PENDING_EXIT, jump_later(e, -1))->exit = n;
}

void flow_exit_span(struct bt_xlat *x, int64_t target)
{
	insn_settle_rsp(x);
	flags_slot(x);
	cross(x, target);
}

static void exit_here(struct bt_xlat *x, int64_t target, int cc)
{
	unsigned n;

	if (x->flags == BT_FLAGS_RECIPE)
		flags_host(x);
	n = new_exit(x, target, x->flags == BT_FLAGS_SLOT, false);
	x->exit[n].recipe = flags_pack(x);
	exit_by(x, n, jump_later(&x->e, cc));
}

void flow_exit(struct bt_xlat *x, int64_t target, int cc)
{
	struct pending *p;

	insn_settle_rsp(x);
	if (xlat_same_page(target)) {
		exit_here(x, target, cc);
		return;
	}
	if (cc < 0) {
		flags_slot(x);
		cross(x, target);
		return;
	}
	p = xlat_pending(x, PENDING_CROSS, jump_later(&x->e, cc));
	x->nr_crosses++;
	p->flags = x->flags;
	p->recipe = x->recipe;
	p->target = target;
	p->mode = x->mode;
}

static void finish_access(struct bt_xlat *x, const struct pending *p)
{
	const struct bt_cache *c = x->b->cache;
	uint8_t mode = x->mode;

	access_address(x, &p->operand, p->address);
	emit_mov_imm32(&x->e, R15, cache_meta_offset(x->b, p->site));
	emit_jmp(&x->e, p->site->stack ? c->stub_stack[p->site->mode][p->address == R13]
	                               : c->stub_fill[p->address == R13]);
	x->mode = mode;
}

static void finish_site(struct bt_xlat *x, const struct pending *p)
{
	emit_mov_imm32(&x->e, R15, cache_meta_offset(x->b, p->site));
	emit_jmp(&x->e, x->b->cache->stub_site);
}

static void finish_cross(struct bt_xlat *x, const struct pending *p)
{
	x->flags = p->flags;
	x->recipe = p->recipe;
	x->mode = p->mode;
	flags_slot(x);
	cross(x, p->target);
}

void flow_finish(struct bt_xlat *x)
{
	for (unsigned n = 0; n < x->nr_pending; n++) {
		const struct pending *p = &x->pending[n];

		if (p->kind == PENDING_EXIT)
			continue; /* when the exits' tables have their place */
		emit_here(&x->e, p->jump);
		if (p->kind == PENDING_ACCESS)
			finish_access(x, p);
		else if (p->kind == PENDING_SITE)
			finish_site(x, p);
		else
			finish_cross(x, p);
	}
}

void flow_finish_exits(struct bt_xlat *x)
{
	struct bt_block *k = x->block;

	for (unsigned n = 0; n < x->nr_pending; n++) {
		const struct pending *p = &x->pending[n];
		struct bt_exit *exit;

		if (p->kind != PENDING_EXIT)
			continue;
		exit = &k->exit[p->exit];
		emit_here(&x->e, p->jump);
		if (exit->guard)
			exit->moved = emit_offset(&x->e);
		else
			exit->stub = emit_offset(&x->e);
		emit_mov_imm32(&x->e, R15, cache_meta_offset(x->b, exit));
		emit_jmp(&x->e, x->b->cache->stub_link);
	}
}

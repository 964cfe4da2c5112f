/*
 * One block: from a list of guest instructions to host code.
 *
 * A block has two entries, for flags in the host's RFLAGS and for flags in the slot. Its body is
 * written for the one that costs less: for the slot if an access comes before anything that reads
 * flags, for the host's RFLAGS otherwise; the other entry converts first. If flags are set before
 * anybody could see the old ones, both are the same.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "cpu/cpuid.h"
#include "engine/bt/host.h"
#include "engine/bt/stubs.h"
#include "engine/bt/trace.h"
#include "engine/bt/world.h"
#include "engine/bt/xlat.h"
#include "interp/native.h"
#include "mem/mem.h"

struct bt_site *xlat_site(struct bt_xlat *x, const struct guest_insn *g, unsigned kind)
{
	struct bt_site *s = &x->site[x->nr_sites++];

	assert(x->nr_sites <= XLAT_SITES);
	insn_settle_rsp(x);
	*s = (struct bt_site){
		.block = x->block,
		.kind = (uint8_t)kind,
		.off = g->off,
		.len = g->len,
		.flags = (uint8_t)x->flags,
		.recipe = x->recipe,
		.mode = x->mode,
		.mnemonic = (uint16_t)g->z.mnemonic,
	};
	return s;
}

struct pending *xlat_pending(struct bt_xlat *x, enum pending_kind kind, uint8_t *jump)
{
	struct pending *p = &x->pending[x->nr_pending++];

	assert(x->nr_pending <= XLAT_PENDING);
	p->kind = kind;
	p->jump = jump;
	return p;
}

/* Sites of an instruction learn where it ends, unless it jumps. Not those that come before an
 * address has been checked which the instructions that follow rely on: whoever went on there from
 * such a site would use whatever the register holds. */
static void set_resume(struct bt_xlat *x, const struct guest_insn *g, unsigned first_site)
{
	if (g->class == ISA_JMP || g->class == ISA_CALL || g->class == ISA_RET ||
	    g->class == ISA_SYSCALL || g->class == ISA_SYSRET)
		return;
	if (first_site < x->sites_checked)
		first_site = x->sites_checked;
	for (unsigned n = first_site; n < x->nr_sites; n++)
		if (x->site[n].kind != SITE_CHECK) {
			x->site[n].resume = emit_offset(&x->e);
			x->site[n].held = hold_pack(x);
		}
}

/* Those that know how to leave R15's content alone, or say so. */
static bool minds_held(const struct guest_insn *g)
{
	return g->class == ISA_PLAIN || g->class == ISA_DIVIDE || g->class == ISA_VECTOR ||
	       g->class == ISA_LEA || g->class == ISA_NOTHING || xlat_branches(g);
}

static bool ends(const struct guest_insn *g)
{
	return g->class == ISA_JMP || g->class == ISA_CALL || g->class == ISA_RET ||
	       g->class == ISA_SYSCALL || g->class == ISA_SYSRET || g->class == ISA_OTHER_END;
}

bool xlat_has_site(const struct guest_insn *g)
{
	return (g->mem.present && g->class != ISA_LEA) || g->stack.present ||
	       g->class == ISA_OTHER || g->class == ISA_OTHER_END || g->class == ISA_VECTOR ||
	       g->class == ISA_DIVIDE || g->class >= ISA_CLI;
}

bool xlat_needs_no_check(const struct bt_xlat *x, unsigned n)
{
	const struct guest_insn *g = &x->insn[n];
	bool vector = g->class == ISA_VECTOR, avx = g->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;

	return (g->class == ISA_PLAIN || g->class == ISA_PUSH || g->class == ISA_POP ||
	        (vector && (avx ? x->avx_checked : x->sse_checked))) &&
	       !insn_may_trap(g) && place_is_at_hand(x, n);
}

/* Which entry the body is written for: what happens to the flags first. */
static enum { BODY_HOST, BODY_SLOT, BODY_ANY } choose_body(const struct bt_xlat *x)
{
	bool passed = false;

	/* Steps clobber flags; the first copy may have to see those of before. */
	if (x->second && place_steps(x))
		return x->block->entry_host == x->block->entry_slot ? BODY_ANY : BODY_SLOT;
	for (unsigned n = 0; n < x->nr; n++) {
		const struct guest_insn *g = &x->insn[n];
		bool site = xlat_has_site(g);

		if (site && !(x->second && xlat_needs_no_check(x, n)))
			return BODY_SLOT;
		passed = passed || site;
		if (g->flags.reads || xlat_branches(g) || ends(g))
			return BODY_HOST;
		if (g->flags.writes_all)
			return passed ? BODY_SLOT : BODY_ANY; /* a check may come after all */
	}
	return BODY_HOST;
}

/* With the body for the host's flags, the entry for the slot restores them. */
static void entries(struct bt_xlat *x, uint32_t *host, uint32_t *slot)
{
	int body = choose_body(x);

	x->flags = body == BODY_SLOT ? BT_FLAGS_SLOT : BT_FLAGS_HOST;
	*host = *slot = emit_offset(&x->e);
	if (body == BODY_ANY)
		return;
	if (body == BODY_SLOT)
		emit_save_flags(&x->e);
	else
		flags_from_slot(&x->e);
	*(body == BODY_SLOT ? slot : host) = emit_offset(&x->e);
}

/* Most that one of the pending becomes, out of line; one instruction, with all its checks. */
#define PENDING_BYTES 80
#define CROSS_BYTES   160
#define INSN_BYTES    512

/* For another instruction, and the exits at the ends of both copies. */
static bool has_room(const struct bt_xlat *x)
{
	size_t code = emit_offset(&x->e) - x->block->start + x->nr_pending * PENDING_BYTES +
	              x->nr_crosses * CROSS_BYTES;

	return x->nr_sites + x->nr_crosses < XLAT_SITES - 8 &&
	       x->nr_exits + x->nr_crosses < XLAT_EXITS - 4 &&
	       x->nr_pending + x->nr_crosses < XLAT_PENDING - 16 &&
	       code < BT_BLOCK_CODE_MAX - 4 * INSN_BYTES;
}

/*
 * Loops. If a block jumps back to its start, its first turn is as any block; a second copy of the
 * loop follows, whose code expects what the first has found: addresses in R13 and R14, which it
 * steps on from (access.c), and that vector instructions may run. Whoever comes from elsewhere, C
 * included, begins with the first copy.
 */
struct turn {
	bool whole;
	unsigned exit; /* which goes back */
	struct cached cached[2], spilled[BT_SPILLS];
	bool sse, avx, x87;
};

/* Nothing that forgets addresses, or leaves the mode of the MMU another. */
static bool carries(const struct guest_insn *g)
{
	return minds_held(g) || g->class == ISA_PUSH || g->class == ISA_POP ||
	       g->class == ISA_LEAVE || g->class == ISA_X87 || g->class == ISA_JMP;
}

/* How many instructions there are up to the last jump back to the first. */
static unsigned find_loop(const struct bt_xlat *x)
{
	unsigned loop = 0;

	if (x->key & BT_KEY_KIND)
		return 0;
	for (unsigned n = 0; n < x->nr && carries(&x->insn[n]); n++) {
		const struct guest_insn *g = &x->insn[n];

		if ((xlat_branches(g) || (g->class == ISA_JMP && xlat_is_direct(g))) &&
		    g->target == x->insn[0].off)
			loop = n + 1;
	}
	return loop;
}

static void start_turn(struct bt_xlat *x)
{
	x->recipe.op = RECIPE_NONE;
	x->packed = false;
	hold_forget_all(x);
	x->fresh = 0;
	x->rsp_late = 0;
}

static bool is_in_register(const struct turn *t, const struct cached *c)
{
	for (unsigned n = 0; n < 2; n++)
		if (t->cached[n].valid && !memcmp(&t->cached[n].place, &c->place, sizeof(c->place)))
			return true;
	return false;
}

/* As it is at the jump back. */
static void end_turn(const struct bt_xlat *x, struct turn *t)
{
	t->whole = true;
	t->exit = x->nr_exits - 1;
	memcpy(t->cached, x->cached, sizeof(t->cached));
	memcpy(t->spilled, x->spilled, sizeof(t->spilled));
	for (unsigned n = 0; n < 2; n++)
		t->cached[n].valid = place_is_wanted_again(x, &t->cached[n]);
	for (unsigned n = 0; n < BT_SPILLS; n++)
		t->spilled[n].valid = !is_in_register(t, &t->spilled[n]) &&
		                      place_is_wanted_again(x, &t->spilled[n]);
	t->sse = x->sse_checked;
	t->avx = x->avx_checked;
	t->x87 = x->x87_checked;
}

static bool replaces(const struct cached *a, const struct cached *b)
{
	return !b->valid ||
	       (a->valid && !memcmp(&a->place, &b->place, sizeof(a->place)) && a->bias == b->bias &&
	        a->lo <= b->lo && a->hi >= b->hi && a->write >= b->write);
}

static bool has_more(const struct turn *t, const struct turn *than)
{
	for (unsigned n = 0; n < 2; n++)
		if (!replaces(&t->cached[n], &than->cached[n]))
			return false;
	for (unsigned n = 0; n < BT_SPILLS; n++)
		if (!replaces(&t->spilled[n], &than->spilled[n]))
			return false;
	return t->sse >= than->sse && t->avx >= than->avx && t->x87 >= than->x87;
}

/* The instruction at hand. */
static void one(struct bt_xlat *x)
{
	const struct guest_insn *g = &x->insn[x->at];
	unsigned first_site = x->nr_sites;

	if (insn_minds_rsp(g))
		insn_settle_rsp(x);
	flags_keep(x, g);
	flags_announce(x, g);
	if (!minds_held(g))
		hold_forget(x, R15);
	insn_translate(x, g);
	if (!minds_held(g))
		hold_forget(x, R15);
	if (g->class != ISA_POPF) /* whose flags are in the slot */
		flags_done(x, g);
	hold_insn_done(x, g);
	if (x->nr_sites > first_site)
		insn_settle_rsp(x); /* whoever resumes has the new RSP */
	set_resume(x, g, first_site);
	place_insn_done(x, g);
}

/* On behind the instruction. */
static void go_on(struct bt_xlat *x, const struct guest_insn *g)
{
	if (ends(g) && g->class != ISA_OTHER_END)
		return;
	if (x->spans && g == &x->insn[x->nr - 1] && !ends(g))
		flow_exit_span(x, g->off + g->len);
	else
		flow_exit(x, g->off + g->len, -1);
}

static void body(struct bt_xlat *x, struct turn *first)
{
	for (x->at = 0; x->at < x->nr && has_room(x); x->at++) {
		one(x);
		if (x->at + 1 == x->loop)
			end_turn(x, first);
	}
	x->spans = x->spans && x->at == x->nr;
	x->nr = x->at;
	go_on(x, &x->insn[x->nr - 1]);
}

static void second_turn(struct bt_xlat *x, const struct turn *first)
{
	const struct turn nothing = { 0 };
	struct bt_block *k = x->block;
	struct turn second = { 0 };

	if (!first->whole || has_more(&nothing, first) || !has_room(x))
		return;
	memcpy(x->cached, first->cached, sizeof(x->cached));
	memcpy(x->spilled, first->spilled, sizeof(x->spilled));
	x->sse_checked = first->sse;
	x->avx_checked = first->avx;
	x->x87_checked = first->x87;
	start_turn(x);
	x->at = 0;
	x->second = true;
	entries(x, &k->loop_host, &k->loop_slot);
	place_begin_turn(x);
	x->exit[first->exit].loop = true;
	for (; x->at < x->loop && has_room(x); x->at++) {
		if (x->at + 1 == x->loop)
			place_end_turn(x, first->cached);
		one(x);
	}
	if (x->at == x->loop) {
		end_turn(x, &second);
		x->exit[second.exit].loop = has_more(&second, first);
	}
	go_on(x, &x->insn[x->at - 1]);
}

static void finish(struct bt_xlat *x, const uint8_t *host)
{
	struct bt_block *k = x->block;
	const struct guest_insn *last = &x->insn[x->nr - 1];

	hold_forget_all(x); /* what is out of line comes from anywhere */
	flow_finish(x);
	cache_meta(x->seg, x->nr_sites * sizeof(struct bt_site)); /* where they are already */
	k->takes_recipe = flags_unread(x, &k->spoils);
	k->nr_sites = (uint16_t)x->nr_sites;
	k->nr_exits = (uint16_t)x->nr_exits;
	k->nr_windows = (uint16_t)x->nr_windows;
	k->nr_insns = (uint16_t)x->nr;
	k->bytes = (uint16_t)(last->off + last->len - x->insn[0].off);
	k->exit = cache_meta(x->seg, x->nr_exits * sizeof(*k->exit));
	memcpy(k->exit, x->exit, x->nr_exits * sizeof(*k->exit));
	for (unsigned n = 0; n < x->nr_exits; n++)
		k->exit[n].from = k;
	k->window = cache_meta(x->seg, x->nr_windows * sizeof(*k->window));
	memcpy(k->window, x->window, x->nr_windows * sizeof(*k->window));
	flow_finish_exits(x);
	k->end = emit_offset(&x->e);
	if (x->host2) {
		unsigned first = (unsigned)(PAGE_SIZE - ((uintptr_t)host & ~PAGE_MASK));

		k->host2 = x->host2;
		/* Bytes that are no instruction may have become one when any of them changes. */
		k->bytes2 = (uint16_t)(k->bytes > first ? k->bytes - first : INSN_MAX - first);
		k->bytes = (uint16_t)first;
		k->granules2 = mem_granules(k->host2, k->bytes2);
		k->hash = cache_hash_bytes(x->copy + first, k->bytes2);
	}
	k->granules = mem_granules(host, k->bytes);
	k->hash ^= cache_hash_bytes(x->copy, k->bytes);
}

static void begin(struct bt_xlat *x, const uint8_t *host, uint32_t key)
{
	struct bt *b = x->b;
	struct bt_segment *s = cache_room(b);

	x->seg = s;
	x->key = key;
	x->mode = key & BT_KEY_MMU;
	x->user = key & BT_KEY_CPL3;
	x->e = (struct emit){ .p = b->cache->write + s->code_used, .base = b->cache->write };
	x->block = cache_meta(s, sizeof(*x->block));
	*x->block = (struct bt_block){ .host = host, .key = key, .start = s->code_used };
	x->site = x->block->site = cache_meta(s, 0);
	x->nr_sites = x->nr_exits = x->nr_pending = x->nr_windows = x->nr_crosses = 0;
	x->sites_checked = 0;
	x->sse_checked = x->avx_checked = x->x87_checked = false;
	x->cached[0] = (struct cached){ .host = R14, .home = NO_REG };
	x->cached[1] = (struct cached){ .host = R13, .home = NO_REG };
	memset(x->spilled, 0, sizeof(x->spilled));
	x->loop = find_loop(x);
	x->second = false;
	start_turn(x);
}

static bool watch(struct bt *b, const struct bt_block *k)
{
	bool doubtful = world_watch(b, k->host, k->granules);

	if (k->host2)
		doubtful |= world_watch(b, k->host2, k->granules2);
	return doubtful;
}

static bool scan(struct bt_xlat *x, const uint8_t *host, unsigned off, uint32_t key)
{
	unsigned avail = (unsigned)(PAGE_SIZE - off);

	memcpy(x->copy, host, avail);
	if (x->host2) {
		memcpy(x->copy + avail, x->host2, INSN_MAX);
		avail += INSN_MAX;
	}
	x->key = key;
	x->user = key & BT_KEY_CPL3;
	scan_block(x, x->copy, avail, off);
	return x->nr;
}

/* Translates a copy of the bytes; watches them; and if they have changed until then, does it again.
 */
struct bt_block *translate(struct bt *b, const uint8_t *host, unsigned off, uint32_t key,
                           const uint8_t *host2)
{
	struct bt_xlat *x = b->xlat;
	bool doubtful;

	x->host2 = host2;
	for (;;) {
		struct turn first = { 0 };

		if (!scan(x, host, off, key))
			return NULL;
		begin(x, host, key);
		entries(x, &x->block->entry_host, &x->block->entry_slot);
		body(x, &first);
		second_turn(x, &first);
		finish(x, host);
		doubtful = watch(b, x->block);
		cache_insert(b, x->seg, x->block);
		if (likely(cache_hash_block(x->block) == x->block->hash))
			break;
		cache_drop(b, x->block);
	}
	if (doubtful)
		world_doubt(b, x->block);
	if (unlikely(b->trace || b->perf_map))
		trace_block(b, x->block);
	return x->block;
}

/* Extensions of the general registers that have a CPUID bit; what is not here is always there. */
static const struct {
	uint16_t set;
	uint8_t reg, bit;
	uint32_t leaf;
} extensions[] = {
	{ ZYDIS_ISA_SET_BMI1, 1, 3, 7 },           { ZYDIS_ISA_SET_BMI2, 1, 8, 7 },
	{ ZYDIS_ISA_SET_ADOX_ADCX, 1, 19, 7 },     { ZYDIS_ISA_SET_MOVBE, 2, 22, 1 },
	{ ZYDIS_ISA_SET_LZCNT, 2, 5, 0x80000001 }, { ZYDIS_ISA_SET_SSE42, 2, 20, 1 },
	{ ZYDIS_ISA_SET_CMPXCHG16B, 2, 13, 1 },    { ZYDIS_ISA_SET_POPCNT, 2, 23, 1 },
};

int translate_new(struct bt *b)
{
	struct bt_xlat *x = calloc(1, sizeof(*x));
	uint32_t regs[4];

	if (!x)
		return -ENOMEM;
	b->xlat = x;
	x->b = b;
	x->x87 = host_keeps_x87_operand();
	x->bmi2 = __builtin_cpu_supports("bmi2");
	ZydisDecoderInit(&x->decoder64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderInit(&x->decoder32, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	memset(x->offers, true, sizeof(x->offers));
	native_list_offers(b->cpu, x->offers);
	native_list_offers(b->cpu, x->vectors);
	for (unsigned n = 0; n < ARRAY_SIZE(extensions); n++) {
		cpuid_query(b->cpu, extensions[n].leaf, 0, regs);
		x->offers[extensions[n].set] = regs[extensions[n].reg] >> extensions[n].bit & 1;
	}
	return 0;
}

void translate_free(struct bt *b)
{
	free(b->xlat);
	b->xlat = NULL;
}

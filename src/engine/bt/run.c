/*
 * The engine "bt": the loop around translated code.
 *
 * struct cpu is the reference whenever C runs. A turn looks for reasons not to run translated code
 * (events, single step, modes that are not translated) and leaves those to the interpreter; else it
 * finds or makes the block at RIP and enters it. What comes back says why:
 *
 *   LINK      a jump to a block not yet linked: find it, link it, enter it
 *   INDIRECT  a target that the jump cache does not have: find the block, remember it, enter it
 *   SITE      an instruction that is not for translated code, or not now: the interpreter does it,
 *             and if nothing else came between, the block goes on behind it
 *
 * Faults arrive by longjmp in bt_run(), as in the interpreter.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "cpu/flags.h"
#include "engine/bt/cache.h"
#include "engine/bt/check.h"
#include "engine/bt/enter.h"
#include "engine/bt/host.h"
#include "engine/bt/jump.h"
#include "engine/bt/signal.h"
#include "engine/bt/tlb.h"
#include "engine/bt/trace.h"
#include "engine/bt/world.h"
#include "engine/bt/xlat.h"
#include "engine/engine.h"
#include "interp/access.h"
#include "interp/interp.h"
#include "mem/mem.h"

#define CACHE_BYTES_MIN (2 * MiB) /* for a vCPU */
#define SPACE_LAST      0xff0     /* shifted by 3, and 48 */

/* ---- address spaces ---- */

/* All ids are free again, the kernel's too: nothing holds one any more. */
static void restart_spaces(struct bt *b)
{
	for (unsigned n = 0; n < BT_JC_ENTRIES; n++)
		b->jc[n].tag = bt_jc_empty(n);
	memset(b->asid_space, 0, sizeof(b->asid_space));
	cache_unlink_guarded(b);
	b->kernel_id = b->next_space = 0;
}

/* The user space's id follows the ASID of src/mmu, which stands for its translations. */
static void set_spaces(struct bt *b)
{
	unsigned asid = (unsigned)b->cpu->tlb_tag;

	if (b->next_space + 2 > SPACE_LAST)
		restart_spaces(b);
	if (!b->kernel_id)
		b->kernel_id = ++b->next_space;
	if (!b->asid_space[asid])
		b->asid_space[asid] = ++b->next_space;
	b->space_id = b->asid_space[asid];
	for (unsigned n = 0; n < BT_SPACES; n++) {
		uint64_t id = n % MMU_MODES == MMU_USER ? b->space_id : b->kernel_id;

		b->space[n] = (id << 3 | n) << 48;
	}
}

/* What the jump cache and links across pages say of kernel code, or of the user space, no longer
 * counts. */
static void forget_kernel(struct bt *b)
{
	b->kernel_id = 0;
	b->kernel_local = false;
	cache_unlink_cross(b);
}

static void forget_user(struct bt *b)
{
	b->asid_space[b->cpu->tlb_tag] = 0;
}

static void forget_all(struct bt *b)
{
	memset(b->asid_space, 0, sizeof(b->asid_space));
	memset(b->code_pages, 0, sizeof(b->code_pages));
	b->kernel_low = false;
	forget_kernel(b);
}

static void flush_page(struct bt *b, gva_t va)
{
	bt_tlb_drop_page(b, va);
	if (!jump_leads_to(b, va))
		return;
	/* Most pages are of one kind by their address; what is not may be global and in all spaces.
	 */
	if (b->kernel_low || va >> 63)
		forget_all(b);
	else
		forget_user(b);
	set_spaces(b);
}

static void flushed(struct cpu *c, enum mmu_flush what, gva_t va)
{
	struct bt *b = c->bt;

	b->flushes++;
	switch (what) {
	case MMU_FLUSH_PAGE:
		flush_page(b, va);
		return;
	case MMU_FLUSH_DATA:
		bt_tlb_clear(b);
		b->asid_space[c->tlb_tag] =
		        (uint16_t)b->space_id; /* a new ASID for the same code */
		return;
	case MMU_FLUSH_SPACE:
		bt_tlb_drop_local(b);
		if (b->kernel_local)
			forget_kernel(b);
		break;
	default:
		bt_tlb_clear(b);
		forget_all(b);
		break;
	}
	set_spaces(b);
}

/* ---- which code is translated, and where it is ---- */

static bool key_of(const struct cpu *c, uint32_t *key)
{
	uint32_t k = c->mmu->mode;

	if (c->mode == MODE_32)
		k |= BT_KEY_32;
	if (c->cpl == 3)
		k |= BT_KEY_CPL3;
	if (c->cr4 & CR4_SMAP)
		k |= BT_KEY_SMAP;
	*key = k;
	return c->mode != MODE_16 && c->flat && (c->cpl == 0 || c->cpl == 3) &&
	       c->tlb == c->mmu->tlb[c->mmu->mode];
}

/* The block of an instruction on two pages. */
static struct bt_block *find_span(struct bt *b, const uint8_t *host, gva_t va, uint32_t key)
{
	struct cpu *c = b->cpu;
	gva_t next = (va & PAGE_MASK) + PAGE_SIZE;
	struct bt_block *k = cache_find(b, host, key);
	const uint8_t *host2;

	if (c->mode != MODE_64)
		next = (uint32_t)next;
	else if (!access_canonical(c, next))
		return NULL;
	host2 = mmu_fetch(c, next);
	if (!host2)
		return NULL;
	if (k && k->host2 != host2) {
		cache_drop(b, k);
		k = NULL;
	}
	if (!k)
		k = translate(b, host, va & ~PAGE_MASK, key, host2);
	if (k)
		k->global = jump_is_global(c, va) && jump_is_global(c, next);
	return k;
}

/* The block at RIP, or NULL when there can be none. May raise. */
static struct bt_block *find_block(struct bt *b, uint32_t key)
{
	struct cpu *c = b->cpu;
	gva_t va = c->mode == MODE_64 ? c->rip : (uint32_t)c->rip;
	struct bt_block *k;
	const uint8_t *host;

	if (c->mode == MODE_64 && !access_canonical(c, va))
		return NULL;
	host = mmu_fetch(c, va);
	if (!host)
		return NULL;
	b->pc = va & PAGE_MASK;
	k = cache_find(b, host, key);
	if (!k)
		k = translate(b, host, va & ~PAGE_MASK, key, NULL);
	if (!k)
		return find_span(b, host, va, key | BT_KEY_SPAN);
	k->global = jump_is_global(c, va);
	return k;
}

/* ---- flags and RIP after translated code ---- */

static uint64_t recipe_operand(const struct bt *b, const struct bt_recipe *r, unsigned reg)
{
	if (reg == RECIPE_IMM)
		return (uint64_t)(int64_t)r->imm;
	return reg == RECIPE_SAVED ? b->saved : b->cpu->gpr[reg];
}

/* The host's instruction knows what it makes of the flags that the manuals leave undefined. */
static void shift_flags(struct cpu *c, const struct bt_recipe *r, uint64_t v)
{
	uint64_t flags, by = (uint32_t)r->imm;

	/* Beyond the red zone, which the stack of this function may be in. */
#define SHIFT(op, v)                                                                       \
	asm(op " %%cl, %1; lea -128(%%rsp), %%rsp; pushfq; popq %0; lea 128(%%rsp), %%rsp" \
	    : "=r"(flags), "+r"(v)                                                         \
	    : "c"(by)                                                                      \
	    : "cc", "memory")
	if (r->size == 4) {
		uint32_t low = (uint32_t)v;

		if (r->op == RECIPE_SHL)
			SHIFT("shll", low);
		else if (r->op == RECIPE_SHR)
			SHIFT("shrl", low);
		else
			SHIFT("sarl", low);
	} else if (r->op == RECIPE_SHL) {
		SHIFT("shlq", v);
	} else if (r->op == RECIPE_SHR) {
		SHIFT("shrq", v);
	} else {
		SHIFT("sarq", v);
	}
#undef SHIFT
	flags_set_arith(c, flags);
}

static void recipe_flags(struct bt *b, const struct bt_recipe *r)
{
	struct cpu *c = b->cpu;
	unsigned bits = 8 * r->size;
	uint64_t a = sext(recipe_operand(b, r, r->a), r->size);
	uint64_t v = sext(recipe_operand(b, r, r->b), r->size);
	uint64_t res;

	switch (r->op) {
	case RECIPE_TEST:
		flags_set_logic(c, a & v);
		return;
	case RECIPE_ADD_DONE:
		res = a;
		a = sext(res - v, r->size);
		flags_set_carries(c, bits, res, carries_add(a, v, res));
		return;
	case RECIPE_SUB_DONE:
		a = sext(a + v, r->size);
		break;
	case RECIPE_SHL:
	case RECIPE_SHR:
	case RECIPE_SAR:
		shift_flags(c, r, a);
		return;
	}
	res = sext(a - v, r->size);
	flags_set_carries(c, bits, res, carries_sub(a, v, res));
}

static void take_flags(struct bt *b, unsigned where, const struct bt_recipe *r)
{
	struct bt_recipe packed;

	if (where == BT_FLAGS_SLOT && b->slot & BT_SLOT_RECIPE) {
		packed = bt_unpack_recipe((uint32_t)b->slot);
		recipe_flags(b, &packed);
	} else if (where == BT_FLAGS_RECIPE)
		recipe_flags(b, r);
	else
		flags_set_arith(b->cpu, where == BT_FLAGS_SLOT ? b->slot : b->host_flags);
}

static void set_rip(struct bt *b, uint64_t rip)
{
	b->cpu->rip = b->cpu->mode == MODE_64 ? rip : (uint32_t)rip;
}

/* ---- running ---- */

static void after_code(struct bt *b)
{
	mmu_update_mode(b->cpu); /* STAC and CLAC change RFLAGS only */
	if (b->kicked) {
		b->kicked = 0;
		set_spaces(b);
	}
}

static bool may_go_on(struct bt *b)
{
	const struct cpu *c = b->cpu;

	return !c->shadow && !interp_must_trace(c) && !b->posted &&
	       !enter_is_wanted(c, atomic_load_explicit(&c->attention, memory_order_relaxed));
}

/* Finds the block for an exit and links the two if that is allowed. */
static struct bt_block *follow_exit(struct bt *b, struct bt_exit *x)
{
	unsigned drops = b->cache->drops;
	const uint8_t *page = x->from->host;
	uint32_t key;
	struct bt_block *k;

	if (!key_of(b->cpu, &key) || key != (x->key & ~BT_KEY_KIND))
		return NULL;
	k = find_block(b, x->key);
	if (!k || drops != b->cache->drops || x->from->dead || k->dead)
		return k;
	if (!x->cross) {
		if (!(k->key & BT_KEY_SPAN) &&
		    !(((uintptr_t)k->host ^ (uintptr_t)page) & PAGE_MASK))
			cache_link(b, x, k);
		return k;
	}
	if (b->cpu->cr4 & CR4_LA57 || (!x->guard && !k->global))
		return k;
	jump_note(b, k, b->cpu->rip);
	cache_link(b, x, k);
	return k;
}

static struct bt_block *follow_link(struct bt *b)
{
	struct bt_exit *x = cache_at_meta(b, b->r15);

	set_rip(b, b->pc + x->off);
	take_flags(b, x->slot ? BT_FLAGS_SLOT : BT_FLAGS_HOST, NULL);
	return !b->check && may_go_on(b) ? follow_exit(b, x) : NULL;
}

static struct bt_block *follow_jump(struct bt *b)
{
	struct cpu *c = b->cpu;
	struct bt_block *k;
	uint32_t key;

	b->stats.jump_misses++;
	take_flags(b, BT_FLAGS_SLOT, NULL);
	const struct bt_site *s = b->r15 ? cache_at_meta(b, b->r15) : NULL;

	if (c->mode == MODE_64 && s && s->write && !access_canonical(c, b->r14)) {
		c->rsp += (int64_t)s->recipe.imm;
		set_rip(b, b->pc + s->off);
		cpu_raise(c, EXC_GP, 0);
	}
	set_rip(b, b->r14);
	if (b->check || !may_go_on(b) || !key_of(c, &key))
		return NULL;
	k = find_block(b, key);
	if (k)
		jump_remember(b, k, c->rip);
	return k;
}

/* Has the units that a block uses; true when it uses none. */
static bool enter_for(struct bt *b, const struct bt_block *k)
{
	return !(k->sse || k->avx || k->x87) || enter_vector(b, k->sse, k->avx, k->x87);
}

/* Is the vCPU where the block goes on behind a site? */
static bool can_resume(struct bt *b, const struct bt_site *s, uint64_t next)
{
	uint32_t key;

	if (!s->resume || b->cpu->rip != next || s->block->dead || !may_go_on(b) ||
	    b->revocations != world_revocations(b))
		return false;
	return key_of(b->cpu, &key) &&
	       key == ((s->block->key & ~(BT_KEY_MMU | BT_KEY_KIND)) | s->mode);
}

/* Instructions that the interpreter does again and again stay decoded. */
static struct insn *kept_insn(struct bt *b, const struct bt_site *s)
{
	unsigned n = cache_meta_offset(b, s) / 16 % BT_KEPT, generation = interp_generation(b->cpu);
	struct bt_kept *k = &b->kept[n];

	if (k->site != s || k->generation != generation || k->drops != b->cache->drops) {
		*k = (struct bt_kept){ .site = s,
			               .generation = generation,
			               .drops = b->cache->drops };
	}
	return &k->insn;
}

static void fill_held(struct bt *b, unsigned held)
{
	uint64_t *const scratch[] = { &b->r13, &b->r14, &b->r15 };

	for (unsigned n = 0; n < ARRAY_SIZE(scratch); n++)
		if (held >> 4 * n & 15)
			*scratch[n] = b->cpu->gpr[held >> 4 * n & 15];
}

/* The code address to go on at, or 0: start a new turn. */
static uint64_t interpret_site(struct bt *b, const struct bt_site *s)
{
	unsigned drops = b->cache->drops, flushes = b->flushes;
	struct cpu *c = b->cpu;
	uint64_t next = c->rip + s->len;

	if (c->mode != MODE_64)
		next = (uint32_t)next;
	b->stats.fallbacks++;
	if (s->mnemonic <= ZYDIS_MNEMONIC_MAX_VALUE)
		b->stats.fallback[s->mnemonic]++;
	interp_execute(c, kept_insn(b, s));
	mmu_report_stores(c);
	world_verify(b, true);
	/* After a flush the next instruction may be on another page than before. */
	if (drops != b->cache->drops || flushes != b->flushes || !can_resume(b, s, next))
		return 0;
	b->pc = (next - s->len) & PAGE_MASK;
	if (!enter_for(b, s->block))
		return 0;
	b->x87_page = b->pc; /* the block's own note of it may be behind */
	fill_held(b, s->held);
	return cache_address(b, s->resume);
}

static uint64_t entry(struct bt *b, const struct bt_block *k)
{
	b->revocations = world_revocations(b);
	return k ? cache_address(b, k->entry_slot) : 0;
}

/* By an access on two pages nothing can be said about the other turns of its loop. */
static bool on_two_pages(const struct bt *b, const struct bt_site *s)
{
	gva_t va = s->addr_reg == 14 ? b->r14 : b->r13;

	return (va & ~PAGE_MASK) + s->span > PAGE_SIZE;
}

static uint64_t follow_site(struct bt *b)
{
	const struct bt_site *s = cache_at_meta(b, b->r15);
	uint32_t key;

	set_rip(b, b->pc + s->off);
	take_flags(b, s->flags, &s->recipe);
	if (!may_go_on(b))
		return 0;
	if (s->kind == SITE_VECTOR && b->revocations == world_revocations(b) &&
	    enter_for(b, s->block))
		return cache_address(b, s->retry);
	if (s->kind == SITE_ACCESS && s->group && !(s->single && on_two_pages(b, s)) &&
	    key_of(b->cpu, &key)) {
		b->stats.unmerged++;
		if (b->check) {
			check_split(b);
			return 0;
		}
		return entry(b, find_block(b, key | BT_KEY_UNMERGED));
	}
	return interpret_site(b, s);
}

/* Runs translated code from target on until there is nowhere to go on. */
static void run_code(struct bt *b, uint64_t target)
{
	while (target && enter_code(b, target)) {
		after_code(b);
		atomic_store_explicit(&b->epoch, b->epoch + 2, memory_order_release);
		if (b->doubt.nr)
			world_verify(b, false);
		if (b->reason == BT_LINK)
			target = entry(b, follow_link(b));
		else if (b->reason == BT_INDIRECT)
			target = entry(b, follow_jump(b));
		else
			target = follow_site(b);
	}
	b->want_vector = false;
}

struct bt_block *run_find_block(struct bt *b, uint32_t key)
{
	return find_block(b, key);
}

void run_block(struct bt *b, const struct bt_block *k)
{
	run_code(b, entry(b, k));
}

static bool turn(struct bt *b, struct exit *e)
{
	struct cpu *c = b->cpu;
	struct bt_block *k = NULL;
	uint32_t key;

	atomic_store_explicit(&b->epoch, b->epoch + 2, memory_order_release);
	mmu_report_stores(c);
	/* Another vCPU may want no more than to see this one here. */
	if (atomic_load_explicit(&c->attention, memory_order_relaxed) & ATTN_CODE || b->posted)
		world_take_posts(b);
	world_verify(b, true);
	if (!may_go_on(b) || !key_of(c, &key))
		return interp_turn(c, e, false);
	if (b->check)
		return check_turn(b, e, key);
	k = find_block(b, key);
	if (!k)
		return interp_turn(c, e, true);
	run_code(b, entry(b, k));
	return true;
}

static void set_gs(struct bt *b)
{
	if (b->fsgsbase)
		asm volatile("wrgsbase %0" : : "r"(b));
	else
		syscall(SYS_arch_prctl, ARCH_SET_GS, b);
}

static bool caught(struct cpu *c)
{
	if (c->bt->check && !check_caught(c->bt, c->exit))
		return false;
	return interp_caught(c);
}

/* True after a fault, which the next call has to deliver; false when *c->exit is filled. */
static __attribute__((noinline)) bool run_until_fault(struct cpu *c, bool faulted)
{
	if (__builtin_setjmp(c->jmp))
		return true;
	if (!faulted || caught(c))
		while (turn(c->bt, c->exit))
			;
	return false;
}

static void bt_run(struct cpu *c, struct exit *e)
{
	struct bt *b = c->bt;

	set_gs(b);
	signal_enter_thread(b);
	c->exit = e;
	atomic_store(&b->epoch, b->epoch + 1);
	for (bool faulted = false; run_until_fault(c, faulted);)
		faulted = true;
	atomic_store(&b->epoch, b->epoch | 1);
}

/* ---- life ---- */

static void bt_destroy(struct cpu *c)
{
	struct bt *b = c->bt;

	if (b) {
		c->mmu->flushed = NULL;
		check_free(b);
		world_leave(b);
		trace_close(b);
		translate_free(b);
		cache_free(b);
		pthread_mutex_destroy(&b->post_lock);
		munmap((void *)b->trap_page, PAGE_SIZE);
		munmap(b, sizeof(*b));
		c->bt = NULL;
	}
	interp_free(c);
}

/* The vCPUs share what the user gives. */
static size_t cache_bytes(const struct cpu *c)
{
	uint64_t all =
	        c->options && c->options->code_cache ? c->options->code_cache : ENGINE_CODE_CACHE;
	uint64_t each = all / (c->nr_cpus ? c->nr_cpus : 1) & PAGE_MASK;

	return each < CACHE_BYTES_MIN ? CACHE_BYTES_MIN : each;
}

bool engine_bt_runs_here(void)
{
	return host_has_xsave();
}

static int bt_create(struct cpu *c)
{
	void *trap_page;
	struct bt *b;
	int rc;

	if (!engine_bt_runs_here())
		return -ENOTSUP;
	rc = interp_new(c);

	if (rc)
		return rc;
	b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	trap_page = mmap(NULL, PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b == MAP_FAILED || trap_page == MAP_FAILED) {
		if (b != MAP_FAILED)
			munmap(b, sizeof(*b));
		interp_free(c);
		return -ENOMEM;
	}
	b->trap_page = (uintptr_t)trap_page;
	c->bt = b;
	b->cpu = c;
	b->epoch = 1;
	b->any_filled = true;
	b->fsgsbase = host_has_fsgsbase();
	pthread_mutex_init(&b->post_lock, NULL);
	signal_install();
	bt_tlb_clear(b);
	for (unsigned n = 0; n < BT_JC_ENTRIES; n++)
		b->jc[n].tag = bt_jc_empty(n);
	rc = trace_open(b);
	if (!rc)
		rc = cache_new(b, cache_bytes(c));
	if (!rc)
		rc = translate_new(b);
	if (!rc)
		rc = check_new(b);
	if (!rc)
		rc = world_join(b);
	if (rc) {
		bt_destroy(c);
		return rc;
	}
	c->mmu->flushed = flushed;
	set_spaces(b);
	return 0;
}

static void bt_kick(struct cpu *c)
{
	cpu_raise_attention(c, ATTN_KICK);
	signal_notify(c->bt);
}

static void bt_notify(struct cpu *c)
{
	signal_notify(c->bt);
}

static void sync_nothing(struct cpu *c)
{
}

static void bt_invalidate(struct cpu *c)
{
	interp_flush(c);
	cache_flush(c->bt);
}

static void bt_count(struct cpu *c, engine_count_fn fn, void *opaque)
{
	const struct bt_stats *s = &c->bt->stats;
	const struct {
		const char *name;
		uint64_t n;
	} rows[] = {
		{ "blocks", s->blocks },
		{ "code_bytes", s->code_bytes },
		{ "cache_evictions", s->evictions },
		{ "cache_flushes", s->flushes },
		{ "blocks_invalidated", s->invalidated },
		{ "links", s->links },
		{ "jump_cache_misses", s->jump_misses + s->lookups },
		{ "jump_cache_misses_in_c", s->jump_misses },
		{ "tlb_fills", s->fills },
		{ "unmerged_entries", s->unmerged },
		{ "interpreted", s->fallbacks },
		{ "kicks", s->kicks },
		{ "code_writes", s->posts },
		{ "checked_blocks", s->checked },
		{ "unchecked_blocks", s->unchecked },
	};
	const unsigned nr = ARRAY_SIZE(rows) - (c->bt->check ? 0 : 2);

	for (unsigned n = 0; n < nr; n++)
		fn(opaque, NULL, rows[n].name, rows[n].n);
	for (unsigned n = 0; n <= ZYDIS_MNEMONIC_MAX_VALUE; n++)
		if (s->fallback[n])
			fn(opaque, "interpreted_by_opcode",
			   n ? ZydisMnemonicGetString(n) : "invalid", s->fallback[n]);
}

const struct engine_ops engine_bt = {
	.name = "bt",
	.what = "binary translation: runs anywhere, several times faster than interpretation",
	.create = bt_create,
	.destroy = bt_destroy,
	.run = bt_run,
	.kick = bt_kick,
	.notify = bt_notify,
	.sync_out = sync_nothing,
	.sync_in = sync_nothing,
	.invalidate = bt_invalidate,
	.count = bt_count,
};

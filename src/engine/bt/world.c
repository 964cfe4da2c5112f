/*
 * Code that several vCPUs translate and any of them may write.
 *
 * src/mem keeps a word a page: which granules of 64 bytes hold code that somebody has translated. A
 * write reaches such a page by the slow way only, since nobody may keep the right to write there; it
 * is done, then reported, and the report becomes a post to every vCPU, which drops its blocks.
 *
 * Locks: bt.post_lock, a leaf, for the posts of one vCPU.
 *
 * Watching a page while others run. world_watch() sets the granules, then takes the right to write
 * out of all TLBs, then the caller reads the bytes. A store that found its tag before that and lands
 * after it is missed: such a store lies between two visits of C of its vCPU, of which `epoch` keeps
 * count. So a new block stays on a list of doubtful ones until every other vCPU has been seen in C
 * since; while it is there, its bytes are compared again at each point where x86 obliges this
 * processor to notice (an interrupt, a serializing instruction).
 */
#include "engine/bt/world.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/bt/cache.h"
#include "engine/bt/signal.h"
#include "mem/mem.h"

#define WORLD_MAX 64

struct bt_world {
	unsigned nr;
	struct bt *member[WORLD_MAX];
};

static void post(struct bt *b, uint64_t page, uint64_t granules)
{
	pthread_mutex_lock(&b->post_lock);
	if (b->nr_posts < BT_POSTS) {
		b->post[b->nr_posts].page = page;
		b->post[b->nr_posts++].granules = granules;
	} else {
		b->post_all = true;
	}
	atomic_store(&b->posted, true);
	pthread_mutex_unlock(&b->post_lock);
	cpu_raise_attention(b->cpu, ATTN_CODE);
	signal_notify(b);
}

static void code_written(void *opaque, uint64_t page, uint64_t granules)
{
	struct bt_world *w = opaque;

	for (unsigned n = 0; n < w->nr; n++)
		post(w->member[n], page, granules);
}

static const struct mem_watch_ops watch_ops = { .written = code_written };

int world_join(struct bt *b)
{
	struct mem *m = b->cpu->mem;
	struct bt_world *w = m->watch == &watch_ops ? m->watch_opaque : NULL;
	int rc;

	if (!w) {
		w = calloc(1, sizeof(*w));
		rc = w ? mem_watch(m, &watch_ops, w) : -ENOMEM;
		if (rc) {
			free(w);
			return rc;
		}
	}
	if (w->nr == WORLD_MAX)
		return -ENOSPC;
	w->member[w->nr++] = b;
	b->world = w;
	return 0;
}

void world_leave(struct bt *b)
{
	struct bt_world *w = b->world;
	struct mem *m = b->cpu->mem;

	if (!w)
		return;
	for (unsigned n = 0; n < w->nr; n++)
		if (w->member[n] == b)
			w->member[n] = w->member[w->nr - 1];
	b->world = NULL;
	if (--w->nr)
		return;
	mem_unwatch(m);
	free(w);
}

static uint8_t *page_at(const struct mem *m, uint64_t page)
{
	uint64_t off = page * PAGE_SIZE;

	return off < m->ram_low ? m->ram[0] + off : m->ram[1] + (off - m->ram_low);
}

void world_take_posts(struct bt *b)
{
	atomic_fetch_and(&b->cpu->attention, ~ATTN_CODE);
	pthread_mutex_lock(&b->post_lock);
	atomic_store(&b->posted, false);
	if (b->post_all)
		cache_flush(b);
	for (unsigned n = 0; n < b->nr_posts && !b->post_all; n++)
		cache_invalidate(b, page_at(b->cpu->mem, b->post[n].page), b->post[n].granules);
	b->stats.posts += b->nr_posts;
	b->nr_posts = 0;
	b->post_all = false;
	pthread_mutex_unlock(&b->post_lock);
}

/* Takes the right to write the page at host out of a vCPU's TLBs. Other than the owner's, our stores
 * to them are plain words that the owner reads once. */
static void revoke(struct bt *b, uintptr_t host)
{
	struct mmu *m = b->cpu->mmu;

	for (unsigned mode = 0; mode < MMU_MODES; mode++) {
		for (unsigned n = 0; n < TLB_ENTRIES; n++) {
			volatile struct tlb_entry *t = &m->tlb[mode][n];
			uint64_t tag = t->write;

			if (tag != TLB_NEVER && (tag & PAGE_MASK) + t->addend == host)
				t->write = TLB_NEVER;
		}
		for (unsigned n = 0; n < BT_TLB_ENTRIES; n++) {
			volatile struct bt_tlb_entry *t = &b->tlb[mode][BT_WRITE][n];

			if (t->host == host)
				t->tag = BT_TLB_EMPTY;
		}
	}
}

void world_watch(struct bt *b, const uint8_t *host, uint64_t granules)
{
	struct mem *m = b->cpu->mem;
	uint64_t page = mem_page(m, host), before;

	if (page == MEM_NO_PAGE)
		return;
	before = atomic_fetch_or(&m->code[page], granules);
	if (before || !atomic_exchange(&m->granted[page], 0))
		return;
	for (unsigned n = 0; n < b->world->nr; n++)
		revoke(b->world->member[n], (uintptr_t)host & PAGE_MASK);
	atomic_thread_fence(memory_order_seq_cst);
}

/* ---- doubtful blocks ---- */

static void note_epochs(struct bt *b)
{
	for (unsigned n = 0; n < b->world->nr; n++)
		b->doubt.epoch[n] = atomic_load(&b->world->member[n]->epoch);
}

/* An odd epoch: the vCPU is not running guest code. */
static bool all_moved(struct bt *b)
{
	for (unsigned n = 0; n < b->world->nr; n++) {
		const struct bt *other = b->world->member[n];
		uint64_t before = b->doubt.epoch[n];

		if (other != b && !(before & 1) && atomic_load(&other->epoch) == before)
			return false;
	}
	return true;
}

void world_doubt(struct bt *b, struct bt_block *k)
{
	if (b->world->nr == 1)
		return;
	if (b->doubt.nr == BT_DOUBTS)
		world_verify(b);
	if (b->doubt.nr < BT_DOUBTS)
		b->doubt.block[b->doubt.nr++] = k;
	else
		b->doubt.overflow = true;
}

void world_verify(struct bt *b)
{
	unsigned kept = 0;
	bool moved;

	if (!b->doubt.nr)
		return;
	moved = b->doubt.nr_old && all_moved(b);
	atomic_thread_fence(memory_order_seq_cst);
	if (b->doubt.overflow)
		cache_flush(b);
	for (unsigned n = 0; n < b->doubt.nr && !b->doubt.overflow; n++) {
		struct bt_block *k = b->doubt.block[n];

		if (!k->dead && cache_hash_bytes(k->host, k->bytes) != k->hash)
			cache_invalidate(b, k->host, k->granules);
		if (!k->dead && !(moved && n < b->doubt.nr_old))
			b->doubt.block[kept++] = k;
	}
	b->doubt.overflow = false;
	b->doubt.nr = kept;
	if (moved || !b->doubt.nr_old) {
		b->doubt.nr_old = kept;
		note_epochs(b);
	} else if (b->doubt.nr_old > kept) {
		b->doubt.nr_old = kept;
	}
}

/*
 * Code that several vCPUs translate and any of them may write.
 *
 * src/mem keeps a word a page: which granules of 64 bytes hold code that somebody has translated. A
 * write reaches such a page by the slow way only, since nobody may keep the right to write there;
 * it is done, then reported, and the report becomes a post to every vCPU, which drops its blocks.
 *
 * Locks: bt.post_lock, a leaf, for the posts of one vCPU.
 *
 * Watching a page while others run. world_watch() sets the granules, then takes the right to write
 * out of all TLBs, then the caller reads the bytes. A store that found its tag before that and
 * lands after it is missed: such a store lies between two visits of C of its vCPU, of which `epoch`
 * keeps count. So a page from which the right was taken is doubtful until every other vCPU has been
 * seen in C since, and so is a block that is made meanwhile: its bytes are compared again at each
 * point where x86 obliges this processor to notice (an interrupt, a serializing instruction). Pages
 * that nobody could write, which are most, are never doubtful. A vCPU that was in C may go back
 * into the middle of a block, with addresses that were checked before: not if any right was taken
 * since it entered at a block's start.
 */
#include "engine/bt/world.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/bt/cache.h"
#include "engine/bt/signal.h"
#include "mem/mem.h"

struct bt_world {
	struct page_state {
		uint16_t writes, times;    /* beside code: counted without locks, for a guess */
		_Atomic uint32_t doubtful; /* vCPUs that wait for the others since they took the
		                              right to write it */
	} * page;                          /* by RAM page */
	uint64_t pages;
	_Atomic uint64_t revocations;
	unsigned nr;
	struct bt *member[BT_WORLD_MAX];
};

uint64_t world_revocations(const struct bt *b)
{
	atomic_thread_fence(memory_order_seq_cst); /* behind the epoch */
	return atomic_load(&b->world->revocations);
}

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

/*
 * Pages that held code once and hold data now keep their granules until somebody writes to each of
 * them. A page that is written again and again beside its code loses all of it: after 32 writes,
 * then after twice as many each time, so that a page with both does not lose it for ever.
 */
#define HEAT_FIRST 32u
#define HEAT_LAST  0x4000u

void world_note_beside(struct bt *b, uint64_t page)
{
	struct bt_world *w = b->world;
	struct mem *m = b->cpu->mem;

	if (++w->page[page].writes < (HEAT_FIRST << w->page[page].times))
		return;
	w->page[page].writes = 0;
	if (HEAT_FIRST << w->page[page].times < HEAT_LAST)
		w->page[page].times++;
	mem_wrote_code(m, page, ~0ull);
}

static const struct mem_watch_ops watch_ops = { .written = code_written };

static void free_world(struct bt_world *w)
{
	if (w->page != MAP_FAILED)
		munmap(w->page, w->pages * sizeof(*w->page));
	free(w);
}

int world_join(struct bt *b)
{
	struct mem *m = b->cpu->mem;
	struct bt_world *w = m->watch == &watch_ops ? m->watch_opaque : NULL;
	int rc;

	if (!w) {
		w = calloc(1, sizeof(*w));
		if (!w)
			return -ENOMEM;
		w->pages = m->ram_bytes / PAGE_SIZE;
		w->page = mmap(NULL, w->pages * sizeof(*w->page), PROT_READ | PROT_WRITE,
		               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		rc = w->page == MAP_FAILED ? -ENOMEM : mem_watch(m, &watch_ops, w);
		if (rc) {
			free_world(w);
			return rc;
		}
	}
	if (w->nr == BT_WORLD_MAX)
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
	free(b->doubt.list);
	if (--w->nr)
		return;
	mem_unwatch(m);
	free_world(w);
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

/* Takes the right to write the page at host out of the entries first to last of a vCPU's TLBs.
 * Other than the owner's, our stores to them are plain words that the owner reads once. */
static void revoke_from(struct bt *b, uintptr_t host, unsigned first, unsigned last)
{
	struct mmu *m = b->cpu->mmu;

	for (unsigned mode = 0; mode < MMU_MODES; mode++)
		for (unsigned n = first; n <= last; n++) {
			volatile struct tlb_entry *t = &m->tlb[mode][n];
			volatile struct bt_tlb_entry *l1 = &b->tlb[mode][BT_WRITE][n];
			uint64_t tag = t->write;

			if (tag != TLB_NEVER && (tag & PAGE_MASK) + t->addend == host)
				t->write = TLB_NEVER;
			if (l1->host == host)
				l1->tag = bt_tlb_empty(n);
		}
}

static void revoke(struct bt_world *w, uintptr_t host, unsigned granted)
{
	unsigned entry = granted & MEM_GRANTED_MANY;

	atomic_fetch_add(&w->revocations, 1);
	for (unsigned n = 0; n < w->nr && entry; n++)
		if (entry == MEM_GRANTED_MANY)
			revoke_from(w->member[n], host, 0, TLB_ENTRIES - 1);
		else
			revoke_from(w->member[n], host, entry - 1, entry - 1);
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

/* Makes the others visit C, so that the list gets shorter. */
static void hurry(struct bt *b)
{
	for (unsigned n = 0; n < b->world->nr; n++) {
		struct bt *other = b->world->member[n];

		if (other == b || atomic_load(&other->epoch) != b->doubt.epoch[n])
			continue;
		cpu_raise_attention(other->cpu, ATTN_CODE);
		signal_notify(other);
	}
}

/* A block, or else a page. */
static void add_doubt(struct bt *b, struct bt_block *k, uint64_t page)
{
	struct bt_doubt *list = b->doubt.list;
	unsigned max = b->doubt.max;

	if (b->doubt.nr == max) {
		max = max ? 2 * max : 256;
		list = realloc(list, max * sizeof(*list));
		if (!list)
			abort(); /* a few hundred bytes: there is no machine left to run on */
		b->doubt.list = list;
		b->doubt.max = max;
		hurry(b);
	}
	list[b->doubt.nr++] = (struct bt_doubt){ .block = k, .page = page };
}

bool world_watch(struct bt *b, const uint8_t *host, uint64_t granules)
{
	struct bt_world *w = b->world;
	struct mem *m = b->cpu->mem;
	uint64_t page = mem_page(m, host);
	unsigned granted;

	if (page == MEM_NO_PAGE)
		return false;
	atomic_fetch_or(&m->code[page], granules);
	granted = atomic_load(&m->granted[page]) ? atomic_exchange(&m->granted[page], 0) : 0;
	if (granted) {
		revoke(w, (uintptr_t)host & PAGE_MASK, granted);
		if (w->nr > 1) {
			atomic_fetch_add(&w->page[page].doubtful, 1);
			add_doubt(b, NULL, page);
		}
		atomic_thread_fence(memory_order_seq_cst);
	}
	return atomic_load(&w->page[page].doubtful);
}

void world_doubt(struct bt *b, struct bt_block *k)
{
	add_doubt(b, k, 0);
}

static bool in_range(const void *p, const void *from, const void *to)
{
	return p >= from && p < to;
}

void world_drop_doubts(struct bt *b, const void *from, const void *to)
{
	unsigned kept = 0, old = 0;

	for (unsigned n = 0; n < b->doubt.nr; n++) {
		struct bt_doubt d = b->doubt.list[n];

		if (d.block && in_range(d.block, from, to))
			continue;
		old += n < b->doubt.nr_old;
		b->doubt.list[kept++] = d;
	}
	b->doubt.nr = kept;
	b->doubt.nr_old = old;
}

/* Compares a block; true when it need not be compared again. */
static bool settle(struct bt *b, const struct bt_doubt *d, bool over)
{
	struct bt_block *k = d->block;

	if (!k) {
		if (over)
			atomic_fetch_sub(&b->world->page[d->page].doubtful, 1);
		return over;
	}
	if (!k->dead && cache_hash_block(k) != k->hash)
		cache_drop(b, k);
	return k->dead || over;
}

void world_verify(struct bt *b, bool must)
{
	unsigned kept = 0, old = 0;
	bool moved;

	if (!b->doubt.nr)
		return;
	moved = all_moved(b);
	if (!must && !moved)
		return;
	atomic_thread_fence(memory_order_seq_cst);
	for (unsigned n = 0; n < b->doubt.nr; n++) {
		bool is_old = n < b->doubt.nr_old;

		if (settle(b, &b->doubt.list[n], moved && is_old))
			continue;
		old += is_old;
		b->doubt.list[kept++] = b->doubt.list[n];
	}
	b->doubt.nr = kept;
	b->doubt.nr_old = old;
	if (!old) {
		b->doubt.nr_old = kept;
		note_epochs(b);
	}
}

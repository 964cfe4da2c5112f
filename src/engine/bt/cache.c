/*
 * The code cache of a vCPU.
 *
 * One piece of memory is mapped twice, to write and to execute; no mapping is both. It is cut into
 * segments that fill up one after the other, each with the tables of its blocks. When all are full
 * the oldest is emptied: its blocks are unlinked and forgotten, the others stay. A block therefore
 * never moves, and its memory is not used again before its segment is.
 *
 * Life of a block:
 *
 *     translate() --cache_insert()--> found by host address and key, its granules watched
 *         --cache_link()--> jumped to from other blocks, and by the jump cache
 *         --kill()--> neither found nor linked; the code stays until its segment is emptied,
 *                     so that C, called from within it, can see `dead` and not go back
 */
#include "engine/bt/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/bt/stubs.h"
#include "engine/bt/world.h"

#define STUBS_BYTES 4096u
#define META_RATIO  1 /* bytes of tables reserved for each byte of code; touched as used */

/* Shared anonymous memory, which perf(1) looks up in its map; moving nothing out of it makes a
 * second mapping of the same pages (mremap(2), old_size 0). */
static int map_code(struct bt_cache *c)
{
	c->write = mmap(NULL, c->size, PROT_READ | PROT_WRITE,
	                MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->write == MAP_FAILED)
		return -ENOMEM;
	c->exec = mremap(c->write, 0, c->size, MREMAP_MAYMOVE);
	if (c->exec == MAP_FAILED || mprotect(c->exec, c->size, PROT_READ | PROT_EXEC))
		return -errno;
	return 0;
}

static int init_segments(struct bt_cache *c)
{
	uint32_t each = (uint32_t)((c->size - STUBS_BYTES) / BT_SEGMENTS) & ~63u;
	size_t meta = (c->meta_size / BT_SEGMENTS) & ~63ul;

	for (unsigned n = 0; n < BT_SEGMENTS; n++) {
		struct bt_segment *s = &c->seg[n];

		s->code_start = s->code_used = STUBS_BYTES + n * each;
		s->code_end = s->code_start + each;
		s->meta = c->meta + n * meta;
		s->meta_size = meta;
		s->max_blocks = each / 64;
		s->block = mmap(NULL, s->max_blocks * sizeof(*s->block), PROT_READ | PROT_WRITE,
		                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (s->block == MAP_FAILED)
			return -ENOMEM;
	}
	return 0;
}

int cache_new(struct bt *b, size_t bytes)
{
	struct bt_cache *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return -ENOMEM;
	b->cache = c;
	c->size = bytes;
	c->meta_size = bytes * META_RATIO;
	rc = map_code(c);
	if (rc)
		return rc;
	c->meta = mmap(NULL, c->meta_size, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->meta == MAP_FAILED) {
		c->meta = NULL;
		return -ENOMEM;
	}
	b->meta = c->meta;
	b->exec = c->exec;
	rc = init_segments(c);
	if (!rc)
		stubs_make(b);
	return rc;
}

static void unmap(void *p, size_t size)
{
	if (p && p != MAP_FAILED)
		munmap(p, size);
}

void cache_free(struct bt *b)
{
	struct bt_cache *c = b->cache;

	if (!c)
		return;
	for (unsigned n = 0; n < BT_SEGMENTS; n++)
		unmap(c->seg[n].block, c->seg[n].max_blocks * sizeof(*c->seg[n].block));
	unmap(c->write, c->size);
	unmap(c->exec, c->size);
	unmap(c->meta, c->meta_size);
	free(c);
	b->cache = NULL;
}

/* ---- finding ---- */

static uint32_t *bucket_of(struct bt_cache *c, const uint8_t *host, uint32_t key)
{
	uint64_t h = ((uintptr_t)host + key * 0x10001ull) * 0x9e3779b97f4a7c15ull;

	return &c->bucket[h >> (64 - BT_BUCKET_BITS)];
}

static struct bt_block *in_bucket(const struct bt_cache *c, uint32_t ref)
{
	return ref ? (struct bt_block *)(c->meta + 16ull * (ref - 1)) : NULL;
}

static unsigned page_hash(const uint8_t *host)
{
	return ((uintptr_t)host >> 12) * 0x9e3779b97f4a7c15ull >> (64 - 12);
}

static struct bt_block **page_of(struct bt_cache *c, const uint8_t *host)
{
	return &c->page[page_hash(host)];
}

static struct bt_block **span_of(struct bt_cache *c, const uint8_t *host2)
{
	return &c->span[page_hash(host2)];
}

struct bt_block *cache_find(struct bt *b, const uint8_t *host, uint32_t key)
{
	const struct bt_cache *c = b->cache;
	struct bt_block *k = in_bucket(c, *bucket_of(b->cache, host, key));

	while (k && (k->host != host || k->key != key))
		k = in_bucket(c, k->next_hash);
	return k;
}

uint32_t cache_hash_bytes(const uint8_t *p, unsigned n)
{
	uint32_t h = 2166136261u;

	for (unsigned k = 0; k < n; k++)
		h = (h ^ *(const volatile uint8_t *)(p + k)) * 16777619u;
	return h;
}

uint32_t cache_hash_block(const struct bt_block *k)
{
	uint32_t h = cache_hash_bytes(k->host, k->bytes);

	return k->host2 ? h ^ cache_hash_bytes(k->host2, k->bytes2) : h;
}

struct bt_block *cache_block_at(struct bt *b, uint64_t address)
{
	struct bt_cache *c = b->cache;
	uint64_t off = address - (uint64_t)(uintptr_t)c->exec;

	for (unsigned n = 0; n < BT_SEGMENTS; n++) {
		struct bt_segment *s = &c->seg[n];
		unsigned lo = 0, hi = s->nr_blocks;

		if (off < s->code_start || off >= s->code_used)
			continue;
		while (hi - lo > 1) {
			unsigned mid = (lo + hi) / 2;

			if (s->block[mid]->start <= off)
				lo = mid;
			else
				hi = mid;
		}
		return hi && off < s->block[lo]->end ? s->block[lo] : NULL;
	}
	return NULL;
}

/* ---- links ---- */

static void patch32(struct bt_cache *c, uint32_t place, uint32_t value)
{
	__atomic_store_n((uint32_t *)(c->write + place), value, __ATOMIC_RELEASE);
}

static void aim(struct bt_cache *c, uint32_t place, uint32_t target)
{
	patch32(c, place, target - (place + 4));
}

static bool takes_recipe(const struct bt_block *k, const struct bt_exit *x)
{
	return x->recipe && k->takes_recipe && !(x->recipe & k->spoils);
}

static uint32_t entry_for(const struct bt_exit *x, const struct bt_block *to)
{
	bool slot = x->slot || takes_recipe(to, x);

	if (x->loop && x->from == to)
		return slot ? to->loop_slot : to->loop_host;
	return slot ? to->entry_slot : to->entry_host;
}

void cache_link(struct bt *b, struct bt_exit *x, struct bt_block *to)
{
	struct bt_cache *c = b->cache;

	if (x->to)
		cache_unlink(b, x);
	x->to = to;
	x->next_in = to->incoming;
	to->incoming = x;
	if (x->cross && !x->guard && !x->in_cross) {
		x->in_cross = true;
		x->next_cross = c->cross;
		c->cross = x;
	}
	if (x->guard) {
		aim(c, x->miss, x->lookup);
		patch32(c, x->guard, b->space_id);
	}
	aim(c, x->patch, entry_for(x, to));
	b->stats.links++;
}

static void disconnect(struct bt_cache *c, struct bt_exit *x)
{
	x->to = NULL;
	if (x->guard) {
		patch32(c, x->guard, 0);
		aim(c, x->miss, x->stub);
		aim(c, x->patch, x->moved);
	} else {
		aim(c, x->patch, x->stub);
	}
}

void cache_unlink(struct bt *b, struct bt_exit *x)
{
	struct bt_exit **p = &x->to->incoming;

	while (*p != x)
		p = &(*p)->next_in;
	*p = x->next_in;
	disconnect(b->cache, x);
}

void cache_unlink_exits(struct bt *b, struct bt_block *k)
{
	for (unsigned n = 0; n < k->nr_exits; n++)
		if (k->exit[n].to)
			cache_unlink(b, &k->exit[n]);
}

/* Exits stay on the list when they are unlinked; here they leave it. */
void cache_unlink_cross(struct bt *b)
{
	struct bt_exit *x = b->cache->cross;

	b->cache->cross = NULL;
	for (; x; x = x->next_cross) {
		x->in_cross = false;
		if (x->to)
			cache_unlink(b, x);
	}
}

void cache_unlink_guarded(struct bt *b)
{
	struct bt_cache *c = b->cache;

	for (unsigned n = 0; n < BT_SEGMENTS; n++)
		for (unsigned k = 0; k < c->seg[n].nr_blocks; k++) {
			struct bt_exit **at = &c->seg[n].block[k]->incoming, *x;

			while ((x = *at)) {
				if (x->guard) {
					*at = x->next_in;
					disconnect(c, x);
				} else {
					at = &x->next_in;
				}
			}
		}
}

static void forget_jumps(struct bt *b, struct bt_block *k)
{
	unsigned first = k->jc == BT_JC_MANY ? 0 : k->jc - 1u;
	unsigned last = k->jc == BT_JC_MANY ? BT_JC_ENTRIES - 1 : first;

	for (unsigned n = first; k->jc && n <= last; n++)
		if (b->jc[n].code == cache_address(b, k->entry_slot))
			b->jc[n].tag = bt_jc_empty(n);
}

static void kill(struct bt *b, struct bt_block *k)
{
	struct bt_exit *x, *next;

	if (k->dead)
		return;
	k->dead = true;
	for (x = k->incoming; x; x = next) {
		next = x->next_in;
		disconnect(b->cache, x);
	}
	k->incoming = NULL;
	cache_unlink_exits(b, k);
	forget_jumps(b, k);
}

enum list { LIST_PAGE, LIST_SPAN };

static struct bt_block **next_of(struct bt_block *k, enum list list)
{
	return list == LIST_PAGE ? &k->next_page : &k->next_span;
}

static void remove_from_bucket(struct bt_cache *c, const struct bt_block *k)
{
	uint32_t *at = bucket_of(c, k->host, k->key);

	while (in_bucket(c, *at) != k)
		at = &in_bucket(c, *at)->next_hash;
	*at = k->next_hash;
}

static void remove_from(struct bt_block **head, struct bt_block *k, enum list list)
{
	while (*head != k)
		head = next_of(*head, list);
	*head = *next_of(k, list);
}

void cache_drop(struct bt *b, struct bt_block *k)
{
	struct bt_cache *c = b->cache;

	remove_from_bucket(c, k);
	remove_from(page_of(c, k->host), k, LIST_PAGE);
	if (k->host2)
		remove_from(span_of(c, k->host2), k, LIST_SPAN);
	kill(b, k);
}

void cache_insert(struct bt *b, struct bt_segment *s, struct bt_block *k)
{
	uint32_t *bucket = bucket_of(b->cache, k->host, k->key);
	struct bt_block **page = page_of(b->cache, k->host);

	k->next_hash = *bucket;
	*bucket = (uint32_t)(((uint8_t *)k - b->cache->meta) / 16 + 1);
	k->next_page = *page;
	*page = k;
	if (k->host2) {
		struct bt_block **span = span_of(b->cache, k->host2);

		k->next_span = *span;
		*span = k;
	}
	s->block[s->nr_blocks++] = k;
	s->code_used = (k->end + 15) & ~15u;
	b->stats.blocks++;
	b->stats.code_bytes += k->end - k->start;
}

static bool on_page(const uint8_t *p, const uint8_t *page)
{
	return !(((uintptr_t)p ^ (uintptr_t)page) & PAGE_MASK);
}

void cache_invalidate(struct bt *b, const uint8_t *page, uint64_t granules)
{
	struct bt_block *k, *next;

	for (k = *page_of(b->cache, page); k; k = next) {
		next = k->next_page;
		if (on_page(k->host, page) && k->granules & granules) {
			cache_drop(b, k);
			b->stats.invalidated++;
		}
	}
	for (k = *span_of(b->cache, page); k; k = next) {
		next = k->next_span;
		if (on_page(k->host2, page) && k->granules2 & granules) {
			cache_drop(b, k);
			b->stats.invalidated++;
		}
	}
}

/* ---- room ---- */

static bool has_room(const struct bt_segment *s)
{
	return s->code_end - s->code_used >= BT_BLOCK_CODE_MAX &&
	       s->meta_size - s->meta_used >= BT_BLOCK_META_MAX && s->nr_blocks < s->max_blocks;
}

static void sweep_buckets(struct bt_cache *c)
{
	for (unsigned n = 0; n < BT_BUCKETS; n++)
		for (uint32_t *at = &c->bucket[n]; *at;) {
			struct bt_block *k = in_bucket(c, *at);

			if (k->dead)
				*at = k->next_hash;
			else
				at = &k->next_hash;
		}
}

static void sweep(struct bt_block **heads, unsigned nr, enum list list)
{
	for (unsigned n = 0; n < nr; n++)
		for (struct bt_block **at = &heads[n]; *at;) {
			if ((*at)->dead)
				*at = *next_of(*at, list);
			else
				at = next_of(*at, list);
		}
}

/* The list of links across pages may hold exits of the segment. The lists of blocks are gone
 * through once: the oldest blocks are at the ends of theirs. */
static void empty(struct bt *b, struct bt_segment *s)
{
	struct bt_cache *c = b->cache;

	if (!s->nr_blocks)
		return;
	cache_unlink_cross(b);
	world_drop_doubts(b, s->meta, s->meta + s->meta_size);
	c->drops++;
	for (unsigned n = 0; n < s->nr_blocks; n++)
		kill(b, s->block[n]);
	sweep_buckets(c);
	sweep(c->page, BT_PAGES, LIST_PAGE);
	sweep(c->span, BT_PAGES, LIST_SPAN);
	s->nr_blocks = 0;
	s->code_used = s->code_start;
	s->meta_used = 0;
}

struct bt_segment *cache_room(struct bt *b)
{
	struct bt_cache *c = b->cache;
	struct bt_segment *s = &c->seg[c->current];

	if (has_room(s))
		return s;
	c->current = (c->current + 1) % BT_SEGMENTS;
	s = &c->seg[c->current];
	if (s->nr_blocks)
		b->stats.evictions++;
	empty(b, s);
	return s;
}

void *cache_meta(struct bt_segment *s, size_t bytes)
{
	void *p = s->meta + s->meta_used;

	s->meta_used += (bytes + 15) & ~15ul;
	return p;
}

void cache_flush(struct bt *b)
{
	struct bt_cache *c = b->cache;

	for (unsigned n = 0; n < BT_SEGMENTS; n++)
		empty(b, &c->seg[n]);
	c->current = 0;
	b->stats.flushes++;
}

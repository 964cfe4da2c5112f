/*
 * The decode cache.
 *
 * A block is a run of instructions within one page, up to the first that may change RIP, mode or
 * interrupt state. Each vCPU has a cache of its own, and nobody tells it when code changes: a block
 * keeps a copy of its bytes and compares them each time it is entered. That costs a few cycles and
 * buys a lot: no write protection of code pages, no invalidation between vCPUs, device writes and
 * writes through aliases are seen, and pages that mix code and data cost nothing.
 *
 * What is left is a block that modifies itself while it runs: a store into the page in execution
 * makes the block end after the storing instruction (cpu->stop_at, see access.h), and the next
 * entry compares.
 *
 * Each block remembers which one came next (succ). That is a guess, checked like any find by
 * address, mode and bytes; it saves the hash table for most entries.
 *
 * Memory is an arena that is handed out upwards and dropped whole when full.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "interp/state.h"

int block_cache_init(struct block_cache *b)
{
	void *arena = mmap(NULL, BLOCK_ARENA, PROT_READ | PROT_WRITE,
	                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (arena == MAP_FAILED)
		return -ENOMEM;
	b->arena = arena;
	b->used = 0;
	b->bucket = calloc(BLOCK_BUCKETS, sizeof(*b->bucket));
	if (b->bucket)
		return 0;
	block_cache_fini(b);
	return -ENOMEM;
}

void block_cache_fini(struct block_cache *b)
{
	if (b->arena)
		munmap(b->arena, BLOCK_ARENA);
	free(b->bucket);
	*b = (struct block_cache){ 0 };
}

void block_cache_flush(struct block_cache *b)
{
	memset(b->bucket, 0, BLOCK_BUCKETS * sizeof(*b->bucket));
	b->used = 0;
	b->last = NULL;
}

static inline uint64_t word(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* Equality of n bytes without reading beyond them, by words that overlap at the end. */
static bool same_bytes(const uint8_t *a, const uint8_t *b, unsigned n)
{
	unsigned k;

	if (n < 8) {
		for (k = 0; k < n; k++)
			if (a[k] != b[k])
				return false;
		return true;
	}
	for (k = 0; k + 8 < n; k += 8)
		if (word(a + k) != word(b + k))
			return false;
	return word(a + n - 8) == word(b + n - 8);
}

bool block_same_slow(const struct block *b, const uint8_t *host)
{
	return same_bytes(b->code, host, b->bytes);
}

static inline struct block **bucket_of(struct block_cache *b, uintptr_t host, unsigned mode)
{
	uint64_t h = (host + mode) * 0x9e3779b97f4a7c15ull;

	return &b->bucket[h >> (64 - 15)];
}

static void unlink_block(struct block **head, struct block *victim)
{
	while (*head != victim)
		head = &(*head)->next;
	*head = victim->next;
}

/* Decodes from the copy of the bytes, so that what is kept and what is compared are the same. */
static void decode_block(struct cpu *c, struct block *b, const uint8_t *host, enum cpu_mode mode)
{
	unsigned avail = PAGE_SIZE - ((uintptr_t)host & ~PAGE_MASK);

	if (avail > BLOCK_MAX_BYTES)
		avail = BLOCK_MAX_BYTES;
	memcpy(b->code, host, avail);
	while (b->nr < BLOCK_MAX_INSNS && b->bytes < avail) {
		struct insn *i = &b->insn[b->nr];
		unsigned len = decode(c->interp->decoder, c, mode, b->code + b->bytes,
		                      avail - b->bytes, i);

		if (!len)
			break;
		b->bytes += len;
		b->nr++;
		if (i->flags & INSN_END)
			break;
	}
}

static __attribute__((noinline)) struct block *new_block(struct cpu *c, const uint8_t *host,
                                                         enum cpu_mode mode)
{
	struct block_cache *cache = &c->interp->blocks;
	const size_t most = sizeof(struct block) + BLOCK_MAX_INSNS * sizeof(struct insn);
	struct block *b, **head;

	do {
		if (c->interp->flush || cache->used + most > BLOCK_ARENA) {
			c->interp->flush = false;
			block_cache_flush(cache);
		}
		b = (struct block *)(cache->arena + cache->used);
		*b = (struct block){ .host = (uintptr_t)host, .mode = mode };
		decode_block(c, b, host, mode);
	} while (c->interp->flush); /* decoding itself may have dropped what blocks refer to */
	if (!b->nr)
		return NULL;
	b->mask = b->bytes < 32 ? (1u << b->bytes) - 1 : ~0u;
	cache->used += (sizeof(*b) + b->nr * sizeof(struct insn) + 63) & ~63ull;
	c->stats.blocks++;
	head = bucket_of(cache, b->host, mode);
	b->next = *head;
	*head = b;
	return b;
}

static struct block *find(struct cpu *c, const uint8_t *host, unsigned mode)
{
	struct block **head = bucket_of(&c->interp->blocks, (uintptr_t)host, mode);

	for (struct block *b = *head; b; b = b->next) {
		if (b->host != (uintptr_t)host || b->mode != mode)
			continue;
		if (likely(block_same(b, host)))
			return b;
		unlink_block(head, b);
		break;
	}
	return new_block(c, host, mode);
}

struct block *block_find(struct cpu *c, const uint8_t *host, unsigned mode)
{
	struct block *b = find(c, host, mode), *last = c->interp->blocks.last;

	if (b && last)
		last->succ = b;
	return b;
}

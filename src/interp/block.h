/*
 * Blocks of decoded instructions, cached by the host address of their first byte, that is per
 * physical page. Private to src/interp.
 */
#pragma once

#include <emmintrin.h>
#include "interp/insn.h"

#define BLOCK_MAX_INSNS 32
#define BLOCK_MAX_BYTES 96
#define BLOCK_BUCKETS   (1u << 15)
#define BLOCK_ARENA     (12 * MiB)

struct block {
	uintptr_t host;     /* of the first byte */
	struct block *next; /* in its bucket */
	struct block *succ; /* that ran after it last time, or NULL */
	uint8_t mode;
	uint8_t nr;
	uint16_t bytes;
	uint32_t mask;                 /* of the first 32 bytes, those that belong to it */
	uint8_t code[BLOCK_MAX_BYTES]; /* as they were when decoded */
	struct insn insn[];
};

struct block_cache {
	struct block *last; /* executed, whose succ the next one is; NULL after a flush */
	struct block **bucket;
	uint8_t *arena;
	size_t used;
};

int block_cache_init(struct block_cache *b);
void block_cache_fini(struct block_cache *b);
void block_cache_flush(struct block_cache *b);

/* The block that starts at host in this mode, decoded anew when its bytes changed; NULL when the
 * first instruction leaves the page. */
struct block *block_find(struct cpu *c, const uint8_t *host, unsigned mode);

bool block_same_slow(const struct block *b, const uint8_t *host);

/* Bit n set: byte n of the 16 at a and b differ. */
static inline uint32_t block_differing(const uint8_t *a, const uint8_t *b)
{
	__m128i eq = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)a),
	                            _mm_loadu_si128((const __m128i *)b));

	return (uint32_t)_mm_movemask_epi8(eq) ^ 0xffff;
}

/* Are the bytes at host still those of the block? Most blocks are short and not at a page's end:
 * two vectors and a mask, without a loop to mispredict. */
static inline bool block_same(const struct block *b, const uint8_t *host)
{
	uint32_t differing;

	if (unlikely(b->bytes > 32 || ((uintptr_t)host & ~PAGE_MASK) > PAGE_SIZE - 32))
		return block_same_slow(b, host);
	differing = block_differing(b->code, host) | block_differing(b->code + 16, host + 16) << 16;
	return !(differing & b->mask);
}

/* block_find(), with the guess tried first. */
static inline struct block *block_next(struct cpu *c, struct block_cache *cache,
                                       const uint8_t *host, unsigned mode)
{
	struct block *b = likely(cache->last) ? cache->last->succ : NULL;

	if (likely(b && b->host == (uintptr_t)host && b->mode == mode && block_same(b, host)))
		return b;
	return block_find(c, host, mode);
}

/*
 * Blocks of decoded instructions, cached by the host address of their first byte, that is per
 * physical page. Private to src/interp.
 */
#pragma once

#include "interp/insn.h"

#define BLOCK_MAX_INSNS 32
#define BLOCK_MAX_BYTES 96
#define BLOCK_BUCKETS   (1u << 15)
#define BLOCK_ARENA     (12 * MiB)

struct block {
	uintptr_t host;     /* of the first byte */
	struct block *next; /* in its bucket */
	uint8_t mode;
	uint8_t nr;
	uint16_t bytes;
	uint32_t mask;                 /* of the first 32 bytes, those that belong to it */
	uint8_t code[BLOCK_MAX_BYTES]; /* as they were when decoded */
	struct insn insn[];
};

struct block_cache {
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

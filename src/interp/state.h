/* Private to src/interp: what the interpreter keeps for a vCPU beside its architectural state. */
#pragma once

#include "interp/block.h"
#include "interp/decode.h"

struct native; /* native.h */

#define CROSSING_ENTRIES 64

/* An instruction that lies on two pages has no place in a block; found again by its bytes. */
struct crossing {
	uint8_t bytes[16]; /* 15 of code, then the mode + 1 */
	struct insn insn;
};

struct interp {
	struct decoder *decoder;
	struct native *native;
	struct block_cache blocks;
	const struct insn *first; /* of the block in execution, for counting */
	struct insn none;         /* cpu->cur when no instruction executes: length 0 */
	struct insn one;          /* the instruction that is executed by itself */
	uint64_t traced_from;     /* RIP before the instruction that debug.c watches */
	unsigned generation;      /* counts interp_flush() */
	uint32_t pauses;          /* PAUSE instructions executed */
	bool leaving;             /* the jump to the run loop is interp_leave()'s */
	bool soft_event;          /* the instruction was INT n or its like */
	bool flush;               /* drop everything decoded before the next block */
	struct crossing crossing[CROSSING_ENTRIES];
};

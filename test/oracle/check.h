/*
 * Runs cases on two sides, reduces differences to one instruction and prints them.
 */
#pragma once

#include "oracle.h"

#define CHECK_EXCUSES 16

struct oracle_check {
	struct oracle_side *native, *engine;
	ZydisDecoder decoder;
	ZydisFormatter formatter;
	bool verbose; /* print every difference, not only the first few of a mnemonic */
	unsigned max_per_mnemonic;
	uint64_t insns[CLASS_COUNT]; /* executed */
	uint64_t cases, faults, differences, excused, dropped;
	struct {
		const char *why;
		uint64_t count;
	} excuse[CHECK_EXCUSES];
	uint32_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];  /* differences by mnemonic */
	struct oracle_outcome native_out, engine_out; /* of the batch with a difference */
	struct oracle_batch scratch;                  /* for reduction */
};

void check_init(struct oracle_check *k, struct oracle_side *native, struct oracle_side *engine);
/* False when a side broke down. */
bool check_batch(struct oracle_check *k, const struct oracle_batch *b,
                 const struct oracle_sequence *seq);

/* The code at the cache's start that all blocks share. Private to src/engine/bt. */
#pragma once

#include "engine/bt/cache.h"

/* Host register of each guest register, or NO_HOST: it lives in struct bt. RSP is the host's own
 * stack; R13, R14 and R15 are scratch. */
#define NO_HOST 0xff
extern const uint8_t bt_host_reg[16];

void stubs_make(struct bt *b);
/* C called by the fill stubs: see tlb.c. */
enum { FILL_GO, FILL_LEAVE };
unsigned bt_fill(struct bt *b, uint64_t site_offset, gva_t va);

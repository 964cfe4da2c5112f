/* The vCPUs of one machine, as far as they translate its memory. Private to src/engine/bt. */
#pragma once

#include "engine/bt/bt.h"

int world_join(struct bt *b);
void world_leave(struct bt *b);
/* Starts to watch granules of the page at host, before their bytes are read: no vCPU has the right to
 * write there without being noticed any more, but for a store that is under way. */
void world_watch(struct bt *b, const uint8_t *host, uint64_t granules);
/* Acts on what other vCPUs, or this one, wrote to code. */
void world_take_posts(struct bt *b);
struct bt_block;
/* A new block, in which a store that was under way on another vCPU may have been missed. */
void world_doubt(struct bt *b, struct bt_block *k);
/* Compares doubtful blocks with their bytes; at points where a processor must notice changes. */
void world_verify(struct bt *b);

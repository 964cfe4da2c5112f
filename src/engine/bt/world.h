/* The vCPUs of one machine, as far as they translate its memory. Private to src/engine/bt. */
#pragma once

#include "engine/bt/bt.h"

int world_join(struct bt *b);
void world_leave(struct bt *b);
/* Starts to watch granules of the page at host: no vCPU has the right to write there without being
 * noticed any more. True if a store may still be under way: then the block is for world_doubt(). */
bool world_watch(struct bt *b, const uint8_t *host, uint64_t granules);
/* Acts on what other vCPUs, or this one, wrote to code. */
void world_take_posts(struct bt *b);
struct bt_block;
/* A new block, in which a store that was under way on another vCPU may have been missed. */
void world_doubt(struct bt *b, struct bt_block *k);
/* Compares doubtful blocks with their bytes. must: at a point where a processor must notice
 * changes; else only if some can leave the list. */
void world_verify(struct bt *b, bool must);
/* A page was written beside its code; may drop that. */
void world_note_beside(struct bt *b, uint64_t page);
/* The blocks in a range of memory are gone. */
void world_drop_doubts(struct bt *b, const void *from, const void *to);
/* Counts the rights to write that were taken away, from anybody. */
uint64_t world_revocations(const struct bt *b);

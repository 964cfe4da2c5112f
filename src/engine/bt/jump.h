/* The jump cache: targets of indirect jumps, and of direct ones to other pages. Private to
 * src/engine/bt. */
#pragma once

#include "engine/bt/cache.h"

/* Is the translation of a code address one of a global page? It has just been fetched from. */
bool jump_is_global(const struct cpu *c, gva_t va);
/* The page of va may be led to by the jump cache, or a link. */
bool jump_leads_to(const struct bt *b, gva_t va);
/* The block at rip is led to from other pages. */
void jump_note(struct bt *b, const struct bt_block *k, gva_t rip);
void jump_remember(struct bt *b, struct bt_block *k, gva_t rip);
/* Called by a stub when the jump cache does not have target: finds the block without leaving, if
 * there is one. The site is the jump's. */
unsigned bt_lookup(struct bt *b, uint64_t site_offset, gva_t target);

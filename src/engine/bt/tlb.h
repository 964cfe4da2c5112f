/* The translator's TLB: dropping. Private to src/engine/bt. */
#pragma once

#include "engine/bt/bt.h"

void bt_tlb_clear(struct bt *b);
/* Drops what was filled from pages that are not global. */
void bt_tlb_drop_local(struct bt *b);
void bt_tlb_drop_stack(struct bt *b);
void bt_tlb_drop_page(struct bt *b, gva_t va);
/* Takes what the TLB of src/mmu grants for va into this one; true if that allows a write, or a
 * read. */
bool bt_tlb_take(struct bt *b, unsigned mode, gva_t va, bool for_write);

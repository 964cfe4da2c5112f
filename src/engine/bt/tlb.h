/* The translator's TLB: dropping. Private to src/engine/bt. */
#pragma once

#include "engine/bt/bt.h"

void bt_tlb_clear(struct bt *b);
/* Drops what was filled from pages that are not global. */
void bt_tlb_drop_local(struct bt *b);
void bt_tlb_drop_page(struct bt *b, gva_t va);

/* Private to src/mmu: what the access slow paths need of the TLB. */
#pragma once

#include "mmu/mmu.h"

void tlb_clear(struct mmu *m);

/* Host address of va for one access within a page, filling the TLB; raises #PF. NULL when the page
 * is not memory that the access may reach (device, or a write to ROM); *gpa is then valid. */
uint8_t *tlb_lookup(struct cpu *c, gva_t va, enum mmu_access access, unsigned mode, gpa_t *gpa);

/* Between struct cpu and translated code. Private to src/engine/bt. */
#pragma once

#include "engine/bt/bt.h"

/* Runs code from a host address on, with the state of struct cpu; the arithmetic flags come from
 * there. Returns with bt.reason set and general registers in struct cpu; RIP and flags are for the
 * caller to find out. False, having done nothing, when attention wants something first. */
bool enter_code(struct bt *b, uint64_t target);
/* Has enter_code() bring the guest's vector state into the host's registers; false when
 * instructions of the kinds named must not run there now. */
bool enter_vector(struct bt *b, bool needs_sse, bool needs_avx, bool needs_x87);
/* Anything in attention that has to be served before guest code runs on? */
bool enter_is_wanted(const struct cpu *c, uint32_t attention);

/*
 * Single step and the debug registers (SDM 3B 17.2, 17.3). Data breakpoints are noticed by the
 * MMU's slow path (which an armed breakpoint forces) and, like I/O breakpoints and TF, collected in
 * cpu->db_pending until the instruction is complete.
 */
#pragma once

#include "interp/ops.h"

#define DR6_BS     BIT(14)
#define DR6_BT     BIT(15)
#define DR7_ACTIVE 0xffull /* L0 to G3 */

/* True when instructions must run one by one between the two calls below. */
static inline bool debug_needs_slow(const struct cpu *c)
{
	return c->dr7 & DR7_ACTIVE || c->db_pending;
}

/* Raises #DB for a trap left over by a task switch or, unless RF is set, an instruction breakpoint
 * at RIP; clears RF. */
void debug_before_insn(struct cpu *c);
/* Raises #DB for what the instruction that just completed has hit; tf: TF was set when it began. */
void debug_after_insn(struct cpu *c, bool tf);
/* Notes an I/O breakpoint (CR4.DE). */
void debug_check_io(struct cpu *c, uint16_t port, unsigned size);

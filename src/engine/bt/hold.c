/*
 * Scratch registers between the instructions of a block.
 *
 * R13 and R14 hold host addresses that a check has found (access.c), for as long as accesses are to
 * come that they serve. What is left of them, and R15 between two checks, holds copies of guest
 * registers that live in struct bt: a chain of instructions then need not wait for its own stores.
 * Every write goes to struct bt at once, so a copy can be dropped at any time.
 *
 * R15 is lost at every site. R13 and R14 survive a visit to C; where the interpreter has done an
 * instruction, C fills the copies anew (bt_site.held).
 */
#include "engine/bt/xlat.h"

#define LOOK_AHEAD 16 /* instructions within which a copy is worth keeping */

static int slot_of(unsigned host)
{
	return host >= R13 && host <= R15 ? (int)host - R13 : -1;
}

void hold_forget(struct bt_xlat *x, unsigned host)
{
	int n = slot_of(host);

	if (n >= 0)
		x->held[n] = NO_REG;
}

void hold_forget_all(struct bt_xlat *x)
{
	for (unsigned n = 0; n < HOLD_REGS; n++)
		x->held[n] = NO_REG;
}

void hold_set(struct bt_xlat *x, unsigned host, int reg)
{
	for (unsigned n = 0; n < HOLD_REGS; n++)
		if (x->held[n] == reg)
			x->held[n] = NO_REG;
	x->held[slot_of(host)] = (int8_t)reg;
	x->fresh |= BIT(reg);
}

int hold_find(const struct bt_xlat *x, int reg)
{
	for (int n = 0; n < HOLD_REGS; n++)
		if (x->held[n] == reg)
			return R13 + n;
	return NO_REG;
}

void hold_insn_done(struct bt_xlat *x, const struct guest_insn *g)
{
	for (unsigned n = 0; n < HOLD_REGS; n++)
		if (x->held[n] >= 0 && g->writes & ~x->fresh & BIT(x->held[n]))
			x->held[n] = NO_REG;
	x->fresh = 0;
}

uint16_t hold_pack(const struct bt_xlat *x)
{
	uint16_t all = 0;

	for (unsigned n = 0; n < HOLD_REGS; n++)
		if (x->held[n] >= 0)
			all |= (uint16_t)(x->held[n] << 4 * n);
	return all;
}

bool hold_is_wanted(const struct bt_xlat *x, int reg)
{
	unsigned end = x->at + 1 + LOOK_AHEAD < x->nr ? x->at + 1 + LOOK_AHEAD : x->nr;

	for (unsigned n = x->at + 1; n < end; n++) {
		const struct guest_insn *g = &x->insn[n];

		if (g->reads >> reg & 1)
			return true;
		if (g->writes >> reg & 1)
			return false;
	}
	return false;
}

/* What would be lost with a scratch register's content. */
static unsigned worth(const struct bt_xlat *x, unsigned host)
{
	int n = slot_of(host);

	if (host != R15 && place_is_live(x, host))
		return 2;
	return x->held[n] >= 0 && hold_is_wanted(x, x->held[n]);
}

unsigned hold_pick(const struct bt_xlat *x, uint32_t busy, bool keeps)
{
	static const uint8_t order[2][HOLD_REGS] = { { R15, R13, R14 }, { R13, R14, R15 } };
	unsigned best = 0, least = 3;

	for (unsigned n = 0; n < HOLD_REGS; n++) {
		unsigned host = order[keeps][n], w = busy >> host & 1 ? 3 : worth(x, host);

		if (w < least) {
			best = host;
			least = w;
		}
	}
	return best;
}

/* Which accesses one check can serve. Private to access.c and place.c. */
#pragma once

#include "engine/bt/xlat.h"

/* The accesses that one check can serve; distances are as at the first of them. */
struct group {
	struct place place;
	int64_t lo, hi;
	bool write;
	bool certain; /* what is looked at will be executed, if nothing faults */
	unsigned members;
};

/* May others share the operand's check? */
bool place_is_mergeable(const struct bt_xlat *x, const struct operand *o);
/* The accesses that the check of an operand can serve, from the instruction at hand on. */
struct group place_group(const struct bt_xlat *x, const struct operand *o);
/* In the first copy of a loop: will the second go on from the address? Does it move? */
bool place_is_carried(const struct bt_xlat *x, const struct place *p);
bool place_moves(const struct bt_xlat *x, const struct place *p);
/* A register, not in the mask, that reaches an operand, or NULL. */
struct cached *place_find(struct bt_xlat *x, const struct operand *o, uint32_t avoid);
/* R13 or R14 for another address. */
struct cached *place_pick(struct bt_xlat *x, uint32_t avoid);

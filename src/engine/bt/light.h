/*
 * Instructions that translated code has done by C without leaving: general registers are in bt.gpr,
 * the guest's flags in bt.slot, vector registers still the guest's. Private to src/engine/bt.
 */
#pragma once

#include "engine/bt/cache.h"
#include "isa/isa.h"

enum light {
	LIGHT_NONE,
	LIGHT_MOVS,
	LIGHT_STOS,
	LIGHT_SYSCALL,
	LIGHT_SYSRET,
	LIGHT_RDTSC,
	LIGHT_RDTSCP,
	LIGHT_RDBASE,
	LIGHT_WRBASE,
	LIGHT_POPF,
	LIGHT_RDPKRU,
};

/* What the stub does next. */
enum { LIGHT_GO, LIGHT_LEAVE, LIGHT_JUMP };
/* Does the instruction of a site. GO: on at bt.target. LEAVE: the interpreter has to, or to finish
 * it. JUMP: to the guest address in bt.r14, which the jump cache does not have. */
unsigned bt_light(struct bt *b, uint64_t site_offset);

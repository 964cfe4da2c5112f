/*
 * From bytes to struct insn. Private to src/interp.
 */
#pragma once

#include "interp/ops.h"

#define INSN_MAX 15

struct decoder;

struct decoder *decoder_new(void);
void decoder_free(struct decoder *d);

/*
 * Decodes the instruction at bytes (avail of them can be read) for a mode. Returns its length and
 * fills *i; bytes that are no instruction decode to one that raises #UD, or #GP when longer than 15
 * bytes. Returns 0 when avail bytes are not enough to tell.
 */
unsigned decode(struct decoder *d, struct cpu *c, enum cpu_mode mode, const uint8_t *bytes,
                unsigned avail, struct insn *i);

/* What people see of translated code: names for perf, disassembly. Private to src/engine/bt. */
#pragma once

#include "engine/bt/xlat.h"

/* 0 or -errno, with a message. */
int trace_open(struct bt *b);
void trace_close(struct bt *b);
/* A block that has just been made. rip: linear address of its first instruction. */
void trace_block(struct bt *b, const struct bt_block *k);
void trace_print_block(FILE *f, struct bt *b, const struct bt_block *k, gva_t rip);

/*
 * Lockstep: each block is done by the interpreter, undone, done by translated code, and what came
 * out is compared. Private to src/engine/bt.
 */
#pragma once

#include "engine/bt/bt.h"

int check_new(struct bt *b);
void check_free(struct bt *b);
/* Instead of running the block at RIP, for which `key` is; false when *e is filled. May raise. */
bool check_turn(struct bt *b, struct exit *e, uint32_t key);
/* A fault has come to bt_run(): it ends what was under way. False when run() is to end. */
bool check_caught(struct bt *b, struct exit *e);
/* The block has to begin again as one that checks each access by itself. */
void check_split(struct bt *b);

/* run.c: the block at RIP, or NULL; and a block once, until it has left or cannot go on. */
struct bt_block *run_find_block(struct bt *b, uint32_t key);
void run_block(struct bt *b, const struct bt_block *k);

/* Programs that a verb runs and listens to. Private to this folder. */
#pragma once

#include <stdio.h>
#include <sys/types.h>

#include "base/base.h"

struct child {
	pid_t pid;
	FILE *out; /* what it prints */
};

/*
 * Starts a program of PATH, with nothing on its standard input. out is read from its descriptor
 * `from`, 1 or 2; its descriptor 3 is `third` unless that is -1. 0 or -errno: -ENOENT when there is
 * no such program.
 */
int child_start(struct child *c, const char *const argv[], int from, int third);
/* Waits for its end. Its exit status, or 128 and its signal, or -errno. */
int child_end(struct child *c);

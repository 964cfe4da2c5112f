/* A bar on standard error for long work; nothing where that is no terminal. */
#pragma once

#include "base/base.h"

struct progress {
	const char *what; /* "convert" */
	bool shown;       /* on a terminal */
	uint64_t next_ns; /* when to draw again */
};

void progress_init(struct progress *p, const char *what);
void progress_update(struct progress *p, uint64_t done, uint64_t total);
/* Removes the bar. */
void progress_fini(struct progress *p);

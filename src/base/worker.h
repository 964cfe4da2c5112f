/*
 * A thread that runs a function whenever it was woken since it last began to.
 */
#pragma once

#include <pthread.h>
#include "base/base.h"

struct worker {
	void (*run)(void *opaque);
	void *opaque;
	pthread_t thread;
	pthread_mutex_t lock; /* what follows; a leaf */
	pthread_cond_t cond;
	bool started, sleeping, pending, ending;
};

/* The name, of at most 15 characters, is the thread's. 0 or -errno. */
int worker_start(struct worker *w, const char *name, void (*run)(void *opaque), void *opaque);
/* From any thread. */
void worker_wake(struct worker *w);
/* Waits for run() to return and ends the thread. Safe on a worker of zeroes or that did not start.
 */
void worker_end(struct worker *w);

/*
 * A thread that runs a function whenever it was woken since it last began to.
 *
 * It sleeps on a condition variable, or, once somebody has asked for its bell, in read() of that
 * descriptor: whoever writes 1 to it wakes the thread as well, and is counted. That is for writers
 * that know nothing but descriptors, such as the host's kernel.
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
	int bell;       /* an eventfd, -1: nobody has asked for one */
	uint64_t rings; /* not taken yet; the thread's own */
};

/* The name, of at most 15 characters, is the thread's. 0 or -errno. */
int worker_start(struct worker *w, const char *name, void (*run)(void *opaque), void *opaque);
/* From any thread. */
void worker_wake(struct worker *w);
/* The bell, made when it is first asked for; it is the worker's, until worker_end(). -errno. From
 * any thread. */
int worker_bell(struct worker *w);
/* How often the bell was rung before run() began, and not counted yet; for run(). */
uint64_t worker_take_rings(struct worker *w);
/* Waits for run() to return and ends the thread. Safe on a worker of zeroes or that did not start.
 */
void worker_end(struct worker *w);

/* What stands behind struct block, for the files of this folder that share it. */
#pragma once

#include <pthread.h>

#include "block/node.h"
#include "block/throttle.h"

struct task;

struct block {
	struct aio *aio;
	struct node *top;
	pthread_t thread;
	bool started;

	pthread_mutex_t lock;
	pthread_cond_t ended;                     /* somebody's request, for block_drain() */
	struct block_request *queue, **queue_end; /* submitted, not seen by the thread */
	struct block_request *oldest, *newest;    /* all that have not ended, by sequence */
	uint64_t sequence;                        /* of the last one */
	uint64_t ending; /* whose done() is being called, UINT64_MAX: nobody's */
	bool sleeping, stopping;

	/* The thread's own. */
	struct block_request *waiting, **waiting_end; /* seen, not started */
	unsigned running;
	struct throttle throttle;
	struct task *spare;
	int close_rc;
};

/* Runs fn on the disk's thread when nothing is under way, and waits for it. What fn returned. */
int block_call(struct block *b, int (*fn)(struct node *top, void *arg), void *arg);

/*
 * Threads of ours: signals stay with the threads that asked for them.
 */
#pragma once

#include <pthread.h>
#include "base/base.h"

/* 0 or -errno. name: what tools show, at most 15 bytes. */
int thread_start(pthread_t *out, const char *name, void *(*main)(void *opaque), void *opaque);

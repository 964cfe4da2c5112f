/*
 * The event loop: one thread that waits for file descriptors and timers and calls back.
 *
 * Every function here may be called from any thread. Callbacks run on the loop's own thread with no
 * loop lock held, so they may take device locks and call back into this interface. When
 * timer_cancel() or loop_del_fd() returns to a caller on another thread the callback may still be
 * running one last time; owners guard with their own lock. timer_fini() and loop_free() do wait.
 */
#pragma once

#include "base/base.h"

struct loop;
typedef void (*loop_fd_fn)(void *opaque, uint32_t epoll_events);
typedef void (*timer_fn)(void *opaque);

struct timer {
	struct loop *loop;
	timer_fn fn;
	void *opaque;
	uint64_t deadline_ns; /* clock_ns() time, 0 when idle */
	int heap_index;       /* private to loop.c, -1 when idle */
};

/* 0 or -errno. loop_start() makes the thread; loop_free() stops and joins it (safe on NULL). */
int loop_new(struct loop **out);
int loop_start(struct loop *l);
void loop_free(struct loop *l);

int loop_add_fd(struct loop *l, int fd, uint32_t epoll_events, loop_fd_fn fn, void *opaque);
int loop_mod_fd(struct loop *l, int fd, uint32_t epoll_events);
void loop_del_fd(struct loop *l, int fd);

void timer_init(struct timer *t, struct loop *l, timer_fn fn, void *opaque);
/* (Re)arms for an absolute clock_ns() time; a time in the past fires at once. */
void timer_arm(struct timer *t, uint64_t deadline_ns);
void timer_cancel(struct timer *t);
void timer_fini(struct timer *t);

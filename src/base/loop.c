/*
 * The event loop. One thread sleeps in epoll_wait() on every registered descriptor, an eventfd that
 * asks it to stop, and one timerfd that stands for all timers.
 *
 * Timers live in a binary heap ordered by deadline. The timerfd is kept at or before the earliest
 * deadline (invariant: heap empty or programmed_ns <= heap[0]->deadline_ns). It is reprogrammed
 * only when a deadline moves ahead of it: cancelling or postponing costs no system call, at the
 * price of one idle wake-up if nothing else intervenes. That suits guests, which rearm far more
 * timers than they let expire.
 *
 * Room in the heap is reserved by timer_init(), while a machine is built, so that timer_arm(),
 * which guests reach, cannot fail.
 *
 * Lock: loop.lock protects the heap, the descriptor slots and `running`. It is a leaf, taken
 * after any device's lock and never held across a callback.
 */
#include "base/loop.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/thread.h"

#define NSEC_PER_SEC 1000000000ull
#define NEVER        ((uint64_t)INT64_MAX)
#define EVENT_BATCH  16

/* What epoll hands back: a slot number, and the slot's generation so that events that were already
 * fetched when a descriptor was removed do not reach its successor in the slot. */
#define EVENT_ID(gen, slot) ((uint64_t)(gen) << 32 | (slot))
#define EVENT_TIMER         EVENT_ID(0, 0) /* generations of slots start at 1 */
#define EVENT_STOP          EVENT_ID(0, 1)

struct loop_fd {
	int fd; /* -1: free slot */
	uint32_t gen;
	loop_fd_fn fn;
	void *opaque;
};

struct loop {
	pthread_mutex_t lock;
	pthread_cond_t callback_done;
	pthread_t thread;
	bool started, stopping;
	int epoll_fd, timer_fd, stop_fd;

	struct timer **heap;
	size_t heap_len, heap_cap;
	size_t timers;          /* initialised ones: the heap has room for all of them */
	uint64_t programmed_ns; /* when timer_fd goes off, NEVER once it has */
	struct timer *running;

	struct loop_fd *fds;
	size_t nr_fds;
};

/* The heap: index i has children 2i+1 and 2i+2, each timer knows its index. */

static void place(struct loop *l, struct timer *t, size_t i)
{
	l->heap[i] = t;
	t->heap_index = (int)i;
}

static void sift_up(struct loop *l, struct timer *t, size_t i)
{
	while (i > 0) {
		struct timer *parent = l->heap[(i - 1) / 2];

		if (parent->deadline_ns <= t->deadline_ns)
			break;
		place(l, parent, i);
		i = (i - 1) / 2;
	}
	place(l, t, i);
}

static void sift_down(struct loop *l, struct timer *t, size_t i)
{
	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= l->heap_len)
			break;
		if (child + 1 < l->heap_len &&
		    l->heap[child + 1]->deadline_ns < l->heap[child]->deadline_ns)
			child++;
		if (t->deadline_ns <= l->heap[child]->deadline_ns)
			break;
		place(l, l->heap[child], i);
		i = child;
	}
	place(l, t, i);
}

static void remove_locked(struct loop *l, struct timer *t)
{
	size_t i = (size_t)t->heap_index;
	struct timer *last;

	if (t->heap_index < 0)
		return;
	last = l->heap[--l->heap_len];
	t->heap_index = -1;
	t->deadline_ns = 0;
	if (last == t)
		return;
	if (i > 0 && last->deadline_ns < l->heap[(i - 1) / 2]->deadline_ns)
		sift_up(l, last, i);
	else
		sift_down(l, last, i);
}

/* Restores the invariant on programmed_ns. */
static void program_locked(struct loop *l)
{
	struct itimerspec spec = { 0 };
	uint64_t ns;

	if (l->heap_len == 0 || l->heap[0]->deadline_ns >= l->programmed_ns)
		return;
	ns = l->programmed_ns = l->heap[0]->deadline_ns;
	spec.it_value.tv_sec = (time_t)(ns / NSEC_PER_SEC);
	spec.it_value.tv_nsec = (long)(ns % NSEC_PER_SEC);
	timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

void timer_init(struct timer *t, struct loop *l, timer_fn fn, void *opaque)
{
	*t = (struct timer){ .loop = l, .fn = fn, .opaque = opaque, .heap_index = -1 };

	pthread_mutex_lock(&l->lock);
	if (++l->timers > l->heap_cap) {
		size_t cap = l->heap_cap ? 2 * l->heap_cap : 16;
		struct timer **heap = reallocarray(l->heap, cap, sizeof(*heap));

		if (!heap) {
			log_error("out of memory for %zu timers", cap);
			abort();
		}
		l->heap = heap;
		l->heap_cap = cap;
	}
	pthread_mutex_unlock(&l->lock);
}

void timer_arm(struct timer *t, uint64_t deadline_ns)
{
	struct loop *l = t->loop;

	pthread_mutex_lock(&l->lock);
	remove_locked(l, t);
	assert(l->heap_len < l->heap_cap);
	/* 0 means idle here and "disarm" to timerfd. */
	t->deadline_ns = deadline_ns == 0 ? 1 : deadline_ns < NEVER ? deadline_ns : NEVER - 1;
	sift_up(l, t, l->heap_len++);
	program_locked(l);
	pthread_mutex_unlock(&l->lock);
}

void timer_cancel(struct timer *t)
{
	pthread_mutex_lock(&t->loop->lock);
	remove_locked(t->loop, t);
	pthread_mutex_unlock(&t->loop->lock);
}

static bool on_loop_thread(const struct loop *l)
{
	return l->started && pthread_equal(l->thread, pthread_self());
}

void timer_fini(struct timer *t)
{
	struct loop *l = t->loop;

	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	while (l->running == t && !on_loop_thread(l))
		pthread_cond_wait(&l->callback_done, &l->lock);
	remove_locked(l, t); /* after the wait: the last callback may have rearmed it */
	l->timers--;
	pthread_mutex_unlock(&l->lock);
	t->loop = NULL;
}

/* Runs what is due. A callback that rearms itself in the past waits for the next round, so that
 * descriptors get their turn. */
static void run_timers(struct loop *l)
{
	uint64_t now = clock_ns();
	size_t left;

	pthread_mutex_lock(&l->lock);
	if (l->programmed_ns <= now)
		l->programmed_ns = NEVER;
	for (left = l->heap_len; left > 0 && l->heap_len > 0; left--) {
		struct timer *t = l->heap[0];

		if (t->deadline_ns > now)
			break;
		remove_locked(l, t);
		l->running = t;
		pthread_mutex_unlock(&l->lock);
		t->fn(t->opaque);
		pthread_mutex_lock(&l->lock);
		l->running = NULL;
		pthread_cond_broadcast(&l->callback_done);
	}
	program_locked(l);
	pthread_mutex_unlock(&l->lock);
}

static void run_fd(struct loop *l, uint64_t id, uint32_t events)
{
	size_t slot = (uint32_t)id;
	struct loop_fd f = { .fd = -1 };

	pthread_mutex_lock(&l->lock);
	if (slot < l->nr_fds && l->fds[slot].gen == id >> 32)
		f = l->fds[slot];
	pthread_mutex_unlock(&l->lock);
	if (f.fd >= 0)
		f.fn(f.opaque, events);
}

static bool is_stopping(struct loop *l)
{
	bool stopping;

	pthread_mutex_lock(&l->lock);
	stopping = l->stopping;
	pthread_mutex_unlock(&l->lock);
	return stopping;
}

static void *loop_main(void *opaque)
{
	struct loop *l = opaque;
	struct epoll_event ev[EVENT_BATCH];

	while (!is_stopping(l)) {
		int n = epoll_wait(l->epoll_fd, ev, EVENT_BATCH, -1);

		for (int i = 0; i < n; i++) {
			if (ev[i].data.u64 != EVENT_TIMER && ev[i].data.u64 != EVENT_STOP)
				run_fd(l, ev[i].data.u64, ev[i].events);
		}
		run_timers(l);
	}
	return NULL;
}

static int watch_own(struct loop *l, int fd, uint32_t events, uint64_t id)
{
	struct epoll_event ev = { .events = events, .data.u64 = id };

	return fd < 0 || epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

int loop_new(struct loop **out)
{
	struct loop *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->callback_done, NULL);
	l->programmed_ns = NEVER;
	l->timer_fd = l->stop_fd = -1;
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	rc = l->epoll_fd < 0 ? -errno : 0;
	if (rc)
		goto out;
	/* Edge triggered: expirations wake us without having to be read. */
	l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	rc = watch_own(l, l->timer_fd, EPOLLIN | EPOLLET, EVENT_TIMER);
	if (rc)
		goto out;
	l->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = watch_own(l, l->stop_fd, EPOLLIN, EVENT_STOP);
out:
	if (rc)
		loop_free(l);
	else
		*out = l;
	return rc;
}

int loop_start(struct loop *l)
{
	int rc;

	pthread_mutex_lock(&l->lock);
	rc = thread_start(&l->thread, "loop", loop_main, l);
	l->started = rc == 0;
	pthread_mutex_unlock(&l->lock);
	return rc;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	if (l->started) {
		pthread_mutex_lock(&l->lock);
		l->stopping = true;
		pthread_mutex_unlock(&l->lock);
		eventfd_write(l->stop_fd, 1);
		pthread_join(l->thread, NULL);
	}
	close_fd(l->stop_fd);
	close_fd(l->timer_fd);
	close_fd(l->epoll_fd);
	pthread_cond_destroy(&l->callback_done);
	pthread_mutex_destroy(&l->lock);
	free(l->heap);
	free(l->fds);
	free(l);
}

static struct loop_fd *find_fd_locked(struct loop *l, int fd)
{
	for (size_t i = 0; i < l->nr_fds; i++) {
		if (l->fds[i].fd == fd)
			return &l->fds[i];
	}
	return NULL;
}

static struct loop_fd *free_slot_locked(struct loop *l)
{
	struct loop_fd *slot = find_fd_locked(l, -1), *fds;

	if (slot)
		return slot;
	fds = reallocarray(l->fds, l->nr_fds + 1, sizeof(*fds));
	if (!fds)
		return NULL;
	l->fds = fds;
	fds[l->nr_fds] = (struct loop_fd){ .fd = -1 };
	return &fds[l->nr_fds++];
}

static int control_locked(struct loop *l, const struct loop_fd *f, int op, uint32_t events)
{
	struct epoll_event ev = { .events = events,
		                  .data.u64 = EVENT_ID(f->gen, (size_t)(f - l->fds)) };

	return epoll_ctl(l->epoll_fd, op, f->fd, &ev) < 0 ? -errno : 0;
}

int loop_add_fd(struct loop *l, int fd, uint32_t epoll_events, loop_fd_fn fn, void *opaque)
{
	struct loop_fd *slot;
	int rc = -EBADF;

	if (fd < 0)
		return rc;
	pthread_mutex_lock(&l->lock);
	slot = find_fd_locked(l, fd) ? NULL : free_slot_locked(l);
	if (!slot) {
		rc = find_fd_locked(l, fd) ? -EEXIST : -ENOMEM;
		goto out;
	}
	*slot = (struct loop_fd){ .fd = fd, .gen = slot->gen + 1, .fn = fn, .opaque = opaque };
	rc = control_locked(l, slot, EPOLL_CTL_ADD, epoll_events);
	if (rc)
		slot->fd = -1;
out:
	pthread_mutex_unlock(&l->lock);
	return rc;
}

int loop_mod_fd(struct loop *l, int fd, uint32_t epoll_events)
{
	struct loop_fd *slot;
	int rc;

	pthread_mutex_lock(&l->lock);
	slot = fd < 0 ? NULL : find_fd_locked(l, fd);
	rc = slot ? control_locked(l, slot, EPOLL_CTL_MOD, epoll_events) : -ENOENT;
	pthread_mutex_unlock(&l->lock);
	return rc;
}

void loop_del_fd(struct loop *l, int fd)
{
	struct loop_fd *slot;

	pthread_mutex_lock(&l->lock);
	slot = fd < 0 ? NULL : find_fd_locked(l, fd);
	if (slot) {
		control_locked(l, slot, EPOLL_CTL_DEL, 0);
		slot->fd = -1;
		slot->gen++;
	}
	pthread_mutex_unlock(&l->lock);
}

/*
 * aio.h on threads that make ordinary blocking system calls.
 *
 * Lock: pool.lock protects both lists and `stopping`. It is a leaf.
 */
#include "block/aio_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#define WORKERS      4u
#define NSEC_PER_SEC 1000000000ull

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_t thread[WORKERS];
	unsigned threads;
	bool stopping;
	struct aio_request *todo, **todo_end;
	struct aio_request *ended;
};

static int64_t execute(const struct aio_request *r)
{
	off_t offset = (off_t)(r->offset + r->at);
	unsigned nr;
	const struct iovec *iov = aio_rest(r, &nr);
	int64_t n;

	switch (r->op) {
	case AIO_READ:
		n = preadv(r->fd, iov, (int)nr, offset);
		break;
	case AIO_WRITE:
		n = pwritev(r->fd, iov, (int)nr, offset);
		break;
	case AIO_SYNC:
		n = fdatasync(r->fd);
		break;
	default:
		n = fallocate(r->fd, aio_fallocate_mode(r), offset, (off_t)r->len);
		break;
	}
	return n < 0 ? -errno : n;
}

static struct aio_request *next_todo_locked(struct pool *p)
{
	struct aio_request *r;

	while (!p->todo && !p->stopping)
		pthread_cond_wait(&p->work, &p->lock);
	r = p->todo;
	if (r) {
		p->todo = r->next;
		if (!p->todo)
			p->todo_end = &p->todo;
	}
	return r;
}

static void *work(void *opaque)
{
	struct aio *a = opaque;
	struct pool *p = a->state;
	struct aio_request *r;

	pthread_mutex_lock(&p->lock);
	while ((r = next_todo_locked(p))) {
		pthread_mutex_unlock(&p->lock);
		r->result = execute(r);
		pthread_mutex_lock(&p->lock);
		r->next = p->ended;
		p->ended = r;
		aio_wake(a);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void destroy(struct aio *a)
{
	struct pool *p = a->state;

	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->threads; i++)
		pthread_join(p->thread[i], NULL);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static int start_workers(struct aio *a, struct pool *p)
{
	sigset_t all, old;
	int rc = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
	while (p->threads < WORKERS && !rc) {
		rc = pthread_create(&p->thread[p->threads], NULL, work, a);
		if (!rc)
			pthread_setname_np(p->thread[p->threads++], "disk-io");
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return p->threads ? 0 : -rc; /* fewer do, too */
}

static int create(struct aio *a)
{
	struct pool *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	p->todo_end = &p->todo;
	a->state = p;
	rc = start_workers(a, p);
	if (rc)
		destroy(a);
	return rc;
}

static void submit(struct aio *a, struct aio_request *r)
{
	struct pool *p = a->state;

	pthread_mutex_lock(&p->lock);
	r->next = NULL;
	*p->todo_end = r;
	p->todo_end = &r->next;
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
}

static void wait_pool(struct aio *a, uint64_t timeout_ns)
{
	struct pool *p = a->state;
	struct timespec ts = { .tv_sec = (time_t)(timeout_ns / NSEC_PER_SEC),
		               .tv_nsec = (long)(timeout_ns % NSEC_PER_SEC) };
	struct pollfd fd = { .fd = a->wake_fd, .events = POLLIN };
	struct aio_request *r, *next;
	uint64_t count;

	ppoll(&fd, 1, timeout_ns == UINT64_MAX ? NULL : &ts, NULL);
	(void)!read(a->wake_fd, &count, sizeof(count));
	pthread_mutex_lock(&p->lock);
	r = p->ended;
	p->ended = NULL;
	pthread_mutex_unlock(&p->lock);
	for (; r; r = next) {
		next = r->next;
		aio_end(a, r, r->result);
	}
}

const struct aio_ops aio_threads_ops = {
	.kind = "threads",
	.create = create,
	.destroy = destroy,
	.submit = submit,
	.wait = wait_pool,
};

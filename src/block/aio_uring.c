/*
 * aio.h on io_uring. One entry of the ring polls the eventfd that aio_wake() writes; it is put back
 * whenever it ends. Never more than RING entries are with the kernel, so that completions always
 * have room; what comes beyond waits in a list.
 */
#include "block/aio_private.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RING         256u
#define NSEC_PER_SEC 1000000000ull

struct uring {
	struct io_uring ring;
	unsigned inside; /* with the kernel, or prepared for it */
	struct aio_request *backlog, **backlog_end;
	bool armed; /* the poll of the eventfd is in the ring */
};

static int create(struct aio *a)
{
	struct uring *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return -ENOMEM;
	u->backlog_end = &u->backlog;
	rc = io_uring_queue_init(RING, &u->ring, 0);
	if (!rc && !(u->ring.features & IORING_FEAT_EXT_ARG)) { /* before 5.11: no time-outs */
		io_uring_queue_exit(&u->ring);
		rc = -ENOSYS;
	}
	if (rc) {
		free(u);
		return rc;
	}
	io_uring_ring_dontfork(&u->ring);
	a->state = u;
	return 0;
}

static void destroy(struct aio *a)
{
	struct uring *u = a->state;

	io_uring_queue_exit(&u->ring);
	free(u);
}

static void prepare(struct io_uring_sqe *sqe, struct aio_request *r)
{
	unsigned nr;
	const struct iovec *iov = aio_rest(r, &nr);

	switch (r->op) {
	case AIO_READ:
		io_uring_prep_readv(sqe, r->fd, iov, nr, r->offset + r->at);
		break;
	case AIO_WRITE:
		io_uring_prep_writev(sqe, r->fd, iov, nr, r->offset + r->at);
		break;
	case AIO_SYNC:
		io_uring_prep_fsync(sqe, r->fd, IORING_FSYNC_DATASYNC);
		break;
	default:
		io_uring_prep_fallocate(sqe, r->fd, aio_fallocate_mode(r), (off_t)r->offset,
		                        (off_t)r->len);
		break;
	}
	io_uring_sqe_set_data(sqe, r);
}

/* An entry, while there is room both for it and for its completion. limit: how many may be in use
 * then; requests leave one for the poll. */
static struct io_uring_sqe *take_entry(struct uring *u, unsigned limit)
{
	struct io_uring_sqe *sqe = u->inside < limit ? io_uring_get_sqe(&u->ring) : NULL;

	if (sqe)
		u->inside++;
	return sqe;
}

static void submit(struct aio *a, struct aio_request *r)
{
	struct uring *u = a->state;
	struct io_uring_sqe *sqe = u->backlog ? NULL : take_entry(u, RING - 1);

	if (sqe) {
		prepare(sqe, r);
		return;
	}
	r->next = NULL;
	*u->backlog_end = r;
	u->backlog_end = &r->next;
}

static void submit_backlog(struct uring *u)
{
	struct io_uring_sqe *sqe;

	while (u->backlog && (sqe = take_entry(u, RING - 1))) {
		struct aio_request *r = u->backlog;

		u->backlog = r->next;
		if (!u->backlog)
			u->backlog_end = &u->backlog;
		prepare(sqe, r);
	}
}

static void arm_poll(struct aio *a, struct uring *u)
{
	struct io_uring_sqe *sqe = u->armed ? NULL : take_entry(u, RING);

	if (!sqe)
		return;
	io_uring_prep_poll_add(sqe, a->wake_fd, POLLIN);
	io_uring_sqe_set_data(sqe, NULL);
	u->armed = true;
}

static void take_completion(struct aio *a, struct uring *u, struct io_uring_cqe *cqe)
{
	struct aio_request *r = io_uring_cqe_get_data(cqe);
	int64_t result = cqe->res;
	uint64_t count;

	io_uring_cqe_seen(&u->ring, cqe);
	u->inside--;
	if (r) {
		aio_end(a, r, result);
		return;
	}
	u->armed = false;
	(void)!read(a->wake_fd, &count, sizeof(count));
}

static void wait_ring(struct aio *a, uint64_t timeout_ns)
{
	struct uring *u = a->state;
	struct __kernel_timespec ts = { .tv_sec = (int64_t)(timeout_ns / NSEC_PER_SEC),
		                        .tv_nsec = (int64_t)(timeout_ns % NSEC_PER_SEC) };
	struct io_uring_cqe *cqe;
	int rc;

	arm_poll(a, u);
	submit_backlog(u);
	rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1,
	                                      timeout_ns == UINT64_MAX ? NULL : &ts, NULL);
	/* The kernel had no memory for a request: it stays in the ring, and is tried again. */
	if (rc < 0 && rc != -ETIME && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
		log_error("io_uring: %s", strerror(-rc));
	while (!io_uring_peek_cqe(&u->ring, &cqe))
		take_completion(a, u, cqe);
}

const struct aio_ops aio_uring_ops = {
	.kind = "io_uring",
	.create = create,
	.destroy = destroy,
	.submit = submit,
	.wait = wait_ring,
};

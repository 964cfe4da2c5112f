#include "block/aio_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/iov.h"

static int create_with(struct aio *a, const struct aio_ops *ops)
{
	a->ops = ops;
	return ops->create(a);
}

int aio_new(struct aio **out, bool no_io_uring)
{
	struct aio *a = calloc(1, sizeof(*a));
	int rc = -ENOSYS;

	if (!a)
		return -ENOMEM;
	a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (a->wake_fd < 0) {
		rc = -errno;
		free(a);
		return rc;
	}
	if (!no_io_uring)
		rc = create_with(a, &aio_uring_ops);
	if (rc)
		rc = create_with(a, &aio_threads_ops);
	if (rc) {
		close(a->wake_fd);
		free(a);
		return rc;
	}
	*out = a;
	return 0;
}

void aio_free(struct aio *a)
{
	if (!a)
		return;
	a->ops->destroy(a);
	close(a->wake_fd);
	free(a);
}

const struct iovec *aio_rest(const struct aio_request *r, unsigned *nr)
{
	const struct iovec *iov = r->rest ? r->rest : r->iov;
	unsigned n = r->rest ? r->nr_rest : r->nr_iov;

	*nr = n < IOV_MAX ? n : IOV_MAX;
	return iov;
}

int aio_fallocate_mode(const struct aio_request *r)
{
	return FALLOC_FL_KEEP_SIZE |
	       (r->op == AIO_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

void aio_submit(struct aio *a, struct aio_request *r)
{
	r->at = 0;
	r->rest = NULL;
	a->pending++;
	a->ops->submit(a, r);
}

static void finish(struct aio *a, struct aio_request *r, int rc)
{
	free(r->rest);
	r->rest = NULL;
	a->pending--;
	r->done(r, rc);
}

/* Part of it is done: describe the others, and go on. */
static void go_on(struct aio *a, struct aio_request *r)
{
	if (!r->rest)
		r->rest = calloc(r->nr_iov, sizeof(*r->rest));
	if (!r->rest) {
		finish(a, r, -ENOMEM);
		return;
	}
	r->nr_rest = iov_slice(r->rest, r->iov, r->nr_iov, r->at, r->len - r->at);
	a->ops->submit(a, r);
}

void aio_end(struct aio *a, struct aio_request *r, int64_t result)
{
	if (result == -EINTR || result == -EAGAIN) {
		a->ops->submit(a, r);
		return;
	}
	if (result < 0 || (r->op != AIO_READ && r->op != AIO_WRITE)) {
		finish(a, r, result < 0 ? (int)result : 0);
		return;
	}
	r->at += (uint64_t)result;
	if (r->at >= r->len) {
		finish(a, r, 0);
	} else if (result) {
		go_on(a, r);
	} else if (r->op == AIO_READ) {
		iov_zero(r->iov, r->nr_iov, r->at, r->len - r->at);
		finish(a, r, 0);
	} else {
		finish(a, r, -EIO);
	}
}

void aio_wait(struct aio *a, uint64_t timeout_ns)
{
	a->ops->wait(a, timeout_ns);
}

void aio_wake(struct aio *a)
{
	uint64_t one = 1;

	(void)!write(a->wake_fd, &one, sizeof(one)); /* full: it is awake already */
}

unsigned aio_pending(const struct aio *a)
{
	return a->pending;
}

const char *aio_kind(const struct aio *a)
{
	return a->ops->kind;
}

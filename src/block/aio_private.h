/* The two ways of aio.h, and what they share. */
#pragma once

#include "block/aio.h"

struct aio_ops {
	const char *kind;
	int (*create)(struct aio *a);
	void (*destroy)(struct aio *a);
	void (*submit)(struct aio *a, struct aio_request *r);
	/* Ends what it finds through aio_end(). */
	void (*wait)(struct aio *a, uint64_t timeout_ns);
};

struct aio {
	const struct aio_ops *ops;
	unsigned pending;
	int wake_fd; /* eventfd */
	void *state;
};

extern const struct aio_ops aio_uring_ops, aio_threads_ops;

/* What is left of a request as the kernel takes it: IOV_MAX entries at most. */
const struct iovec *aio_rest(const struct aio_request *r, unsigned *nr);
int aio_fallocate_mode(const struct aio_request *r);
/* What the kernel answered: bytes or -errno. Submits what is left, or calls done(). */
void aio_end(struct aio *a, struct aio_request *r, int64_t result);

/*
 * Asynchronous access to files: on io_uring, or on a few threads where the kernel refuses it.
 * Private to this folder.
 *
 * Threads: an aio belongs to one thread, the disk's, which submits, waits and gets each done().
 * Only aio_wake() may be called from another.
 */
#pragma once

#include <sys/uio.h>

#include "base/base.h"

enum aio_op {
	AIO_READ, /* beyond the end of the file: zeroes */
	AIO_WRITE,
	AIO_SYNC,  /* fdatasync() */
	AIO_PUNCH, /* deallocates; -EOPNOTSUPP where the file system cannot */
	AIO_ZERO,  /* zeroes without deallocating; -EOPNOTSUPP likewise */
	AIO_OPS
};

struct aio_request {
	enum aio_op op;
	int fd;
	uint64_t offset, len;
	const struct iovec *iov; /* len bytes in all; any number of entries */
	unsigned nr_iov;
	void (*done)(struct aio_request *r, int rc); /* may free r */
	/* Private. */
	uint64_t at;        /* bytes that are done */
	struct iovec *rest; /* the others, where iov itself does not do */
	unsigned nr_rest;
	int64_t result;
	struct aio_request *next;
};

struct aio;

/* 0 or -errno. */
int aio_new(struct aio **out, bool no_io_uring);
/* Nothing is under way. Safe on NULL. */
void aio_free(struct aio *a);

void aio_submit(struct aio *a, struct aio_request *r);
/* Calls done() of what has ended, after waiting for it: timeout_ns at most, until aio_wake() or a
 * first request's end. UINT64_MAX: for as long as it takes. */
void aio_wait(struct aio *a, uint64_t timeout_ns);
/* From any thread: makes aio_wait() return, the next one if none is under way. */
void aio_wake(struct aio *a);
unsigned aio_pending(const struct aio *a);
const char *aio_kind(const struct aio *a); /* "io_uring" or "threads" */

/*
 * Disks without devices: an image file as an array of bytes, read and written asynchronously.
 *
 * A disk is opened by block_open() and used through requests. Each disk has a thread of its own,
 * which does all its work: whoever submits (a vCPU at a doorbell, a device) only queues and never
 * waits. Threads:
 *   - block_submit() may be called from any thread, with any lock held that done() does not take.
 *   - done() is called once for each request, on the disk's thread, with none of its locks held; it
 *     may submit again, and may free the request.
 *   - The request, its iovec and the memory that it names belong to the disk from block_submit()
 *     until done().
 *   - Requests may end in any order, and two that overlap have no order between them: a device that
 *     needs one waits for done(). A flush covers every write whose done() was called before the
 *     flush was submitted.
 * Buffers may be guest memory: a guest that changes them meanwhile gets either content. Image
 * metadata is never built in, or read twice from, such a buffer.
 */
#pragma once

#include <sys/uio.h>
#include "base/base.h"

#define BLOCK_SECTOR  512u
#define BLOCK_MAX_IOV 1024u
#define BLOCK_MAX_LEN (64 * MiB) /* of one request; a device splits what is longer */

struct block;

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,        /* to stable storage; offset, len and iov are ignored */
	BLOCK_DISCARD,      /* the range's content is no longer needed; reads then give zeroes */
	BLOCK_WRITE_ZEROES, /* the range reads as zeroes */
	BLOCK_OPS
};

#define BLOCK_FUA   BIT(0) /* a write that is on stable storage when done() is called */
#define BLOCK_UNMAP BIT(1) /* BLOCK_WRITE_ZEROES may deallocate */

struct block_request {
	enum block_op op;
	unsigned flags;
	uint64_t offset, len;    /* bytes, multiples of the disk's sector, within the disk */
	const struct iovec *iov; /* for READ and WRITE: len bytes in all */
	unsigned nr_iov;         /* at most BLOCK_MAX_IOV */
	/* rc: 0 or -errno; -ENOSPC when the host is out of space, -EROFS on a read-only disk. */
	void (*done)(struct block_request *r, int rc);
	void *opaque;
	/* Of the layers below. */
	struct block_request *next, *newer, *older;
	uint64_t sequence;
};

struct block_options {
	const char *format; /* "raw", "qcow2", or NULL: told from the file's content */
	bool readonly;
	uint64_t iops;        /* requests a second, 0 for no limit */
	uint64_t bytes_per_s; /* 0 for no limit */
	bool unlocked;        /* take no lock on the file: only for looking */
	bool no_io_uring;     /* use threads even where io_uring works */
};

struct block_info {
	const char *format;
	uint64_t size;    /* bytes that the guest sees */
	uint64_t used;    /* bytes that the file takes on the host */
	uint32_t sector;  /* smallest unit of a request, 512 or 4096 */
	uint32_t cluster; /* unit of allocation, 0 for raw */
	bool readonly;
	bool discards;       /* BLOCK_DISCARD gives space back */
	bool device;         /* the file is a block device of the host */
	const char *backing; /* the next file of the chain as the image names it, or NULL */
};

/*
 * Opens an image and its chain of backing files. 0, or -errno with one line in err: no such file,
 * locked by another machine, missing backing file, a chain that loops, wrong or damaged format.
 */
int block_open(struct block **out, const char *path, const struct block_options *options, char *err,
               size_t errlen);
/* Waits for the requests under way, flushes, unlocks and frees. 0 or the -errno of the flush.
 * Safe on NULL. */
int block_close(struct block *b);

void block_get_info(const struct block *b, struct block_info *info);
void block_submit(struct block *b, struct block_request *r);

/* Waits until every request submitted before has called done(). */
void block_drain(struct block *b);

enum block_content {
	BLOCK_HOLE, /* nothing is stored, in no file of the chain: reads as zeroes */
	BLOCK_ZERO, /* stored as zeroes, over what a backing file may have there */
	BLOCK_DATA,
};

/*
 * What is stored at offset, without reading it: *content is true of the *len bytes from there on;
 * the caller says in *len how far to look at most. Waits for the requests submitted before. 0 or
 * -errno.
 */
int block_map(struct block *b, uint64_t offset, uint64_t *len, enum block_content *content);

/* Grows, with zeroes, or shrinks. Waits for the requests submitted before. 0, or -errno with one
 * line in err: a device, an image with internal snapshots, no space. */
int block_resize(struct block *b, uint64_t size, char *err, size_t errlen);

/* For tools: submits and waits. 0 or -errno. Never from done(). */
int block_read(struct block *b, uint64_t offset, void *buf, uint64_t len);
int block_write(struct block *b, uint64_t offset, const void *buf, uint64_t len);
int block_write_zeroes(struct block *b, uint64_t offset, uint64_t len);
int block_flush(struct block *b);

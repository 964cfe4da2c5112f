/*
 * Raw images: the file is the disk. A size that is no multiple of the sector is rounded up, and the
 * bytes in between read as zeroes until they are written, which extends the file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/iov.h"
#include "block/node.h"
#include "block/qcow2_format.h"

#define ZEROES_BYTES 65536u
#define ZEROES_IOV   1024u
_Static_assert((uint64_t)ZEROES_BYTES *ZEROES_IOV >= BLOCK_MAX_LEN, "zeroes in one write");

struct raw {
	bool cannot[AIO_OPS]; /* the file system said so */
};

struct raw_op {
	struct aio_request aio;
	struct node *node;
	struct node_request *request;
	uint8_t first[BLOCK_SECTOR]; /* of a guarded write */
	struct iovec iov[];
};

static const uint8_t zeroes[ZEROES_BYTES];

static int open_raw(struct node *n, const struct errbuf *e)
{
	uint64_t size;
	int rc = file_size(&n->file, &size);

	if (rc)
		return block_fail(e, rc, "%s: cannot tell its size: %s", n->file.path,
		                  strerror(-rc));
	if (size > INT64_MAX - BLOCK_SECTOR)
		return block_fail(e, -EFBIG, "%s: too large", n->file.path);
	n->size = (size + BLOCK_SECTOR - 1) & ~(uint64_t)(BLOCK_SECTOR - 1);
	n->discards = !n->readonly;
	n->state = calloc(1, sizeof(struct raw));
	return n->state ? 0 : block_fail(e, -ENOMEM, "%s: out of memory", n->file.path);
}

static int close_raw(struct node *n)
{
	int rc = n->state && !n->readonly ? file_sync(&n->file) : 0;

	free(n->state);
	n->state = NULL;
	return rc;
}

static struct raw_op *new_op(struct node *n, struct node_request *r, enum aio_op op,
                             unsigned nr_iov, void (*done)(struct aio_request *a, int rc))
{
	struct raw_op *o = malloc(sizeof(*o) + nr_iov * sizeof(struct iovec));

	if (!o) {
		r->done(r, -ENOMEM);
		return NULL;
	}
	o->node = n;
	o->request = r;
	o->aio = (struct aio_request){ .op = op,
		                       .fd = n->file.fd,
		                       .offset = r->offset,
		                       .len = r->len,
		                       .iov = r->iov,
		                       .nr_iov = r->nr_iov,
		                       .done = done };
	return o;
}

static void end_op(struct aio_request *a, int rc)
{
	struct raw_op *o = container_of(a, struct raw_op, aio);
	struct node_request *r = o->request;

	free(o);
	r->done(r, rc);
}

static void submit_plain(struct node *n, struct node_request *r, enum aio_op op)
{
	struct raw_op *o = new_op(n, r, op, 0, end_op);

	if (o)
		aio_submit(n->aio, &o->aio);
}

/*
 * A guest that writes the header of another format to its raw disk would choose, at the next start,
 * what is opened in its place: a backing file of the host, for one. Where the format was told from
 * the content such a write is refused. The sector is copied first, so that the guest can't change
 * it after the look.
 */
static void submit_guarded_write(struct node *n, struct node_request *r)
{
	struct raw_op *o = new_op(n, r, AIO_WRITE, r->nr_iov + 1, end_op);

	if (!o)
		return;
	iov_copy_from(r->iov, r->nr_iov, 0, o->first, sizeof(o->first));
	if (qcow2_has_magic(o->first)) {
		free(o);
		r->done(r, -EPERM);
		return;
	}
	o->iov[0] = (struct iovec){ o->first, sizeof(o->first) };
	o->aio.nr_iov = 1 + iov_slice(o->iov + 1, r->iov, r->nr_iov, sizeof(o->first),
	                              r->len - sizeof(o->first));
	o->aio.iov = o->iov;
	aio_submit(n->aio, &o->aio);
}

/* The slow way to zeroes. */
static void submit_zero_write(struct node *n, struct node_request *r)
{
	struct raw_op *o = new_op(n, r, AIO_WRITE, ZEROES_IOV, end_op);
	uint64_t left = r->len;

	if (!o)
		return;
	o->aio.iov = o->iov;
	for (o->aio.nr_iov = 0; left; o->aio.nr_iov++) {
		size_t len = left < ZEROES_BYTES ? left : ZEROES_BYTES;

		o->iov[o->aio.nr_iov] = (struct iovec){ (void *)zeroes, len };
		left -= len;
	}
	aio_submit(n->aio, &o->aio);
}

static void end_zero(struct aio_request *a, int rc)
{
	struct raw_op *o = container_of(a, struct raw_op, aio);
	struct raw *raw = o->node->state;

	if (rc != -EOPNOTSUPP && rc != -ENOSYS && rc != -EINVAL) {
		end_op(a, rc);
		return;
	}
	raw->cannot[a->op] = true;
	submit_zero_write(o->node, o->request);
	free(o);
}

static void submit_zero(struct node *n, struct node_request *r)
{
	const struct raw *raw = n->state;
	enum aio_op op = r->op == BLOCK_DISCARD || r->unmap ? AIO_PUNCH : AIO_ZERO;
	struct raw_op *o;

	if (raw->cannot[op]) {
		submit_zero_write(n, r);
		return;
	}
	o = new_op(n, r, op, 0, end_zero);
	if (o)
		aio_submit(n->aio, &o->aio);
}

static void submit_raw(struct node *n, struct node_request *r)
{
	switch (r->op) {
	case BLOCK_READ:
		submit_plain(n, r, AIO_READ);
		break;
	case BLOCK_WRITE:
		if (n->probed && r->offset == 0)
			submit_guarded_write(n, r);
		else
			submit_plain(n, r, AIO_WRITE);
		break;
	case BLOCK_FLUSH:
		submit_plain(n, r, AIO_SYNC);
		break;
	default:
		submit_zero(n, r);
		break;
	}
}

static int map_raw(struct node *n, uint64_t offset, uint64_t *len, enum block_content *content)
{
	off_t data = n->file.device ? (off_t)offset : lseek(n->file.fd, (off_t)offset, SEEK_DATA);
	uint64_t end = offset + *len;
	off_t hole;

	*content = BLOCK_DATA;
	if (data < 0 && errno == ENXIO) { /* no data up to the end */
		*content = BLOCK_HOLE;
		return 0;
	}
	if (data < 0 || n->file.device) /* it can't tell */
		return 0;
	if ((uint64_t)data > offset) {
		*content = BLOCK_HOLE;
		*len = ((uint64_t)data < end ? (uint64_t)data : end) - offset;
		return 0;
	}
	hole = lseek(n->file.fd, (off_t)offset, SEEK_HOLE);
	if (hole > 0 && (uint64_t)hole < end && (uint64_t)hole > offset)
		*len = (uint64_t)hole - offset;
	return 0;
}

static int resize_raw(struct node *n, uint64_t size, const struct errbuf *e)
{
	int rc;

	if (n->file.device)
		return block_fail(e, -ENOTSUP, "%s: a device has the size that it has",
		                  n->file.path);
	rc = file_truncate(&n->file, size);
	if (rc)
		return block_fail(e, rc, "%s: cannot resize: %s", n->file.path, strerror(-rc));
	n->size = size;
	return 0;
}

const struct node_ops raw_node_ops = {
	.format = "raw",
	.open = open_raw,
	.close = close_raw,
	.submit = submit_raw,
	.map = map_raw,
	.resize = resize_raw,
};

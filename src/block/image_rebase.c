/*
 * Another backing file for an image. Where the image has nothing of its own, what the old chain
 * shows there is compared with the new one, and taken into the image if it differs; only then the
 * name changes, so that the disk shows the same content at every moment.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/disk.h"
#include "block/image.h"
#include "block/qcow2.h"

#define PIECE (2 * MiB)

struct rebase {
	const struct image_rebase *how;
	const struct errbuf *e;
	const char *path;
	struct block *image, *backing; /* backing: NULL for none */
	uint64_t size, backing_size, cluster;
	uint8_t *old, *new;
};

struct own_args {
	uint64_t offset, *len;
	bool *own;
};

/* Whether the image itself says what is at offset. */
static int call_own(struct node *top, void *arg)
{
	const struct own_args *a = arg;
	struct qcow2 *q = top->state;
	uint64_t first = a->offset >> q->cluster_bits;
	struct qcow2_run run;
	int rc = qcow2_map(q, first, qcow2_clusters_of(q, *a->len), &run);

	if (rc)
		return rc;
	*a->own = run.kind != QCOW2_KIND_HOLE;
	if (*a->len > run.clusters << q->cluster_bits)
		*a->len = run.clusters << q->cluster_bits;
	return 0;
}

/* The new backing file's content, with zeroes behind its end. */
static int read_new(struct rebase *b, uint64_t offset, uint64_t len)
{
	uint64_t there = offset < b->backing_size ? b->backing_size - offset : 0;

	if (there > len)
		there = len;
	memset(b->new + there, 0, len - there);
	return there ? block_read(b->backing, offset, b->new, there) : 0;
}

/* Cluster by cluster, so that only what differs takes room. */
static int take_piece(struct rebase *b, uint64_t offset, uint64_t len)
{
	int rc = block_read(b->image, offset, b->old, len);
	uint64_t n;

	if (!rc)
		rc = read_new(b, offset, len);
	for (uint64_t at = 0; at < len && !rc; at += n) {
		n = len - at < b->cluster ? len - at : b->cluster;
		if (memcmp(b->old + at, b->new + at, n))
			rc = block_write(b->image, offset + at, b->old + at, n);
	}
	return rc;
}

static int take_all(struct rebase *b)
{
	uint64_t offset = 0, len;
	int rc = 0;

	for (; offset < b->size && !rc; offset += len) {
		bool own;

		len = b->size - offset < PIECE ? b->size - offset : PIECE;
		rc = block_call(b->image, call_own, &(struct own_args){ offset, &len, &own });
		if (!rc && !own)
			rc = take_piece(b, offset, len);
		if (b->how->progress)
			b->how->progress(b->how->opaque, offset, b->size);
	}
	if (!rc)
		rc = block_flush(b->image);
	return rc ? block_fail(b->e, rc, "%s: %s", b->path, strerror(-rc)) : 0;
}

/* The formats' names are in the image, so the new one's has to be known. */
static int call_rename(struct node *top, void *arg)
{
	const struct rebase *b = arg;
	struct qcow2 *q = top->state;
	const char *format = b->how->backing_format;
	struct block_info info;
	int rc = qcow2_flush_now(q);

	if (rc)
		return block_fail(b->e, rc, "%s: %s", b->path, strerror(-rc));
	if (!format && b->backing) {
		block_get_info(b->backing, &info);
		format = info.format;
	}
	return qcow2_write_backing(q, b->how->backing, format, b->e);
}

static int open_backing(struct rebase *b)
{
	struct block_options o = { .format = b->how->backing_format, .readonly = true };
	struct block_info info;
	char *path = node_backing_path(b->path, b->how->backing);
	int rc = path ? block_open(&b->backing, path, &o, b->e->text, b->e->size) : -ENOMEM;

	free(path);
	if (rc)
		return rc;
	block_get_info(b->backing, &info);
	b->backing_size = info.size;
	return 0;
}

static int rebase_safely(struct rebase *b)
{
	struct block_options o = { .format = "qcow2" };
	struct block_info info;
	int rc = block_open(&b->image, b->path, &o, b->e->text, b->e->size);

	if (!rc && b->how->backing)
		rc = open_backing(b);
	if (rc)
		return rc;
	block_get_info(b->image, &info);
	b->size = info.size;
	b->cluster = info.cluster;
	b->old = malloc(PIECE);
	b->new = malloc(PIECE);
	if (!b->old || !b->new)
		return block_fail(b->e, -ENOMEM, "%s: out of memory", b->path);
	rc = take_all(b);
	return rc ? rc : block_call(b->image, call_rename, b);
}

/* The old backing file need not be there. */
static int rebase_unsafely(const struct rebase *b)
{
	struct node_mode mode = { .format = "qcow2", .no_backing = true };
	struct node *n;
	int close_rc, rc = node_open(&n, b->path, &mode, NULL, b->e);

	if (rc)
		return rc;
	rc = qcow2_write_backing(n->state, b->how->backing, b->how->backing_format, b->e);
	close_rc = node_close(n);
	if (!rc && close_rc)
		rc = block_fail(b->e, close_rc, "%s: %s", b->path, strerror(-close_rc));
	return rc;
}

int image_rebase(const char *path, const struct image_rebase *r, char *err, size_t errlen)
{
	struct errbuf e = { err, errlen };
	struct rebase b = { .how = r, .e = &e, .path = path };
	int close_rc, rc = r->unsafe ? rebase_unsafely(&b) : rebase_safely(&b);

	free(b.old);
	free(b.new);
	close_rc = block_close(b.image);
	if (!rc && close_rc)
		rc = block_fail(&e, close_rc, "%s: %s", path, strerror(-close_rc));
	block_close(b.backing);
	return rc;
}

/* Another size. What the header says is changed last when the disk grows and when it shrinks. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define PIECE BLOCK_MAX_LEN

struct waited {
	struct node_request request;
	bool ended;
	int rc;
};

static void end_waited(struct node_request *r, int rc)
{
	struct waited *w = container_of(r, struct waited, request);

	w->rc = rc;
	w->ended = true;
}

/* Zeroes in [from, to), at once. */
static int zero_range(struct node *n, uint64_t from, uint64_t to)
{
	int rc = 0;

	while (from < to && !rc) {
		struct waited w = { .request = { .op = BLOCK_WRITE_ZEROES,
			                         .unmap = true,
			                         .offset = from,
			                         .len = to - from < PIECE ? to - from : PIECE,
			                         .done = end_waited } };

		n->ops->submit(n, &w.request);
		while (!w.ended)
			aio_wait(n->aio, UINT64_MAX);
		from += w.request.len;
		rc = w.rc;
	}
	while (aio_pending(n->aio))
		aio_wait(n->aio, UINT64_MAX);
	return rc;
}

static int write_size(struct qcow2 *q, uint64_t size)
{
	uint8_t field[8];
	int rc;

	qcow2_put64(field, size);
	rc = qcow2_write_header(q, QCOW2_AT_SIZE, field, sizeof(field));
	return rc ? rc : qcow2_sync(q);
}

/* The two fields are in one sector. */
static int switch_l1(struct qcow2 *q, uint64_t offset, uint32_t size)
{
	uint8_t fields[12];
	int rc;

	qcow2_put32(fields, size);
	qcow2_put64(fields + 4, offset);
	rc = qcow2_write_header(q, QCOW2_AT_L1_SIZE, fields, sizeof(fields));
	return rc ? rc : qcow2_sync(q);
}

/* A longer table, elsewhere. */
static int grow_l1(struct qcow2 *q, uint32_t size)
{
	uint64_t old = q->l1.offset, old_clusters = qcow2_clusters_of(q, q->l1.size * 8ull);
	uint64_t clusters = qcow2_clusters_of(q, size * 8ull), offset;
	uint64_t *l1 = calloc(clusters, q->cluster_size);
	int rc = l1 ? qcow2_alloc_all(q, clusters, &offset) : -ENOMEM;

	if (!rc)
		rc = qcow2_flush_now(q);
	if (!rc) {
		memcpy(l1, q->l1.entry, q->l1.size * sizeof(*l1));
		/* To the end of its last cluster. */
		rc = qcow2_root_write_to(q, offset, l1,
		                         (uint32_t)(clusters << q->cluster_bits) / 8);
	}
	if (!rc)
		rc = qcow2_sync(q);
	if (!rc)
		rc = switch_l1(q, offset, size);
	if (rc) {
		free(l1);
		return rc;
	}
	qcow2_root_replace(&q->l1, offset, l1, size);
	qcow2_unref(q, old, old_clusters);
	return 0;
}

static int grow(struct qcow2 *q, uint64_t size, uint64_t l1_size)
{
	struct node *n = q->node;
	uint64_t old = n->size, stale = (old + q->cluster_size - 1) & ~(q->cluster_size - 1);
	int rc = l1_size > q->l1.size ? grow_l1(q, (uint32_t)l1_size) : 0;

	if (rc)
		return rc;
	/* What is behind the old end of the last cluster, and of a longer backing file. */
	if (n->backing && n->backing->size > stale)
		stale = n->backing->size;
	n->size = size;
	rc = zero_range(n, old, stale < size ? stale : size);
	if (!rc)
		rc = qcow2_flush_now(q);
	if (!rc)
		rc = write_size(q, size);
	if (rc)
		n->size = old;
	return rc;
}

static int shrink(struct qcow2 *q, uint64_t size)
{
	int rc = zero_range(q->node, size, q->node->size);

	if (!rc)
		rc = qcow2_flush_now(q);
	if (!rc)
		rc = write_size(q, size);
	if (!rc)
		q->node->size = size;
	return rc;
}

int qcow2_resize(struct node *n, uint64_t size, const struct errbuf *e)
{
	struct qcow2 *q = n->state;
	uint64_t clusters = qcow2_clusters_of(q, size);
	uint64_t l1_size = (clusters + BIT(q->l2_bits) - 1) >> q->l2_bits;
	int rc;

	if (q->snapshots && (size < n->size || q->version < 3))
		return block_fail(e, -ENOTSUP, "%s: cannot %s an image with internal snapshots",
		                  n->file.path, size < n->size ? "shrink" : "resize");
	if (l1_size * 8 > QCOW2_MAX_L1_BYTES)
		return block_fail(e, -EFBIG, "%s: too large for clusters of %" PRIu64 " bytes",
		                  n->file.path, q->cluster_size);
	rc = size < n->size ? shrink(q, size) : size > n->size ? grow(q, size, l1_size) : 0;
	return rc ? block_fail(e, rc, "%s: cannot resize: %s", n->file.path, strerror(-rc)) : 0;
}

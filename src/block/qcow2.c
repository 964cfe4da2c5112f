/* Opening and closing. */
#include "block/qcow2.h"

#include <errno.h>
#include <stdlib.h>

/* Memory for L2 tables: with clusters of 64 KiB, 128 tables for 64 GiB of the disk. */
#define L2_BYTES       (8 * MiB)
#define REFBLOCK_BYTES (2 * MiB)
#define MIN_TABLES     4u
#define MAX_TABLES     1024u

static unsigned tables_in(const struct qcow2 *q, uint64_t bytes)
{
	uint64_t n = bytes >> q->cluster_bits;

	return n < MIN_TABLES ? MIN_TABLES : n > MAX_TABLES ? MAX_TABLES : (unsigned)n;
}

static int load_tables(struct qcow2 *q, const struct errbuf *e)
{
	int rc = qcow2_root_load(q, &q->l1);

	if (!rc)
		rc = qcow2_root_load(q, &q->reftable);
	if (!rc)
		rc = qcow2_cache_init(&q->l2, tables_in(q, L2_BYTES), qcow2_evict_l2);
	if (!rc)
		rc = qcow2_cache_init(&q->refblocks, tables_in(q, REFBLOCK_BYTES),
		                      qcow2_evict_refblock);
	return rc ? block_fail(e, rc, "%s: %s", q->node->file.path, strerror(-rc)) : 0;
}

/* Features that a writer who does not keep them up must clear: bitmaps of changes. */
static int clear_autoclear(struct qcow2 *q)
{
	const uint8_t none[8] = { 0 };
	int rc;

	if (!q->autoclear)
		return 0;
	rc = qcow2_write_header(q, QCOW2_AT_AUTOCLEAR, none, sizeof(none));
	if (!rc)
		rc = qcow2_sync(q);
	if (!rc)
		q->autoclear = q->nr_bitmaps = 0;
	return rc;
}

/* Before the first write. Lazy refcounts are an offer that we don't take, but an image that
 * somebody left dirty has wrong ones. */
static int prepare_writing(struct qcow2 *q, const struct errbuf *e)
{
	int rc = clear_autoclear(q);

	if (rc)
		return block_fail(e, rc, "%s: %s", q->node->file.path, strerror(-rc));
	if (!(q->incompatible & QCOW2_INCOMPATIBLE_DIRTY))
		return 0;
	rc = qcow2_rebuild_refcounts(q, e);
	if (rc)
		return rc;
	rc = qcow2_write_incompatible(q, q->incompatible & ~QCOW2_INCOMPATIBLE_DIRTY);
	return rc ? block_fail(e, rc, "%s: %s", q->node->file.path, strerror(-rc)) : 0;
}

static int open_qcow2(struct node *n, const struct errbuf *e)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	int rc;

	n->state = q;
	if (!q)
		return block_fail(e, -ENOMEM, "%s: out of memory", n->file.path);
	q->node = n;
	rc = qcow2_read_header(q, e);
	if (!rc)
		rc = load_tables(q, e);
	if (!rc && !n->readonly && !n->checking)
		rc = prepare_writing(q, e);
	n->discards = !n->readonly;
	return rc;
}

static int close_qcow2(struct node *n)
{
	struct qcow2 *q = n->state;
	int rc = 0;

	if (!q)
		return 0;
	if (!n->readonly && !n->checking && q->l2.slots && q->refblocks.slots)
		rc = qcow2_flush_now(q);
	qcow2_cache_fini(&q->l2);
	qcow2_cache_fini(&q->refblocks);
	free(q->l1.entry);
	free(q->reftable.entry);
	free(q->freed.at);
	free(q->giving_up.at);
	free(q->unpacked);
	free(q);
	n->state = NULL;
	return rc;
}

static int map_qcow2(struct node *n, uint64_t offset, uint64_t *len, enum block_content *content)
{
	struct qcow2 *q = n->state;
	uint64_t first = offset >> q->cluster_bits, last = (offset + *len - 1) >> q->cluster_bits;
	struct qcow2_run run;
	uint64_t end;
	int rc = qcow2_map(q, first, last - first + 1, &run);

	if (rc)
		return rc;
	end = (first + run.clusters) << q->cluster_bits;
	if (*len > end - offset)
		*len = end - offset;
	if (run.kind == QCOW2_KIND_HOLE && n->backing)
		return node_map(n->backing, offset, len, content);
	*content = run.kind == QCOW2_KIND_HOLE   ? BLOCK_HOLE
	           : run.kind == QCOW2_KIND_ZERO ? BLOCK_ZERO
	                                         : BLOCK_DATA;
	return 0;
}

const struct node_ops qcow2_node_ops = {
	.format = "qcow2",
	.open = open_qcow2,
	.close = close_qcow2,
	.submit = qcow2_submit,
	.map = map_qcow2,
	.resize = qcow2_resize,
};

/* Descriptions and checks of image files. */
#include "block/image.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/node.h"
#include "block/qcow2.h"

static void describe_qcow2(const struct qcow2 *q, struct image_details *d)
{
	d->version = q->version;
	d->refcount_bits = 1u << q->refcount_order;
	d->cluster_size = q->cluster_size;
	d->snapshots = q->snapshots;
	d->lazy_refcounts = q->compatible & QCOW2_COMPATIBLE_LAZY;
	d->dirty = q->incompatible & QCOW2_INCOMPATIBLE_DIRTY;
	d->corrupt = q->incompatible & QCOW2_INCOMPATIBLE_CORRUPT;
	d->zstd = q->compression;
}

int image_describe(const char *path, const char *format, struct image_details *d, char *err,
                   size_t errlen)
{
	struct node_mode mode = { .format = format,
		                  .readonly = true,
		                  .unlocked = true,
		                  .checking = true,
		                  .no_backing = true };
	struct errbuf e = { err, errlen };
	struct node *n;
	int rc = node_open(&n, path, &mode, NULL, &e);

	*d = (struct image_details){ 0 };
	if (rc)
		return rc;
	snprintf(d->format, sizeof(d->format), "%s", n->ops->format);
	d->size = n->size;
	d->used = file_used(&n->file);
	file_size(&n->file, &d->file_size);
	d->backing = n->backing_name;
	d->backing_format = n->backing_format;
	n->backing_name = n->backing_format = NULL;
	if (n->ops == &qcow2_node_ops)
		describe_qcow2(n->state, d);
	node_close(n);
	if (d->backing)
		d->backing_path = node_backing_path(path, d->backing);
	return 0;
}

void image_details_fini(struct image_details *d)
{
	free(d->backing);
	free(d->backing_format);
	free(d->backing_path);
	*d = (struct image_details){ 0 };
}

struct checked {
	struct qcow2 *q;
	struct qcow2_refs refs;
	struct image_check *c;
	uint64_t last; /* cluster in use */
};

static void report_leak(struct checked *k, uint64_t cluster, uint64_t is, uint64_t should)
{
	char line[128];

	k->c->leaks++;
	if (!k->c->report)
		return;
	snprintf(line, sizeof(line),
	         "leak: cluster %" PRIu64 " has refcount %" PRIu64 ", should have %" PRIu64,
	         cluster, is, should);
	k->c->report(k->c->opaque, line);
}

/* Refcounts as they are against those counted. */
static int compare_one(struct checked *k, uint64_t cluster, bool repair)
{
	uint64_t should = cluster < k->refs.clusters ? k->refs.count[cluster] : 0, is;
	int rc = qcow2_get_refcount(k->q, cluster, &is);

	if (rc == -EIO) {
		qcow2_refs_damage(&k->refs, "refcount block unreadable for cluster", cluster);
		return 0;
	}
	if (rc)
		return rc;
	if (is || should)
		k->last = cluster + 1;
	if (is < should) {
		qcow2_refs_damage(&k->refs, "refcount too low of cluster", cluster);
	} else if (is > should && repair) {
		k->c->repaired++;
		return qcow2_lower_refcount(k->q, cluster, should);
	} else if (is > should) {
		report_leak(k, cluster, is, should);
	}
	return 0;
}

/* All clusters that a refcount block speaks of, and all in the file. */
static int compare_all(struct checked *k, bool repair)
{
	const struct qcow2 *q = k->q;
	uint64_t per_block = q->cluster_size * 8 >> q->refcount_order;
	int rc = 0;

	for (uint64_t i = 0; i < k->refs.clusters && !rc; i++)
		rc = compare_one(k, i, repair);
	for (uint32_t t = 0; t < q->reftable.size && !rc; t++) {
		uint64_t i = t * per_block, end = i + per_block;

		if (!q->reftable.entry[t] || end <= k->refs.clusters)
			continue;
		for (i = i < k->refs.clusters ? k->refs.clusters : i; i < end && !rc; i++)
			rc = compare_one(k, i, repair);
	}
	return rc;
}

/* Refcounts of an image that was left with lazy ones are wrong: make them right. */
static int repair_dirty(struct qcow2 *q, const struct errbuf *e)
{
	int rc;

	if (!(q->incompatible & QCOW2_INCOMPATIBLE_DIRTY))
		return 0;
	rc = qcow2_rebuild_refcounts(q, e);
	if (rc)
		return rc;
	rc = qcow2_write_incompatible(q, q->incompatible & ~QCOW2_INCOMPATIBLE_DIRTY);
	return rc ? block_fail(e, rc, "%s: %s", q->node->file.path, strerror(-rc)) : 0;
}

static int check_qcow2(struct node *n, bool repair, struct image_check *c, const struct errbuf *e)
{
	struct checked k = { .q = n->state, .c = c };
	int rc = repair ? repair_dirty(k.q, e) : 0;

	if (!rc)
		rc = qcow2_refs_init(&k.refs, k.q, e);
	if (rc)
		return rc;
	k.refs.report = c->report;
	k.refs.opaque = c->opaque;
	/* An image that was left with lazy refcounts has flags that are right and refcounts that
	 * are not. */
	k.refs.check_copied = !(k.q->incompatible & QCOW2_INCOMPATIBLE_DIRTY);
	rc = qcow2_refs_count(&k.refs, true);
	if (!rc)
		rc = compare_all(&k, false);
	if (!rc && repair && c->leaks && !k.refs.damaged) {
		rc = compare_all(&k, true);
		if (!rc)
			rc = qcow2_flush_now(k.q);
	}
	c->corruptions = k.refs.damaged;
	c->leaks -= c->repaired;
	c->clusters = qcow2_clusters_of(k.q, n->size);
	c->allocated = k.refs.allocated;
	c->compressed = k.refs.packed;
	c->file_end = k.last << k.q->cluster_bits;
	qcow2_refs_fini(&k.refs);
	return rc ? block_fail(e, rc, "%s: cannot check: %s", n->file.path, strerror(-rc)) : 0;
}

int image_check(const char *path, const char *format, bool repair, struct image_check *c, char *err,
                size_t errlen)
{
	struct node_mode mode = {
		.format = format, .readonly = !repair, .checking = true, .no_backing = true
	};
	struct errbuf e = { err, errlen };
	struct node *n;
	int rc = node_open(&n, path, &mode, NULL, &e);

	if (rc)
		return rc;
	if (n->ops == &qcow2_node_ops)
		rc = check_qcow2(n, repair, c, &e);
	else
		rc = block_fail(&e, -ENOTSUP, "%s: a raw image has nothing to check", path);
	node_close(n);
	return rc;
}

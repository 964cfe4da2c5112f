/* Refcounts of host clusters, and the allocator on top of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

/* Widths of 1, 2 and 4 bits fill bytes from the least significant bit on. */
uint64_t qcow2_refcount_of(const void *block, unsigned order, uint64_t index)
{
	const uint8_t *p = (const uint8_t *)block + (index << order) / 8;
	uint64_t value = 0;

	if (order < 3)
		return *p >> ((index << order) % 8) & (BIT(1u << order) - 1);
	for (unsigned i = 0; i < 1u << (order - 3); i++)
		value = value << 8 | p[i];
	return value;
}

void qcow2_set_refcount_of(void *block, unsigned order, uint64_t index, uint64_t value)
{
	uint8_t *p = (uint8_t *)block + (index << order) / 8;
	unsigned shift = (unsigned)((index << order) % 8);

	if (order < 3) {
		*p = (uint8_t)((*p & ~((BIT(1u << order) - 1) << shift)) | value << shift);
		return;
	}
	for (unsigned i = 1u << (order - 3); i-- > 0; value >>= 8)
		p[i] = (uint8_t)value;
}

static unsigned block_bits(const struct qcow2 *q)
{
	return q->cluster_bits + 3 - q->refcount_order; /* log2 of the entries of a block */
}

static uint64_t index_in_block(const struct qcow2 *q, uint64_t cluster)
{
	return cluster & (BIT(block_bits(q)) - 1);
}

/* *out is NULL where there is no block: all its refcounts are 0. */
static int get_block(struct qcow2 *q, uint64_t cluster, struct qcow2_table **out)
{
	uint64_t i = cluster >> block_bits(q), offset;

	*out = NULL;
	if (i >= q->reftable.size || !q->reftable.entry[i])
		return 0;
	offset = q->reftable.entry[i];
	if (offset & (q->cluster_size - 1) || offset >= q->file_end ||
	    qcow2_cache_find(&q->l2, offset))
		return qcow2_complain(q, "entry of the refcount table", i);
	return qcow2_cache_get(q, &q->refblocks, offset, out);
}

int qcow2_get_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *value)
{
	struct qcow2_table *t;
	int rc = get_block(q, cluster, &t);

	*value = !rc && t
	                 ? qcow2_refcount_of(t->data, q->refcount_order, index_in_block(q, cluster))
	                 : 0;
	return rc;
}

static void set_in_block(struct qcow2 *q, struct qcow2_table *t, uint64_t cluster, uint64_t value)
{
	uint64_t i = index_in_block(q, cluster);
	uint32_t at = (uint32_t)((i << q->refcount_order) / 8);
	uint32_t bytes = q->refcount_order < 3 ? 1 : 1u << (q->refcount_order - 3);

	qcow2_set_refcount_of(t->data, q->refcount_order, i, value);
	qcow2_cache_soil(&q->refblocks, t, at, at + bytes);
}

/* A refcount block may be written at any time: what it says is never too low. */
int qcow2_evict_refblock(struct qcow2 *q, struct qcow2_table *t)
{
	return qcow2_cache_write(q, &q->refblocks, t);
}

static void note_end(struct qcow2 *q, uint64_t end)
{
	if (end > q->file_end)
		q->file_end = end;
}

/* Puts the block that has to be there for a cluster in that cluster, which is free, as are all that
 * the block is for. */
static int make_block(struct qcow2 *q, uint64_t cluster)
{
	uint64_t offset = cluster << q->cluster_bits;
	struct qcow2_table *t;
	int rc;

	if (qcow2_is_metadata(q, offset))
		return qcow2_complain(q, "refcount of a table is 0, in cluster", cluster);
	rc = qcow2_cache_get_new(q, &q->refblocks, offset, &t);
	if (rc)
		return rc;
	set_in_block(q, t, cluster, 1);
	qcow2_root_set(&q->reftable, (uint32_t)(cluster >> block_bits(q)), offset);
	note_end(q, offset + q->cluster_size);
	return 0;
}

/* A larger table, behind all that the old one covers, and the blocks for itself and for them. */
struct growth {
	uint64_t first;            /* host cluster: blocks, then the table */
	uint32_t blocks, clusters; /* of blocks, of the table */
	uint64_t *table;           /* in host order */
	uint32_t size;
};

static int plan_growth(struct qcow2 *q, uint64_t cluster, struct growth *g)
{
	const uint32_t per_cluster = (uint32_t)(q->cluster_size / 8);
	uint32_t needed = (uint32_t)(cluster >> block_bits(q)) + 1;

	g->first = (uint64_t)q->reftable.size << block_bits(q);
	g->clusters = q->reftable_clusters + q->reftable_clusters / 2 + 1;
	do {
		if (needed > g->clusters * per_cluster)
			g->clusters = (needed + per_cluster - 1) / per_cluster;
		for (g->blocks = 1; g->blocks + g->clusters > (uint64_t)g->blocks << block_bits(q);)
			g->blocks++;
		needed = q->reftable.size + g->blocks + 1;
	} while (needed > g->clusters * per_cluster);
	g->size = g->clusters * per_cluster;
	if (g->clusters * q->cluster_size > QCOW2_MAX_REFTABLE)
		return -ENOSPC;
	g->table = calloc(g->size, sizeof(*g->table));
	if (!g->table)
		return -ENOMEM;
	memcpy(g->table, q->reftable.entry, q->reftable.size * sizeof(*g->table));
	for (uint32_t i = 0; i < g->blocks; i++)
		g->table[q->reftable.size + i] = (g->first + i) << q->cluster_bits;
	return 0;
}

static int write_new_blocks(struct qcow2 *q, const struct growth *g)
{
	uint64_t left = g->blocks + g->clusters, per_block = BIT(block_bits(q));
	uint8_t *block = malloc(q->cluster_size);
	int rc = block ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < g->blocks && !rc; i++) {
		uint64_t n = left < per_block ? left : per_block;

		memset(block, 0, q->cluster_size);
		for (uint64_t k = 0; k < n; k++)
			qcow2_set_refcount_of(block, q->refcount_order, k, 1);
		rc = file_write(&q->node->file, (g->first + i) << q->cluster_bits, block,
		                q->cluster_size);
		left -= n;
	}
	free(block);
	return rc;
}

/* The header's two fields are in one sector. */
int qcow2_switch_reftable(struct qcow2 *q, uint64_t offset, uint32_t clusters)
{
	uint8_t fields[12];
	int rc;

	qcow2_put64(fields, offset);
	qcow2_put32(fields + 8, clusters);
	rc = qcow2_sync(q);
	if (!rc)
		rc = qcow2_write_header(q, QCOW2_AT_REFTABLE_OFFSET, fields, sizeof(fields));
	return rc ? rc : qcow2_sync(q);
}

static void take_new_table(struct qcow2 *q, struct growth *g)
{
	uint64_t old = q->reftable.offset, old_clusters = q->reftable_clusters;

	for (uint32_t i = 0; i < g->blocks; i++) /* they were free clusters, which may be cached */
		qcow2_cache_forget(&q->refblocks, (g->first + i) << q->cluster_bits);
	qcow2_root_replace(&q->reftable, (g->first + g->blocks) << q->cluster_bits, g->table,
	                   g->size);
	q->reftable_clusters = g->clusters;
	g->table = NULL;
	note_end(q, q->reftable.offset + ((uint64_t)g->clusters << q->cluster_bits));
	qcow2_unref(q, old, old_clusters);
}

/* Rare, and done at once. The old table in memory may know blocks that are not on the disk. */
static int grow_reftable(struct qcow2 *q, uint64_t cluster)
{
	struct growth g = { 0 };
	int rc = plan_growth(q, cluster, &g);

	if (!rc)
		rc = qcow2_cache_write_all(q, &q->refblocks, false);
	if (!rc)
		rc = write_new_blocks(q, &g);
	if (!rc)
		rc = qcow2_root_write_to(q, (g.first + g.blocks) << q->cluster_bits, g.table,
		                         g.size);
	if (!rc)
		rc = qcow2_switch_reftable(q, (g.first + g.blocks) << q->cluster_bits, g.clusters);
	if (!rc)
		take_new_table(q, &g);
	free(g.table);
	return rc;
}

/* Whether the cluster is free; -EAGAIN when it was taken for metadata on the way. */
static int test_free(struct qcow2 *q, uint64_t cluster, bool *is_free)
{
	struct qcow2_table *t;
	int rc;

	if (cluster >> block_bits(q) >= q->reftable.size) {
		rc = grow_reftable(q, cluster);
		return rc ? rc : -EAGAIN;
	}
	rc = get_block(q, cluster, &t);
	if (rc)
		return rc;
	if (!t) {
		rc = make_block(q, cluster);
		return rc ? rc : -EAGAIN;
	}
	*is_free = !qcow2_refcount_of(t->data, q->refcount_order, index_in_block(q, cluster));
	return 0;
}

static int find_free(struct qcow2 *q, uint64_t *out)
{
	uint64_t cluster = q->free_from;
	bool is_free = false;
	int rc = 0;

	while (!is_free) {
		if (cluster << q->cluster_bits & ~QCOW2_OFFSET)
			return -ENOSPC;
		rc = test_free(q, cluster, &is_free);
		if (rc == -EAGAIN)
			continue; /* look again: it is taken now */
		if (rc)
			return rc;
		cluster += !is_free;
	}
	q->free_from = cluster;
	*out = cluster;
	return 0;
}

/* How many follow the first that are free, within its block: that is enough to be sequential. */
static uint64_t count_free(struct qcow2 *q, const struct qcow2_table *t, uint64_t first,
                           uint64_t most)
{
	uint64_t i = index_in_block(q, first), end = BIT(block_bits(q)), n = 0;

	while (n < most && i + n < end && !qcow2_refcount_of(t->data, q->refcount_order, i + n))
		n++;
	return n;
}

int qcow2_alloc(struct qcow2 *q, uint64_t clusters, uint64_t *offset, uint64_t *got)
{
	struct qcow2_table *t = NULL;
	uint64_t first;
	int rc = find_free(q, &first);

	if (!rc)
		rc = get_block(q, first, &t);
	if (rc)
		return rc;
	*offset = first << q->cluster_bits;
	*got = count_free(q, t, first, clusters);
	for (uint64_t i = 0; i < *got; i++) {
		if (qcow2_is_metadata(q, (first + i) << q->cluster_bits))
			return qcow2_complain(q, "refcount of a table is 0, in cluster", first + i);
		set_in_block(q, t, first + i, 1);
	}
	q->free_from = first + *got;
	note_end(q, (first + *got) << q->cluster_bits);
	return 0;
}

/* Blocks behind n clusters from `first` on, for all of them and for themselves. */
static int make_blocks_behind(struct qcow2 *q, uint64_t first, uint64_t n, uint64_t blocks)
{
	int rc = 0;

	for (uint64_t i = 0; i < blocks && !rc; i++) {
		uint64_t start = first + (i << block_bits(q)), end = start + BIT(block_bits(q));
		uint64_t offset = (first + n + i) << q->cluster_bits;
		struct qcow2_table *t;

		rc = qcow2_cache_get_new(q, &q->refblocks, offset, &t);
		for (uint64_t k = start; !rc && k < end && k < first + n + blocks; k++)
			set_in_block(q, t, k, 1);
		if (!rc)
			qcow2_root_set(&q->reftable, (uint32_t)(start >> block_bits(q)), offset);
	}
	note_end(q, (first + n + blocks) << q->cluster_bits);
	return rc;
}

/* A place behind the file's end where no block says anything, of whole blocks. */
static int find_untouched(struct qcow2 *q, uint64_t blocks, uint64_t *first)
{
	uint32_t i = (uint32_t)((q->file_end >> q->cluster_bits) >> block_bits(q)) + 1;
	uint32_t end = i + (uint32_t)blocks;

	if (end > q->reftable.size)
		return grow_reftable(q, (uint64_t)end << block_bits(q)) ?: -EAGAIN;
	for (uint32_t k = i; k < end; k++)
		if (q->reftable.entry[k])
			return -ENOSPC;
	*first = (uint64_t)i << block_bits(q);
	return 0;
}

int qcow2_alloc_all(struct qcow2 *q, uint64_t clusters, uint64_t *offset)
{
	uint64_t blocks = 1, first, got;
	int rc = qcow2_alloc(q, clusters, offset, &got);

	if (rc || got == clusters)
		return rc;
	qcow2_unref(q, *offset, got);
	while (blocks + clusters > blocks << block_bits(q))
		blocks++;
	do
		rc = find_untouched(q, blocks, &first);
	while (rc == -EAGAIN);
	if (rc)
		return rc;
	*offset = first << q->cluster_bits;
	return make_blocks_behind(q, first, clusters, blocks);
}

int qcow2_lower_refcount(struct qcow2 *q, uint64_t cluster, uint64_t value)
{
	struct qcow2_table *t;
	int rc = get_block(q, cluster, &t);

	if (!rc && t)
		set_in_block(q, t, cluster, value);
	return rc;
}

static int unref_one(struct qcow2 *q, uint64_t cluster)
{
	struct qcow2_table *t;
	uint64_t value;
	int rc = get_block(q, cluster, &t);

	if (rc)
		return rc;
	value = t ? qcow2_refcount_of(t->data, q->refcount_order, index_in_block(q, cluster)) : 0;
	if (!value)
		return qcow2_complain(q, "refcount was 0 already, of cluster", cluster);
	set_in_block(q, t, cluster, value - 1);
	if (value > 1)
		return 0;
	if (cluster < q->free_from)
		q->free_from = cluster;
	qcow2_cache_forget(&q->l2, cluster << q->cluster_bits); /* a table that was copied */
	return 0;
}

/* What can't be read can't be counted down: a leak. */
void qcow2_unref(struct qcow2 *q, uint64_t offset, uint64_t clusters)
{
	for (uint64_t i = 0; i < clusters; i++)
		unref_one(q, (offset >> q->cluster_bits) + i);
}

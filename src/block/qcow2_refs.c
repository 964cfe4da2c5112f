/* Who points where: all references of a file, counted anew; and refcounts made of them. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define MAX_CLUSTERS  BIT(31) /* of a file, in what is counted: 8 GiB of memory at most */
#define SNAPSHOT_ROOM (64 * KiB)

void qcow2_refs_damage(struct qcow2_refs *r, const char *what, uint64_t where)
{
	char line[128];

	r->damaged++;
	if (!r->report)
		return;
	snprintf(line, sizeof(line), "%s 0x%" PRIx64, what, where);
	r->report(r->opaque, line);
}

int qcow2_refs_init(struct qcow2_refs *r, struct qcow2 *q, const struct errbuf *e)
{
	r->q = q;
	r->clusters = q->file_end >> q->cluster_bits;
	if (r->clusters > MAX_CLUSTERS)
		return block_fail(e, -EFBIG, "%s: too many clusters to count", q->node->file.path);
	r->count = calloc(r->clusters, sizeof(*r->count));
	r->seen = calloc(r->clusters / 64 + 1, sizeof(*r->seen));
	return r->count && r->seen
	               ? 0
	               : block_fail(e, -ENOMEM, "%s: out of memory", q->node->file.path);
}

void qcow2_refs_fini(struct qcow2_refs *r)
{
	free(r->count);
	free(r->seen);
}

static void count_bytes(struct qcow2_refs *r, const char *what, uint64_t offset, uint64_t bytes)
{
	uint64_t first = offset >> r->q->cluster_bits, n;

	if (!bytes)
		return;
	n = ((offset + bytes - 1) >> r->q->cluster_bits) - first + 1;
	if (first >= r->clusters || n > r->clusters - first) {
		qcow2_refs_damage(r, what, offset);
		return;
	}
	for (uint64_t i = first; i < first + n; i++)
		r->count[i] += r->count[i] < UINT32_MAX;
}

/* The entry's cluster may be used by others, or it may not. */
static void check_copied(struct qcow2_refs *r, const char *what, uint64_t entry)
{
	uint64_t offset = entry & QCOW2_OFFSET, refcount;

	if (!r->check_copied)
		return;
	if (qcow2_get_refcount(r->q, offset >> r->q->cluster_bits, &refcount) ||
	    (refcount == 1) != !!(entry & QCOW2_COPIED))
		qcow2_refs_damage(r, what, offset);
}

static void count_packed(struct qcow2_refs *r, uint64_t entry)
{
	struct qcow2_extent x = qcow2_packed_extent(r->q, entry);
	uint64_t end = x.offset + (x.clusters << r->q->cluster_bits);

	/* Sectors of the last cluster may be beyond the file's end. */
	if (end > r->q->file_end && end - r->q->cluster_size == r->q->file_end)
		x.clusters--;
	count_bytes(r, "compressed cluster at", x.offset, x.clusters << r->q->cluster_bits);
}

static void count_entry(struct qcow2_refs *r, uint64_t entry, bool active)
{
	uint64_t offset = entry & QCOW2_OFFSET, mask = r->q->cluster_size - 1;

	if (active) {
		r->packed += !!(entry & QCOW2_COMPRESSED);
		r->allocated += (entry & QCOW2_COMPRESSED) || offset;
	}
	if (entry & QCOW2_COMPRESSED) {
		if (entry & QCOW2_COPIED)
			qcow2_refs_damage(r, "compressed cluster with the copied flag", entry);
		count_packed(r, entry);
		return;
	}
	if (entry & QCOW2_L2_RESERVED || (entry & QCOW2_ZERO && r->q->version < 3))
		qcow2_refs_damage(r, "reserved bits in L2 entry", entry);
	if (!offset)
		return;
	if (offset & mask) {
		qcow2_refs_damage(r, "cluster not at a cluster's start:", offset);
		return;
	}
	count_bytes(r, "cluster beyond the end of the file:", offset, r->q->cluster_size);
	if (active)
		check_copied(r, "copied flag and refcount disagree on cluster", entry);
}

static bool has_seen(struct qcow2_refs *r, uint64_t offset)
{
	uint64_t i = offset >> r->q->cluster_bits, bit = BIT(i % 64);
	bool seen = r->seen[i / 64] & bit;

	r->seen[i / 64] |= bit;
	return seen;
}

static int count_l2(struct qcow2_refs *r, uint64_t l1_entry, uint8_t *table, bool active)
{
	uint64_t offset = l1_entry & QCOW2_OFFSET;
	int rc;

	if (l1_entry & QCOW2_L1_RESERVED)
		qcow2_refs_damage(r, "reserved bits in L1 entry", l1_entry);
	if (!offset)
		return 0;
	if (offset & (r->q->cluster_size - 1) || offset >= r->q->file_end) {
		qcow2_refs_damage(r, "L2 table cannot be at", offset);
		return 0;
	}
	if (has_seen(r, offset)) {
		qcow2_refs_damage(r, "L2 table used twice, at", offset);
		return 0;
	}
	count_bytes(r, "L2 table at", offset, r->q->cluster_size);
	if (active)
		check_copied(r, "copied flag and refcount disagree on L2 table", l1_entry);
	rc = file_read(&r->q->node->file, offset, table, r->q->cluster_size);
	for (uint64_t i = 0; !rc && i < BIT(r->q->l2_bits); i++)
		count_entry(r, qcow2_get64(table + i * 8), active);
	return rc;
}

static int count_l1(struct qcow2_refs *r, const uint64_t *l1, uint64_t offset, uint64_t size,
                    bool active)
{
	uint8_t *table = malloc(r->q->cluster_size);
	int rc = table ? 0 : -ENOMEM;

	memset(r->seen, 0, (r->clusters / 64 + 1) * sizeof(*r->seen));
	count_bytes(r, "L1 table at", offset, size * 8);
	for (uint64_t i = 0; i < size && !rc; i++)
		rc = count_l2(r, l1[i], table, active);
	free(table);
	return rc;
}

/* The L1 table of a snapshot. */
static int count_snapshot(struct qcow2_refs *r, uint64_t offset, uint32_t size)
{
	uint64_t *l1;
	int rc;

	if (offset & (r->q->cluster_size - 1) || offset >= r->q->file_end ||
	    size * 8ull > r->q->file_end - offset || size * 8ull > QCOW2_MAX_L1_BYTES) {
		qcow2_refs_damage(r, "L1 table of a snapshot cannot be at", offset);
		return 0;
	}
	l1 = calloc(size ? size : 1, sizeof(*l1));
	if (!l1)
		return -ENOMEM;
	rc = file_read(&r->q->node->file, offset, l1, size * 8ull);
	for (uint32_t i = 0; i < size; i++)
		l1[i] = be64toh(l1[i]);
	if (!rc)
		rc = count_l1(r, l1, offset, size, false);
	free(l1);
	return rc;
}

static uint64_t snapshot_entry_bytes(const uint8_t *entry)
{
	uint64_t n = QCOW2_SNAPSHOT_BYTES + qcow2_get32(entry + 36) + (entry[12] << 8 | entry[13]) +
	             (entry[14] << 8 | entry[15]);

	return (n + 7) & ~7ull;
}

static int count_snapshots(struct qcow2_refs *r)
{
	uint64_t at = r->q->snapshots_offset;
	int rc = 0;

	for (uint32_t i = 0; i < r->q->snapshots && !rc; i++) {
		uint8_t entry[QCOW2_SNAPSHOT_BYTES];

		if (at >= r->q->file_end) {
			qcow2_refs_damage(r, "snapshot beyond the end of the file:", at);
			return 0;
		}
		rc = file_read(&r->q->node->file, at, entry, sizeof(entry));
		if (!rc)
			rc = count_snapshot(r, qcow2_get64(entry), qcow2_get32(entry + 8));
		at += snapshot_entry_bytes(entry);
	}
	count_bytes(r, "snapshot table at", r->q->snapshots_offset, at - r->q->snapshots_offset);
	return rc;
}

static int count_bitmap(struct qcow2_refs *r, uint64_t offset, uint32_t entries)
{
	uint8_t entry[8];
	int rc = 0;

	count_bytes(r, "bitmap table at", offset, entries * 8ull);
	for (uint32_t i = 0; i < entries && !rc && offset + i * 8ull < r->q->file_end; i++) {
		rc = file_read(&r->q->node->file, offset + i * 8ull, entry, sizeof(entry));
		if (!rc && qcow2_get64(entry) & QCOW2_OFFSET)
			count_bytes(r, "cluster of a bitmap at", qcow2_get64(entry) & QCOW2_OFFSET,
			            r->q->cluster_size);
	}
	return rc;
}

static int count_bitmaps(struct qcow2_refs *r)
{
	uint64_t at = r->q->bitmaps_offset, end = at + r->q->bitmaps_size;
	int rc = 0;

	if (!r->q->nr_bitmaps)
		return 0;
	count_bytes(r, "bitmap directory at", at, r->q->bitmaps_size);
	for (uint32_t i = 0; i < r->q->nr_bitmaps && !rc && at + 24 <= end; i++) {
		uint8_t entry[24];

		rc = file_read(&r->q->node->file, at, entry, sizeof(entry));
		if (!rc)
			rc = count_bitmap(r, qcow2_get64(entry), qcow2_get32(entry + 8));
		at += (24 + (entry[18] << 8 | entry[19]) + qcow2_get32(entry + 20) + 7ull) & ~7ull;
	}
	return rc;
}

static void count_reftable(struct qcow2_refs *r)
{
	const struct qcow2 *q = r->q;

	count_bytes(r, "refcount table at", q->reftable.offset,
	            (uint64_t)q->reftable_clusters << q->cluster_bits);
	for (uint32_t i = 0; i < q->reftable.size; i++)
		if (q->reftable.entry[i] & (q->cluster_size - 1))
			qcow2_refs_damage(r, "refcount block not at a cluster's start:",
			                  q->reftable.entry[i]);
		else if (q->reftable.entry[i])
			count_bytes(r, "refcount block at", q->reftable.entry[i], q->cluster_size);
}

int qcow2_refs_count(struct qcow2_refs *r, bool reftable)
{
	int rc;

	count_bytes(r, "header", 0, r->q->cluster_size);
	rc = count_l1(r, r->q->l1.entry, r->q->l1.offset, r->q->l1.size, true);
	if (!rc)
		rc = count_snapshots(r);
	if (!rc)
		rc = count_bitmaps(r);
	if (!rc && reftable)
		count_reftable(r);
	return rc;
}

/* New blocks for the whole file, and a new table, all behind its end. */
struct rebuilt {
	uint64_t first;  /* host cluster of the first block; the table follows them */
	uint64_t blocks; /* all ranges have one */
	uint64_t table_clusters;
	uint64_t per_block;
	uint64_t *table; /* in host order */
	uint32_t size;   /* its entries */
};

static void plan_rebuild(const struct qcow2_refs *r, struct rebuilt *b)
{
	const struct qcow2 *q = r->q;
	uint64_t total;

	b->first = r->clusters;
	b->per_block = q->cluster_size * 8 >> q->refcount_order;
	b->blocks = b->table_clusters = 1;
	for (;;) {
		total = b->first + b->blocks + b->table_clusters;
		if (total > b->blocks * b->per_block)
			b->blocks++;
		else if (b->blocks * 8 > b->table_clusters << q->cluster_bits)
			b->table_clusters++;
		else
			return;
	}
}

static int write_block(const struct qcow2_refs *r, const struct rebuilt *b, uint64_t i,
                       uint8_t *block)
{
	const struct qcow2 *q = r->q;
	uint64_t end = b->first + b->blocks + b->table_clusters;
	unsigned bits = 1u << q->refcount_order;

	memset(block, 0, q->cluster_size);
	for (uint64_t k = 0; k < b->per_block; k++) {
		uint64_t cluster = i * b->per_block + k;
		uint64_t value = cluster < r->clusters ? r->count[cluster] : cluster < end;

		if (bits < 64 && value >> bits)
			return -ERANGE;
		qcow2_set_refcount_of(block, q->refcount_order, k, value);
	}
	return file_write(&q->node->file, (b->first + i) << q->cluster_bits, block,
	                  q->cluster_size);
}

static int write_rebuilt(const struct qcow2_refs *r, struct rebuilt *b)
{
	struct qcow2 *q = r->q;
	uint64_t table_bytes = b->table_clusters << q->cluster_bits;
	uint8_t *block = malloc(q->cluster_size);
	int rc = block ? 0 : -ENOMEM;

	if (table_bytes > QCOW2_MAX_REFTABLE)
		rc = -EFBIG;
	b->size = (uint32_t)(table_bytes / sizeof(*b->table));
	if (!rc) {
		b->table = calloc(b->size, sizeof(*b->table));
		rc = b->table ? 0 : -ENOMEM;
	}
	for (uint64_t i = 0; i < b->blocks && !rc; i++) {
		b->table[i] = (b->first + i) << q->cluster_bits;
		rc = write_block(r, b, i, block);
	}
	free(block);
	return rc ? rc
	          : qcow2_root_write_to(q, (b->first + b->blocks) << q->cluster_bits, b->table,
	                                b->size);
}

static void take_rebuilt(struct qcow2 *q, struct rebuilt *b)
{
	for (uint32_t i = 0; i < q->reftable.size; i++)
		qcow2_cache_forget(&q->refblocks, q->reftable.entry[i]);
	qcow2_root_replace(&q->reftable, (b->first + b->blocks) << q->cluster_bits, b->table,
	                   b->size);
	b->table = NULL;
	q->reftable_clusters = (uint32_t)b->table_clusters;
	q->free_from = 0;
	q->file_end = (b->first + b->blocks + b->table_clusters) << q->cluster_bits;
}

int qcow2_rebuild_refcounts(struct qcow2 *q, const struct errbuf *e)
{
	struct qcow2_refs r = { 0 };
	struct rebuilt b = { 0 };
	int rc = qcow2_refs_init(&r, q, e);

	if (!rc)
		rc = qcow2_refs_count(&r, false);
	if (!rc && r.damaged)
		rc = -EIO;
	if (!rc) {
		plan_rebuild(&r, &b);
		rc = write_rebuilt(&r, &b);
	}
	if (!rc)
		rc = qcow2_switch_reftable(q, (b.first + b.blocks) << q->cluster_bits,
		                           (uint32_t)b.table_clusters);
	if (!rc)
		take_rebuilt(q, &b);
	free(b.table);
	qcow2_refs_fini(&r);
	return rc ? block_fail(e, rc, "%s: cannot rebuild its refcounts: %s", q->node->file.path,
	                       r.damaged ? "it is damaged" : strerror(-rc))
	          : 0;
}

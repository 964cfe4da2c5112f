/* From guest clusters to host clusters, and changes of that. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

int qcow2_complain(struct qcow2 *q, const char *what, uint64_t where)
{
	if (!q->complained && !q->node->checking)
		log_error("%s: damaged image: %s %" PRIu64, q->node->file.path, what, where);
	q->complained = true;
	return -EIO;
}

static bool is_within(uint64_t offset, uint64_t start, uint64_t len)
{
	return offset - start < len;
}

bool qcow2_is_metadata(const struct qcow2 *q, uint64_t offset)
{
	uint64_t mask = q->cluster_size - 1;

	return offset < q->cluster_size ||
	       is_within(offset, q->l1.offset, (q->l1.size * 8ull + mask) & ~mask) ||
	       is_within(offset, q->reftable.offset,
	                 (uint64_t)q->reftable_clusters << q->cluster_bits) ||
	       qcow2_cache_find(&q->l2, offset) || qcow2_cache_find(&q->refblocks, offset);
}

/* Where data or a table may be. */
static bool is_place(const struct qcow2 *q, uint64_t offset)
{
	return offset && !(offset & (q->cluster_size - 1)) && offset < q->file_end;
}

static unsigned packed_bits(const struct qcow2 *q)
{
	return 62 - (q->cluster_bits - 8); /* of the place; what is above counts sectors */
}

uint64_t qcow2_packed_place(const struct qcow2 *q, uint64_t entry, uint64_t *len)
{
	uint64_t place = entry & (BIT(packed_bits(q)) - 1) & (QCOW2_OFFSET | 0x1ff);
	uint64_t more = (entry & (QCOW2_COMPRESSED - 1)) >> packed_bits(q);

	*len = (more + 1) * 512 - (place & 511);
	return place;
}

struct qcow2_extent qcow2_packed_extent(const struct qcow2 *q, uint64_t entry)
{
	uint64_t len, place = qcow2_packed_place(q, entry, &len);
	uint64_t first = place >> q->cluster_bits, last = (place + len - 1) >> q->cluster_bits;

	return (struct qcow2_extent){ first << q->cluster_bits, last - first + 1 };
}

static int read_packed(struct qcow2 *q, uint64_t entry, struct qcow2_run *run)
{
	uint64_t len, place = qcow2_packed_place(q, entry, &len);

	*run = (struct qcow2_run){ .kind = QCOW2_KIND_PACKED, .entry = entry, .clusters = 1 };
	if (entry & QCOW2_COPIED || place < q->cluster_size || place >= q->file_end)
		return qcow2_complain(q, "compressed cluster at", place);
	return 0;
}

int qcow2_read_entry(struct qcow2 *q, uint64_t entry, struct qcow2_run *run)
{
	if (entry & QCOW2_COMPRESSED)
		return read_packed(q, entry, run);
	*run = (struct qcow2_run){ .kind = QCOW2_KIND_DATA,
		                   .copied = entry & QCOW2_COPIED,
		                   .entry = entry,
		                   .host = entry & QCOW2_OFFSET,
		                   .clusters = 1 };
	if (entry & QCOW2_L2_RESERVED || (entry & QCOW2_ZERO && q->version < 3))
		return qcow2_complain(q, "reserved bits in L2 entry", entry);
	if (entry & QCOW2_ZERO)
		run->kind = QCOW2_KIND_ZERO;
	else if (!run->host)
		run->kind = QCOW2_KIND_HOLE;
	if ((run->host || run->copied) && !is_place(q, run->host))
		return qcow2_complain(q, "cluster at", run->host);
	if (run->host && qcow2_is_metadata(q, run->host))
		return qcow2_complain(q, "a table is also data, at", run->host);
	return 0;
}

/* *out is NULL where there is no table. */
static int find_l2(struct qcow2 *q, uint64_t cluster, struct qcow2_table **out)
{
	uint64_t entry = q->l1.entry[cluster >> q->l2_bits], offset = entry & QCOW2_OFFSET;

	*out = NULL;
	if (!offset)
		return 0;
	if (entry & QCOW2_L1_RESERVED || !is_place(q, offset) ||
	    (!qcow2_cache_find(&q->l2, offset) && qcow2_is_metadata(q, offset)))
		return qcow2_complain(q, "L1 entry", cluster >> q->l2_bits);
	return qcow2_cache_get(q, &q->l2, offset, out);
}

static uint64_t index_in_l2(const struct qcow2 *q, uint64_t cluster)
{
	return cluster & (BIT(q->l2_bits) - 1);
}

static uint64_t entry_at(const struct qcow2_table *t, uint64_t index)
{
	return qcow2_get64(t->data + index * 8);
}

/* Whether the entry after `clusters` of the run continues it. */
static bool goes_on(const struct qcow2 *q, const struct qcow2_run *run, uint64_t entry)
{
	if (run->kind == QCOW2_KIND_PACKED)
		return false;
	if (!run->host)
		return entry == run->entry;
	return entry == run->entry + (run->clusters << q->cluster_bits);
}

int qcow2_map(struct qcow2 *q, uint64_t first, uint64_t clusters, struct qcow2_run *run)
{
	uint64_t i = index_in_l2(q, first), left = BIT(q->l2_bits) - i;
	struct qcow2_table *t;
	int rc = find_l2(q, first, &t);

	if (rc)
		return rc;
	if (clusters > left)
		clusters = left;
	if (!t) {
		*run = (struct qcow2_run){ .kind = QCOW2_KIND_HOLE, .clusters = clusters };
		return 0;
	}
	rc = qcow2_read_entry(q, entry_at(t, i), run);
	while (!rc && run->clusters < clusters && goes_on(q, run, entry_at(t, i + run->clusters))) {
		struct qcow2_run next;

		if (run->host && qcow2_read_entry(q, entry_at(t, i + run->clusters), &next))
			break; /* whoever asks for it is told */
		run->clusters++;
	}
	return rc;
}

/* A new table, with the entries of the old one, if there is one. */
static int make_l2(struct qcow2 *q, uint64_t cluster, struct qcow2_table **out)
{
	uint32_t i = (uint32_t)(cluster >> q->l2_bits);
	uint64_t offset, got, old_offset = q->l1.entry[i] & QCOW2_OFFSET;
	uint8_t *entries = calloc(1, q->cluster_size);
	struct qcow2_table *old;
	int rc = entries ? find_l2(q, cluster, &old) : -ENOMEM;

	if (!rc && old)
		memcpy(entries, old->data, q->cluster_size);
	if (!rc)
		rc = qcow2_alloc(q, 1, &offset, &got);
	if (!rc) {
		rc = qcow2_cache_get_new(q, &q->l2, offset, out);
		if (!rc && old_offset)
			rc = qcow2_give_up_later(q, old_offset, 1);
		if (rc) {
			qcow2_unref(q, offset, 1);
		} else {
			memcpy((*out)->data, entries, q->cluster_size);
			(*out)->fresh = true;
			qcow2_root_set(&q->l1, i, offset | QCOW2_COPIED);
		}
	}
	free(entries);
	return rc;
}

int qcow2_get_l2(struct qcow2 *q, uint64_t cluster, struct qcow2_table **out)
{
	if (q->l1.entry[cluster >> q->l2_bits] & QCOW2_COPIED) {
		int rc = find_l2(q, cluster, out);

		return rc ? rc : *out ? 0 : qcow2_complain(q, "L1 entry", cluster >> q->l2_bits);
	}
	return make_l2(q, cluster, out);
}

/* What an entry points to, unless the new one points there, too. */
static int give_up_old(struct qcow2 *q, uint64_t old, uint64_t entry)
{
	struct qcow2_extent x = { old & QCOW2_OFFSET, 1 };

	if (old & QCOW2_COMPRESSED)
		x = qcow2_packed_extent(q, old);
	else if (!x.offset || x.offset == (entry & QCOW2_OFFSET))
		return 0;
	return qcow2_give_up_later(q, x.offset, x.clusters);
}

int qcow2_set_entry(struct qcow2 *q, uint64_t cluster, uint64_t entry)
{
	uint32_t at = (uint32_t)index_in_l2(q, cluster) * 8;
	struct qcow2_table *t;
	int rc = qcow2_get_l2(q, cluster, &t);

	if (!rc)
		rc = give_up_old(q, qcow2_get64(t->data + at), entry);
	if (rc)
		return rc;
	qcow2_put64(t->data + at, entry);
	qcow2_cache_soil(&q->l2, t, at, at + 8);
	return 0;
}

/* Before its time, with the steps of a round that have to come before. Of a table that nothing on
 * the disk points to, no step has to. */
int qcow2_evict_l2(struct qcow2 *q, struct qcow2_table *t)
{
	int rc = 0;

	if (t->fresh)
		return qcow2_cache_write(q, &q->l2, t);
	rc = qcow2_cache_write_all(q, &q->refblocks, false);
	if (!rc)
		rc = qcow2_sync(q);
	if (!rc && qcow2_root_is_dirty(&q->reftable)) {
		rc = qcow2_root_write(q, &q->reftable);
		if (!rc)
			rc = qcow2_sync(q);
	}
	return rc ? rc : qcow2_cache_write(q, &q->l2, t);
}

/*
 * The header of a qcow2 file: what it says is checked here once, so that everything after may rely
 * on it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

/* Of the first cluster: extensions and the backing file's name are in it. */
#define HEADER_ROOM (64 * KiB)

/* The header as it is read and checked. */
struct header {
	struct qcow2 *q;
	const struct errbuf *e;
	uint8_t *bytes;
	size_t n; /* of one cluster, HEADER_ROOM at most */
	uint64_t file_size;
};

static int refuse(const struct header *h, int rc, const char *why)
{
	return block_fail(h->e, rc, "%s: %s", h->q->node->file.path, why);
}

static int refuse_number(const struct header *h, const char *what, uint64_t value, const char *why)
{
	return block_fail(h->e, -EINVAL, "%s: damaged header: %s %" PRIu64 " %s",
	                  h->q->node->file.path, what, value, why);
}

static int read_basics(struct header *h)
{
	struct qcow2 *q = h->q;

	if (!qcow2_has_magic(h->bytes))
		return refuse(h, -EINVAL, "not a qcow2 image");
	q->version = qcow2_get32(h->bytes + QCOW2_AT_VERSION);
	if (q->version != 2 && q->version != 3)
		return refuse_number(h, "version", q->version, "is neither 2 nor 3");
	q->cluster_bits = qcow2_get32(h->bytes + QCOW2_AT_CLUSTER_BITS);
	if (q->cluster_bits < QCOW2_MIN_CLUSTER_BITS || q->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return refuse_number(h, "cluster bits", q->cluster_bits, "are not from 9 to 21");
	q->cluster_size = BIT(q->cluster_bits);
	q->node->cluster = (uint32_t)q->cluster_size;
	q->l2_bits = q->cluster_bits - 3;
	if (h->n > q->cluster_size)
		h->n = q->cluster_size;
	if (qcow2_get32(h->bytes + QCOW2_AT_CRYPT))
		return refuse(h, -ENOTSUP, "the image is encrypted, which is not supported");
	return 0;
}

static int read_features(struct header *h)
{
	struct qcow2 *q = h->q;

	if (q->version == 2) {
		q->refcount_order = 4;
		q->header_length = QCOW2_V2_HEADER;
		return 0;
	}
	q->incompatible = qcow2_get64(h->bytes + QCOW2_AT_INCOMPATIBLE);
	q->compatible = qcow2_get64(h->bytes + QCOW2_AT_COMPATIBLE);
	q->autoclear = qcow2_get64(h->bytes + QCOW2_AT_AUTOCLEAR);
	q->refcount_order = qcow2_get32(h->bytes + QCOW2_AT_REFCOUNT_ORDER);
	q->header_length = qcow2_get32(h->bytes + QCOW2_AT_HEADER_LENGTH);
	if (q->refcount_order > 6)
		return refuse_number(h, "refcount order", q->refcount_order, "is above 6");
	if (q->header_length < QCOW2_V3_HEADER || q->header_length > h->n || q->header_length % 8)
		return refuse_number(h, "length", q->header_length, "cannot be");
	if (q->header_length > QCOW2_AT_COMPRESSION)
		q->compression = h->bytes[QCOW2_AT_COMPRESSION];
	return 0;
}

static int check_features(struct header *h)
{
	struct qcow2 *q = h->q;
	const uint64_t known = QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT |
	                       QCOW2_INCOMPATIBLE_COMPRESSION;

	if (q->incompatible & QCOW2_INCOMPATIBLE_DATA_FILE)
		return refuse(h, -ENOTSUP, "it has an external data file, which is not supported");
	if (q->incompatible & QCOW2_INCOMPATIBLE_EXTENDED_L2)
		return refuse(h, -ENOTSUP,
		              "it has extended L2 entries (subclusters), which are not "
		              "supported");
	if (q->incompatible & ~known)
		return block_fail(h->e, -ENOTSUP,
		                  "%s: incompatible features 0x%" PRIx64 " are not supported",
		                  q->node->file.path, q->incompatible & ~known);
	if (q->compression > 1 ||
	    !(q->incompatible & QCOW2_INCOMPATIBLE_COMPRESSION) != !q->compression)
		return refuse_number(h, "compression type", q->compression, "is not supported");
	if (q->incompatible & QCOW2_INCOMPATIBLE_CORRUPT && !q->node->readonly &&
	    !q->node->checking)
		return refuse(h, -EIO, "the image is marked corrupt: only reading is possible");
	return 0;
}

/* A contiguous table: aligned, within the file. */
static int check_place(const struct header *h, const char *what, uint64_t offset, uint64_t bytes)
{
	if (offset & (h->q->cluster_size - 1))
		return refuse_number(h, what, offset, "is not at a cluster's start");
	if (offset > h->file_size || bytes > h->file_size - offset)
		return refuse_number(h, what, offset, "is beyond the end of the file");
	if (bytes && offset < h->q->cluster_size)
		return refuse_number(h, what, offset, "is within the header");
	return 0;
}

static int read_l1_place(struct header *h)
{
	struct qcow2 *q = h->q;
	uint64_t size = qcow2_get64(h->bytes + QCOW2_AT_SIZE), needed;

	q->l1.size = qcow2_get32(h->bytes + QCOW2_AT_L1_SIZE);
	q->l1.offset = qcow2_get64(h->bytes + QCOW2_AT_L1_OFFSET);
	if (size > INT64_MAX - 2 * MiB)
		return refuse_number(h, "size", size, "is too large");
	q->node->size = (size + BLOCK_SECTOR - 1) & ~(uint64_t)(BLOCK_SECTOR - 1);
	needed = qcow2_clusters_of(q, q->node->size);
	needed = (needed + BIT(q->l2_bits) - 1) >> q->l2_bits;
	if (q->l1.size * 8ull > QCOW2_MAX_L1_BYTES)
		return refuse_number(h, "L1 size", q->l1.size, "is too large");
	if (needed > q->l1.size)
		return refuse_number(h, "L1 size", q->l1.size, "is too small for the disk");
	return check_place(h, "L1 table", q->l1.offset, q->l1.size * 8ull);
}

static int read_reftable_place(struct header *h)
{
	struct qcow2 *q = h->q;
	uint64_t bytes;

	q->reftable.offset = qcow2_get64(h->bytes + QCOW2_AT_REFTABLE_OFFSET);
	q->reftable_clusters = qcow2_get32(h->bytes + QCOW2_AT_REFTABLE_CLUSTERS);
	bytes = (uint64_t)q->reftable_clusters << q->cluster_bits;
	if (!bytes || bytes > QCOW2_MAX_REFTABLE)
		return refuse_number(h, "refcount table's size", q->reftable_clusters, "cannot be");
	q->reftable.size = (uint32_t)(bytes / 8);
	return check_place(h, "refcount table", q->reftable.offset, bytes);
}

static int read_snapshots_place(struct header *h)
{
	struct qcow2 *q = h->q;

	q->snapshots = qcow2_get32(h->bytes + QCOW2_AT_SNAPSHOTS);
	q->snapshots_offset = qcow2_get64(h->bytes + QCOW2_AT_SNAPSHOTS_OFFSET);
	if (q->snapshots > 65536)
		return refuse_number(h, "number of snapshots", q->snapshots, "is above 65536");
	return q->snapshots ? check_place(h, "snapshot table", q->snapshots_offset,
	                                  q->snapshots * (uint64_t)QCOW2_SNAPSHOT_BYTES)
	                    : 0;
}

/* A copy of n bytes as a string, for a name from the file: no control characters, no NUL. */
static int copy_name(const struct header *h, const uint8_t *from, size_t n, char **out)
{
	for (size_t i = 0; i < n; i++)
		if (from[i] < ' ' || from[i] == 0x7f)
			return refuse(h, -EINVAL, "damaged header: a name has unprintable bytes");
	free(*out);
	*out = strndup((const char *)from, n);
	return *out ? 0 : refuse(h, -ENOMEM, "out of memory");
}

static int read_bitmaps(struct header *h, const uint8_t *data, uint32_t len)
{
	struct qcow2 *q = h->q;

	if (!(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS) || len < 24)
		return 0;
	q->nr_bitmaps = qcow2_get32(data);
	q->bitmaps_size = qcow2_get64(data + 8);
	q->bitmaps_offset = qcow2_get64(data + 16);
	return check_place(h, "bitmap directory", q->bitmaps_offset, q->bitmaps_size);
}

static int read_extension(struct header *h, uint32_t type, const uint8_t *data, uint32_t len)
{
	if (type == QCOW2_EXTENSION_BACKING_FORMAT)
		return copy_name(h, data, len, &h->q->node->backing_format);
	return type == QCOW2_EXTENSION_BITMAPS ? read_bitmaps(h, data, len) : 0;
}

/* The next extension at *at, or false at the end of them. */
static int next_extension(const struct header *h, size_t *at, size_t end, uint32_t *type,
                          uint32_t *len)
{
	*type = QCOW2_EXTENSION_END;
	if (*at + 8 > end)
		return 0;
	*type = qcow2_get32(h->bytes + *at);
	*len = qcow2_get32(h->bytes + *at + 4);
	*at += 8;
	if (*type != QCOW2_EXTENSION_END && *len > end - *at)
		return refuse_number(h, "extension of length", *len, "is too long");
	return 0;
}

/* They end where the backing file's name begins, if not before. */
static int read_extensions(struct header *h, size_t end)
{
	size_t at = h->q->header_length;
	uint32_t type, len;
	int rc;

	for (;;) {
		rc = next_extension(h, &at, end, &type, &len);
		if (rc || type == QCOW2_EXTENSION_END)
			return rc;
		rc = read_extension(h, type, h->bytes + at, len);
		if (rc)
			return rc;
		at += (len + 7ull) & ~7ull;
	}
}

static int read_backing(struct header *h, size_t *extensions_end)
{
	uint64_t offset = qcow2_get64(h->bytes + QCOW2_AT_BACKING_OFFSET);
	uint32_t len = qcow2_get32(h->bytes + QCOW2_AT_BACKING_SIZE);

	*extensions_end = h->n;
	if (!offset || !len)
		return 0;
	if (len > QCOW2_MAX_BACKING_NAME)
		return refuse_number(h, "length of the backing file's name", len, "is above 1023");
	if (offset < h->q->header_length || offset > h->n || len > h->n - offset)
		return refuse_number(h, "backing file's name at", offset, "is not in the header");
	*extensions_end = offset;
	return copy_name(h, h->bytes + offset, len, &h->q->node->backing_name);
}

static int read_fields(struct header *h)
{
	size_t extensions_end = 0;
	int rc = read_basics(h);

	if (!rc)
		rc = read_features(h);
	if (!rc)
		rc = check_features(h);
	if (!rc)
		rc = read_l1_place(h);
	if (!rc)
		rc = read_reftable_place(h);
	if (!rc)
		rc = read_snapshots_place(h);
	if (!rc)
		rc = read_backing(h, &extensions_end);
	return rc ? rc : read_extensions(h, extensions_end);
}

static int load_header(struct header *h)
{
	struct node *n = h->q->node;
	int rc = file_size(&n->file, &h->file_size);

	h->n = HEADER_ROOM;
	h->bytes = calloc(1, h->n);
	if (!h->bytes)
		return refuse(h, -ENOMEM, "out of memory");
	if (!rc)
		rc = file_read(&n->file, 0, h->bytes, h->n);
	if (rc)
		return refuse(h, rc, strerror(-rc));
	if (h->file_size < QCOW2_V2_HEADER)
		return refuse(h, -EINVAL, "too short for a qcow2 image");
	return 0;
}

int qcow2_read_header(struct qcow2 *q, const struct errbuf *e)
{
	struct header h = { .q = q, .e = e };
	int rc = load_header(&h);

	if (!rc)
		rc = read_fields(&h);
	if (!rc) {
		q->file_end = qcow2_clusters_of(q, h.file_size) * q->cluster_size;
		q->end_is_zero = !q->node->file.device;
	}
	free(h.bytes);
	return rc;
}

int qcow2_write_header(struct qcow2 *q, unsigned at, const void *bytes, size_t n)
{
	return file_write(&q->node->file, at, bytes, n);
}

int qcow2_write_incompatible(struct qcow2 *q, uint64_t value)
{
	uint8_t field[8];
	int rc;

	qcow2_put64(field, value);
	rc = qcow2_write_header(q, QCOW2_AT_INCOMPATIBLE, field, sizeof(field));
	if (!rc)
		rc = qcow2_sync(q);
	if (!rc)
		q->incompatible = value;
	return rc;
}

/* Appends to a header of h->n bytes. */
static bool append(const struct header *h, uint8_t *to, size_t *at, const void *bytes, size_t len)
{
	if (len > h->n - *at)
		return false;
	memcpy(to + *at, bytes, len);
	*at += len;
	return true;
}

static bool append_extension(const struct header *h, uint8_t *to, size_t *at, uint32_t type,
                             const void *data, uint32_t len)
{
	static const uint8_t padding[8];
	uint8_t head[8];

	qcow2_put32(head, type);
	qcow2_put32(head + 4, len);
	return append(h, to, at, head, sizeof(head)) && append(h, to, at, data, len) &&
	       append(h, to, at, padding, -len & 7);
}

/* Those of the old header, but the backing file's format. */
static int copy_extensions(struct header *h, uint8_t *to, size_t *at)
{
	size_t from = h->q->header_length, end;
	uint32_t type, len;
	int rc = read_backing(h, &end);

	while (!rc) {
		rc = next_extension(h, &from, end, &type, &len);
		if (rc || type == QCOW2_EXTENSION_END)
			return rc;
		if (type != QCOW2_EXTENSION_BACKING_FORMAT &&
		    !append_extension(h, to, at, type, h->bytes + from, len))
			return refuse(h, -E2BIG, "no room in the header");
		from += (len + 7ull) & ~7ull;
	}
	return rc;
}

static int compose(struct header *h, uint8_t *to, const char *name, const char *format)
{
	size_t at = h->q->header_length, len = name ? strlen(name) : 0;
	int rc;

	memcpy(to, h->bytes, at);
	rc = copy_extensions(h, to, &at);
	if (rc)
		return rc;
	if (name && format &&
	    !append_extension(h, to, &at, QCOW2_EXTENSION_BACKING_FORMAT, format,
	                      (uint32_t)strlen(format)))
		return refuse(h, -E2BIG, "no room in the header");
	if (!append_extension(h, to, &at, QCOW2_EXTENSION_END, "", 0))
		return refuse(h, -E2BIG, "no room in the header");
	qcow2_put64(to + QCOW2_AT_BACKING_OFFSET, name ? at : 0);
	qcow2_put32(to + QCOW2_AT_BACKING_SIZE, (uint32_t)len);
	if (len > QCOW2_MAX_BACKING_NAME || !append(h, to, &at, name ? name : "", len))
		return refuse(h, -ENAMETOOLONG,
		              "no room in the header for the backing file's name");
	return 0;
}

int qcow2_write_backing(struct qcow2 *q, const char *name, const char *format,
                        const struct errbuf *e)
{
	struct header h = { .q = q, .e = e };
	uint8_t *to = calloc(1, HEADER_ROOM);
	int rc = load_header(&h);

	if (!to && !rc)
		rc = refuse(&h, -ENOMEM, "out of memory");
	if (h.n > q->cluster_size)
		h.n = q->cluster_size;
	if (!rc)
		rc = compose(&h, to, name, format);
	if (!rc) {
		rc = file_write(&q->node->file, 0, to, h.n);
		if (!rc)
			rc = qcow2_sync(q);
		if (rc)
			refuse(&h, rc, strerror(-rc));
	}
	free(to);
	free(h.bytes);
	return rc;
}

/*
 * New images. A qcow2 image begins with its header, refcount table, refcount blocks, L1 table, and
 * has no data; the header is written last, when the rest is on the disk.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/image.h"
#include "block/node.h"
#include "block/qcow2.h"

#define DEFAULT_CLUSTER (64 * KiB)

struct layout {
	const char *path;
	const struct image_create_options *o;
	const struct errbuf *e;
	unsigned version, cluster_bits, refcount_order;
	uint64_t size, cluster_size;
	uint64_t table_clusters, blocks, l1_size, l1_clusters;
	char *backing_format;
};

static int choose_numbers(struct layout *l)
{
	const struct image_create_options *o = l->o;
	unsigned bits = o->refcount_bits ? o->refcount_bits : 16;

	l->version = o->version ? o->version : 3;
	l->cluster_size = o->cluster_size ? o->cluster_size : DEFAULT_CLUSTER;
	if (l->version != 2 && l->version != 3)
		return block_fail(l->e, -EINVAL, "version %u is neither 2 nor 3", l->version);
	if (l->cluster_size & (l->cluster_size - 1) ||
	    l->cluster_size < BIT(QCOW2_MIN_CLUSTER_BITS) ||
	    l->cluster_size > BIT(QCOW2_MAX_CLUSTER_BITS))
		return block_fail(l->e, -EINVAL,
		                  "cluster size %" PRIu64 " is no power of two from 512 to 2M",
		                  l->cluster_size);
	if (bits & (bits - 1) || bits > 64)
		return block_fail(l->e, -EINVAL, "%u refcount bits: not 1, 2, 4, ... 64", bits);
	if (l->version == 2 && (bits != 16 || o->lazy_refcounts))
		return block_fail(l->e, -EINVAL, "version 2 has 16 refcount bits, none lazy");
	l->cluster_bits = (unsigned)__builtin_ctzll(l->cluster_size);
	l->refcount_order = (unsigned)__builtin_ctz(bits);
	return 0;
}

static uint64_t divide_up(uint64_t n, uint64_t by)
{
	return n / by + (n % by != 0);
}

static int place_tables(struct layout *l)
{
	uint64_t per_block = l->cluster_size * 8 >> l->refcount_order;

	l->l1_size = divide_up(divide_up(l->size, l->cluster_size), l->cluster_size / 8);
	l->l1_clusters = divide_up(l->l1_size * 8, l->cluster_size);
	if (l->size > INT64_MAX / 2 || l->l1_size * 8 > QCOW2_MAX_L1_BYTES)
		return block_fail(l->e, -EFBIG,
		                  "a disk of %" PRIu64
		                  " bytes is too large for clusters of %" PRIu64,
		                  l->size, l->cluster_size);
	l->table_clusters = l->blocks = 1;
	for (;;) {
		uint64_t total = 1 + l->table_clusters + l->blocks + l->l1_clusters;

		if (total > l->blocks * per_block)
			l->blocks++;
		else if (l->blocks * 8 > l->table_clusters * l->cluster_size)
			l->table_clusters++;
		else
			return 0;
	}
}

/* An image that is emptied to become its own backing file. */
static int refuse_itself(const struct layout *l, const char *backing)
{
	struct stat a, b;

	if (stat(l->path, &a) || stat(backing, &b) || a.st_dev != b.st_dev || a.st_ino != b.st_ino)
		return 0;
	return block_fail(l->e, -ELOOP, "%s: cannot be its own backing file", l->path);
}

/* The backing file has to be there, and may tell the size. */
static int look_at_backing(struct layout *l)
{
	struct image_details d;
	char *path;
	int rc;

	if (!l->o->backing)
		return 0;
	path = node_backing_path(l->path, l->o->backing);
	if (!path)
		return block_fail(l->e, -ENOMEM, "out of memory");
	rc = refuse_itself(l, path);
	if (!rc)
		rc = image_describe(path, l->o->backing_format, &d, l->e->text, l->e->size);
	free(path);
	if (rc)
		return rc;
	l->backing_format = strdup(d.format);
	if (l->size == UINT64_MAX)
		l->size = d.size;
	image_details_fini(&d);
	return l->backing_format ? 0 : block_fail(l->e, -ENOMEM, "out of memory");
}

static uint64_t table_offset(const struct layout *l)
{
	return l->cluster_size;
}

static uint64_t blocks_offset(const struct layout *l)
{
	return (1 + l->table_clusters) << l->cluster_bits;
}

static uint64_t l1_offset(const struct layout *l)
{
	return (1 + l->table_clusters + l->blocks) << l->cluster_bits;
}

static int write_blocks(const struct layout *l, const struct file *f)
{
	uint64_t left = 1 + l->table_clusters + l->blocks + l->l1_clusters;
	uint64_t per_block = l->cluster_size * 8 >> l->refcount_order;
	uint8_t *block = malloc(l->cluster_size);
	int rc = block ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < l->blocks && !rc; i++) {
		uint64_t n = left < per_block ? left : per_block;

		memset(block, 0, l->cluster_size);
		for (uint64_t k = 0; k < n; k++)
			qcow2_set_refcount_of(block, l->refcount_order, k, 1);
		rc = file_write(f, blocks_offset(l) + (i << l->cluster_bits), block,
		                l->cluster_size);
		left -= n;
	}
	free(block);
	return rc;
}

static int write_table(const struct layout *l, const struct file *f)
{
	size_t bytes = l->table_clusters << l->cluster_bits;
	uint8_t *table = calloc(1, bytes);
	int rc;

	if (!table)
		return -ENOMEM;
	for (uint64_t i = 0; i < l->blocks; i++)
		qcow2_put64(table + i * 8, blocks_offset(l) + (i << l->cluster_bits));
	rc = file_write(f, table_offset(l), table, bytes);
	free(table);
	return rc;
}

static void fill_header(const struct layout *l, uint8_t *h)
{
	qcow2_put32(h, QCOW2_MAGIC);
	qcow2_put32(h + QCOW2_AT_VERSION, l->version);
	qcow2_put32(h + QCOW2_AT_CLUSTER_BITS, l->cluster_bits);
	qcow2_put64(h + QCOW2_AT_SIZE, l->size);
	qcow2_put32(h + QCOW2_AT_L1_SIZE, (uint32_t)l->l1_size);
	qcow2_put64(h + QCOW2_AT_L1_OFFSET, l1_offset(l));
	qcow2_put64(h + QCOW2_AT_REFTABLE_OFFSET, table_offset(l));
	qcow2_put32(h + QCOW2_AT_REFTABLE_CLUSTERS, (uint32_t)l->table_clusters);
	if (l->version < 3)
		return;
	qcow2_put64(h + QCOW2_AT_COMPATIBLE, l->o->lazy_refcounts ? QCOW2_COMPATIBLE_LAZY : 0);
	qcow2_put32(h + QCOW2_AT_REFCOUNT_ORDER, l->refcount_order);
	qcow2_put32(h + QCOW2_AT_HEADER_LENGTH, QCOW2_V3_HEADER);
}

static int write_tables(const struct layout *l, const struct file *f)
{
	int rc = write_blocks(l, f);

	if (!rc)
		rc = write_table(l, f);
	if (!rc && !f->device)
		rc = file_truncate(f, l1_offset(l) + (l->l1_clusters << l->cluster_bits));
	if (!rc && f->device) {
		uint8_t *zero = calloc(l->l1_clusters ? l->l1_clusters : 1, l->cluster_size);

		rc = zero ? file_write(f, l1_offset(l), zero, l->l1_clusters << l->cluster_bits)
		          : -ENOMEM;
		free(zero);
	}
	return rc ? rc : file_sync(f);
}

/* The header without a backing file, which is then added as rebase does it. */
static int write_header(const struct layout *l, const struct file *f)
{
	uint8_t header[BIT(QCOW2_MIN_CLUSTER_BITS)] = { 0 };
	struct node n = { .file = *f };
	struct qcow2 q = { .node = &n };
	int rc;

	fill_header(l, header);
	rc = file_write(f, 0, header, sizeof(header));
	if (!rc)
		rc = file_sync(f);
	if (rc || !l->o->backing)
		return rc ? block_fail(l->e, rc, "%s: %s", l->path, strerror(-rc)) : 0;
	rc = qcow2_read_header(&q, l->e);
	return rc ? rc : qcow2_write_backing(&q, l->o->backing, l->backing_format, l->e);
}

static int create_qcow2(struct layout *l, const struct file *f)
{
	int rc = write_tables(l, f);

	if (rc)
		return block_fail(l->e, rc, "%s: %s", l->path, strerror(-rc));
	return write_header(l, f);
}

static int create_raw(struct layout *l, const struct file *f)
{
	int rc = f->device ? 0 : file_truncate(f, l->size);

	return rc ? block_fail(l->e, rc, "%s: %s", l->path, strerror(-rc)) : 0;
}

static int create_in(struct layout *l, bool qcow2)
{
	struct file_mode mode = { .create = true };
	bool existed = !access(l->path, F_OK);
	struct file f;
	int rc = file_open(&f, l->path, &mode, l->e);

	if (rc)
		return rc;
	rc = file_claim(&f, &mode, l->e);
	if (!rc)
		rc = qcow2 ? create_qcow2(l, &f) : create_raw(l, &f);
	if (rc && !existed)
		unlink(l->path);
	file_close(&f);
	return rc;
}

static int refuse_for_raw(const struct layout *l)
{
	const struct image_create_options *o = l->o;

	if (o->version || o->cluster_size || o->refcount_bits || o->lazy_refcounts || o->backing)
		return block_fail(l->e, -EINVAL,
		                  "raw has no versions, clusters, refcounts or backing files");
	return 0;
}

int image_create(const char *path, const struct image_create_options *o, char *err, size_t errlen)
{
	struct errbuf e = { err, errlen };
	struct layout l = { .path = path, .o = o, .e = &e, .size = o->size };
	bool qcow2 = !strcmp(o->format, "qcow2");
	int rc;

	if (!qcow2 && strcmp(o->format, "raw"))
		return block_fail(&e, -EINVAL, "format %s is not one of raw, qcow2", o->format);
	rc = qcow2 ? choose_numbers(&l) : refuse_for_raw(&l);
	if (!rc)
		rc = look_at_backing(&l);
	if (!rc && l.size == UINT64_MAX)
		rc = block_fail(&e, -EINVAL, "%s: no size given", path);
	if (!rc) {
		l.size = divide_up(l.size, BLOCK_SECTOR) * BLOCK_SECTOR;
		rc = qcow2 ? place_tables(&l) : 0;
	}
	if (!rc)
		rc = create_in(&l, qcow2);
	free(l.backing_format);
	return rc;
}

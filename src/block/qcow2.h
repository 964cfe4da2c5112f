/*
 * qcow2 images. Private to this folder.
 *
 * A guest cluster is found through two levels of tables, L1 (one, in memory) and L2; whether a host
 * cluster is in use says its refcount, through two levels again, the refcount table ("reftable", in
 * memory) and refcount blocks. L2 tables and refcount blocks are cached, and changed in memory
 * only; flush rounds write them back. What is on the disk must make sense after every single write,
 * in whatever state the host stops:
 *
 *   (1) No entry on the disk points to a cluster whose refcount on the disk is 0 (that would be
 *       corruption), nor to one whose content is not on the disk yet.
 *   (2) A cluster is not used anew while an entry on the disk still points to it.
 *   (3) A refcount that is too high is a leak, which costs space only.
 *
 * Thus the order of a round (qcow2_flush.c): data and refcount blocks; then the reftable; then L2
 * tables and L1; then clusters that became free are given up. Between any two of these the file is
 * made stable.
 *
 * Concurrency: one thread, but many requests under way. A request has a range of guest clusters
 * (qcow2_range.c), shared or, if it changes where they are, exclusive. From a round's first step to
 * the write of the tables the image is frozen: entries do not change.
 */
#pragma once

#include "block/node.h"
#include "block/qcow2_format.h"

struct qcow2;

/* A cluster of metadata. */
struct qcow2_table {
	uint64_t offset;               /* in the file; 0: the slot is empty */
	uint8_t *data;                 /* as in the file */
	uint32_t dirty_from, dirty_to; /* bytes; equal when it is clean */
	bool fresh;                    /* an L2 table that no L1 table on the disk points to */
	uint64_t used;                 /* when */
	struct qcow2_table *hash_next;
};

struct qcow2_cache {
	struct qcow2_table *slots, **hash;
	unsigned nr_slots, nr_dirty;
	uint64_t clock;
	/* Writes a dirty table back before its time. */
	int (*evict)(struct qcow2 *q, struct qcow2_table *t);
};

/* A first-level table. */
struct qcow2_root {
	uint64_t *entry; /* host order, as are all entries in memory but those of cached tables */
	uint64_t offset;
	uint32_t size;                 /* entries */
	uint32_t dirty_from, dirty_to; /* entries; equal when it is clean */
};

/* Clusters in sequence. */
struct qcow2_extent {
	uint64_t offset, clusters;
};

struct qcow2_extents {
	struct qcow2_extent *at;
	size_t nr, room;
};

struct qcow2_range;
struct qcow2_link;

struct qcow2 {
	struct node *node;
	unsigned version, cluster_bits, refcount_order, compression;
	uint32_t header_length;
	uint64_t incompatible, compatible, autoclear;
	uint64_t cluster_size;
	unsigned l2_bits; /* log2 of the entries of an L2 table */

	struct qcow2_root l1;
	struct qcow2_cache l2;

	struct qcow2_root reftable;
	uint32_t reftable_clusters;
	struct qcow2_cache refblocks;
	uint64_t free_from; /* no host cluster with a lower index is free */
	uint64_t file_end;  /* nothing was ever written from there on; a multiple of the cluster */
	bool end_is_zero;   /* what is beyond file_end reads as zeroes */

	uint32_t snapshots;
	uint64_t snapshots_offset;
	uint64_t bitmaps_offset, bitmaps_size; /* their directory, or 0 */
	uint32_t nr_bitmaps;

	struct qcow2_range *oldest, *newest;
	bool retrying, retry_again;
	unsigned waiting; /* ranges */

	bool frozen, in_round;
	int sync_error;                 /* a failed fdatasync() has lost data: never forgotten */
	struct qcow2_link *links;       /* wait for the thaw */
	struct qcow2_extents freed;     /* to be given up after the next round */
	struct qcow2_extents giving_up; /* ... after this one */
	struct aio_request sync;
	struct node_request *flushing, *to_flush;
	bool cannot_punch;

	uint64_t unpacked_entry; /* the compressed cluster that `unpacked` holds */
	uint8_t *unpacked;
	bool complained;
};

/* qcow2_header.c */
int qcow2_read_header(struct qcow2 *q, const struct errbuf *e);
/* One field, or two that follow each other, which reach the disk together. */
int qcow2_write_header(struct qcow2 *q, unsigned at, const void *bytes, size_t n);
int qcow2_write_incompatible(struct qcow2 *q, uint64_t value);
/* The whole first cluster anew, with another backing file; NULL: none. */
int qcow2_write_backing(struct qcow2 *q, const char *name, const char *format,
                        const struct errbuf *e);

/* qcow2_cache.c: tables stay where they are until the next get in the same cache. */
int qcow2_cache_init(struct qcow2_cache *c, unsigned nr_slots,
                     int (*evict)(struct qcow2 *q, struct qcow2_table *t));
void qcow2_cache_fini(struct qcow2_cache *c);
struct qcow2_table *qcow2_cache_find(const struct qcow2_cache *c, uint64_t offset);
int qcow2_cache_get(struct qcow2 *q, struct qcow2_cache *c, uint64_t offset,
                    struct qcow2_table **out);
/* For a cluster just allocated: zeroes, to be written. */
int qcow2_cache_get_new(struct qcow2 *q, struct qcow2_cache *c, uint64_t offset,
                        struct qcow2_table **out);
void qcow2_cache_forget(struct qcow2_cache *c, uint64_t offset);
void qcow2_cache_soil(struct qcow2_cache *c, struct qcow2_table *t, uint32_t from, uint32_t to);
int qcow2_cache_write(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_table *t);
/* All that are dirty, or only the fresh ones of them. */
int qcow2_cache_write_all(struct qcow2 *q, struct qcow2_cache *c, bool fresh);

/* qcow2_root.c */
/* From its offset, of its size. */
int qcow2_root_load(struct qcow2 *q, struct qcow2_root *r);
static inline bool qcow2_root_is_dirty(const struct qcow2_root *r)
{
	return r->dirty_from != r->dirty_to;
}
void qcow2_root_set(struct qcow2_root *r, uint32_t i, uint64_t entry);
/* What is dirty. */
int qcow2_root_write(struct qcow2 *q, struct qcow2_root *r);
/* n entries of a table that is not in force yet. */
int qcow2_root_write_to(struct qcow2 *q, uint64_t offset, const uint64_t *entry, uint32_t n);
/* Takes entries that are on the disk already. */
void qcow2_root_replace(struct qcow2_root *r, uint64_t offset, uint64_t *entry, uint32_t size);

/* qcow2_refcount.c */
uint64_t qcow2_refcount_of(const void *block, unsigned order, uint64_t index);
void qcow2_set_refcount_of(void *block, unsigned order, uint64_t index, uint64_t value);
int qcow2_get_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *value);
/* 1 to `clusters` of them in sequence, *got, with refcount 1. -ENOSPC: the image can't be larger.
 */
int qcow2_alloc(struct qcow2 *q, uint64_t clusters, uint64_t *offset, uint64_t *got);
/* All of them in sequence. */
int qcow2_alloc_all(struct qcow2 *q, uint64_t clusters, uint64_t *offset);
/* For repairs. */
int qcow2_lower_refcount(struct qcow2 *q, uint64_t cluster, uint64_t value);
/* Refcounts less one, now: nothing on the disk points there. */
void qcow2_unref(struct qcow2 *q, uint64_t offset, uint64_t clusters);
/* From one refcount table, on the disk already, to another. */
int qcow2_switch_reftable(struct qcow2 *q, uint64_t offset, uint32_t clusters);
int qcow2_evict_refblock(struct qcow2 *q, struct qcow2_table *t);

/* qcow2_map.c */
enum qcow2_kind {
	QCOW2_KIND_HOLE, /* the backing file's, or zeroes */
	QCOW2_KIND_ZERO,
	QCOW2_KIND_DATA,
	QCOW2_KIND_PACKED, /* compressed */
};

struct qcow2_run {
	enum qcow2_kind kind;
	bool copied;       /* host clusters are this entry's alone */
	uint64_t entry;    /* the first */
	uint64_t host;     /* DATA, and ZERO with room set aside; else 0 */
	uint64_t clusters; /* so many are alike, in sequence on the host, too */
};

/* `clusters` guest clusters at most, from `first` on. -EIO if the entry is damaged. */
int qcow2_map(struct qcow2 *q, uint64_t first, uint64_t clusters, struct qcow2_run *run);
/* Like it, of one entry alone. */
int qcow2_read_entry(struct qcow2 *q, uint64_t entry, struct qcow2_run *run);
/* The L2 table of a guest cluster, to be changed: made or copied if need be. */
int qcow2_get_l2(struct qcow2 *q, uint64_t cluster, struct qcow2_table **out);
/* Sets an entry; what it pointed to is given up after the next round. */
int qcow2_set_entry(struct qcow2 *q, uint64_t cluster, uint64_t entry);
int qcow2_evict_l2(struct qcow2 *q, struct qcow2_table *t);
/* The host clusters that a compressed cluster touches. */
struct qcow2_extent qcow2_packed_extent(const struct qcow2 *q, uint64_t entry);
/* Bytes of a compressed cluster in the file. */
uint64_t qcow2_packed_place(const struct qcow2 *q, uint64_t entry, uint64_t *len);
/* Whether a table, the header or a snapshot's table that we know of has this cluster. */
bool qcow2_is_metadata(const struct qcow2 *q, uint64_t offset);
/* Says once that the image is damaged. -EIO */
int qcow2_complain(struct qcow2 *q, const char *what, uint64_t where);

/* qcow2_job.c: a request that is cut into parts, which run side by side. */
struct qcow2_job {
	struct qcow2 *q;
	struct node_request *request;
	unsigned pending; /* parts, and one for who makes them */
	int rc;           /* the first error */
};

/* NULL when there is no memory, and the request has ended. */
struct qcow2_job *qcow2_job_new(struct qcow2 *q, struct node_request *r);
/* The last one ends the request. */
void qcow2_job_end_part(struct qcow2_job *job, int rc);

/* qcow2_range.c */
void qcow2_submit(struct node *n, struct node_request *r);
void qcow2_retry_waiting(struct qcow2 *q);

/* qcow2_read.c, qcow2_write.c, qcow2_zero.c: with the range taken; r->done() at the end. */
void qcow2_read(struct qcow2 *q, struct node_request *r);
/* Whether a write only goes where data is. */
int qcow2_write_is_in_place(struct qcow2 *q, const struct node_request *r, bool *in_place);
void qcow2_write(struct qcow2 *q, struct node_request *r);
/* Whole clusters. */
void qcow2_zero(struct qcow2 *q, struct node_request *r);
/* Takes no range: splits into writes and qcow2_zero(). */
void qcow2_submit_zeroes(struct qcow2 *q, struct node_request *r);
/* Links that waited for the thaw. */
void qcow2_run_links(struct qcow2 *q);
int qcow2_unpack(struct qcow2 *q, uint64_t entry, const void *packed, size_t len);

/* qcow2_flush.c */
void qcow2_flush(struct qcow2 *q, struct node_request *r);
/* Begins a round if much has gathered. */
void qcow2_tidy(struct qcow2 *q);
/* A whole round at once: nothing is under way. */
int qcow2_flush_now(struct qcow2 *q);
int qcow2_give_up_later(struct qcow2 *q, uint64_t offset, uint64_t clusters);
int qcow2_sync(struct qcow2 *q);

/* qcow2_refs.c: counts anew who points where. */
struct qcow2_refs {
	struct qcow2 *q;
	uint32_t *count; /* by host cluster */
	uint64_t clusters;
	/* Entries that point nowhere, or overlap; of COPIED flags the checker takes care. */
	uint64_t damaged;
	uint64_t allocated, packed; /* guest clusters of the active tables */
	/* Called for each damage, with a line. */
	void (*report)(void *opaque, const char *line);
	void *opaque;
	/* Whether COPIED in an active entry agrees with the refcounts on the disk is checked, too.
	 */
	bool check_copied;
	uint64_t *seen; /* bitmap: L2 tables of the L1 table that is looked at */
};

/* reftable: whether the refcount table and its blocks are counted. The caller frees with _fini. */
int qcow2_refs_init(struct qcow2_refs *r, struct qcow2 *q, const struct errbuf *e);
int qcow2_refs_count(struct qcow2_refs *r, bool reftable);
void qcow2_refs_fini(struct qcow2_refs *r);
void qcow2_refs_damage(struct qcow2_refs *r, const char *what, uint64_t where);
/* Makes the refcounts what they should be; of an image that is not damaged otherwise. */
int qcow2_rebuild_refcounts(struct qcow2 *q, const struct errbuf *e);

/* qcow2_resize.c */
int qcow2_resize(struct node *n, uint64_t size, const struct errbuf *e);

static inline uint64_t qcow2_clusters_of(const struct qcow2 *q, uint64_t bytes)
{
	return (bytes >> q->cluster_bits) + ((bytes & (q->cluster_size - 1)) != 0);
}

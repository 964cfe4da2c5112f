/*
 * Image files as tools see them: made, described, checked, rebased. None of this needs a disk that
 * runs; each takes the locks that it needs and gives them back.
 *
 * All return 0, or -errno with one line in err.
 */
#pragma once

#include "base/base.h"

struct image_create_options {
	const char *format; /* "raw" or "qcow2" */
	uint64_t size;      /* bytes; UINT64_MAX: the backing file's */
	/* qcow2 only; 0 and NULL for the defaults. */
	unsigned version;      /* 2 or 3 */
	uint64_t cluster_size; /* 512 to 2 MiB, a power of two; 64 KiB by default */
	unsigned refcount_bits;
	bool lazy_refcounts;
	const char *backing, *backing_format;
};

int image_create(const char *path, const struct image_create_options *o, char *err, size_t errlen);

struct image_details {
	char format[8];
	uint64_t size, used, file_size;
	char *backing, *backing_format; /* as the image names them, or NULL */
	char *backing_path;             /* where that is */
	/* qcow2 only. */
	unsigned version, refcount_bits;
	uint64_t cluster_size;
	uint32_t snapshots;
	bool lazy_refcounts, dirty, corrupt, zstd;
};

/* Of the file alone: its chain is not opened, and no lock is taken. */
int image_describe(const char *path, const char *format, struct image_details *d, char *err,
                   size_t errlen);
void image_details_fini(struct image_details *d);

struct image_check {
	uint64_t corruptions; /* what loses data, now or at the next write */
	uint64_t leaks;       /* clusters that nothing uses and that are not free */
	uint64_t repaired;    /* of the leaks */
	uint64_t clusters;    /* of the disk */
	uint64_t allocated, compressed;
	uint64_t file_end; /* bytes, behind the last cluster in use */
	/* Gets a line for each finding; or NULL. */
	void (*report)(void *opaque, const char *line);
	void *opaque;
};

/* -ENOTSUP for a format that has nothing to check. repair: leaks, if there is nothing worse. */
int image_check(const char *path, const char *format, bool repair, struct image_check *c, char *err,
                size_t errlen);

struct image_rebase {
	const char *backing; /* NULL: none, so that the image stands by itself */
	const char *backing_format;
	bool unsafe; /* change the name only: the content is known to be the same */
	/* Told how far it is now and then; or NULL. */
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};

int image_rebase(const char *path, const struct image_rebase *r, char *err, size_t errlen);

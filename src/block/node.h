/*
 * One image file of a chain, in its format. Private to this folder.
 *
 * The nodes of a disk share its thread: everything here is called on it, once the disk has started,
 * so nodes have no locks.
 */
#pragma once

#include "block/aio.h"
#include "block/block.h"
#include "block/errbuf.h"
#include "block/file.h"

struct node;

struct node_request {
	enum block_op op;
	bool unmap; /* of BLOCK_WRITE_ZEROES; BLOCK_DISCARD implies it */
	uint64_t offset, len;
	const struct iovec *iov;
	unsigned nr_iov;
	void (*done)(struct node_request *r, int rc);
	struct node_request *next; /* whoever has it may keep it in a list */
};

struct node_ops {
	const char *format;
	/* n has its file and what the header of a chain needs; sets size, cluster, and backing_name
	 * and backing_format if it has a backing file. 0 or -errno with a line in e. */
	int (*open)(struct node *n, const struct errbuf *e);
	/* Nothing is under way. Writes back what is to be written, then frees. After a failed
	 * open(), too. 0 or -errno of the first. */
	int (*close)(struct node *n);
	/* Within size; a write only if the node is not readonly. done() may come before it returns.
	 */
	void (*submit)(struct node *n, struct node_request *r);
	/* Nothing is under way. What the bytes at offset are, and how many are alike: *len is at
	 * most what it was. */
	int (*map)(struct node *n, uint64_t offset, uint64_t *len, enum block_content *content);
	/* Nothing is under way. */
	int (*resize)(struct node *n, uint64_t size, const struct errbuf *e);
};

struct node {
	const struct node_ops *ops;
	struct aio *aio;
	struct file file;
	bool readonly;
	bool probed;   /* its format was told from its content */
	bool checking; /* opened to be looked at: damage is not refused, nothing is written */
	uint64_t size;
	uint32_t cluster; /* 0: none */
	bool discards;
	char *backing_name, *backing_format; /* as the image has them, or NULL */
	struct node *backing;
	void *state; /* of the format */
};

extern const struct node_ops raw_node_ops, qcow2_node_ops;

struct node_mode {
	const char *format; /* NULL: tell from the content */
	bool readonly, unlocked, checking;
	bool no_backing; /* only the file itself */
};

/* A file and its chain. 0 or -errno with a line in e. */
int node_open(struct node **out, const char *path, const struct node_mode *mode, struct aio *aio,
              const struct errbuf *e);
/* Safe on NULL. */
int node_close(struct node *n);

/* Reads of any length and place: beyond the node's size there are zeroes. n may be NULL: all are.
 */
void node_read(struct node *n, struct node_request *r);
int node_map(struct node *n, uint64_t offset, uint64_t *len, enum block_content *content);
/* The path of a backing file that is named in the image at path. To be freed; NULL: no memory. */
char *node_backing_path(const char *path, const char *name);

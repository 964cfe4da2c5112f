/*
 * The parts of a share.
 */
#pragma once

#include <linux/fuse.h>
#include <limits.h>
#include <sys/stat.h>

#include "share/share.h"

#define SHARE_MAX_ARGS  (16 * KiB) /* of a request, without a write's data */
#define SHARE_MAX_REPLY (64 * KiB) /* of an answer, without a read's data */
#define SHARE_MAX_IO    (1 * MiB)
#define SHARE_MAX_IOV   1024
#define SHARE_VALID_S   1 /* seconds for which the guest may believe what it has been told */

/* Something in the directory that the guest knows; its number is its index in share.node. */
struct node {
	int fd; /* O_PATH */
	uint64_t dev, ino;
	uint64_t lookups; /* how often the guest was told of it, and has not forgotten */
	uint64_t generation;
	uint32_t type; /* S_IFMT bits */
	uint64_t next; /* in its bucket, 0: none */
};

/* An open file; its number is its index in share.handle. */
struct handle {
	int fd; /* -1: free */
	bool directory;
};

struct share {
	int root_fd;
	int proc_fd; /* /proc/self/fd */
	bool readonly;
	bool may_chown; /* root */
	enum share_owner owner;
	uid_t uid;
	gid_t gid;
	mode_t umask;
	uint64_t root_dev;

	struct node *node; /* index 0 is none, FUSE_ROOT_ID the directory itself */
	uint64_t nr_nodes, cap_nodes, max_nodes, free_node; /* free_node: a list by next */
	uint64_t *bucket;
	uint64_t nr_buckets; /* a power of two */
	uint64_t generation;
	uint64_t known;

	struct handle *handle;
	unsigned cap_handles, open_handles, max_handles;
	uint8_t *args, *reply;
	struct iovec slice[SHARE_MAX_IOV];
};

/* A request, after its header has been checked. */
struct request {
	struct fuse_in_header head;
	const uint8_t *args; /* args_len bytes behind the header, copied */
	size_t args_len;
	const struct iovec *in, *out;
	unsigned nr_in, nr_out;
	size_t room;    /* for the answer's body */
	uint8_t *reply; /* of SHARE_MAX_REPLY bytes, and how many are filled */
	size_t reply_len;
	size_t data_len; /* or bytes that went to `out` straight, behind the answer's header */
	bool silent;     /* no answer */
};

typedef int (*share_op_fn)(struct share *s, struct request *q);

/* Nodes. */

int share_nodes_init(struct share *s);
void share_nodes_fini(struct share *s);
/* NULL for a number that means nothing. */
struct node *share_node(struct share *s, uint64_t id);
/* Takes fd. The node's number with one more lookup, or 0 and fd is closed: *rc says why. */
uint64_t share_node_add(struct share *s, int fd, const struct stat *st, int *rc);
void share_node_forget(struct share *s, uint64_t id, uint64_t lookups);

/* Handles. The number, or -errno and fd is closed. */
int64_t share_handle_add(struct share *s, int fd, bool directory);
struct handle *share_handle(struct share *s, uint64_t id, bool directory);
void share_handle_drop(struct share *s, uint64_t id);

/* What several operations need. */

/* The next name of the arguments, from *at on; NULL when there is none that is sound. */
const char *share_name(const struct request *q, size_t *at);
/* The single component that the arguments end in; NULL likewise. */
const char *share_component(const struct request *q, size_t at);
bool share_is_component(const char *name);
/* "123" for proc_fd. */
const char *share_fd_name(int fd, char *buf, size_t size);
void share_fill_attr(const struct share *s, struct fuse_attr *a, const struct stat *st);
/* Looks a name up and fills the entry; 0 or -errno. */
int share_lookup(struct share *s, struct node *parent, const char *name, struct fuse_entry_out *e);
/* Gives what has just been made in `parent` the guest's owner, where we may, and its mode. */
int share_take_over(struct share *s, const struct request *q, int parent, int fd, mode_t mode);
/* A new descriptor of a node for reading or writing; or -errno. */
int share_reopen(const struct share *s, const struct node *n, int flags);
/* The part of q->in or q->out from byte `at` on, len bytes at most, in s->slice; *nr pieces. */
size_t share_slice(struct share *s, const struct iovec *iov, unsigned nr_iov, size_t at, size_t len,
                   unsigned *nr);

int share_do_lookup(struct share *s, struct request *q);
int share_do_forget(struct share *s, struct request *q);
int share_do_batch_forget(struct share *s, struct request *q);
int share_do_getattr(struct share *s, struct request *q);
int share_do_setattr(struct share *s, struct request *q);
int share_do_readlink(struct share *s, struct request *q);
int share_do_symlink(struct share *s, struct request *q);
int share_do_mknod(struct share *s, struct request *q);
int share_do_mkdir(struct share *s, struct request *q);
int share_do_unlink(struct share *s, struct request *q);
int share_do_rmdir(struct share *s, struct request *q);
int share_do_rename(struct share *s, struct request *q);
int share_do_rename2(struct share *s, struct request *q);
int share_do_link(struct share *s, struct request *q);
int share_do_create(struct share *s, struct request *q);
int share_do_open(struct share *s, struct request *q);
int share_do_read(struct share *s, struct request *q);
int share_do_write(struct share *s, struct request *q);
int share_do_release(struct share *s, struct request *q);
int share_do_fsync(struct share *s, struct request *q);
int share_do_fallocate(struct share *s, struct request *q);
int share_do_lseek(struct share *s, struct request *q);
int share_do_statfs(struct share *s, struct request *q);
int share_do_syncfs(struct share *s, struct request *q);
int share_do_opendir(struct share *s, struct request *q);
int share_do_readdir(struct share *s, struct request *q);
int share_do_readdirplus(struct share *s, struct request *q);
int share_do_releasedir(struct share *s, struct request *q);
int share_do_fsyncdir(struct share *s, struct request *q);

/*
 * Open files and directories.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "share/share_private.h"

#define MAX_ENTRIES (32 * KiB) /* of a directory, at a time */

/* The kernel's, which the C library hides behind streams. */
struct entry {
	uint64_t ino;
	int64_t off; /* where the next is */
	uint16_t len;
	uint8_t type;
	char name[];
};
#define ENTRY_NAME 19
_Static_assert(offsetof(struct entry, name) == ENTRY_NAME, "getdents64(2)");

int share_reopen(const struct share *s, const struct node *n, int flags)
{
	char name[16];
	int fd;

	if (n->type != S_IFREG && n->type != S_IFDIR)
		return -EINVAL; /* the guest has devices, pipes and sockets of its own */
	if (s->readonly && (flags & (O_ACCMODE | O_TRUNC)) != O_RDONLY)
		return -EROFS;
	fd = openat(s->proc_fd, share_fd_name(n->fd, name, sizeof(name)),
	            flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static int open_node(struct share *s, struct request *q, bool directory, int keep)
{
	struct fuse_open_out *out = (struct fuse_open_out *)q->reply;
	struct node *n = share_node(s, q->head.nodeid);
	struct fuse_open_in in;
	int64_t id;
	int fd;

	memcpy(&in, q->args, sizeof(in));
	if (!n)
		return -ESTALE;
	if (directory != (n->type == S_IFDIR))
		return directory ? -ENOTDIR : -EISDIR;
	fd = share_reopen(s, n, directory ? O_RDONLY | O_DIRECTORY : (int)in.flags & keep);
	if (fd < 0)
		return fd;
	id = share_handle_add(s, fd, directory);
	if (id < 0)
		return (int)id;
	*out = (struct fuse_open_out){ .fh = (uint64_t)id,
		                       .open_flags = directory ? 0 : FOPEN_KEEP_CACHE };
	q->reply_len = sizeof(*out);
	return 0;
}

int share_do_open(struct share *s, struct request *q)
{
	return open_node(s, q, false, O_ACCMODE | O_TRUNC);
}

int share_do_opendir(struct share *s, struct request *q)
{
	return open_node(s, q, true, 0);
}

static int release(struct share *s, struct request *q, bool directory)
{
	struct fuse_release_in in;

	memcpy(&in, q->args, sizeof(in));
	if (!share_handle(s, in.fh, directory))
		return -EBADF;
	share_handle_drop(s, in.fh);
	return 0;
}

int share_do_release(struct share *s, struct request *q)
{
	return release(s, q, false);
}

int share_do_releasedir(struct share *s, struct request *q)
{
	return release(s, q, true);
}

/* Content. */

int share_do_read(struct share *s, struct request *q)
{
	struct fuse_read_in in;
	struct handle *h;
	unsigned nr;
	ssize_t n;

	memcpy(&in, q->args, sizeof(in));
	h = share_handle(s, in.fh, false);
	if (!h)
		return -EBADF;
	if (in.size > SHARE_MAX_IO || in.size > q->room || in.offset > INT64_MAX)
		return -EINVAL;
	share_slice(s, q->out, q->nr_out, sizeof(struct fuse_out_header), in.size, &nr);
	n = preadv(h->fd, s->slice, (int)nr, (off_t)in.offset);
	q->data_len = n < 0 ? 0 : (size_t)n;
	return n < 0 ? -errno : 0;
}

int share_do_write(struct share *s, struct request *q)
{
	struct fuse_write_out *out = (struct fuse_write_out *)q->reply;
	struct fuse_write_in in;
	struct handle *h;
	unsigned nr;
	ssize_t n;

	memcpy(&in, q->args, sizeof(in));
	h = share_handle(s, in.fh, false);
	if (!h)
		return -EBADF;
	if (in.size > SHARE_MAX_IO || in.offset > INT64_MAX)
		return -EINVAL;
	if (share_slice(s, q->in, q->nr_in, sizeof(q->head) + sizeof(in), in.size, &nr) != in.size)
		return -EINVAL;
	n = pwritev(h->fd, s->slice, (int)nr, (off_t)in.offset);
	if (n < 0)
		return -errno;
	*out = (struct fuse_write_out){ .size = (uint32_t)n };
	q->reply_len = sizeof(*out);
	return 0;
}

static int sync_handle(struct share *s, struct request *q, bool directory)
{
	struct fuse_fsync_in in;
	struct handle *h;
	int rc;

	memcpy(&in, q->args, sizeof(in));
	h = share_handle(s, in.fh, directory);
	if (!h)
		return -EBADF;
	rc = in.fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(h->fd) : fsync(h->fd);
	return rc ? -errno : 0;
}

int share_do_fsync(struct share *s, struct request *q)
{
	return sync_handle(s, q, false);
}

int share_do_fsyncdir(struct share *s, struct request *q)
{
	return sync_handle(s, q, true);
}

int share_do_syncfs(struct share *s, struct request *q)
{
	int fd = share_reopen(s, share_node(s, FUSE_ROOT_ID), O_RDONLY), rc;

	if (fd < 0)
		return fd;
	rc = syncfs(fd) ? -errno : 0;
	close(fd);
	return rc;
}

int share_do_fallocate(struct share *s, struct request *q)
{
	const uint32_t known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
	struct fuse_fallocate_in in;
	struct handle *h;

	memcpy(&in, q->args, sizeof(in));
	h = share_handle(s, in.fh, false);
	if (!h)
		return -EBADF;
	if (in.mode & ~known)
		return -EOPNOTSUPP;
	return fallocate(h->fd, (int)in.mode, (off_t)in.offset, (off_t)in.length) ? -errno : 0;
}

int share_do_lseek(struct share *s, struct request *q)
{
	struct fuse_lseek_out *out = (struct fuse_lseek_out *)q->reply;
	struct fuse_lseek_in in;
	struct handle *h;
	off_t at;

	memcpy(&in, q->args, sizeof(in));
	h = share_handle(s, in.fh, false);
	if (!h)
		return -EBADF;
	if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE)
		return -EINVAL;
	at = lseek(h->fd, (off_t)in.offset, (int)in.whence);
	if (at < 0)
		return -errno;
	*out = (struct fuse_lseek_out){ .offset = (uint64_t)at };
	q->reply_len = sizeof(*out);
	return 0;
}

/* Directories. */

struct listing {
	struct share *s;
	struct request *q;
	uint64_t parent;
	bool plus;
	size_t size; /* that the guest has room for */
};

static void put_dirent(struct fuse_dirent *d, const struct entry *e, uint64_t ino, size_t len)
{
	memset(d, 0, FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + len));
	*d = (struct fuse_dirent){
		.ino = ino, .off = (uint64_t)e->off, .namelen = (uint32_t)len, .type = e->type
	};
	memcpy(d->name, e->name, len);
}

/* False when it does not fit any more. A name that went away meanwhile is listed without an entry,
 * and so are "." and "..". */
static bool list(struct listing *l, const struct entry *e)
{
	size_t len = strlen(e->name), head = l->plus ? sizeof(struct fuse_entry_out) : 0;
	size_t need = head + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + len);
	uint8_t *to = l->q->reply + l->q->reply_len;
	struct fuse_entry_out entry = { 0 };
	uint64_t ino = e->ino;

	if (l->q->reply_len + need > l->size)
		return false;
	if (!share_is_component(e->name))
		ino = share_node(l->s, l->parent)->ino;
	else if (l->plus && share_lookup(l->s, share_node(l->s, l->parent), e->name, &entry))
		entry = (struct fuse_entry_out){ 0 };
	if (l->plus)
		memcpy(to, &entry, sizeof(entry));
	if (entry.nodeid)
		ino = entry.attr.ino;
	put_dirent((struct fuse_dirent *)(to + head), e, ino, len);
	l->q->reply_len += need;
	return true;
}

static int read_directory(struct share *s, struct request *q, bool plus)
{
	struct listing l = { s, q, q->head.nodeid, plus, 0 };
	struct node *n = share_node(s, q->head.nodeid);
	uint8_t buf[MAX_ENTRIES] __attribute__((aligned(8)));
	struct fuse_read_in in;
	struct handle *h;
	long got;

	memcpy(&in, q->args, sizeof(in));
	h = share_handle(s, in.fh, true);
	if (!n || n->type != S_IFDIR || !h)
		return h ? -ESTALE : -EBADF;
	l.size = in.size < q->room ? in.size : q->room;
	l.size = l.size < SHARE_MAX_REPLY ? l.size : SHARE_MAX_REPLY;
	if (lseek(h->fd, (off_t)in.offset, SEEK_SET) < 0)
		return -errno;
	got = syscall(SYS_getdents64, h->fd, buf, l.size < sizeof(buf) ? l.size : sizeof(buf));
	if (got < 0)
		return -errno;
	for (long at = 0; at < got; at += ((struct entry *)(buf + at))->len)
		if (!list(&l, (struct entry *)(buf + at)))
			break;
	return 0;
}

int share_do_readdir(struct share *s, struct request *q)
{
	return read_directory(s, q, false);
}

int share_do_readdirplus(struct share *s, struct request *q)
{
	return read_directory(s, q, true);
}

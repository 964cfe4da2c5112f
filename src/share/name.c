/*
 * Names: looking up, making, renaming and removing. Each is one component in a directory that is
 * open.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "share/share_private.h"

const char *share_name(const struct request *q, size_t *at)
{
	const char *name = (const char *)q->args + *at;
	size_t left = *at < q->args_len ? q->args_len - *at : 0;
	size_t len = strnlen(name, left);

	if (len == left)
		return NULL;
	*at += len + 1;
	return name;
}

bool share_is_component(const char *name)
{
	return *name && strlen(name) <= NAME_MAX && !strchr(name, '/') && strcmp(name, ".") &&
	       strcmp(name, "..");
}

const char *share_component(const struct request *q, size_t at)
{
	const char *name = share_name(q, &at);

	return name && share_is_component(name) ? name : NULL;
}

/*
 * Of one component none of this could lead anywhere else; the kernel is asked to see to it all the
 * same.
 */
static int open_beneath(int dir, const char *name, int flags, mode_t mode)
{
	struct open_how how = { .flags = (uint64_t)flags | O_CLOEXEC,
		                .mode = mode,
		                .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS |
		                           RESOLVE_NO_SYMLINKS };
	long fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

static int fill_entry(struct share *s, int fd, struct fuse_entry_out *e)
{
	struct stat st;
	uint64_t id;
	int rc;

	if (fstat(fd, &st)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	id = share_node_add(s, fd, &st, &rc);
	if (!id)
		return rc;
	*e = (struct fuse_entry_out){ .nodeid = id,
		                      .generation = share_node(s, id)->generation,
		                      .entry_valid = SHARE_VALID_S,
		                      .attr_valid = SHARE_VALID_S };
	share_fill_attr(s, &e->attr, &st);
	return 0;
}

int share_lookup(struct share *s, struct node *parent, const char *name, struct fuse_entry_out *e)
{
	int fd = open_beneath(parent->fd, name, O_PATH | O_NOFOLLOW, 0);

	return fd < 0 ? fd : fill_entry(s, fd, e);
}

static struct node *directory(struct share *s, uint64_t id)
{
	struct node *n = share_node(s, id);

	return n && n->type == S_IFDIR ? n : NULL;
}

/* The directory that a request is about, and the component from byte `at` of its arguments on. */
static int parent_and_name(struct share *s, const struct request *q, size_t at,
                           struct node **parent, const char **name)
{
	*parent = directory(s, q->head.nodeid);
	*name = share_component(q, at);
	if (!*parent)
		return share_node(s, q->head.nodeid) ? -ENOTDIR : -ESTALE;
	return *name ? 0 : -EINVAL;
}

int share_do_lookup(struct share *s, struct request *q)
{
	struct fuse_entry_out *e = (struct fuse_entry_out *)q->reply;
	struct node *parent;
	const char *name;
	int rc = parent_and_name(s, q, 0, &parent, &name);

	if (!rc)
		rc = share_lookup(s, parent, name, e);
	if (rc == -ENOENT) { /* that it is not there may be believed as long */
		*e = (struct fuse_entry_out){ .entry_valid = SHARE_VALID_S };
		rc = 0;
	}
	q->reply_len = sizeof(*e);
	return rc;
}

int share_do_forget(struct share *s, struct request *q)
{
	struct fuse_forget_in in;

	memcpy(&in, q->args, sizeof(in));
	share_node_forget(s, q->head.nodeid, in.nlookup);
	return 0;
}

int share_do_batch_forget(struct share *s, struct request *q)
{
	struct fuse_batch_forget_in in;
	struct fuse_forget_one one;
	size_t at = sizeof(in);

	memcpy(&in, q->args, sizeof(in));
	for (; in.count && q->args_len - at >= sizeof(one); in.count--, at += sizeof(one)) {
		memcpy(&one, q->args + at, sizeof(one));
		share_node_forget(s, one.nodeid, one.nlookup);
	}
	return 0;
}

int share_do_readlink(struct share *s, struct request *q)
{
	struct node *n = share_node(s, q->head.nodeid);
	ssize_t len;

	if (!n || n->type != S_IFLNK)
		return n ? -EINVAL : -ESTALE;
	len = readlinkat(n->fd, "", (char *)q->reply, PATH_MAX);
	q->reply_len = len < 0 ? 0 : (size_t)len;
	return len < 0 ? -errno : 0;
}

/* Making. */

/* What has just been made: its entry, after it has been given to its owner. Takes it away again
 * when that fails. */
static int adopt(struct share *s, struct request *q, struct node *parent, const char *name,
                 mode_t mode)
{
	struct fuse_entry_out *e = (struct fuse_entry_out *)q->reply;
	int dir = parent->fd, fd = open_beneath(dir, name, O_PATH | O_NOFOLLOW, 0), rc;

	if (fd < 0)
		return fd;
	rc = share_take_over(s, q, dir, fd, mode);
	if (rc) {
		close(fd);
		unlinkat(dir, name, S_ISDIR(mode) ? AT_REMOVEDIR : 0);
		return rc;
	}
	q->reply_len = sizeof(*e);
	return fill_entry(s, fd, e);
}

int share_do_mknod(struct share *s, struct request *q)
{
	struct fuse_mknod_in in;
	struct node *parent;
	const char *name;
	int rc = parent_and_name(s, q, sizeof(in), &parent, &name);

	memcpy(&in, q->args, sizeof(in));
	if (rc)
		return rc;
	/* A device would be the host's. */
	if (!S_ISREG(in.mode) && !S_ISFIFO(in.mode) && !S_ISSOCK(in.mode))
		return -EPERM;
	if (mknodat(parent->fd, name, in.mode, 0))
		return -errno;
	return adopt(s, q, parent, name, in.mode);
}

int share_do_mkdir(struct share *s, struct request *q)
{
	struct fuse_mkdir_in in;
	struct node *parent;
	const char *name;
	int rc = parent_and_name(s, q, sizeof(in), &parent, &name);

	memcpy(&in, q->args, sizeof(in));
	if (rc)
		return rc;
	if (mkdirat(parent->fd, name, in.mode & 07777))
		return -errno;
	return adopt(s, q, parent, name, S_IFDIR | (in.mode & 07777));
}

int share_do_symlink(struct share *s, struct request *q)
{
	size_t at = 0;
	const char *name = share_name(q, &at), *target = name ? share_name(q, &at) : NULL;
	struct node *parent = directory(s, q->head.nodeid);

	if (!target || !share_is_component(name))
		return -EINVAL;
	if (!parent)
		return -ESTALE;
	if (symlinkat(target, parent->fd, name))
		return -errno;
	return adopt(s, q, parent, name, S_IFLNK);
}

int share_do_link(struct share *s, struct request *q)
{
	struct fuse_entry_out *e = (struct fuse_entry_out *)q->reply;
	struct fuse_link_in in;
	struct node *parent, *n;
	const char *name;
	char number[16];
	int rc = parent_and_name(s, q, sizeof(in), &parent, &name);

	memcpy(&in, q->args, sizeof(in));
	n = share_node(s, in.oldnodeid);
	if (rc || !n)
		return rc ? rc : -ESTALE;
	if (linkat(s->proc_fd, share_fd_name(n->fd, number, sizeof(number)), parent->fd, name,
	           AT_SYMLINK_FOLLOW))
		return -errno;
	q->reply_len = sizeof(*e);
	return share_lookup(s, parent, name, e);
}

/* A file that was there already, as CREATE may find it: never through a link, never a device. */
static int open_existing(struct share *s, struct node *parent, const char *name, int flags,
                         struct fuse_entry_out *e)
{
	int rc = share_lookup(s, parent, name, e), fd;

	if (rc)
		return rc;
	fd = share_reopen(s, share_node(s, e->nodeid), flags);
	if (fd < 0)
		share_node_forget(s, e->nodeid, 1);
	return fd;
}

/* A descriptor, and the entry at the start of the answer. */
static int create_file(struct share *s, struct request *q, struct node *parent, const char *name,
                       const struct fuse_create_in *in)
{
	int flags = (int)in->flags & (O_ACCMODE | O_TRUNC), rc;
	mode_t mode = in->mode & 07777;
	int fd = open_beneath(parent->fd, name, flags | O_CREAT | O_EXCL | O_NOFOLLOW, mode);

	if (fd == -EEXIST && !(in->flags & O_EXCL))
		return open_existing(s, parent, name, flags, (struct fuse_entry_out *)q->reply);
	if (fd < 0)
		return fd;
	rc = adopt(s, q, parent, name, S_IFREG | mode);
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

int share_do_create(struct share *s, struct request *q)
{
	struct fuse_entry_out *e = (struct fuse_entry_out *)q->reply;
	struct fuse_open_out *o = (struct fuse_open_out *)(e + 1);
	struct fuse_create_in in;
	struct node *parent;
	const char *name;
	int rc = parent_and_name(s, q, sizeof(in), &parent, &name), fd;
	int64_t id;

	memcpy(&in, q->args, sizeof(in));
	if (rc)
		return rc;
	fd = create_file(s, q, parent, name, &in);
	if (fd < 0)
		return fd;
	id = share_handle_add(s, fd, false);
	if (id < 0) {
		share_node_forget(s, e->nodeid, 1);
		return (int)id;
	}
	*o = (struct fuse_open_out){ .fh = (uint64_t)id, .open_flags = FOPEN_KEEP_CACHE };
	q->reply_len = sizeof(*e) + sizeof(*o);
	return 0;
}

/* Removing and renaming. */

static int remove_name(struct share *s, struct request *q, int flags)
{
	struct node *parent;
	const char *name;
	int rc = parent_and_name(s, q, 0, &parent, &name);

	if (rc)
		return rc;
	return unlinkat(parent->fd, name, flags) ? -errno : 0;
}

int share_do_unlink(struct share *s, struct request *q)
{
	return remove_name(s, q, 0);
}

int share_do_rmdir(struct share *s, struct request *q)
{
	return remove_name(s, q, AT_REMOVEDIR);
}

static int rename_to(struct share *s, struct request *q, size_t at, uint64_t to, unsigned flags)
{
	const char *old = share_name(q, &at), *new = old ? share_name(q, &at) : NULL;
	struct node *from_dir = directory(s, q->head.nodeid), *to_dir = directory(s, to);

	if (!new || !share_is_component(old) || !share_is_component(new))
		return -EINVAL;
	if (!from_dir || !to_dir)
		return -ESTALE;
	/* A whiteout would be a device. */
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	return renameat2(from_dir->fd, old, to_dir->fd, new, flags) ? -errno : 0;
}

int share_do_rename(struct share *s, struct request *q)
{
	struct fuse_rename_in in;

	memcpy(&in, q->args, sizeof(in));
	return rename_to(s, q, sizeof(in), in.newdir, 0);
}

int share_do_rename2(struct share *s, struct request *q)
{
	struct fuse_rename2_in in;

	memcpy(&in, q->args, sizeof(in));
	return rename_to(s, q, sizeof(in), in.newdir, in.flags);
}

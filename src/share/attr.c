/*
 * What things are: attributes, and the host's owners as the guest sees them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "share/share_private.h"

#define MODE_BITS 07777u

const char *share_fd_name(int fd, char *buf, size_t size)
{
	snprintf(buf, size, "%d", fd);
	return buf;
}

/* Owners. */

static uint32_t shown_uid(const struct share *s, uid_t uid)
{
	return s->owner == SHARE_OWNER_ROOT && uid == s->uid ? 0 : uid;
}

static uint32_t shown_gid(const struct share *s, gid_t gid)
{
	return s->owner == SHARE_OWNER_ROOT && gid == s->gid ? 0 : gid;
}

/* To whom something is to belong; -1 for no change. */
static uid_t host_uid(const struct share *s, uint32_t uid)
{
	return s->owner == SHARE_OWNER_ROOT && uid == 0 ? s->uid : uid;
}

static gid_t host_gid(const struct share *s, uint32_t gid)
{
	return s->owner == SHARE_OWNER_ROOT && gid == 0 ? s->gid : gid;
}

/* Inodes of other file systems below the directory must not look like its own. */
static uint64_t shown_ino(const struct share *s, const struct stat *st)
{
	return st->st_dev == s->root_dev ? st->st_ino : st->st_ino ^ (uint64_t)st->st_dev << 40;
}

void share_fill_attr(const struct share *s, struct fuse_attr *a, const struct stat *st)
{
	*a = (struct fuse_attr){ .ino = shown_ino(s, st),
		                 .size = (uint64_t)st->st_size,
		                 .blocks = (uint64_t)st->st_blocks,
		                 .atime = (uint64_t)st->st_atim.tv_sec,
		                 .mtime = (uint64_t)st->st_mtim.tv_sec,
		                 .ctime = (uint64_t)st->st_ctim.tv_sec,
		                 .atimensec = (uint32_t)st->st_atim.tv_nsec,
		                 .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
		                 .ctimensec = (uint32_t)st->st_ctim.tv_nsec,
		                 .mode = st->st_mode,
		                 .nlink = (uint32_t)st->st_nlink,
		                 .uid = shown_uid(s, st->st_uid),
		                 .gid = shown_gid(s, st->st_gid),
		                 .rdev = (uint32_t)st->st_rdev,
		                 .blksize = (uint32_t)st->st_blksize };
}

static int reply_attr(struct share *s, struct request *q, int fd)
{
	struct fuse_attr_out *out = (struct fuse_attr_out *)q->reply;
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	*out = (struct fuse_attr_out){ .attr_valid = SHARE_VALID_S };
	share_fill_attr(s, &out->attr, &st);
	q->reply_len = sizeof(*out);
	return 0;
}

int share_do_getattr(struct share *s, struct request *q)
{
	struct node *n = share_node(s, q->head.nodeid);

	return n ? reply_attr(s, q, n->fd) : -ESTALE;
}

/* Changes. */

static int set_mode(struct share *s, const struct node *n, uint32_t mode)
{
	char name[16];

	/* A link has no mode of its own. */
	if (n->type == S_IFLNK)
		return -EOPNOTSUPP;
	return fchmodat(s->proc_fd, share_fd_name(n->fd, name, sizeof(name)), mode & MODE_BITS, 0)
	               ? -errno
	               : 0;
}

static int set_owner(struct share *s, const struct node *n, const struct fuse_setattr_in *in)
{
	uid_t uid = in->valid & FATTR_UID ? host_uid(s, in->uid) : (uid_t)-1;
	gid_t gid = in->valid & FATTR_GID ? host_gid(s, in->gid) : (gid_t)-1;

	return fchownat(n->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int set_size(struct share *s, const struct node *n, uint64_t size)
{
	int fd, rc;

	if (n->type != S_IFREG || size > INT64_MAX)
		return -EINVAL;
	fd = share_reopen(s, n, O_WRONLY);
	if (fd < 0)
		return fd;
	rc = ftruncate(fd, (off_t)size) ? -errno : 0;
	close(fd);
	return rc;
}

static struct timespec time_of(uint32_t valid, uint32_t set, uint32_t now, uint64_t s, uint32_t ns)
{
	if (!(valid & set))
		return (struct timespec){ .tv_nsec = UTIME_OMIT };
	if (valid & now)
		return (struct timespec){ .tv_nsec = UTIME_NOW };
	return (struct timespec){ .tv_sec = (time_t)s, .tv_nsec = ns < 1000000000 ? ns : 0 };
}

static int set_times(struct share *s, const struct node *n, const struct fuse_setattr_in *in)
{
	struct timespec times[2] = {
		time_of(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
		time_of(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec),
	};
	char name[16];
	int rc;

	if (n->type == S_IFLNK)
		rc = utimensat(n->fd, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
	else
		rc = utimensat(s->proc_fd, share_fd_name(n->fd, name, sizeof(name)), times, 0);
	return rc ? -errno : 0;
}

int share_do_setattr(struct share *s, struct request *q)
{
	struct node *n = share_node(s, q->head.nodeid);
	struct fuse_setattr_in in;
	int rc = n ? 0 : -ESTALE;

	memcpy(&in, q->args, sizeof(in));
	if (!rc && in.valid & (FATTR_UID | FATTR_GID))
		rc = set_owner(s, n, &in);
	if (!rc && in.valid & FATTR_MODE)
		rc = set_mode(s, n, in.mode);
	if (!rc && in.valid & FATTR_SIZE)
		rc = set_size(s, n, in.size);
	if (!rc && in.valid & (FATTR_ATIME | FATTR_MTIME))
		rc = set_times(s, n, &in);
	return rc ? rc : reply_attr(s, q, n->fd);
}

int share_do_statfs(struct share *s, struct request *q)
{
	struct fuse_statfs_out *out = (struct fuse_statfs_out *)q->reply;
	struct node *n = share_node(s, q->head.nodeid);
	struct statvfs v;

	if (!n)
		return -ESTALE;
	if (fstatvfs(n->fd, &v))
		return -errno;
	*out = (struct fuse_statfs_out){ .st = { .blocks = v.f_blocks,
		                                 .bfree = v.f_bfree,
		                                 .bavail = v.f_bavail,
		                                 .files = v.f_files,
		                                 .ffree = v.f_ffree,
		                                 .bsize = (uint32_t)v.f_bsize,
		                                 .namelen = (uint32_t)v.f_namemax,
		                                 .frsize = (uint32_t)v.f_frsize } };
	q->reply_len = sizeof(*out);
	return 0;
}

int share_take_over(struct share *s, const struct request *q, int parent, int fd, mode_t mode)
{
	bool inherits = false;
	struct stat st;
	char name[16];
	int rc = 0;

	if (s->may_chown) {
		inherits = !fstat(parent, &st) && st.st_mode & S_ISGID;
		rc = fchownat(fd, "", host_uid(s, q->head.uid),
		              inherits ? (gid_t)-1 : host_gid(s, q->head.gid),
		              AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
	}
	/* The guest has applied its own umask; ours is not for it. */
	if (!rc && mode & s->umask)
		rc = fchmodat(s->proc_fd, share_fd_name(fd, name, sizeof(name)), mode & MODE_BITS,
		              0);
	return rc ? -errno : 0;
}

/*
 * Locks keep two machines, or a machine and a tool, from one image. They are those that QEMU takes,
 * so the two see each other: byte 100 + n is held by whoever does n, byte 200 + n by whoever cannot
 * have another do n, all as read locks of the open file (F_OFD_SETLK), so that they never collide
 * by themselves; after taking its own, an opener looks whether somebody holds the opposite.
 */
#include "block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_DOES    100
#define LOCK_FORBIDS 200

/* What one does with a file: QEMU's numbers. */
#define DOES_READ   BIT(0)
#define DOES_WRITE  BIT(1)
#define DOES_RESIZE BIT(3)
#define DOES_BITS   4

#define LOCK_TRIES    20u
#define LOCK_PAUSE_NS 20000000

int block_fail(const struct errbuf *e, int rc, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (e && e->text)
		vsnprintf(e->text, e->size, fmt, ap);
	va_end(ap);
	return rc;
}

static struct flock byte_lock(unsigned byte, short type)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
}

/* Whether another open file holds the byte. */
static int test_byte(int fd, unsigned byte)
{
	struct flock l = byte_lock(byte, F_WRLCK);

	if (fcntl(fd, F_OFD_GETLK, &l))
		return -errno;
	return l.l_type == F_UNLCK ? 0 : -EBUSY;
}

static int take_byte(int fd, unsigned byte)
{
	struct flock l = byte_lock(byte, F_RDLCK);

	if (!fcntl(fd, F_OFD_SETLK, &l))
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

static int for_bits(int fd, unsigned bits, unsigned base, int (*fn)(int fd, unsigned byte))
{
	int rc = 0;

	for (unsigned i = 0; i < DOES_BITS && !rc; i++)
		if (bits & BIT(i))
			rc = fn(fd, base + i);
	return rc;
}

static void unlock_file(const struct file *f)
{
	struct flock all = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	fcntl(f->fd, F_OFD_SETLK, &all);
}

static int lock_file(const struct file *f)
{
	const unsigned alone = DOES_WRITE | DOES_RESIZE;
	unsigned does = f->readonly ? DOES_READ : DOES_READ | alone;
	int rc = for_bits(f->fd, does, LOCK_DOES, take_byte);

	if (!rc)
		rc = for_bits(f->fd, alone, LOCK_FORBIDS, take_byte);
	if (!rc)
		rc = for_bits(f->fd, does, LOCK_FORBIDS, test_byte);
	if (!rc)
		rc = for_bits(f->fd, alone, LOCK_DOES, test_byte);
	if (rc == -EBUSY)
		unlock_file(f); /* keep nobody else from it */
	/* A file system without locks is no reason to refuse. */
	return rc == -ENOLCK || rc == -EINVAL || rc == -EOPNOTSUPP || rc == -ENOSYS ? 0 : rc;
}

static int identify(struct file *f, const struct errbuf *e)
{
	struct stat st;

	if (fstat(f->fd, &st))
		return block_fail(e, -errno, "%s: %s", f->path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return block_fail(e, -EISDIR, "%s: is a directory", f->path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return block_fail(e, -EINVAL, "%s: neither a file nor a block device", f->path);
	/* Of no use any more, and io_uring would take it for a wish to be told EAGAIN. */
	fcntl(f->fd, F_SETFL, fcntl(f->fd, F_GETFL) & ~O_NONBLOCK);
	f->device = S_ISBLK(st.st_mode);
	f->dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	f->ino = S_ISBLK(st.st_mode) ? 0 : st.st_ino;
	return 0;
}

/* A killed process may still have requests in the kernel, and with them its locks, for a moment. */
static int lock_patiently(const struct file *f)
{
	const struct timespec pause = { .tv_nsec = LOCK_PAUSE_NS };
	int rc = lock_file(f);

	for (unsigned i = 0; i < LOCK_TRIES && rc == -EBUSY; i++) {
		nanosleep(&pause, NULL);
		rc = lock_file(f);
	}
	return rc;
}

int file_claim(struct file *f, const struct file_mode *mode, const struct errbuf *e)
{
	int rc = mode->unlocked ? 0 : lock_patiently(f);

	if (rc == -EBUSY)
		return block_fail(e, rc, "%s: in use by another machine or tool", f->path);
	if (rc)
		return block_fail(e, rc, "%s: cannot lock: %s", f->path, strerror(-rc));
	if (mode->create && !f->device && ftruncate(f->fd, 0))
		return block_fail(e, -errno, "%s: cannot empty: %s", f->path, strerror(errno));
	return 0;
}

int file_open(struct file *f, const char *path, const struct file_mode *mode,
              const struct errbuf *e)
{
	/* O_NONBLOCK: opening a FIFO must not wait for its other end. */
	int flags = (mode->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int rc;

	*f = (struct file){ .fd = -1, .readonly = mode->readonly, .path = strdup(path) };
	if (!f->path)
		return block_fail(e, -ENOMEM, "%s: out of memory", path);
	f->fd = open(path, flags | (mode->create ? O_CREAT : 0), 0666);
	if (f->fd < 0) {
		rc = block_fail(e, -errno, "%s: %s", path, strerror(errno));
	} else {
		rc = identify(f, e);
	}
	if (rc)
		file_close(f);
	return rc;
}

void file_close(struct file *f)
{
	if (f->fd >= 0) {
		unlock_file(f); /* a ring may have the file open for a moment longer */
		close(f->fd);
	}
	free(f->path);
	f->fd = -1;
	f->path = NULL;
}

int file_size(const struct file *f, uint64_t *size)
{
	struct stat st;

	if (f->device)
		return ioctl(f->fd, BLKGETSIZE64, size) ? -errno : 0;
	if (fstat(f->fd, &st))
		return -errno;
	*size = (uint64_t)st.st_size;
	return 0;
}

uint64_t file_used(const struct file *f)
{
	uint64_t size = 0;
	struct stat st;

	if (!f->device)
		return fstat(f->fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
	file_size(f, &size);
	return size;
}

int file_read(const struct file *f, uint64_t offset, void *buf, size_t len)
{
	char *p = buf;

	while (len) {
		ssize_t n = pread(f->fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0) {
			memset(p, 0, len);
			return 0;
		}
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int file_write(const struct file *f, uint64_t offset, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n = pwrite(f->fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int file_sync(const struct file *f)
{
	return fdatasync(f->fd) ? -errno : 0;
}

int file_truncate(const struct file *f, uint64_t size)
{
	return ftruncate(f->fd, (off_t)size) ? -errno : 0;
}

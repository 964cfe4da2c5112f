/*
 * Loaded before libc (LD_PRELOAD): writes down what a program does to the files that
 * POWERLOSS_PREFIX begins the names of, so that the test can make the image that a loss of power at
 * any moment could have left. The journal, POWERLOSS_JOURNAL, has records of
 *
 *     kind (u32), file (u32), offset (u64), len (u64), data of 'w'
 *
 * kind: 'w' write, 't' truncate to offset, 'p' fallocate's punch or zero, 's' a sync begins, 'e' it
 * has ended. file: 0 is the image, 1 whatever else the program says of itself, which is never lost.
 * One lock makes an operation and its record one; a sync's two records are by themselves.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;

struct record {
	uint32_t kind, file;
	uint64_t offset, len;
};

/* The number of the file, or -1. */
static int file_of(int fd)
{
	const char *prefix = getenv("POWERLOSS_PREFIX");
	char link[64], path[PATH_MAX];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (!prefix || n < 0)
		return -1;
	path[n] = '\0';
	if (strncmp(path, prefix, strlen(prefix)))
		return -1;
	return strcmp(path + strlen(prefix), "marks") == 0;
}

static void put(const void *p, size_t n)
{
	if (journal < 0)
		journal = open(getenv("POWERLOSS_JOURNAL"),
		               O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (write(journal, p, n) != (ssize_t)n)
		abort();
}

static void note(uint32_t kind, int file, uint64_t offset, uint64_t len)
{
	struct record r = { kind, (uint32_t)file, offset, len };

	put(&r, sizeof(r));
}

#define NEXT(name, type) ((type)dlsym(RTLD_NEXT, name))

ssize_t pwrite(int fd, const void *buf, size_t n, off_t offset)
{
	ssize_t (*next)(int, const void *, size_t, off_t) = NEXT("pwrite", void *);
	int file = file_of(fd);
	ssize_t rc;

	pthread_mutex_lock(&lock);
	rc = next(fd, buf, n, offset);
	if (file >= 0 && rc > 0) {
		note('w', file, (uint64_t)offset, (uint64_t)rc);
		put(buf, (size_t)rc);
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

ssize_t pwritev(int fd, const struct iovec *iov, int nr, off_t offset)
{
	ssize_t (*next)(int, const struct iovec *, int, off_t) = NEXT("pwritev", void *);
	int file = file_of(fd);
	ssize_t rc, left;

	pthread_mutex_lock(&lock);
	rc = next(fd, iov, nr, offset);
	if (file >= 0 && rc > 0) {
		note('w', file, (uint64_t)offset, (uint64_t)rc);
		left = rc;
		for (int i = 0; left > 0; i++) {
			size_t n = iov[i].iov_len < (size_t)left ? iov[i].iov_len : (size_t)left;

			put(iov[i].iov_base, n);
			left -= (ssize_t)n;
		}
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

static void note_alone(uint32_t kind, int file, uint64_t offset, uint64_t len)
{
	if (file < 0)
		return;
	pthread_mutex_lock(&lock);
	note(kind, file, offset, len);
	pthread_mutex_unlock(&lock);
}

int fdatasync(int fd)
{
	int file = file_of(fd);

	/* What it would do is what the test plays. */
	note_alone('s', file, 0, 0);
	note_alone('e', file, 0, 0);
	return 0;
}

int ftruncate(int fd, off_t size)
{
	int (*next)(int, off_t) = NEXT("ftruncate", void *);
	int rc = next(fd, size);

	if (!rc)
		note_alone('t', file_of(fd), (uint64_t)size, 0);
	return rc;
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
	int (*next)(int, int, off_t, off_t) = NEXT("fallocate", void *);
	int file = file_of(fd), rc;

	pthread_mutex_lock(&lock);
	rc = next(fd, mode, offset, len);
	if (!rc && file >= 0)
		note('p', file, (uint64_t)offset, (uint64_t)len);
	pthread_mutex_unlock(&lock);
	return rc;
}

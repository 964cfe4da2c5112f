#include "machine/loader_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_file(struct loader *l, struct loader_file *f, uint64_t max)
{
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return loader_fail(l, -errno, "%s '%s': %s", f->what, f->path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return loader_fail(l, -EISDIR, "%s '%s' is a directory", f->what, f->path);
	if (!S_ISREG(st.st_mode))
		return loader_fail(l, -EINVAL, "%s '%s' is not a regular file", f->what, f->path);
	if (st.st_size == 0)
		return loader_fail(l, -EINVAL, "%s '%s' is empty", f->what, f->path);
	if ((uint64_t)st.st_size > max)
		return loader_fail(l, -EFBIG, "%s '%s' is %llu MiB: at most %llu MiB can be loaded",
		                   f->what, f->path, MiB_UP((uint64_t)st.st_size), max / MiB);
	f->size = (uint64_t)st.st_size;
	return 0;
}

int loader_file_open(struct loader *l, const char *what, const char *path, uint64_t max,
                     struct loader_file *f)
{
	int rc;

	/* O_NONBLOCK: a FIFO without a writer is refused rather than waited for. */
	*f = (struct loader_file){ .fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK),
		                   .what = what,
		                   .path = path };
	if (f->fd < 0)
		return loader_fail(l, -errno, "%s '%s': %s", what, path, strerror(errno));
	rc = check_file(l, f, max);
	if (rc)
		loader_file_close(f);
	return rc;
}

void loader_file_close(struct loader_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

int loader_file_read(struct loader *l, const struct loader_file *f, void *buf)
{
	uint64_t done = 0;

	while (done < f->size) {
		ssize_t n = pread(f->fd, (uint8_t *)buf + done, f->size - done, (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return loader_fail(l, -errno, "%s '%s': %s", f->what, f->path,
			                   strerror(errno));
		if (n == 0)
			return loader_fail(
			        l, -EIO, "%s '%s' shrank to %llu of %llu bytes while read", f->what,
			        f->path, (unsigned long long)done, (unsigned long long)f->size);
		done += (uint64_t)n;
	}
	return 0;
}

/*
 * trapeze image debian: checks what it was asked for, has the system built into a file without a
 * name beside the image, and copies that to the image.
 */
#include "cli/debian.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/image.h"

#define DEFAULT_SIZE (4 * GiB)
#define MIN_SIZE     (256 * MiB)
#define MAX_SIZE     (16 * 1024 * GiB) /* of ext4 in blocks of 4 KiB that every tool understands */
#define MAX_HOSTNAME 63u
#define MAX_KEYS     (64 * KiB)

/* Letters, digits and those of `more`; not a '-' first, which would be somebody's option. */
static bool is_word(const char *s, const char *more)
{
	if (!*s || *s == '-')
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr(more, *s))
			return false;
	return true;
}

static int check_names(const struct image_options *o)
{
	if (o->hostname && (!is_word(o->hostname, "-") || strlen(o->hostname) > MAX_HOSTNAME)) {
		log_error("--hostname %s: not 1 to %u letters, digits and '-'", o->hostname,
		          MAX_HOSTNAME);
		return -EINVAL;
	}
	if (o->suite && !is_word(o->suite, "-")) {
		log_error("--suite %s: not the name of a release such as bookworm", o->suite);
		return -EINVAL;
	}
	if (o->packages && !is_word(o->packages, "+-.:,")) {
		log_error("--packages %s: not names of packages with commas between", o->packages);
		return -EINVAL;
	}
	return 0;
}

static int check_size(uint64_t size)
{
	char low[32], high[32];

	if (size >= MIN_SIZE && size <= MAX_SIZE)
		return 0;
	log_error("--size: not from %s to %s", options_format_bytes(MIN_SIZE, low, sizeof(low)),
	          options_format_bytes(MAX_SIZE, high, sizeof(high)));
	return -EINVAL;
}

static int check_keys(const char *path, const char *keys)
{
	if (strstr(keys, "PRIVATE KEY")) {
		log_error("--ssh-key %s: a private key; the public one belongs there (*.pub)",
		          path);
		return -EINVAL;
	}
	if (strstr(keys, "ssh-") || strstr(keys, "ecdsa-"))
		return 0;
	log_error("--ssh-key %s: no public key of ssh in it", path);
	return -EINVAL;
}

static int read_keys(const char *path, char **keys)
{
	FILE *f = fopen(path, "re");
	size_t n = 0;
	int rc = f ? 0 : -errno;

	*keys = calloc(1, MAX_KEYS + 1);
	if (!rc && !*keys)
		rc = -ENOMEM;
	if (!rc)
		n = fread(*keys, 1, MAX_KEYS + 1, f);
	if (!rc && ferror(f))
		rc = -errno;
	if (f)
		fclose(f);
	if (rc) {
		log_error("--ssh-key %s: %s", path, strerror(-rc));
		return rc;
	}
	if (n > MAX_KEYS) {
		log_error("--ssh-key %s: more than %llu KiB", path,
		          (unsigned long long)(MAX_KEYS / KiB));
		return -EFBIG;
	}
	return check_keys(path, *keys);
}

/* Not there yet, or a file that may be replaced. */
static int check_target(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	return access(path, W_OK) ? -errno : 0;
}

/* Where there is room for the image there is for this; whatever happens, nothing of it stays. */
static int make_raw(const char *image, uint64_t size)
{
	const char *slash = strrchr(image, '/');
	int fd, rc = check_target(image);
	char *path;

	if (rc)
		return rc;
	if (asprintf(&path, "%.*s.trapeze-XXXXXX", slash ? (int)(slash - image + 1) : 0, image) < 0)
		return -ENOMEM;
	fd = mkostemp(path, O_CLOEXEC);
	rc = fd < 0 ? -errno : 0;
	if (!rc)
		unlink(path);
	free(path);
	if (!rc && ftruncate(fd, (off_t)size)) {
		rc = -errno;
		close(fd);
	}
	return rc ? rc : fd;
}

static int copy_to_image(const struct image_options *o, int raw)
{
	struct image_options copy = { .second = o->file, .format = "raw" };
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", raw);
	copy.file = path;
	return image_convert_verb(&copy);
}

static int build(const struct image_options *o, struct debian *d)
{
	int status = CLI_ERROR;

	d->raw = make_raw(o->file, d->size);
	if (d->raw < 0) {
		log_error("%s: %s", o->file, strerror(-d->raw));
		return CLI_ERROR;
	}
	if (!debian_build(d))
		status = copy_to_image(o, d->raw);
	close(d->raw);
	return status;
}

int image_debian_verb(const struct image_options *o)
{
	struct debian d = { .suite = o->suite ? o->suite : "bookworm",
		            .hostname = o->hostname ? o->hostname : "debian",
		            .packages = o->packages,
		            .size = o->size ? o->size / PAGE_SIZE * PAGE_SIZE : DEFAULT_SIZE };
	int status = CLI_ERROR;

	if (!check_names(o) && !check_size(d.size) &&
	    (!o->ssh_key || !read_keys(o->ssh_key, &d.ssh_key)))
		status = build(o, &d);
	free(d.ssh_key);
	return status;
}

/*
 * Bounds: the superblock must describe a file system that fits into the disk and whose group
 * descriptors are few enough to read; a folder is looked through to a number of entries, each
 * counted, the empty ones, too; symbolic links are not followed; a file's size is compared with the
 * caller's limit before it is read.
 */
#include "fs/ext4.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/ext4_io.h"

#define SUPER_OFFSET  1024u
#define MAX_LOG_BLOCK 6u /* 64 KiB */
#define MAX_GROUPS    (1u << 20)
#define MAX_ENTRIES   100000u
#define PIECE         MiB

struct ext4 {
	ext2_filsys fs;
	const char *name;
};

static int fail(int rc, char *err, size_t errlen, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));

static int fail(int rc, char *err, size_t errlen, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, errlen, fmt, ap);
	va_end(ap);
	return rc;
}

static uint64_t count_blocks(const struct ext2_super_block *s)
{
	uint64_t n = s->s_blocks_count;

	if (s->s_feature_incompat & EXT4_FEATURE_INCOMPAT_64BIT)
		n |= (uint64_t)s->s_blocks_count_hi << 32;
	return n;
}

/* What libext2fs would allocate memory and read by. */
static const char *find_fault(const struct ext2_super_block *s, uint64_t disk)
{
	uint64_t blocks = count_blocks(s);

	if (s->s_log_block_size > MAX_LOG_BLOCK)
		return "absurd size of blocks";
	if (blocks > disk >> (10 + s->s_log_block_size))
		return "it is larger than the disk";
	if (!s->s_blocks_per_group || blocks / s->s_blocks_per_group >= MAX_GROUPS)
		return "absurd number of groups";
	return NULL;
}

static int check_superblock(struct block *disk, const char *name, char *err, size_t errlen)
{
	union {
		struct ext2_super_block s;
		uint8_t bytes[2 * SUPER_OFFSET];
	} u;
	uint8_t *buf;
	struct block_info info;
	const char *fault;
	int rc;

	block_get_info(disk, &info);
	if (info.size < PAGE_SIZE)
		return fail(-EINVAL, err, errlen, "%s: no ext4 file system on this disk", name);
	buf = malloc(PAGE_SIZE);
	if (!buf)
		return fail(-ENOMEM, err, errlen, "%s: %s", name, strerror(ENOMEM));
	rc = block_read(disk, 0, buf, PAGE_SIZE);
	memcpy(u.bytes, buf + SUPER_OFFSET, sizeof(u.s));
	free(buf);
	if (rc)
		return fail(rc, err, errlen, "%s: %s", name, strerror(-rc));
	if (u.s.s_magic != EXT2_SUPER_MAGIC)
		return fail(-EINVAL, err, errlen,
		            "%s: no ext4 file system that fills the disk, in which a kernel could "
		            "be found",
		            name);
	fault = find_fault(&u.s, info.size);
	return fault ? fail(-EINVAL, err, errlen, "%s: damaged ext4 file system: %s", name, fault)
	             : 0;
}

/* Errors of libext2fs have numbers of their own; those of the host are errno's. */
static const char *what(errcode_t rc)
{
	return error_message(rc);
}

int ext4_open(struct ext4 **out, struct block *disk, const char *name, char *err, size_t errlen)
{
	char io_name[EXT4_IO_NAME];
	struct ext4 *e;
	errcode_t bad;
	int rc = check_superblock(disk, name, err, errlen);

	if (rc)
		return rc;
	e = calloc(1, sizeof(*e));
	if (!e)
		return fail(-ENOMEM, err, errlen, "%s: %s", name, strerror(ENOMEM));
	initialize_ext2_error_table();
	e->name = name;
	ext4_io_name(io_name, disk);
	bad = ext2fs_open2(io_name, NULL, EXT2_FLAG_64BITS, 0, 0, &ext4_io_manager, &e->fs);
	if (bad) {
		free(e);
		return fail(-EINVAL, err, errlen, "%s: ext4 file system: %s", name, what(bad));
	}
	*out = e;
	return 0;
}

void ext4_close(struct ext4 *e)
{
	if (!e)
		return;
	ext2fs_free(e->fs);
	free(e);
}

/* Looking through a folder. */

struct search {
	const char *name;
	bool prefix; /* name is the start of what is wanted, else all of it */
	char found[EXT4_NAME];
	ext2_ino_t inode; /* 0: nothing found */
	unsigned entries;
};

/* Names go into messages and paths. */
static bool is_plain(const char *name)
{
	for (; *name; name++)
		if ((unsigned char)*name < ' ' || *name == 0x7f || *name == '/')
			return false;
	return true;
}

static bool is_wanted(const struct search *s, const char *name)
{
	if (!s->prefix)
		return !strcmp(name, s->name);
	return !strncmp(name, s->name, strlen(s->name)) &&
	       (!s->inode || strverscmp(name, s->found) > 0);
}

static int look_at(ext2_ino_t dir, int entry, struct ext2_dir_entry *d, int offset, int blocksize,
                   char *buf, void *opaque)
{
	struct search *s = opaque;
	size_t n = (size_t)ext2fs_dirent_name_len(d);
	char name[EXT4_NAME];

	if (s->entries++ == MAX_ENTRIES)
		return DIRENT_ABORT;
	if (!d->inode || n > (size_t)(blocksize - offset) - offsetof(struct ext2_dir_entry, name))
		return 0;
	memcpy(name, d->name, n);
	name[n] = '\0';
	if (!is_plain(name) || !is_wanted(s, name))
		return 0;
	memcpy(s->found, name, n + 1);
	s->inode = d->inode;
	return 0;
}

static int search_folder(struct ext4 *e, ext2_ino_t dir, const char *path, struct search *s,
                         char *err, size_t errlen)
{
	errcode_t bad =
	        ext2fs_dir_iterate2(e->fs, dir, DIRENT_FLAG_INCLUDE_EMPTY, NULL, look_at, s);

	if (bad)
		return fail(-EIO, err, errlen, "%s: %s: %s", e->name, path, what(bad));
	if (s->entries > MAX_ENTRIES)
		return fail(-EFBIG, err, errlen, "%s: %s has more than %u entries", e->name, path,
		            MAX_ENTRIES);
	return s->inode ? 0
	                : fail(-ENOENT, err, errlen, "%s: no %s%s in %s", e->name, s->name,
	                       s->prefix ? "*" : "", path);
}

static int search_in(struct ext4 *e, const char *folder, struct search *s, char *err, size_t errlen)
{
	struct search top = { .name = folder };
	char path[EXT4_NAME + 1];
	int rc = search_folder(e, EXT2_ROOT_INO, "/", &top, err, errlen);

	if (rc)
		return rc;
	snprintf(path, sizeof(path), "/%s", folder);
	return search_folder(e, top.inode, path, s, err, errlen);
}

int ext4_find_newest(struct ext4 *e, const char *folder, const char *prefix, char found[EXT4_NAME],
                     char *err, size_t errlen)
{
	struct search s = { .name = prefix, .prefix = true };
	int rc = search_in(e, folder, &s, err, errlen);

	if (!rc)
		memcpy(found, s.found, EXT4_NAME);
	return rc;
}

/* Reading a file. */

static int write_all(int fd, const uint8_t *buf, size_t n)
{
	while (n) {
		ssize_t done = write(fd, buf, n);

		if (done < 0 && errno != EINTR)
			return -errno;
		if (done > 0) {
			buf += done;
			n -= (size_t)done;
		}
	}
	return 0;
}

/* -EIO: *bad tells more. */
static int copy_pieces(ext2_file_t file, uint64_t size, int fd, errcode_t *bad)
{
	uint8_t *buf = malloc(PIECE);
	unsigned got;
	int rc = buf ? 0 : -ENOMEM;

	while (!rc && size) {
		*bad = ext2fs_file_read(file, buf, size < PIECE ? (unsigned)size : PIECE, &got);
		rc = *bad || !got ? -EIO : write_all(fd, buf, got);
		size -= rc ? 0 : got;
	}
	free(buf);
	return rc;
}

static int check_inode(struct ext4 *e, ext2_ino_t inode, const char *file, uint64_t max,
                       uint64_t *size, char *err, size_t errlen)
{
	struct ext2_inode i;
	errcode_t bad = ext2fs_read_inode(e->fs, inode, &i);

	if (bad)
		return fail(-EIO, err, errlen, "%s: %s: %s", e->name, file, what(bad));
	if (!LINUX_S_ISREG(i.i_mode))
		return fail(-EINVAL, err, errlen, "%s: %s is not a regular file", e->name, file);
	*size = EXT2_I_SIZE(&i);
	if (*size > max)
		return fail(-EFBIG, err, errlen, "%s: %s has more than %llu MiB", e->name, file,
		            (unsigned long long)(max / MiB));
	return *size ? 0 : fail(-EINVAL, err, errlen, "%s: %s is empty", e->name, file);
}

int ext4_copy(struct ext4 *e, const char *folder, const char *name, uint64_t max, int fd, char *err,
              size_t errlen)
{
	struct search s = { .name = name };
	ext2_file_t file;
	uint64_t size = 0;
	errcode_t bad = 0;
	int rc = search_in(e, folder, &s, err, errlen);

	if (!rc)
		rc = check_inode(e, s.inode, name, max, &size, err, errlen);
	if (rc)
		return rc;
	bad = ext2fs_file_open(e->fs, s.inode, 0, &file);
	if (bad)
		return fail(-EIO, err, errlen, "%s: %s: %s", e->name, name, what(bad));
	rc = copy_pieces(file, size, fd, &bad);
	ext2fs_file_close(file);
	if (rc)
		fail(rc, err, errlen, "%s: %s: %s", e->name, name, bad ? what(bad) : strerror(-rc));
	return rc;
}

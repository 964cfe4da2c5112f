/* Files read out of an ext4 image: one that mke2fs made, and the same after damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block.h"
#include "fs/ext4.h"

#define DISK_KIB   4096
#define FILE_BYTES (300 * 1000) /* more than one extent's worth of blocks of 1 KiB */
#define LIMIT      MiB
#define DAMAGES    400
#define SUPER      1024
#define ERR        512

struct fixture {
	char dir[64], image[96];
	uint8_t *content; /* of the kernel */
};

static void write_file(const char *path, const void *data, size_t n)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static void fill_folder(struct fixture *x)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/boot", x->dir);
	assert_int_equal(mkdir(path, 0755), 0);
	for (unsigned i = 0; i < FILE_BYTES; i++)
		x->content[i] = (uint8_t)(i * 7 + i / 251);
	snprintf(path, sizeof(path), "%s/boot/vmlinuz-6.1.0-9-cloud", x->dir);
	write_file(path, "old", 3);
	snprintf(path, sizeof(path), "%s/boot/vmlinuz-6.1.0-56-cloud", x->dir);
	write_file(path, x->content, FILE_BYTES);
	snprintf(path, sizeof(path), "%s/boot/vmlinuz-9\033[2J\n",
	         x->dir); /* newer, but not fit to be named */
	write_file(path, "no", 2);
	snprintf(path, sizeof(path), "%s/boot/link", x->dir);
	assert_int_equal(symlink("vmlinuz-6.1.0-9-cloud", path), 0);
	snprintf(path, sizeof(path), "%s/boot/empty", x->dir);
	write_file(path, "", 0);
}

static int make_image(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	char command[512];

	*state = x;
	x->content = malloc(FILE_BYTES);
	strcpy(x->dir, "/tmp/test_ext4.XXXXXX");
	if (!mkdtemp(x->dir))
		return -1;
	fill_folder(x);
	snprintf(x->image, sizeof(x->image), "%s.img", x->dir);
	snprintf(command, sizeof(command),
	         "PATH=$PATH:/usr/sbin:/sbin; mke2fs -q -F -t ext4 -O ^metadata_csum -b 1024 -d %s "
	         "%s %dk >/dev/null",
	         x->dir, x->image, DISK_KIB);
	return system(command) ? -1 : 0;
}

static int remove_image(void **state)
{
	struct fixture *x = *state;
	char command[256];

	snprintf(command, sizeof(command), "rm -rf %s %s", x->dir, x->image);
	free(x->content);
	free(x);
	return system(command) ? -1 : 0;
}

static struct block *open_disk(const char *path)
{
	struct block_options options = { .format = "raw", .readonly = true };
	char err[ERR];
	struct block *disk;

	assert_int_equal(block_open(&disk, path, &options, err, sizeof(err)), 0);
	return disk;
}

static void test_newest(void **state)
{
	struct fixture *x = *state;
	struct block *disk = open_disk(x->image);
	char err[ERR], name[EXT4_NAME];
	struct ext4 *fs;

	assert_int_equal(ext4_open(&fs, disk, "disk", err, sizeof(err)), 0);
	assert_int_equal(ext4_find_newest(fs, "boot", "vmlinuz-", name, err, sizeof(err)), 0);
	assert_string_equal(name, "vmlinuz-6.1.0-56-cloud"); /* by version, not by letters */
	assert_int_equal(ext4_find_newest(fs, "boot", "initrd", name, err, sizeof(err)), -ENOENT);
	assert_string_equal(err, "disk: no initrd* in /boot");
	assert_int_equal(ext4_find_newest(fs, "nope", "x", name, err, sizeof(err)), -ENOENT);
	assert_string_equal(err, "disk: no nope in /");
	ext4_close(fs);
	assert_int_equal(block_close(disk), 0);
}

static void test_copy(void **state)
{
	struct fixture *x = *state;
	struct block *disk = open_disk(x->image);
	int fd = memfd_create("copy", MFD_CLOEXEC);
	uint8_t *got = malloc(FILE_BYTES);
	char err[ERR];
	struct ext4 *fs;

	assert_int_equal(ext4_open(&fs, disk, "disk", err, sizeof(err)), 0);
	assert_int_equal(ext4_copy(fs, "boot", "vmlinuz-6.1.0-56-cloud", LIMIT, fd, err, ERR), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), FILE_BYTES);
	assert_int_equal(pread(fd, got, FILE_BYTES, 0), FILE_BYTES);
	assert_memory_equal(got, x->content, FILE_BYTES);
	assert_int_equal(ext4_copy(fs, "boot", "vmlinuz-6.1.0-56-cloud", 1000, fd, err, ERR),
	                 -EFBIG);
	assert_int_equal(ext4_copy(fs, "boot", "link", LIMIT, fd, err, ERR), -EINVAL);
	assert_string_equal(err, "disk: link is not a regular file");
	assert_int_equal(ext4_copy(fs, "boot", "empty", LIMIT, fd, err, ERR), -EINVAL);
	assert_int_equal(ext4_copy(fs, "boot", "nope", LIMIT, fd, err, ERR), -ENOENT);
	free(got);
	close(fd);
	ext4_close(fs);
	assert_int_equal(block_close(disk), 0);
}

/* A copy of the image, for damage. */
static int open_copy(const struct fixture *x, char path[128])
{
	char command[512];

	snprintf(path, 128, "%s/copy", x->dir);
	snprintf(command, sizeof(command), "cp %s %s", x->image, path);
	assert_int_equal(system(command), 0);
	return open(path, O_RDWR | O_CLOEXEC);
}

static const struct {
	unsigned offset; /* in the superblock */
	uint32_t value;
	const char *err;
} bad_fields[] = {
	{ 0x18, 7, "disk: damaged ext4 file system: absurd size of blocks" },
	{ 0x04, UINT32_MAX, "disk: damaged ext4 file system: it is larger than the disk" },
	{ 0x20, 0, "disk: damaged ext4 file system: absurd number of groups" },
	{ 0x38, 0,
	  "disk: no ext4 file system that fills the disk, in which a kernel could be found" },
};

static void test_bad_superblock(void **state)
{
	char path[128], err[ERR];
	struct ext4 *fs;

	for (size_t i = 0; i < ARRAY_SIZE(bad_fields); i++) {
		int fd = open_copy(*state, path);
		struct block *disk;

		assert_int_equal(pwrite(fd, &bad_fields[i].value, 4, SUPER + bad_fields[i].offset),
		                 4);
		disk = open_disk(path);
		assert_int_equal(ext4_open(&fs, disk, "disk", err, sizeof(err)), -EINVAL);
		assert_string_equal(err, bad_fields[i].err);
		block_close(disk);
		close(fd);
	}
}

/* Whatever comes of it ends, with an answer or a message. */
static void look(const char *path)
{
	int fd = memfd_create("copy", MFD_CLOEXEC);
	struct block *disk = open_disk(path);
	char err[ERR] = "", name[EXT4_NAME];
	struct ext4 *fs = NULL;
	int rc = ext4_open(&fs, disk, "disk", err, sizeof(err));

	if (!rc)
		rc = ext4_find_newest(fs, "boot", "vmlinuz-", name, err, sizeof(err));
	if (!rc)
		rc = ext4_copy(fs, "boot", name, LIMIT, fd, err, sizeof(err));
	if (rc)
		assert_true(rc < 0 && *err);
	else
		assert_in_range(lseek(fd, 0, SEEK_END), 1, LIMIT);
	ext4_close(fs);
	block_close(disk);
	close(fd);
}

/* Bytes of the superblock, descriptors, inodes and folders, which are at the start of so small a
 * disk; and truncation. */
static void test_damage(void **state)
{
	char path[128];
	int fd = open_copy(*state, path);
	unsigned seed = 1;

	for (unsigned i = 0; i < DAMAGES; i++) {
		off_t at = SUPER + rand_r(&seed) % (i % 2 ? 2 * KiB : 512 * KiB);
		uint8_t old, bad = (uint8_t)rand_r(&seed);

		assert_int_equal(pread(fd, &old, 1, at), 1);
		assert_int_equal(pwrite(fd, &bad, 1, at), 1);
		look(path);
		/* Every other one stays. */
		if (i % 4)
			assert_int_equal(pwrite(fd, &old, 1, at), 1);
	}
	assert_int_equal(ftruncate(fd, 64 * KiB), 0);
	look(path);
	assert_int_equal(ftruncate(fd, 0), 0);
	look(path);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_newest),
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_bad_superblock),
		cmocka_unit_test(test_damage),
	};

	return cmocka_run_group_tests(tests, make_image, remove_image);
}

/*
 * ext4 images that are damaged or made to do damage, read as run --image reads them.
 *
 * Input: the first byte chooses one of the images that mke2fs has made; then patches of eight
 * bytes, {region, length and place (3), value (4)}. Whatever is in the image, looking ends, with a
 * file of at most the size that was allowed or with one line that says why not.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block.h"
#include "check.h"
#include "fs/ext4.h"

#define DISK_KIB    1024
#define DISK        (DISK_KIB * KiB)
#define PATCH       8u
#define MAX_PATCHES 64u
#define LIMIT       (256 * KiB)
#define FILE_BYTES  (40 * 1000)
#define ERR         512

/* Options of mke2fs: extents, maps of blocks, small files within inodes, large clusters. No
 * checksums: they would hide what is behind them. */
static const char *const kinds[] = {
	"-t ext4 -O ^metadata_csum -b 1024",
	"-t ext2 -b 1024",
	"-t ext4 -O ^metadata_csum,inline_data,64bit -I 256 -b 1024",
	"-t ext4 -O ^metadata_csum,^has_journal -b 4096",
	"-t ext4 -O ^metadata_csum,bigalloc -b 1024 -C 4096",
	"-t ext4 -O metadata_csum -b 1024",
};

static uint8_t *sound[ARRAY_SIZE(kinds)];

/* The disk is in memory. */
struct block {
	uint8_t *data;
} disk;

void block_get_info(const struct block *b, struct block_info *info)
{
	*info = (struct block_info){
		.format = "raw", .size = DISK, .sector = 512, .readonly = true
	};
}

int block_read(struct block *b, uint64_t offset, void *buf, uint64_t len)
{
	check(offset % 512 == 0 && len % 512 == 0 && offset <= DISK && len <= DISK - offset);
	memcpy(buf, b->data + offset, len);
	return 0;
}

/* Images. */

static void write_file(const char *folder, const char *name, size_t n)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/boot/%s", folder, name);
	f = fopen(path, "w");
	check(f);
	for (size_t i = 0; i < n; i++)
		fputc((int)(i * 7 + i / 251), f);
	check(!fclose(f));
}

static void run_shell(const char *command)
{
	check(!system(command));
}

static void load(const char *path, uint8_t **out)
{
	FILE *f = fopen(path, "r");

	*out = malloc(DISK);
	check(f && *out && fread(*out, 1, DISK, f) == DISK);
	fclose(f);
}

static void make_images(void)
{
	char folder[] = "/tmp/fuzz-ext4-XXXXXX", command[512], path[128];

	check(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/boot", folder);
	check(!mkdir(path, 0755));
	write_file(folder, "vmlinuz-1.0", 30);
	write_file(folder, "vmlinuz-1.10", FILE_BYTES);
	write_file(folder, "initrd.img-1.10", FILE_BYTES / 2);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		snprintf(command, sizeof(command),
		         "PATH=$PATH:/usr/sbin:/sbin; rm -f %s.img; mke2fs -q -F %s -N 64 -d %s "
		         "%s.img %dk "
		         ">/dev/null 2>&1",
		         folder, kinds[i], folder, folder, DISK_KIB);
		run_shell(command);
		snprintf(path, sizeof(path), "%s.img", folder);
		load(path, &sound[i]);
	}
	snprintf(command, sizeof(command), "rm -r %s %s.img", folder, folder);
	run_shell(command);
}

/* Damage. */

static uint32_t get_le(const uint8_t *p, unsigned n)
{
	uint32_t v = 0;

	memcpy(&v, p, n);
	return v;
}

/* Where a patch goes: into the superblock, the descriptors, the inodes, or anywhere. */
static size_t place_of(const uint8_t *image, unsigned region, size_t at)
{
	size_t block = 1024u << (image[1024 + 0x18] & 3);
	size_t descriptors = block == 1024 ? 2048 : block;
	size_t inodes = get_le(image + descriptors + 8, 4) * block;

	switch (region & 3) {
	case 0:
		return 1024 + at % 1024;
	case 1:
		return descriptors + at % 128;
	case 2:
		return inodes + at % (32 * 256);
	}
	return at * 16 + (region >> 2);
}

static void damage(uint8_t *image, const uint8_t *patch, const uint8_t *original)
{
	size_t at = get_le(patch + 2, 2), len = 1 + (patch[1] & 3);

	at = place_of(original, patch[0], at);
	if (at <= DISK - len)
		memcpy(image + at, patch + 4, len);
}

/* Reading. */

static void check_line(int rc, const char *err)
{
	check(rc <= 0 && (!rc || (*err && !strchr(err, '\n'))));
}

static void copy(struct ext4 *fs, const char *name)
{
	int fd = memfd_create("copy", MFD_CLOEXEC);
	char err[ERR] = "";
	off_t n;
	int rc = ext4_copy(fs, "boot", name, LIMIT, fd, err, sizeof(err));

	check_line(rc, err);
	n = lseek(fd, 0, SEEK_END);
	check(n >= 0 && n <= (off_t)LIMIT && (rc || n > 0));
	close(fd);
}

static void look(bool undamaged)
{
	static const char *const starts[] = { "vmlinuz-", "initrd.img-", "" };
	char err[ERR] = "", name[EXT4_NAME];
	struct ext4 *fs = NULL;
	int rc = ext4_open(&fs, &disk, "disk", err, sizeof(err));

	check_line(rc, err);
	check(!rc || !undamaged);
	for (size_t i = 0; !rc && i < ARRAY_SIZE(starts); i++) {
		int found = ext4_find_newest(fs, "boot", starts[i], name, err, sizeof(err));

		check_line(found, err);
		check(!found || !undamaged);
		if (!found)
			copy(fs, name);
	}
	ext4_close(fs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *original;
	size_t at = 1;

	if (!sound[0])
		make_images();
	original = sound[size ? data[0] % ARRAY_SIZE(kinds) : 0];
	disk.data = malloc(DISK);
	check(disk.data);
	memcpy(disk.data, original, DISK);
	for (; at + PATCH <= size && at < MAX_PATCHES * PATCH; at += PATCH)
		damage(disk.data, data + at, original);
	look(at == 1);
	free(disk.data);
	return 0;
}

/*
 * libFuzzer target: qcow2 files that are damaged or made to do damage.
 *
 * The last bytes of an input choose what is done with the image (struct plan); before them is
 *   - the file itself, or
 *   - patches, of ten bytes each (place, value), to an image of ours that has data, a backing file
 *     and shared clusters.
 * Requests may fail, and tools may find damage; nothing may crash, hang or grow without bound. An
 * image that no patch touched has to be sound at the end, and to have what was written.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "block/image.h"
#include "block/qcow2_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK      (256 * KiB)
#define FILE_MOST (256 * KiB)
#define PATCH     10u

/* From the input's end. */
struct plan {
	uint8_t flags;
	uint8_t cluster_bits; /* of our image */
	uint8_t ops[14];      /* of requests: what, and where */
};

enum plan_flags {
	PLAN_PATCHES = 1,
	PLAN_READONLY = 2,
	PLAN_VERSION_2 = 4,
	PLAN_BACKING = 8,
	PLAN_REPAIR = 16,
	PLAN_CUT = 32,
	PLAN_RESIZE = 64,
};

static char folder[] = "/dev/shm/trapeze-fuzz-XXXXXX"; /* in memory, where a sync costs nothing */
static char image_path[64], backing_path[64];

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void check_error(int rc, const char *err)
{
	check(rc <= 0);
	check(!rc || (err[0] && !strchr(err, '\n')));
}

static void remove_folder(void)
{
	unlink(image_path);
	unlink(backing_path);
	rmdir(folder);
}

static void make_folder(void)
{
	static uint8_t content[DISK / 2];
	int fd;

	log_set_level(LOG_ERROR);
	check(mkdtemp(folder) != NULL);
	snprintf(image_path, sizeof(image_path), "%s/image", folder);
	snprintf(backing_path, sizeof(backing_path), "%s/backing", folder);
	memset(content, 0xbb, sizeof(content));
	fd = open(backing_path, O_RDWR | O_CREAT, 0600);
	check(write(fd, content, sizeof(content)) == sizeof(content));
	close(fd);
	atexit(remove_folder);
}

static struct block *open_image(bool readonly)
{
	struct block_options o = { .format = "qcow2", .readonly = readonly };
	char err[512] = "";
	struct block *b = NULL;
	int rc = block_open(&b, image_path, &o, err, sizeof(err));

	check_error(rc, err);
	check(!rc == (b != NULL));
	return b;
}

static void make_image(const struct plan *p)
{
	struct image_create_options o = { .format = "qcow2",
		                          .size = DISK,
		                          .version = p->flags & PLAN_VERSION_2 ? 2 : 3,
		                          .cluster_size = 512u << p->cluster_bits % 5,
		                          .backing = p->flags & PLAN_BACKING ? "backing" : NULL };
	uint8_t buf[8192];
	struct block *b;
	char err[512];

	check(image_create(image_path, &o, err, sizeof(err)) == 0);
	b = open_image(false);
	memset(buf, 0x11, sizeof(buf));
	check(block_write(b, 512, buf, sizeof(buf)) == 0);
	check(block_write(b, DISK - 4096, buf, 4096) == 0);
	check(block_write_zeroes(b, 4096, 1024) == 0);
	check(block_close(b) == 0);
}

static void patch_image(const uint8_t *data, size_t size, const struct plan *p)
{
	int fd = open(image_path, O_RDWR);
	off_t end = lseek(fd, 0, SEEK_END);

	for (; size >= PATCH; data += PATCH, size -= PATCH) {
		uint64_t place = (data[0] | data[1] << 8) * 8ull;

		check(pwrite(fd, data + 2, 8, (off_t)(place % (uint64_t)end)) == 8);
	}
	if (p->flags & PLAN_CUT)
		check(ftruncate(fd, end * p->ops[13] / 256) == 0);
	close(fd);
}

/* Names of the host's files are none of the fuzzer's business: only those in the folder are left.
 */
static void confine(void)
{
	uint8_t head[4096] = { 0 };
	int fd = open(image_path, O_RDWR);
	uint64_t at;

	check(fd >= 0 && pread(fd, head, sizeof(head), 0) >= 0);
	at = qcow2_get64(head + QCOW2_AT_BACKING_OFFSET);
	if (at && (at > sizeof(head) - 8 ||
	           (memcmp(head + at, "backing", 7) && memcmp(head + at, "image", 5)))) {
		qcow2_put64(head + QCOW2_AT_BACKING_OFFSET, 0);
		check(pwrite(fd, head, 16, 0) == 16);
	}
	close(fd);
}

static void write_file(const uint8_t *data, size_t size)
{
	int fd = open(image_path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	check(write(fd, data, size) == (ssize_t)size);
	close(fd);
}

static uint8_t written[DISK / 512]; /* what an untouched image has to have, by sector; 0: unknown */

static void note_written(uint64_t offset, uint64_t len, uint8_t value)
{
	for (uint64_t i = offset / 512; i < (offset + len) / 512 && i < sizeof(written); i++)
		written[i] = value;
}

static void do_one(struct block *b, uint8_t what, uint8_t where, uint64_t size)
{
	static uint8_t buf[32 * KiB];
	uint64_t offset = size / 512 * where / 256 * 512, len = 512ull << what / 8 % 7;
	enum block_content content;
	int rc;

	if (len > size - offset)
		len = size - offset;
	switch (len ? what % 8 : 8) {
	case 0:
	case 1:
		block_read(b, offset, buf, len);
		break;
	case 2:
	case 3:
	case 4:
		memset(buf, where | 1, sizeof(buf));
		rc = block_write(b, offset, buf, len);
		note_written(offset, len, rc ? 0 : where | 1);
		break;
	case 5:
		block_write_zeroes(b, offset, len * 16 < size - offset ? len * 16 : len);
		note_written(offset, len * 16, 0);
		break;
	case 6:
		block_flush(b);
		break;
	default:
		len = size - offset;
		block_map(b, offset, &len, &content);
		break;
	}
}

static void use_image(const struct plan *p)
{
	struct block *b = open_image(p->flags & PLAN_READONLY);
	struct block_info info;
	char err[512] = "";

	if (!b)
		return;
	block_get_info(b, &info);
	for (size_t i = 0; i + 1 < sizeof(p->ops); i += 2)
		do_one(b, p->ops[i], p->ops[i + 1], info.size);
	if (p->flags & PLAN_RESIZE && !(p->flags & PLAN_READONLY) && info.size < GiB)
		check_error(
		        block_resize(b, info.size + (uint64_t)p->ops[0] * 4096, err, sizeof(err)),
		        err);
	block_close(b);
}

static struct image_check check_image(bool repair)
{
	struct image_check c = { 0 };
	char err[512] = "";

	check_error(image_check(image_path, "qcow2", repair, &c, err, sizeof(err)), err);
	return c;
}

/* The image is as we made it: everything has to be right. */
static void check_sound(void)
{
	struct image_check c = check_image(false);
	struct block *b = open_image(true);
	static uint8_t disk[DISK];

	check(!c.corruptions && !c.leaks);
	check(block_read(b, 0, disk, DISK) == 0);
	for (unsigned i = 0; i < sizeof(written); i++) {
		const uint8_t *sector = disk + i * 512;

		check(!written[i] || (sector[0] == written[i] && !memcmp(sector, sector + 1, 511)));
	}
	block_close(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image_details d;
	bool untouched = false;
	char err[512] = "";
	struct plan p;

	if (size < sizeof(p) || size > FILE_MOST)
		return 0;
	if (!image_path[0])
		make_folder();
	size -= sizeof(p);
	memcpy(&p, data + size, sizeof(p));
	memset(written, 0, sizeof(written));
	if (p.flags & PLAN_PATCHES) {
		make_image(&p);
		untouched = size < PATCH && !(p.flags & PLAN_CUT);
		patch_image(data, size, &p);
	} else {
		write_file(data, size);
	}
	confine();
	if (!image_describe(image_path, "qcow2", &d, err, sizeof(err)))
		image_details_fini(&d);
	if (!untouched)
		check_image(false);
	use_image(&p);
	if (untouched)
		check_sound();
	check_image(p.flags & PLAN_REPAIR);
	return 0;
}

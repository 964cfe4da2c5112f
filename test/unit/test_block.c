/* Disks on raw files: requests, their ends, what is refused, both ways of asynchronous I/O. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "block_fixture.h"

static void fill(uint8_t *buf, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		buf[i] = (uint8_t)((i * 131 + seed) ^ i >> 8);
}

static void check_round_trip(struct image_folder *f, bool threads)
{
	uint8_t in[12288], out[12288];
	struct block *b;

	make_file(f, "raw", 1 * MiB);
	b = open_image(f, "raw", (struct block_options){ .no_io_uring = threads });
	fill(in, sizeof(in), 1);
	assert_int_equal(block_write(b, 4096, in, sizeof(in)), 0);
	assert_int_equal(block_flush(b), 0);
	assert_int_equal(block_read(b, 4096, out, sizeof(out)), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(block_close(b), 0);
	b = open_image(f, "raw", (struct block_options){ .format = "raw", .readonly = true });
	assert_int_equal(block_read(b, 4096, out, sizeof(out)), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(block_write(b, 0, in, 512), -EROFS);
	block_close(b);
}

static void test_round_trip(void **state)
{
	check_round_trip(*state, false);
}

static void test_round_trip_threads(void **state)
{
	check_round_trip(*state, true);
}

#define REQUESTS 600 /* more than a ring has entries */

struct many {
	struct block_request r[REQUESTS];
	struct iovec iov[REQUESTS];
	uint8_t data[REQUESTS][512];
	atomic_int ended, failed;
};

static void count_end(struct block_request *r, int rc)
{
	struct many *m = r->opaque;

	m->failed += rc != 0;
	m->ended++;
}

static void submit_many(struct block *b, struct many *m, enum block_op op)
{
	m->ended = 0;
	for (unsigned i = 0; i < REQUESTS; i++) {
		m->iov[i] = (struct iovec){ m->data[i], 512 };
		m->r[i] = (struct block_request){ .op = op,
			                          .flags = i % 50 ? 0 : BLOCK_FUA,
			                          .offset = i * 512ull,
			                          .len = 512,
			                          .iov = &m->iov[i],
			                          .nr_iov = 1,
			                          .done = count_end,
			                          .opaque = m };
		block_submit(b, &m->r[i]);
	}
}

static void check_many(struct image_folder *f, bool threads)
{
	struct many *m = test_calloc(1, sizeof(*m));
	struct block *b;

	make_file(f, "raw", REQUESTS * 512);
	b = open_image(f, "raw", (struct block_options){ .no_io_uring = threads });
	for (unsigned i = 0; i < REQUESTS; i++)
		memset(m->data[i], (int)(i % 251 + 1), 512);
	submit_many(b, m, BLOCK_WRITE);
	block_drain(b);
	assert_int_equal(m->ended, REQUESTS);
	memset(m->data, 0, sizeof(m->data));
	submit_many(b, m, BLOCK_READ);
	block_drain(b);
	assert_int_equal(m->ended, REQUESTS);
	assert_int_equal(m->failed, 0);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(m->data[i][i % 512], i % 251 + 1);
	assert_int_equal(block_close(b), 0);
	test_free(m);
}

static void test_many(void **state)
{
	check_many(*state, false);
}

static void test_many_threads(void **state)
{
	check_many(*state, true);
}

/* done() submits the next one, and close waits for what is under way. */
struct chain {
	struct block *b;
	struct block_request r;
	struct iovec iov;
	uint8_t buf[512];
	unsigned left;
	atomic_bool ended;
};

static void submit_next(struct block_request *r, int rc)
{
	struct chain *c = r->opaque;

	assert_int_equal(rc, 0);
	c->r.offset += 512;
	if (c->left--)
		block_submit(c->b, &c->r);
	else
		c->ended = true;
}

static void test_submit_in_done(void **state)
{
	struct image_folder *f = *state;
	struct chain c = { .left = 100 };

	make_file(f, "raw", 1 * MiB);
	c.b = open_image(f, "raw", (struct block_options){ 0 });
	c.iov = (struct iovec){ c.buf, 512 };
	c.r = (struct block_request){ .op = BLOCK_WRITE,
		                      .len = 512,
		                      .iov = &c.iov,
		                      .nr_iov = 1,
		                      .done = submit_next,
		                      .opaque = &c };
	block_submit(c.b, &c.r);
	assert_int_equal(block_close(c.b), 0);
	assert_true(c.ended);
}

/* The size is rounded up; what is beyond the file's end reads as zeroes and can be written. */
static void test_odd_size(void **state)
{
	struct image_folder *f = *state;
	uint8_t buf[1024], zero[1024] = { 0 };
	struct block_info info;
	struct block *b;

	make_file(f, "raw", 1000);
	b = open_image(f, "raw", (struct block_options){ 0 });
	block_get_info(b, &info);
	assert_int_equal(info.size, 1024);
	assert_string_equal(info.format, "raw");
	memset(buf, 1, sizeof(buf));
	assert_int_equal(block_read(b, 0, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, zero, sizeof(buf));
	memset(buf, 7, sizeof(buf));
	assert_int_equal(block_write(b, 0, buf, sizeof(buf)), 0);
	assert_int_equal(block_read(b, 512, zero, 512), 0);
	assert_memory_equal(buf, zero, 512);
	assert_int_equal(block_write(b, 1024, buf, 512), -EINVAL);
	assert_int_equal(block_read(b, 100, buf, 512), -EINVAL);
	block_close(b);
}

struct one {
	struct block_request r;
	int rc;
};

static void keep_rc(struct block_request *r, int rc)
{
	((struct one *)r->opaque)->rc = rc;
}

static int zeroes(struct block *b, enum block_op op, unsigned flags, uint64_t offset, uint64_t len)
{
	struct one o = {
		.r = { .op = op, .flags = flags, .offset = offset, .len = len, .done = keep_rc }
	};

	o.r.opaque = &o;
	block_submit(b, &o.r);
	block_drain(b);
	return o.rc;
}

static void test_zeroes(void **state)
{
	struct image_folder *f = *state;
	uint8_t *buf = test_malloc(1 * MiB), zero[4096] = { 0 };
	uint64_t len = 1 * MiB;
	enum block_content content;
	struct block *b;

	make_file(f, "raw", 1 * MiB);
	b = open_image(f, "raw", (struct block_options){ 0 });
	memset(buf, 5, 1 * MiB);
	assert_int_equal(block_write(b, 0, buf, 1 * MiB), 0);
	assert_int_equal(zeroes(b, BLOCK_DISCARD, 0, 65536, 65536), 0);
	assert_int_equal(zeroes(b, BLOCK_WRITE_ZEROES, 0, 256 * KiB, 4096), 0);
	assert_int_equal(zeroes(b, BLOCK_WRITE_ZEROES, BLOCK_UNMAP | BLOCK_FUA, 512 * KiB, 4096),
	                 0);
	assert_int_equal(block_read(b, 0, buf, 1 * MiB), 0);
	for (unsigned i = 0; i < 1 * MiB; i += 4096) {
		bool cleared = (i >= 65536 && i < 131072) || i == 256 * KiB || i == 512 * KiB;

		if (cleared)
			assert_memory_equal(buf + i, zero, 4096);
		else
			assert_int_equal(buf[i] & buf[i + 4095], 5);
	}
	assert_int_equal(block_map(b, 0, &len, &content), 0);
	assert_int_equal(content, BLOCK_DATA);
	block_close(b);
	test_free(buf);
}

/* A guest may not turn its raw disk into a qcow2 image that names files of the host. */
static void test_guarded_header(void **state)
{
	struct image_folder *f = *state;
	uint8_t buf[1024] = { 'Q', 'F', 'I', 0xfb };
	struct block *b;

	make_file(f, "raw", 1 * MiB);
	b = open_image(f, "raw", (struct block_options){ 0 });
	assert_int_equal(block_write(b, 0, buf, sizeof(buf)), -EPERM);
	assert_int_equal(block_write(b, 512, buf, sizeof(buf)), 0);
	buf[0] = 'X';
	assert_int_equal(block_write(b, 0, buf, sizeof(buf)), 0);
	block_close(b);
	b = open_image(f, "raw", (struct block_options){ .format = "raw" });
	buf[0] = 'Q';
	assert_int_equal(block_write(b, 0, buf, sizeof(buf)), 0);
	block_close(b);
}

/* Held back by both limits, all end; flushes, and a drain, and the end of the disk among them. */
static void test_limits(void **state)
{
	struct image_folder *f = *state;
	struct many *m = test_calloc(1, sizeof(*m));
	struct block *b;

	make_file(f, "raw", REQUESTS * 512);
	b = open_image(f, "raw", (struct block_options){ .iops = 5000, .bytes_per_s = 2000000 });
	submit_many(b, m, BLOCK_WRITE);
	assert_int_equal(block_flush(b), 0);
	block_drain(b);
	assert_int_equal(m->ended, REQUESTS);
	submit_many(b, m, BLOCK_READ);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(m->ended, REQUESTS);
	assert_int_equal(m->failed, 0);
	test_free(m);
}

static void refuse(struct image_folder *f, const char *name, struct block_options o, int rc,
                   const char *word)
{
	struct block *b = NULL;

	assert_int_equal(block_open(&b, image_path(f, name), &o, f->err, sizeof(f->err)), rc);
	assert_null(b);
	assert_non_null(strstr(f->err, word));
	assert_null(strchr(f->err, '\n'));
}

static void test_refusals(void **state)
{
	struct image_folder *f = *state;
	char fifo[256];

	refuse(f, "none", (struct block_options){ 0 }, -ENOENT, "none: No such file");
	refuse(f, ".", (struct block_options){ .readonly = true }, -EISDIR, "directory");
	make_file(f, "raw", 512);
	refuse(f, "raw", (struct block_options){ .format = "vmdk" }, -EINVAL, "vmdk");
	snprintf(fifo, sizeof(fifo), "%s", image_path(f, "fifo"));
	assert_int_equal(mkfifo(fifo, 0600), 0);
	refuse(f, "fifo", (struct block_options){ 0 }, -EINVAL, "neither a file");
}

static void test_lock(void **state)
{
	struct image_folder *f = *state;
	struct block_options readonly = { .readonly = true };
	struct block *b, *c;

	make_file(f, "raw", 512);
	b = open_image(f, "raw", (struct block_options){ 0 });
	refuse(f, "raw", (struct block_options){ 0 }, -EBUSY, "in use");
	refuse(f, "raw", readonly, -EBUSY, "in use");
	c = open_image(f, "raw", (struct block_options){ .readonly = true, .unlocked = true });
	block_close(c);
	block_close(b);
	b = open_image(f, "raw", readonly);
	c = open_image(f, "raw", readonly); /* readers share */
	refuse(f, "raw", (struct block_options){ 0 }, -EBUSY, "in use");
	block_close(b);
	block_close(c);
	block_close(open_image(f, "raw", (struct block_options){ 0 }));
}

#define FOLDER_TEST(t) cmocka_unit_test_setup_teardown(t, make_folder, remove_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FOLDER_TEST(test_round_trip),     FOLDER_TEST(test_round_trip_threads),
		FOLDER_TEST(test_many),           FOLDER_TEST(test_many_threads),
		FOLDER_TEST(test_submit_in_done), FOLDER_TEST(test_odd_size),
		FOLDER_TEST(test_zeroes),         FOLDER_TEST(test_guarded_header),
		FOLDER_TEST(test_limits),         FOLDER_TEST(test_refusals),
		FOLDER_TEST(test_lock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * qcow2 from the inside: numbers in refcount blocks, tables that do not fit into the caches, many
 * requests for one cluster. What QEMU's tools can judge is in test/block.
 */
#include <errno.h>
#include <stdatomic.h>

#include "block_fixture.h"
#include "block/image.h"
#include "block/qcow2.h"

static void test_refcount_widths(void **state)
{
	uint8_t block[512];

	for (unsigned order = 0; order <= 6; order++) {
		uint64_t entries = sizeof(block) * 8 >> order;
		uint64_t most = order == 6 ? UINT64_MAX : BIT(1u << order) - 1;

		memset(block, 0, sizeof(block));
		for (uint64_t i = 0; i < entries; i += 3)
			qcow2_set_refcount_of(block, order, i, most);
		for (uint64_t i = 0; i < entries; i++)
			assert_int_equal(qcow2_refcount_of(block, order, i), i % 3 ? 0 : most);
		for (uint64_t i = 0; i < entries; i += 3)
			qcow2_set_refcount_of(block, order, i, 0);
		for (size_t i = 0; i < sizeof(block); i++)
			assert_int_equal(block[i], 0);
	}
}

/* The order of bits and bytes is the specification's. */
static void test_refcount_places(void **state)
{
	uint8_t block[16] = { 0 };

	qcow2_set_refcount_of(block, 0, 9, 1);
	assert_int_equal(block[1], 0x02);
	qcow2_set_refcount_of(block, 2, 1, 0xa);
	assert_int_equal(block[0], 0xa0);
	qcow2_set_refcount_of(block, 4, 2, 0x1234);
	assert_int_equal(block[4] << 8 | block[5], 0x1234);
	qcow2_set_refcount_of(block, 6, 1, 0x0102030405060708);
	assert_int_equal(block[8], 1);
	assert_int_equal(block[15], 8);
}

static void test_packed_place(void **state)
{
	struct qcow2 q = { .cluster_bits = 16, .cluster_size = 65536 };
	/* 54 bits of place, then 8 of sectors. */
	uint64_t entry = QCOW2_COMPRESSED | 3ull << 54 | 0x1ff80, len;
	struct qcow2_extent x = qcow2_packed_extent(&q, entry);

	assert_int_equal(qcow2_packed_place(&q, entry, &len), 0x1ff80);
	assert_int_equal(len, 4 * 512 - 0x180);
	assert_int_equal(x.offset, 0x10000);
	assert_int_equal(x.clusters, 2);
}

static void make_image(struct image_folder *f, const char *name, struct image_create_options o)
{
	o.format = "qcow2";
	if (image_create(image_path(f, name), &o, f->err, sizeof(f->err)))
		fail_msg("%s", f->err);
}

static void check_image(struct image_folder *f, const char *name)
{
	struct image_check c = { 0 };

	if (image_check(image_path(f, name), "qcow2", false, &c, f->err, sizeof(f->err)))
		fail_msg("%s", f->err);
	assert_int_equal(c.corruptions, 0);
	assert_int_equal(c.leaks, 0);
}

#define PIECE (64 * KiB)

static uint8_t value_at(uint64_t piece)
{
	return (uint8_t)(piece * 37 % 255 + 1);
}

/*
 * Clusters of 512 bytes with refcounts of 64 bits: 40 MiB of data have 1280 L2 tables and as many
 * refcount blocks, of which the caches hold 1024, and the refcount table is moved several times.
 */
static void test_small_caches(void **state)
{
	struct image_folder *f = *state;
	const uint64_t pieces = 40 * MiB / PIECE;
	uint8_t *buf = test_malloc(PIECE);
	struct block *b;

	make_image(f, "image",
	           (struct image_create_options){
	                   .size = 40 * MiB, .cluster_size = 512, .refcount_bits = 64 });
	b = open_image(f, "image", (struct block_options){ 0 });
	for (uint64_t i = 0; i < pieces; i++) {
		uint64_t piece = i * 333 % pieces;

		memset(buf, value_at(piece), PIECE);
		assert_int_equal(block_write(b, piece * PIECE, buf, PIECE), 0);
	}
	for (uint64_t i = 0; i < pieces; i++) {
		assert_int_equal(block_read(b, i * PIECE, buf, PIECE), 0);
		assert_int_equal(buf[0], value_at(i));
		assert_memory_equal(buf, buf + 1, PIECE - 1);
	}
	assert_int_equal(block_close(b), 0);
	check_image(f, "image");
	test_free(buf);
}

#define SECTORS 128u /* of one cluster */

struct crowd {
	struct block_request r[SECTORS];
	struct iovec iov[SECTORS];
	uint8_t data[SECTORS][512];
	atomic_int failed;
};

static void note_end(struct block_request *r, int rc)
{
	((struct crowd *)r->opaque)->failed += rc != 0;
}

/* All sectors of a cluster that is not there yet at once: one cluster is made, nothing is lost. */
static void test_crowd(void **state)
{
	struct image_folder *f = *state;
	struct crowd *c = test_calloc(1, sizeof(*c));
	uint8_t *buf = test_malloc(SECTORS * 512);
	struct image_check check = { 0 };
	struct block *b;

	make_image(f, "image", (struct image_create_options){ .size = MiB });
	b = open_image(f, "image", (struct block_options){ 0 });
	for (unsigned i = 0; i < SECTORS; i++) {
		memset(c->data[i], (int)i + 1, 512);
		c->iov[i] = (struct iovec){ c->data[i], 512 };
		c->r[i] = (struct block_request){ .op = BLOCK_WRITE,
			                          .offset = 65536 + i * 77 % SECTORS * 512ull,
			                          .len = 512,
			                          .iov = &c->iov[i],
			                          .nr_iov = 1,
			                          .done = note_end,
			                          .opaque = c };
		block_submit(b, &c->r[i]);
	}
	block_drain(b);
	assert_int_equal(c->failed, 0);
	assert_int_equal(block_read(b, 65536, buf, SECTORS * 512), 0);
	for (unsigned i = 0; i < SECTORS; i++)
		assert_int_equal(buf[i * 77 % SECTORS * 512], i + 1);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(
	        image_check(image_path(f, "image"), NULL, false, &check, f->err, sizeof(f->err)),
	        0);
	assert_int_equal(check.allocated, 1);
	test_free(buf);
	test_free(c);
}

static void test_map(void **state)
{
	struct image_folder *f = *state;
	uint8_t *buf = test_calloc(1, 65536);
	enum block_content content;
	uint64_t len = 1 * MiB;
	struct block *b;

	make_image(f, "image", (struct image_create_options){ .size = MiB });
	b = open_image(f, "image", (struct block_options){ 0 });
	assert_int_equal(block_write(b, 131072, buf, 65536), 0);
	assert_int_equal(block_map(b, 512, &len, &content), 0);
	assert_int_equal(content, BLOCK_HOLE);
	assert_int_equal(len, 131072 - 512);
	len = 1 * MiB - 131072;
	assert_int_equal(block_map(b, 131072, &len, &content), 0);
	assert_int_equal(content, BLOCK_DATA);
	assert_int_equal(len, 65536);
	block_close(b);
	test_free(buf);
}

/* Zeroes that keep their room: a write to them needs no new cluster. */
static void test_room_set_aside(void **state)
{
	struct image_folder *f = *state;
	uint8_t buf[4096], zero[4096] = { 0 };
	struct block_request r = { .op = BLOCK_WRITE_ZEROES, .len = 65536, .done = note_end };
	struct crowd *c = test_calloc(1, sizeof(*c));
	struct image_check check = { 0 };
	struct block *b;

	r.opaque = c;
	make_image(f, "image", (struct image_create_options){ .size = MiB });
	b = open_image(f, "image", (struct block_options){ 0 });
	memset(buf, 7, sizeof(buf));
	assert_int_equal(block_write(b, 8192, buf, sizeof(buf)), 0);
	block_submit(b, &r);
	block_drain(b);
	assert_int_equal(block_read(b, 8192, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, zero, sizeof(buf));
	memset(buf, 9, sizeof(buf));
	assert_int_equal(block_write(b, 16384, buf, sizeof(buf)), 0);
	assert_int_equal(block_read(b, 8192, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, zero, sizeof(buf)); /* not the old data of the cluster */
	assert_int_equal(block_close(b), 0);
	assert_int_equal(
	        image_check(image_path(f, "image"), NULL, false, &check, f->err, sizeof(f->err)),
	        0);
	assert_int_equal(check.allocated + check.corruptions + check.leaks, 1);
	test_free(c);
}

static void test_names_of_backing_files(void **state)
{
	static const char *const rows[][3] = {
		{ "/a/b/image", "base", "/a/b/base" },  { "image", "base", "base" },
		{ "../image", "x/base", "../x/base" },  { "/a/image", "/b/base", "/b/base" },
		{ "/a/image", "file:base", "/a/base" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char *path = node_backing_path(rows[i][0], rows[i][1]);

		assert_string_equal(path, rows[i][2]);
		free(path);
	}
}

#define FOLDER_TEST(t) cmocka_unit_test_setup_teardown(t, make_folder, remove_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refcount_widths),
		cmocka_unit_test(test_refcount_places),
		cmocka_unit_test(test_packed_place),
		FOLDER_TEST(test_small_caches),
		FOLDER_TEST(test_crowd),
		FOLDER_TEST(test_map),
		FOLDER_TEST(test_room_set_aside),
		cmocka_unit_test(test_names_of_backing_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The balloon: which pages go back to the host, and what the driver tells. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fake_time.h"

#include "device/virtio/balloon.h"
#include "virtio_card.h"

#define F_STATS     BIT(1)
#define F_REPORTING BIT(5)
#define PAGES       0x400000ull /* what the tests give away */
#define BUFFER      (CARD_DATA + 0x1000)
#define INTERVAL_NS 2000000000ull

enum { INFLATE, DEFLATE, STATS, REPORT };

static struct virtio_balloon *balloon;

static int begin(void **state)
{
	world_begin(false);
	assert_int_equal(virtio_balloon_add(&balloon, &world.host, &world.bus, world.mem, NULL), 0);
	world_plugged();
	memset(guest(PAGES), 0x5a, 16 * PAGE_SIZE);
	return 0;
}

static int end(void **state)
{
	world_end();
	return 0;
}

static bool is_gone(unsigned page)
{
	const uint8_t *p = guest(PAGES + page * PAGE_SIZE);

	for (unsigned i = 0; i < PAGE_SIZE; i++)
		if (p[i])
			return false;
	return true;
}

static uint16_t send_pfns(unsigned q, const uint32_t *pfn, unsigned n, unsigned odd)
{
	memcpy(guest(BUFFER), pfn, n * sizeof(*pfn));
	return card_send(q, &(struct piece){ BUFFER, (uint32_t)(n * sizeof(*pfn)) + odd, false },
	                 1);
}

static void pages_go_back(void **state)
{
	const uint32_t first = PAGES / PAGE_SIZE;
	const uint32_t pfn[] = { first + 1, first + 2, first + 3, first + 9, first + 8, first + 5 };
	uint16_t id;

	card_start(0, 2);
	id = send_pfns(INFLATE, pfn, ARRAY_SIZE(pfn), 0);
	expect_used(INFLATE, id, 0);
	for (unsigned page = 0; page < 16; page++) {
		bool given =
		        page == 1 || page == 2 || page == 3 || page == 5 || page == 8 || page == 9;

		assert_int_equal(is_gone(page), given);
	}
	/* They are the guest's again when it touches them. */
	memset(guest(PAGES + PAGE_SIZE), 0x11, PAGE_SIZE);
	id = send_pfns(DEFLATE, pfn, 1, 0);
	expect_used(DEFLATE, id, 0);
	assert_int_equal(*(uint8_t *)guest(PAGES + PAGE_SIZE), 0x11);
}

/* Numbers of pages that are no RAM, and a buffer that is no whole number of them. */
static void pages_that_are_not_there(void **state)
{
	const uint32_t first = PAGES / PAGE_SIZE;
	const uint32_t pfn[] = { UINT32_MAX,
		                 0xe0000 / PAGE_SIZE,
		                 MEM_MIN_BYTES / PAGE_SIZE,
		                 MEM_MIN_BYTES / PAGE_SIZE - 1,
		                 MEM_MIN_BYTES / PAGE_SIZE,
		                 WORLD_LOW / PAGE_SIZE,
		                 first + 4 };
	uint16_t id;

	card_start(0, 2);
	id = send_pfns(INFLATE, pfn, ARRAY_SIZE(pfn), 3);
	expect_used(INFLATE, id, 0);
	assert_int_equal(card_status() & VIRTIO_NEEDS_RESET, 0);
	assert_true(is_gone(4));
	assert_false(is_gone(3) || is_gone(5));
	id = send_pfns(INFLATE, pfn, 0, 3); /* no number at all */
	expect_used(INFLATE, id, 0);
}

static void the_target_is_told(void **state)
{
	struct virtio_balloon_info info;
	uint8_t generation;

	card_start(0, 2);
	generation = (uint8_t)card_read(0x15, 1);
	virtio_balloon_set_target(balloon, 3 * PAGE_SIZE + 5);
	assert_int_equal(card_config(0, 4), 3);
	assert_int_not_equal(card_read(0x15, 1), generation);
	card_write(0x2004, 4, 2);
	virtio_balloon_get_info(balloon, &info);
	assert_int_equal(info.target, 3 * PAGE_SIZE);
	assert_int_equal(info.actual, 2 * PAGE_SIZE);
	card_write(0x2000, 4, 77); /* the target is ours */
	assert_int_equal(card_config(0, 4), 3);
	card_write(0x14, 1, 0); /* a new driver begins with an empty balloon */
	run_workers();
	virtio_balloon_get_info(balloon, &info);
	assert_int_equal(info.target, 3 * PAGE_SIZE);
	assert_int_equal(info.actual, 0);
}

static uint16_t send_stat(uint16_t tag, uint64_t value)
{
	uint8_t *p = guest(BUFFER);

	memcpy(p, &tag, 2);
	memcpy(p + 2, &value, 8);
	return card_send(STATS, &(struct piece){ BUFFER, 10, false }, 1);
}

/* The driver gets its buffer back when new numbers are wanted. */
static void statistics(void **state)
{
	struct virtio_balloon_info info;
	uint16_t id;

	card_start(F_STATS, 3);
	virtio_balloon_get_info(balloon, &info);
	assert_int_equal(info.stat[BALLOON_FREE], UINT64_MAX);
	id = send_stat(BALLOON_FREE, 12345);
	virtio_balloon_get_info(balloon, &info);
	assert_int_equal(info.stat[BALLOON_FREE], 12345);
	assert_int_equal(info.stat[BALLOON_TOTAL], UINT64_MAX);
	expect_nothing(STATS);
	fake_advance(INTERVAL_NS - 1);
	run_workers();
	expect_nothing(STATS);
	fake_advance(1);
	run_workers();
	expect_used(STATS, id, 0);
	id = send_stat(60000, 1); /* one that we do not know */
	fake_advance(INTERVAL_NS);
	run_workers();
	expect_used(STATS, id, 0);
	send_stat(BALLOON_TOTAL, 99);
	virtio_balloon_get_info(balloon, &info);
	assert_int_equal(info.stat[BALLOON_FREE], 12345);
	assert_int_equal(info.stat[BALLOON_TOTAL], 99);
}

/* The buffer that is kept goes back, and no timer outlives the driver. */
static void a_reset_while_a_buffer_is_kept(void **state)
{
	card_start(F_STATS, 3);
	send_stat(BALLOON_FREE, 1);
	card_write(0x14, 1, 0);
	assert_int_not_equal(card_status(), 0);
	run_workers();
	assert_int_equal(card_status(), 0);
	assert_int_equal(fake_advance(10 * INTERVAL_NS), 0);
	card_start(F_STATS, 3);
	send_stat(BALLOON_FREE, 2);
	fake_advance(INTERVAL_NS);
	run_workers();
	expect_used(STATS, 0, 0);
}

/* With reporting but no statistics its queue is the third (5.5.2). */
static void free_pages_are_reported(void **state)
{
	const struct piece free_pages[] = { { PAGES + 2 * PAGE_SIZE, 2 * PAGE_SIZE, true },
		                            { PAGES + 7 * PAGE_SIZE + 8, 2 * PAGE_SIZE, true } };
	struct virtio_balloon_info info;
	uint16_t id;

	card_start(F_REPORTING, 3);
	id = card_send(STATS, free_pages, 2);
	expect_used(STATS, id, 0);
	/* Of the second only the page that is free as a whole. */
	assert_true(is_gone(2) && is_gone(3) && is_gone(8));
	assert_false(is_gone(1) || is_gone(4) || is_gone(7) || is_gone(9));
	virtio_balloon_get_info(balloon, &info);
	assert_int_equal(info.reported, 3 * PAGE_SIZE);
}

static void bad_descriptors(void **state)
{
	card_start(F_STATS | F_REPORTING, 4);
	card_send(REPORT, &(struct piece){ 0xe0000, PAGE_SIZE, true }, 1); /* ROM is not free */
	assert_true(card_status() & VIRTIO_NEEDS_RESET);
	card_write(0x14, 1, 0);
	run_workers();
	card_start(F_STATS | F_REPORTING, 4);
	card_send(INFLATE, &(struct piece){ 1ull << 40, 4, false }, 1);
	assert_true(card_status() & VIRTIO_NEEDS_RESET);
	send_pfns(INFLATE, &(uint32_t){ PAGES / PAGE_SIZE }, 1, 0);
	assert_false(is_gone(0));
	card_write(0x14, 1, 0);
	run_workers();
	card_start(F_STATS | F_REPORTING, 4);
	send_pfns(INFLATE, &(uint32_t){ PAGES / PAGE_SIZE }, 1, 0);
	assert_true(is_gone(0));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(pages_go_back),
		TEST(pages_that_are_not_there),
		TEST(the_target_is_told),
		TEST(statistics),
		TEST(a_reset_while_a_buffer_is_kept),
		TEST(free_pages_are_reported),
		TEST(bad_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The virtio disk: what a driver's requests become, and what the driver gets back. The disk behind
 * it is an array, whose requests end when the test says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "device/virtio/blk.h"
#include "virtio_card.h"

#define F_RO           BIT(5)
#define F_FLUSH        BIT(9)
#define F_CONFIG_WCE   BIT(11)
#define F_DISCARD      BIT(13)
#define F_WRITE_ZEROES BIT(14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK, S_IOERR, S_UNSUPP, S_NONE = 0xee };

#define WRITEBACK 32u /* of the configuration */
#define SECTORS   (WORLD_DISK / 512)
#define HEADER    CARD_DATA
#define STATUS    (CARD_DATA + 0x800)
#define BUFFER    (CARD_DATA + 0x1000)

static uint8_t content[WORLD_DISK];
static unsigned pauses;

static void count_pause(void *opaque, const char *disk)
{
	pauses++;
}

static void plug(struct virtio_blk_config config)
{
	for (size_t i = 0; i < sizeof(content); i++)
		content[i] = (uint8_t)(i / 512 * 7 + i);
	pauses = 0;
	world.content = content;
	config.block = &world.disk;
	config.queues = 1;
	assert_int_equal(virtio_blk_add(&world.host, &world.bus, world.mem, &config), 0);
	world_plugged();
}

static int begin(void **state)
{
	world_begin(false);
	return 0;
}

static int end(void **state)
{
	world_end();
	return 0;
}

static void start_disk(uint64_t features)
{
	plug((struct virtio_blk_config){ .serial = "a-serial-number" });
	card_start(features, 1);
}

static gpa_t write_header(unsigned nr, uint32_t type, uint64_t sector)
{
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} h = { type, 0, sector };

	memcpy(guest(HEADER + nr * 16), &h, sizeof(h));
	*(uint8_t *)guest(STATUS + nr) = S_NONE;
	return HEADER + nr * 16;
}

/* A request with one buffer, or none; nr tells several apart. */
static uint16_t request(unsigned nr, uint32_t type, uint64_t sector, uint32_t len)
{
	struct piece p[3] = { { write_header(nr, type, sector), 16, false } };
	unsigned n = 1;

	if (len)
		p[n++] = (struct piece){ BUFFER + nr * 0x1000, len,
			                 type == T_IN || type == T_GET_ID };
	p[n++] = (struct piece){ STATUS + nr, 1, true };
	return card_send(0, p, n);
}

static uint8_t status_of(unsigned nr)
{
	return *(uint8_t *)guest(STATUS + nr);
}

static const struct block_request *asked(unsigned nr)
{
	assert_true(nr < world.disk.nr);
	return world.disk.request[nr];
}

static void a_write_and_a_read(void **state)
{
	uint16_t id;
	struct piece p[] = { { 0, 16, false },
		             { BUFFER, 512, true },
		             { BUFFER + 0x4000, 1024, true },
		             { STATUS, 1, true } };

	start_disk(F_FLUSH);
	memset(guest(BUFFER), 0xa5, 1024);
	id = request(0, T_OUT, 3, 1024);
	assert_int_equal(world.disk.nr, 1);
	assert_int_equal(asked(0)->op, BLOCK_WRITE);
	assert_int_equal(asked(0)->flags, 0);
	assert_int_equal(asked(0)->offset, 3 * 512);
	expect_nothing(0); /* not before the disk has done it */
	assert_int_equal(status_of(0), S_NONE);
	end_request(0, 0);
	expect_used(0, id, 1);
	assert_int_equal(status_of(0), S_OK);
	assert_int_equal(content[3 * 512 - 1], (uint8_t)(2 * 7 + 3 * 512 - 1));
	assert_int_equal(content[3 * 512], 0xa5);
	assert_int_equal(content[5 * 512 - 1], 0xa5);
	assert_int_equal(content[5 * 512], (uint8_t)(5 * 7 + 5 * 512));

	/* Into two buffers, over the end of what was written. */
	p[0].addr = write_header(0, T_IN, 4);
	id = card_send(0, p, 4);
	assert_int_equal(asked(0)->op, BLOCK_READ);
	end_request(0, 0);
	expect_used(0, id, 512 + 1024 + 1);
	assert_int_equal(status_of(0), S_OK);
	assert_memory_equal(guest(BUFFER), content + 4 * 512, 512);
	assert_memory_equal(guest(BUFFER + 0x4000), content + 5 * 512, 1024);
}

/* 2.6.4: the driver may cut header, data and status as it likes. */
static void any_framing(void **state)
{
	gpa_t header;
	struct piece out[3], in[2];

	start_disk(F_FLUSH);
	header = write_header(0, T_OUT, 8);
	memset(guest(header + 16), 0x3c, 512);
	out[0] = (struct piece){ header, 5, false };
	out[1] = (struct piece){ header + 5, 11 + 512, false };
	out[2] = (struct piece){ STATUS, 1, true };
	card_send(0, out, 3);
	end_request(0, 0);
	assert_int_equal(status_of(0), S_OK);
	assert_int_equal(content[8 * 512], 0x3c);
	assert_int_equal(content[9 * 512 - 1], 0x3c);

	in[0] = (struct piece){ write_header(0, T_IN, 8), 16, false };
	in[1] = (struct piece){ BUFFER, 512 + 1, true }; /* the status is its last byte */
	*(uint8_t *)guest(BUFFER + 512) = S_NONE;
	card_send(0, in, 2);
	end_request(0, 0);
	assert_int_equal(*(uint8_t *)guest(BUFFER + 512), S_OK);
	assert_int_equal(*(uint8_t *)guest(BUFFER + 511), 0x3c);
}

static void requests_end_in_any_order(void **state)
{
	uint16_t first, second;

	start_disk(F_FLUSH);
	first = request(0, T_IN, 0, 512);
	second = request(1, T_IN, 1, 512);
	assert_int_equal(world.disk.nr, 2);
	end_request(1, 0);
	expect_used(0, second, 513);
	assert_int_equal(status_of(0), S_NONE);
	end_request(0, 0);
	expect_used(0, first, 513);
	assert_int_equal(status_of(0), S_OK);
}

static void a_flush_reaches_the_disk(void **state)
{
	uint16_t id;

	start_disk(F_FLUSH);
	id = request(0, T_FLUSH, 0, 0);
	assert_int_equal(asked(0)->op, BLOCK_FLUSH);
	expect_nothing(0);
	end_request(0, 0);
	expect_used(0, id, 1);
	assert_int_equal(status_of(0), S_OK);
}

/* 5.2.6.2: without a flush command, or when told so, a write is on stable storage at its end. */
static void write_through(void **state)
{
	start_disk(F_FLUSH | F_CONFIG_WCE);
	assert_int_equal(card_config(WRITEBACK, 1), 1);
	card_write(0x2000 + WRITEBACK, 1, 0);
	assert_int_equal(card_config(WRITEBACK, 1), 0);
	request(0, T_OUT, 0, 512);
	assert_int_equal(asked(0)->flags, BLOCK_FUA);
	end_request(0, 0);
	card_write(0x14, 1, 0);
	run_workers();
	card_start(0, 1);
	request(0, T_OUT, 0, 512);
	assert_int_equal(asked(0)->flags, BLOCK_FUA);
	end_request(0, 0);
	request(0, T_IN, 0, 512);
	assert_int_equal(asked(0)->flags, 0);
	end_request(0, 0);
}

struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};

static uint16_t request_ranges(uint32_t type, const struct range *r, unsigned n)
{
	memcpy(guest(BUFFER), r, n * sizeof(*r));
	return request(0, type, 0, (uint32_t)(n * sizeof(*r)));
}

static bool is_zero(uint64_t sector, uint64_t sectors)
{
	for (uint64_t i = sector * 512; i < (sector + sectors) * 512; i++)
		if (content[i])
			return false;
	return true;
}

static void discards_range_by_range(void **state)
{
	const struct range two[] = { { 8, 4, 0 }, { 100, 1, 0 } };
	uint16_t id;

	start_disk(F_FLUSH | F_DISCARD);
	id = request_ranges(T_DISCARD, two, 2);
	assert_int_equal(world.disk.nr, 1);
	assert_int_equal(asked(0)->op, BLOCK_DISCARD);
	assert_int_equal(asked(0)->offset, 8 * 512);
	assert_int_equal(asked(0)->len, 4 * 512);
	end_request(0, 0);
	assert_int_equal(asked(0)->offset, 100 * 512);
	expect_nothing(0);
	end_request(0, 0);
	expect_used(0, id, 1);
	assert_int_equal(status_of(0), S_OK);
	assert_true(is_zero(8, 4) && is_zero(100, 1));
	assert_false(is_zero(7, 1) || is_zero(12, 1) || is_zero(99, 1) || is_zero(101, 1));

	/* The second one is not tried after an error. */
	request_ranges(T_DISCARD, two, 2);
	end_request(0, -EIO);
	assert_int_equal(world.disk.nr, 0);
	assert_int_equal(status_of(0), S_IOERR);
}

static void zeroes_are_written(void **state)
{
	const struct range keep = { 20, 2, 0 }, unmap = { 30, 2, 1 };

	start_disk(F_FLUSH | F_WRITE_ZEROES);
	request_ranges(T_WRITE_ZEROES, &keep, 1);
	assert_int_equal(asked(0)->op, BLOCK_WRITE_ZEROES);
	assert_int_equal(asked(0)->flags, 0);
	end_request(0, 0);
	request_ranges(T_WRITE_ZEROES, &unmap, 1);
	assert_int_equal(asked(0)->flags, BLOCK_UNMAP);
	end_request(0, 0);
	assert_int_equal(status_of(0), S_OK);
	assert_true(is_zero(20, 2) && is_zero(30, 2));
	assert_false(is_zero(19, 1) || is_zero(22, 1));
}

static void bad_ranges(void **state)
{
	static const struct {
		uint32_t type;
		struct range range[2];
		unsigned n;
		uint8_t status;
	} bad[] = {
		{ T_DISCARD, { { SECTORS, 1, 0 } }, 1, S_IOERR },
		{ T_DISCARD, { { SECTORS - 1, 2, 0 } }, 1, S_IOERR },
		{ T_DISCARD, { { UINT64_MAX, 2, 0 } }, 1, S_IOERR },
		{ T_DISCARD, { { 0, 0, 0 } }, 1, S_IOERR },
		{ T_DISCARD, { { 0, 1, 1 } }, 1, S_UNSUPP }, /* unmap: 5.2.6.2 */
		{ T_WRITE_ZEROES, { { 0, 1, 2 } }, 1, S_UNSUPP },
		/* Nothing is done before all of them are seen to be right. */
		{ T_WRITE_ZEROES, { { 0, 1, 0 }, { SECTORS, 1, 0 } }, 2, S_IOERR },
	};

	start_disk(F_FLUSH | F_DISCARD | F_WRITE_ZEROES);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		uint16_t id = request_ranges(bad[i].type, bad[i].range, bad[i].n);

		assert_int_equal(world.disk.nr, 0);
		expect_used(0, id, 1);
		assert_int_equal(status_of(0), bad[i].status);
	}
	request(0, T_DISCARD, 0, 15); /* no whole range */
	assert_int_equal(status_of(0), S_IOERR);
	request(0, T_DISCARD, 0, 17 * 16); /* more than we said we take */
	assert_int_equal(status_of(0), S_IOERR);
	assert_int_equal(world.disk.nr, 0);
}

static void bad_sectors(void **state)
{
	static const struct {
		uint64_t sector;
		uint32_t len;
	} bad[] = { { SECTORS, 512 },    { SECTORS - 1, 1024 },
		    { UINT64_MAX, 512 }, { UINT64_MAX / 512 + 1, 512 },
		    { 0, 511 },          { 0, 0 } };

	start_disk(F_FLUSH);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(bad); i++) {
		uint16_t id = request(0, i % 2 ? T_OUT : T_IN, bad[i / 2].sector, bad[i / 2].len);

		assert_int_equal(world.disk.nr, 0);
		expect_used(0, id, 1);
		assert_int_equal(status_of(0), S_IOERR);
	}
	request(0, T_IN, SECTORS - 1, 512); /* the last one is there */
	end_request(0, 0);
	assert_int_equal(status_of(0), S_OK);
	assert_int_equal(card_status() & VIRTIO_NEEDS_RESET, 0);
}

static void a_disk_to_read_only(void **state)
{
	world.readonly = true;
	plug((struct virtio_blk_config){ .serial = "s" });
	assert_true(card_offered() & F_RO);
	assert_false(card_offered() & (F_DISCARD | F_WRITE_ZEROES));
	card_start(F_RO | F_FLUSH, 1);
	request(0, T_OUT, 0, 512);
	assert_int_equal(status_of(0), S_IOERR);
	request_ranges(T_WRITE_ZEROES, &(struct range){ 0, 1, 0 }, 1);
	assert_int_equal(status_of(0), S_IOERR);
	assert_int_equal(world.disk.nr, 0);
	request(0, T_IN, 0, 512);
	end_request(0, 0);
	assert_int_equal(status_of(0), S_OK);
}

static void names_and_unknown_requests(void **state)
{
	uint16_t id;

	start_disk(F_FLUSH);
	id = request(0, T_GET_ID, 0, VIRTIO_BLK_SERIAL);
	expect_used(0, id, VIRTIO_BLK_SERIAL + 1);
	assert_int_equal(status_of(0), S_OK);
	assert_memory_equal(guest(BUFFER), "a-serial-number\0\0\0\0\0", VIRTIO_BLK_SERIAL);
	id = request(0, 77, 0, 512);
	expect_used(0, id, 1);
	assert_int_equal(status_of(0), S_UNSUPP);
	assert_int_equal(card_config(0, 8), SECTORS);
}

/* The device stops, and works again after a reset. */
static void expect_broken(void)
{
	assert_int_equal(world.disk.nr, 0);
	assert_true(card_status() & VIRTIO_NEEDS_RESET);
	request(1, T_IN, 0, 512);
	assert_int_equal(world.disk.nr, 0);
	assert_int_equal(status_of(1), S_NONE);
	card_write(0x14, 1, 0);
	run_workers();
	assert_int_equal(card_status(), 0);
	card_start(F_FLUSH, 1);
	request(1, T_IN, 0, 512);
	end_request(0, 0);
	assert_int_equal(status_of(1), S_OK);
}

static void bad_descriptors(void **state)
{
	const struct piece bad[][3] = {
		{ { HEADER, 15, false }, { STATUS, 1, true } },    /* no header */
		{ { HEADER, 16, false }, { BUFFER, 512, false } }, /* no status */
		{ { BUFFER, 512, true }, { STATUS, 1, true } },    /* only to write */
		{ { HEADER, 16, false }, { 1ull << 40, 512, true }, { STATUS, 1, true } },
		{ { HEADER, 16, false }, { 0xe0000, 512, true }, { STATUS, 1, true } }, /* ROM */
		{ { HEADER, 16, false }, { BUFFER, 512, true }, { BUFFER, 512, false } },
	};

	start_disk(F_FLUSH);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		write_header(0, T_IN, 0);
		card_send(0, bad[i], bad[i][2].len ? 3 : 2);
		expect_broken();
	}
}

static void a_write_may_come_from_rom(void **state)
{
	struct piece p[] = { { 0, 16, false }, { 0xe0000, 512, false }, { STATUS, 1, true } };

	start_disk(F_FLUSH);
	p[0].addr = write_header(0, T_OUT, 0);
	card_send(0, p, 3);
	end_request(0, 0);
	assert_int_equal(status_of(0), S_OK);
	assert_true(is_zero(0, 1));
}

/* The status stays until the last request is back, and nobody writes to guest memory after that. */
static void a_reset_waits_for_requests(void **state)
{
	start_disk(F_FLUSH);
	request(0, T_IN, 0, 512);
	request(1, T_OUT, 1, 512);
	card_write(0x14, 1, 0);
	assert_int_equal(world.disk.nr, 2);
	assert_int_not_equal(card_status(), 0);
	run_workers(); /* in which they end */
	assert_int_equal(world.disk.nr, 0);
	assert_int_equal(card_status(), 0);
	card_start(F_FLUSH, 1);
	request(0, T_IN, 2, 512);
	end_request(0, 0);
	expect_used(0, 0, 513);
	assert_memory_equal(guest(BUFFER), content + 2 * 512, 512);
}

static void the_disks_errors(void **state)
{
	static const int errors[] = { -EIO, -ENOSPC, -ENOMEM };

	start_disk(F_FLUSH | F_DISCARD);
	memset(guest(BUFFER), 0x11, 512);
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		uint16_t id = request(0, T_IN, 0, 512);

		end_request(0, errors[i]);
		expect_used(0, id, 1); /* the buffer's content is not for use */
		assert_int_equal(status_of(0), S_IOERR);
		id = request(0, T_OUT, 0, 512);
		end_request(0, errors[i]);
		expect_used(0, id, 1);
		assert_int_equal(status_of(0), S_IOERR);
		id = request(0, T_FLUSH, 0, 0);
		end_request(0, errors[i]);
		expect_used(0, id, 1);
		assert_int_equal(status_of(0), S_IOERR);
	}
	request(0, T_IN, 0, 512);
	end_request(0, 0);
	assert_int_equal(status_of(0), S_OK);
}

static void a_full_host_pauses_the_machine(void **state)
{
	uint16_t id;

	plug((struct virtio_blk_config){ .full = { .pause = count_pause, .disk = "disk" } });
	card_start(F_FLUSH, 1);
	memset(guest(BUFFER), 0x77, 512);
	id = request(0, T_OUT, 5, 512);
	end_request(0, -ENOSPC);
	assert_int_equal(pauses, 1);
	expect_nothing(0);
	assert_int_equal(world.disk.nr, 0);
	pci_host_resume(&world.host);
	assert_int_equal(asked(0)->offset, 5 * 512);
	end_request(0, 0);
	expect_used(0, id, 1);
	assert_int_equal(status_of(0), S_OK);
	assert_int_equal(content[5 * 512], 0x77);

	/* A reset gives up what is kept. */
	request(0, T_OUT, 6, 512);
	end_request(0, -ENOSPC);
	assert_int_equal(pauses, 2);
	card_write(0x14, 1, 0);
	run_workers();
	assert_int_equal(card_status(), 0);
	pci_host_resume(&world.host);
	assert_int_equal(world.disk.nr, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_write_and_a_read),
		TEST(any_framing),
		TEST(requests_end_in_any_order),
		TEST(a_flush_reaches_the_disk),
		TEST(write_through),
		TEST(discards_range_by_range),
		TEST(zeroes_are_written),
		TEST(bad_ranges),
		TEST(bad_sectors),
		TEST(a_disk_to_read_only),
		TEST(names_and_unknown_requests),
		TEST(bad_descriptors),
		TEST(a_write_may_come_from_rom),
		TEST(a_reset_waits_for_requests),
		TEST(the_disks_errors),
		TEST(a_full_host_pauses_the_machine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

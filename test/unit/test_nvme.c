/* The NVMe controller: what a driver's commands become, and what it gets back. The disk behind it
 * is an array, whose requests end when the test says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../fuzz/device_world.h"
#include "device/nvme/private.h"

#define ENTRIES   8u
#define SQ(q)     (0x100000ull + (q)*0x10000ull)
#define CQ(q)     (0x140000ull + (q)*0x10000ull)
#define DATA      0x200000ull
#define LIST      0x300000ull
#define BLOCKS    (WORLD_DISK / 512)
#define NOT_THERE 0xffff

enum { REG_CC = 0x14, REG_CSTS = 0x1c, REG_AQA = 0x24, REG_ASQ = 0x28, REG_ACQ = 0x30 };
enum { FLUSH = 0, WRITE = 1, READ = 2, WRITE_ZEROES = 8, DSM = 9 };
enum { DELETE_SQ = 0, CREATE_SQ = 1, DELETE_CQ = 4, CREATE_CQ = 5, IDENTIFY = 6, SET_FEATURES = 9 };

#define ENABLE     0x460001u
#define CSTS_RDY   1u
#define CSTS_CFS   2u
#define FUA        BIT(30)
#define DEALLOCATE BIT(25)

static uint8_t content[WORLD_DISK];
static unsigned pauses;
static struct driver_queue {
	uint32_t tail, head;
	unsigned phase;
	uint16_t cid; /* of the last command */
} queue[2];

static void count_pause(void *opaque, const char *disk)
{
	pauses++;
}

static uint64_t read_register(unsigned reg, unsigned size)
{
	uint64_t value = 0;

	bus_read(&world.bus, BUS_MMIO, bar_of(1) + reg, size, &value);
	return value;
}

static void write_register(unsigned reg, unsigned size, uint64_t value)
{
	world_write(bar_of(1) + reg, size, value);
	run_workers();
}

static void *guest(gpa_t gpa)
{
	return mem_host(world.mem, gpa, 1, false);
}

/* Puts a command into a queue and rings. */
static uint16_t send(unsigned q, struct nvme_command c)
{
	c.cid = ++queue[q].cid;
	if (q && !c.nsid)
		c.nsid = NVME_NSID;
	memcpy(guest(SQ(q) + queue[q].tail * sizeof(c)), &c, sizeof(c));
	queue[q].tail = (queue[q].tail + 1) % ENTRIES;
	write_register(0x1000 + 8 * q, 4, queue[q].tail);
	return c.cid;
}

/* The next answer: its status, or NOT_THERE. */
static unsigned answer(unsigned q, uint16_t *cid)
{
	struct nvme_completion c;

	memcpy(&c, guest(CQ(q) + queue[q].head * sizeof(c)), sizeof(c));
	if ((c.status & 1) != queue[q].phase)
		return NOT_THERE;
	assert_int_equal(c.sq_id, q);
	if (++queue[q].head == ENTRIES) {
		queue[q].head = 0;
		queue[q].phase = !queue[q].phase;
	}
	if (cid)
		*cid = c.cid;
	write_register(0x1004 + 8 * q, 4, queue[q].head);
	return c.status >> 1;
}

/* Of a command that the controller answers by itself. */
static unsigned do_now(unsigned q, struct nvme_command c)
{
	uint16_t got = 0, sent = send(q, c);
	unsigned status;

	assert_int_equal(world.disk.nr, 0);
	status = answer(q, &got);
	assert_int_equal(got, sent);
	return status;
}

static void enable(void)
{
	memset(queue, 0, sizeof(queue));
	queue[0].phase = queue[1].phase = 1;
	for (unsigned q = 0; q < 2; q++) {
		memset(guest(SQ(q)), 0, NVME_PAGE);
		memset(guest(CQ(q)), 0, NVME_PAGE);
	}
	write_register(REG_AQA, 4, (ENTRIES - 1) | (ENTRIES - 1) << 16);
	write_register(REG_ASQ, 8, SQ(0));
	write_register(REG_ACQ, 8, CQ(0));
	write_register(REG_CC, 4, ENABLE);
	assert_int_equal(read_register(REG_CSTS, 4), CSTS_RDY);
}

/* And queue 1, for I/O. */
static void start(void)
{
	enable();
	assert_int_equal(do_now(0, (struct nvme_command){ .opcode = CREATE_CQ,
	                                                  .prp1 = CQ(1),
	                                                  .dw10 = 1 | (ENTRIES - 1) << 16,
	                                                  .dw11 = 3 | 1 << 16 }),
	                 NVME_OK);
	assert_int_equal(do_now(0, (struct nvme_command){ .opcode = CREATE_SQ,
	                                                  .prp1 = SQ(1),
	                                                  .dw10 = 1 | (ENTRIES - 1) << 16,
	                                                  .dw11 = 1 | 1 << 16 }),
	                 NVME_OK);
}

static void plug(struct nvme_config config)
{
	for (size_t i = 0; i < sizeof(content); i++)
		content[i] = (uint8_t)(i / 512 * 7 + i);
	pauses = 0;
	world.content = content;
	config.block = &world.disk;
	config.queues = 1;
	assert_int_equal(nvme_add(&world.host, &world.bus, world.mem, &config), 0);
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

static void start_disk(void)
{
	plug((struct nvme_config){ .serial = "a-serial-number" });
	start();
}

static struct nvme_command io(uint8_t opcode, uint64_t block, uint32_t blocks)
{
	return (struct nvme_command){ .opcode = opcode,
		                      .prp1 = DATA,
		                      .prp2 = DATA + NVME_PAGE,
		                      .dw10 = (uint32_t)block,
		                      .dw11 = (uint32_t)(block >> 32),
		                      .dw12 = blocks - 1 };
}

static const struct block_request *asked(void)
{
	assert_int_equal(world.disk.nr, 1);
	return world.disk.request[0];
}

/* The answer to the one command that is under way, once the disk has said rc. */
static unsigned finish(int rc)
{
	assert_int_equal(world.disk.nr, 1);
	assert_int_equal(answer(1, NULL), NOT_THERE);
	end_request(0, rc);
	return answer(1, NULL);
}

static bool is_zero(uint64_t block, uint64_t blocks)
{
	for (uint64_t i = block * 512; i < (block + blocks) * 512; i++)
		if (content[i])
			return false;
	return true;
}

static void a_write_and_a_read(void **state)
{
	struct nvme_command c = io(WRITE, 3, 2);

	start_disk();
	memset(guest(DATA), 0xa5, 1024);
	send(1, c);
	assert_int_equal(asked()->op, BLOCK_WRITE);
	assert_int_equal(asked()->flags, 0);
	assert_int_equal(asked()->offset, 3 * 512);
	assert_int_equal(asked()->len, 1024);
	assert_int_equal(finish(0), NVME_OK);
	assert_int_equal(content[3 * 512], 0xa5);
	assert_int_equal(content[5 * 512 - 1], 0xa5);
	assert_int_equal(content[5 * 512], (uint8_t)(5 * 7 + 5 * 512));
	c.dw12 |= FUA;
	send(1, c);
	assert_int_equal(asked()->flags, BLOCK_FUA);
	assert_int_equal(finish(0), NVME_OK);
	send(1, io(READ, 4, 2));
	assert_int_equal(finish(0), NVME_OK);
	assert_memory_equal(guest(DATA), content + 4 * 512, 1024);
}

/* 4.3: the first page from some place on, the second by itself, more by a list. */
static void pages_and_lists(void **state)
{
	static const gpa_t pages[] = { DATA + 0x5000, DATA + 0x3000, DATA + 0x9000 };
	struct nvme_command c = io(READ, 0, 8);

	start_disk();
	c.prp1 = DATA + 0xe00;
	c.prp2 = DATA + 0x4000;
	send(1, c);
	assert_int_equal(finish(0), NVME_OK);
	assert_memory_equal(guest(DATA + 0xe00), content, 512);
	assert_memory_equal(guest(DATA + 0x4000), content + 512, 7 * 512);

	c = io(READ, 8, 25); /* a block of the first page, and three pages */
	c.prp1 = DATA + 0xe00;
	c.prp2 = LIST + 0x20;
	memcpy(guest(LIST + 0x20), pages, sizeof(pages));
	send(1, c);
	assert_int_equal(finish(0), NVME_OK);
	assert_memory_equal(guest(DATA + 0xe00), content + 8 * 512, 512);
	for (unsigned i = 0; i < 3; i++)
		assert_memory_equal(guest(pages[i]), content + (9 + 8 * i) * 512, NVME_PAGE);

	/* The last entry of a list's page leads to the next list. */
	memcpy(guest(LIST + NVME_PAGE - 8), &(gpa_t){ LIST + NVME_PAGE }, 8);
	memcpy(guest(LIST + NVME_PAGE), pages, sizeof(pages));
	c.prp2 = LIST + NVME_PAGE - 8;
	memset(guest(DATA), 0, 0xa000);
	send(1, c);
	assert_int_equal(finish(0), NVME_OK);
	for (unsigned i = 0; i < 3; i++)
		assert_memory_equal(guest(pages[i]), content + (9 + 8 * i) * 512, NVME_PAGE);
}

static void bad_pages(void **state)
{
	static const gpa_t odd = DATA + 0x5004, gone = 1ull << 40;
	static const struct {
		gpa_t prp1, prp2;
		uint32_t blocks;
		enum nvme_status status;
	} bad[] = {
		{ DATA + 1, 0, 1, NVME_BAD_PRP },
		{ 1ull << 40, 0, 1, NVME_DATA_ERROR },
		{ 0xe0000, 0, 1, NVME_DATA_ERROR }, /* ROM */
		{ DATA, DATA + 0x1004, 16, NVME_BAD_PRP },
		{ DATA, LIST + 4, 24, NVME_BAD_PRP },
		{ DATA, LIST, 24, NVME_BAD_PRP },            /* an entry within a page */
		{ DATA, LIST + 8, 24, NVME_DATA_ERROR },     /* one to nowhere */
		{ DATA, 1ull << 40, 24, NVME_DATA_ERROR },   /* no list */
		{ DATA, LIST + 0x10, 2048, NVME_BAD_FIELD }, /* more than we said we take */
	};

	start_disk();
	memcpy(guest(LIST), &odd, sizeof(odd));
	memcpy(guest(LIST + 8), &gone, sizeof(gone));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct nvme_command c = io(READ, 0, bad[i].blocks);

		c.prp1 = bad[i].prp1;
		c.prp2 = bad[i].prp2;
		assert_int_equal(do_now(1, c), bad[i].status);
	}
	assert_int_equal(read_register(REG_CSTS, 4), CSTS_RDY);
}

static void a_list_that_leads_to_itself(void **state)
{
	struct nvme_command c = io(READ, 0, 1024);

	start_disk();
	c.prp2 = LIST + NVME_PAGE - 8;
	memcpy(guest(LIST + NVME_PAGE - 8), &(gpa_t){ LIST }, 8);
	for (unsigned i = 0; i < NVME_PAGE / 8 - 1; i++)
		memcpy(guest(LIST + i * 8), &(gpa_t){ LIST }, 8); /* data, too */
	send(1, c);
	assert_int_equal(finish(0), NVME_OK); /* as long as the command says, and no longer */
}

static void bad_blocks(void **state)
{
	start_disk();
	assert_int_equal(do_now(1, io(READ, BLOCKS, 1)), NVME_LBA_RANGE);
	assert_int_equal(do_now(1, io(WRITE, BLOCKS - 1, 2)), NVME_LBA_RANGE);
	assert_int_equal(do_now(1, io(READ, UINT64_MAX, 2)), NVME_LBA_RANGE);
	assert_int_equal(do_now(1, io(WRITE_ZEROES, BLOCKS, 1)), NVME_LBA_RANGE);
	send(1, io(READ, BLOCKS - 1, 1));
	assert_int_equal(finish(0), NVME_OK);
}

static void bad_commands(void **state)
{
	struct nvme_command c = io(READ, 0, 1);

	start_disk();
	c.nsid = 2;
	assert_int_equal(do_now(1, c), NVME_BAD_NAMESPACE);
	c = io(READ, 0, 1);
	c.flags = 1; /* fused */
	assert_int_equal(do_now(1, c), NVME_BAD_FIELD);
	c.flags = 0x40; /* scatter-gather list */
	assert_int_equal(do_now(1, c), NVME_BAD_FIELD);
	assert_int_equal(do_now(1, io(0x7f, 0, 1)), NVME_BAD_OPCODE);
	assert_int_equal(do_now(0, (struct nvme_command){ .opcode = 0x7f }), NVME_BAD_OPCODE);
}

static void a_flush_reaches_the_disk(void **state)
{
	start_disk();
	send(1, (struct nvme_command){ .opcode = FLUSH });
	assert_int_equal(asked()->op, BLOCK_FLUSH);
	assert_int_equal(finish(0), NVME_OK);
	send(1, (struct nvme_command){ .opcode = FLUSH, .nsid = NVME_ALL });
	assert_int_equal(finish(-EIO), NVME_WRITE_FAULT);
}

/* Without the volatile cache a write that has ended is stored. */
static void the_cache_can_be_off(void **state)
{
	start_disk();
	assert_int_equal(
	        do_now(0, (struct nvme_command){ .opcode = SET_FEATURES, .dw10 = 6, .dw11 = 0 }),
	        NVME_OK);
	send(1, io(WRITE, 0, 1));
	assert_int_equal(asked()->flags, BLOCK_FUA);
	assert_int_equal(finish(0), NVME_OK);
}

static void zeroes_are_written(void **state)
{
	struct nvme_command c = io(WRITE_ZEROES, 20, 2);

	start_disk();
	send(1, c);
	assert_int_equal(asked()->op, BLOCK_WRITE_ZEROES);
	assert_int_equal(asked()->flags, 0);
	assert_int_equal(finish(0), NVME_OK);
	c = io(WRITE_ZEROES, 30, 2);
	c.dw12 |= DEALLOCATE;
	send(1, c);
	assert_int_equal(asked()->flags, BLOCK_UNMAP);
	assert_int_equal(finish(0), NVME_OK);
	assert_true(is_zero(20, 2) && is_zero(30, 2));
	assert_false(is_zero(19, 1) || is_zero(22, 1));
}

static struct nvme_command deallocate(const struct nvme_range *r, unsigned n)
{
	memcpy(guest(DATA), r, n * sizeof(*r));
	return (struct nvme_command){ .opcode = DSM, .prp1 = DATA, .dw10 = n - 1, .dw11 = 4 };
}

static void discards_range_by_range(void **state)
{
	const struct nvme_range ranges[] = { { 0, 4, 8 }, { 0, 0, 5 }, { 0, 1, 100 } };
	const struct nvme_range bad[] = { { 0, 4, 40 }, { 0, 1, BLOCKS } };

	start_disk();
	send(1, deallocate(ranges, 3));
	assert_int_equal(asked()->op, BLOCK_DISCARD);
	assert_int_equal(asked()->offset, 8 * 512);
	end_request(0, 0);
	assert_int_equal(asked()->offset, 100 * 512);
	assert_int_equal(finish(0), NVME_OK);
	assert_true(is_zero(8, 4) && is_zero(100, 1));
	assert_false(is_zero(5, 1) || is_zero(7, 1) || is_zero(12, 1));

	/* All ranges are looked at before the first is touched, and none after an error. */
	assert_int_equal(do_now(1, deallocate(bad, 2)), NVME_LBA_RANGE);
	send(1, deallocate(ranges, 3));
	assert_int_equal(finish(-EIO), NVME_WRITE_FAULT);
	assert_int_equal(world.disk.nr, 0);
}

static void a_disk_to_read_only(void **state)
{
	world.readonly = true;
	start_disk();
	assert_int_equal(do_now(1, io(WRITE, 0, 1)), NVME_READ_ONLY);
	assert_int_equal(do_now(1, io(WRITE_ZEROES, 0, 1)), NVME_READ_ONLY);
	assert_int_equal(do_now(1, deallocate(&(struct nvme_range){ 0, 1, 0 }, 1)), NVME_READ_ONLY);
	send(1, io(READ, 0, 1));
	assert_int_equal(finish(0), NVME_OK);
}

static void the_disks_errors(void **state)
{
	start_disk();
	send(1, io(READ, 0, 1));
	assert_int_equal(finish(-EIO), NVME_READ_ERROR);
	send(1, io(WRITE, 0, 1));
	assert_int_equal(finish(-EIO), NVME_WRITE_FAULT);
	send(1, io(WRITE, 0, 1));
	assert_int_equal(finish(-ENOSPC), NVME_FULL);
	send(1, io(WRITE, 0, 1));
	assert_int_equal(finish(0), NVME_OK);
}

static void a_full_host_pauses_the_machine(void **state)
{
	plug((struct nvme_config){ .full = { .pause = count_pause, .disk = "disk" } });
	start();
	memset(guest(DATA), 0x77, 512);
	send(1, io(WRITE, 5, 1));
	end_request(0, -ENOSPC);
	assert_int_equal(pauses, 1);
	assert_int_equal(answer(1, NULL), NOT_THERE);
	assert_int_equal(world.disk.nr, 0);
	pci_host_resume(&world.host);
	assert_int_equal(finish(0), NVME_OK);
	assert_int_equal(content[5 * 512], 0x77);
}

static void a_reset_waits_for_commands(void **state)
{
	start_disk();
	send(1, io(READ, 0, 1));
	send(1, io(WRITE, 1, 1));
	assert_int_equal(world.disk.nr, 2);
	world_write(bar_of(1) + REG_CC, 4, 0);
	assert_int_equal(read_register(REG_CSTS, 4), CSTS_RDY); /* the driver waits for its end */
	run_workers();                                          /* in which the requests end */
	assert_int_equal(world.disk.nr, 0);
	assert_int_equal(read_register(REG_CSTS, 4), 0);
	assert_int_equal(answer(1, NULL), NOT_THERE);
	start();
	send(1, io(READ, 2, 1));
	assert_int_equal(finish(0), NVME_OK);
	assert_memory_equal(guest(DATA), content + 2 * 512, 512);
}

/* A completion queue that is full holds answers back until the driver has read some. */
static void answers_wait_for_room(void **state)
{
	const unsigned nr = ENTRIES + 2;

	start_disk();
	for (unsigned i = 0; i < nr; i++) {
		send(1, io(READ, i, 1));
		end_request(0, 0);
	}
	for (unsigned i = 0; i < nr; i++) {
		uint16_t cid = 0;

		assert_int_equal(answer(1, &cid), NVME_OK);
		assert_int_equal(cid, i + 1);
	}
	assert_int_equal(answer(1, NULL), NOT_THERE);
}

static void bad_queues(void **state)
{
	static const struct {
		uint8_t opcode;
		uint32_t dw10, dw11;
		gpa_t prp1;
		enum nvme_status status;
	} bad[] = {
		{ CREATE_CQ, 0 | 7 << 16, 1, CQ(1), NVME_BAD_QID },
		{ CREATE_CQ, 2 | 7 << 16, 1, CQ(1), NVME_BAD_QID },
		{ CREATE_CQ, 1 | 0 << 16, 1, CQ(1), NVME_BAD_SIZE },
		{ CREATE_CQ, 1 | 0xffffu << 16, 1, CQ(1), NVME_BAD_SIZE },
		{ CREATE_CQ, 1 | 7 << 16, 0, CQ(1), NVME_BAD_FIELD },
		{ CREATE_CQ, 1 | 7 << 16, 1 | 9 << 16, CQ(1), NVME_BAD_VECTOR },
		{ CREATE_CQ, 1 | 7 << 16, 1, CQ(1) + 8, NVME_BAD_PRP },
		{ CREATE_CQ, 1 | 7 << 16, 1, 1ull << 40, NVME_BAD_PRP },
		{ CREATE_SQ, 1 | 7 << 16, 1 | 1 << 16, SQ(1), NVME_BAD_CQ }, /* not there yet */
		{ DELETE_SQ, 1, 0, 0, NVME_BAD_QID },
		{ DELETE_CQ, 1, 0, 0, NVME_BAD_QID },
	};

	plug((struct nvme_config){ .serial = "s" });
	enable();
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(do_now(0, (struct nvme_command){ .opcode = bad[i].opcode,
		                                                  .dw10 = bad[i].dw10,
		                                                  .dw11 = bad[i].dw11,
		                                                  .prp1 = bad[i].prp1 }),
		                 bad[i].status);
	/* A doorbell that makes no sense changes nothing. */
	write_register(0x1000, 4, ENTRIES);
	write_register(0x1008, 4, 1);
	write_register(0x1ff8, 4, 1);
	assert_int_equal(read_register(REG_CSTS, 4), CSTS_RDY);
	assert_int_equal(
	        do_now(0, (struct nvme_command){ .opcode = IDENTIFY, .prp1 = DATA, .dw10 = 1 }),
	        NVME_OK);
	assert_memory_equal((uint8_t *)guest(DATA) + 4, "s                   ", NVME_SERIAL);
}

static void deleting_queues(void **state)
{
	start_disk();
	assert_int_equal(do_now(0, (struct nvme_command){ .opcode = DELETE_CQ, .dw10 = 1 }),
	                 NVME_BAD_DELETION);
	send(1, io(READ, 0, 1));
	send(0, (struct nvme_command){ .opcode = DELETE_SQ, .dw10 = 1 }); /* waits for the read */
	assert_int_equal(world.disk.nr, 0);
	assert_int_equal(answer(0, NULL), NVME_OK);
	assert_int_equal(do_now(0, (struct nvme_command){ .opcode = DELETE_CQ, .dw10 = 1 }),
	                 NVME_OK);
}

static void a_controller_that_cannot_start(void **state)
{
	plug((struct nvme_config){ .serial = "s" });
	write_register(REG_AQA, 4, 0x00070007);
	write_register(REG_ASQ, 8, 1ull << 40);
	write_register(REG_ACQ, 8, CQ(0));
	write_register(REG_CC, 4, ENABLE);
	assert_int_equal(read_register(REG_CSTS, 4), CSTS_CFS);
	write_register(REG_CC, 4, 0);
	assert_int_equal(read_register(REG_CSTS, 4), 0);
	write_register(REG_ASQ, 8, SQ(0));
	write_register(REG_CC, 4, ENABLE | 0x80); /* pages of another size */
	assert_int_equal(read_register(REG_CSTS, 4), CSTS_CFS);
	write_register(REG_CC, 4, 0);
	enable();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_write_and_a_read),
		TEST(pages_and_lists),
		TEST(bad_pages),
		TEST(a_list_that_leads_to_itself),
		TEST(bad_blocks),
		TEST(bad_commands),
		TEST(a_flush_reaches_the_disk),
		TEST(the_cache_can_be_off),
		TEST(zeroes_are_written),
		TEST(discards_range_by_range),
		TEST(a_disk_to_read_only),
		TEST(the_disks_errors),
		TEST(a_full_host_pauses_the_machine),
		TEST(a_reset_waits_for_commands),
		TEST(answers_wait_for_room),
		TEST(bad_queues),
		TEST(deleting_queues),
		TEST(a_controller_that_cannot_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

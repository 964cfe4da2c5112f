/*
 * A hostile driver for the NVMe controller: registers, doorbells, commands and page lists as it
 * likes, resets in the middle, while requests end in any order.
 *
 * Input: records of ten bytes, {what, which, value (8, little-endian)}.
 */
#include "device/nvme/nvme.h"
#include "device_world.h"

#define RECORD_BYTES 10
#define MAX_RECORDS  1024
#define QUEUES       2u
#define SQ(n)        (0x100000ull + (n)*0x10000)
#define CQ(n)        (0x140000ull + (n)*0x10000)
#define DATA         0x200000ull

enum what {
	READ,
	WRITE,
	CONFIG,
	MEMORY,
	FIELD,
	COMMAND,
	DOORBELL,
	START,
	RESET,
	RUN,
	END_REQUEST,
	WHATS
};

static void write_register(uint64_t reg, unsigned size, uint64_t value)
{
	world_write(bar_of(1) + reg, size, value);
}

static void start(uint64_t value)
{
	write_register(0x24, 4, (value & 7) | (value >> 8 & 7) << 16 | 0x00010001);
	write_register(0x28, 8, SQ(0));
	write_register(0x30, 8, CQ(0));
	write_register(0x14, 4, 0x460001);
}

/* A field of a command: place in the queue, dword, and what to put there. */
static void write_field(uint8_t which, uint64_t value)
{
	gpa_t at = SQ(which >> 6) + (which >> 4 & 3) * 64 + (which & 15) * 4;
	uint32_t dword = (uint32_t)value;

	if (value >> 32 & 1) /* an address, more or less */
		dword = (uint32_t)(DATA + (value & 0x3ff000) +
		                   (value >> 33 & 1 ? value & 0xfff : 0));
	mem_write(world.mem, at, &dword, 4);
}

/* A command that makes sense but for what the input says. */
static void write_command(uint8_t which, uint64_t value)
{
	static const uint8_t opcodes[2][8] = { { 0, 1, 4, 5, 6, 2, 9, 12 },
		                               { 0, 1, 2, 8, 9, 2, 1, 10 } };
	unsigned queue = (which >> 6) % (QUEUES + 1), id = value >> 8 & 3;
	uint32_t c[16] = { 0 };

	c[0] = opcodes[queue > 0][value & 7] | (uint32_t)(value >> 48) << 16;
	c[1] = value >> 16 & 3 ? 1 : 0xffffffff;
	c[6] = (uint32_t)(DATA + (value >> 40 & 0xff) * 0x1000 + (value >> 4 & 1) * 0xe00);
	c[8] = (uint32_t)(DATA + (value >> 32 & 0xff) * 0x1000 + (value >> 5 & 1) * 0xff8);
	c[10] = (uint32_t)(queue ? value >> 20 & 0xfff : value >> 20 & 0xff);
	c[12] = value >> 12 & 0xf;
	if (!queue && (value & 7) < 4) { /* queues */
		c[6] = (uint32_t)((value & 7) == 3 ? CQ(id) : SQ(id));
		c[10] = id | (uint32_t)(value >> 20 & 0x1f) << 16;
		c[11] = 3 | ((value & 7) == 1 ? id : (uint32_t)(value >> 28 & 3)) << 16;
	}
	if (queue && (value & 7) == 4)
		c[11] = 4;
	mem_write(world.mem, SQ(queue) + (which >> 4 & 3) * 64, c, sizeof(c));
}

static void run_record(const uint8_t *record)
{
	uint8_t which = record[1];
	uint64_t value;

	memcpy(&value, record + 2, sizeof(value));
	switch (record[0] % WHATS) {
	case READ:
		bus_read(&world.bus, BUS_MMIO, bar_of(1) + (value & 0x3fff), 1u << (which & 3),
		         &value);
		break;
	case WRITE:
		write_register(which & 0x80 ? value & 0x3fff : value & 0x3f, 1u << (which & 3),
		               value >> 16);
		break;
	case CONFIG:
		bus_write(&world.bus, BUS_MMIO, WORLD_ECAM + BIT(15) + (value & 0xfc), 4,
		          value >> 16);
		break;
	case MEMORY:
		mem_write(world.mem, DATA + (value & 0x3ffff8), &value, 8);
		break;
	case FIELD:
		write_field(which, value);
		break;
	case COMMAND:
		write_command(which, value);
		break;
	case DOORBELL:
		write_register(0x1000 + (which & 7) * 4, 4,
		               which & 0x80 ? value & 0xffffff : value & 7);
		break;
	case START:
		start(value);
		break;
	case RESET:
		write_register(0x14, 4, value & 1 ? 0 : 0x464001);
		break;
	case RUN:
		run_workers();
		break;
	case END_REQUEST:
		end_request(which, value & 1 ? value & 2 ? -ENOSPC : -EIO : 0);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nvme_config config = { .block = &world.disk, .queues = QUEUES };

	world_begin(size && data[size - 1] & 2);
	world.readonly = size && data[size - 1] & 1;
	check(!nvme_add(&world.host, &world.bus, world.mem, &config));
	world_plugged();
	for (size_t i = 0; i < MAX_RECORDS && (i + 1) * RECORD_BYTES <= size; i++)
		run_record(data + i * RECORD_BYTES);
	world_end();
	return 0;
}

/*
 * A hostile driver for virtio devices: registers, rings and descriptors as it likes, resets in the
 * middle, while requests end in any order.
 *
 * Input: records of ten bytes, {what, which, value (8, little-endian)}; `which` has the device in
 * its upper two bits. What a disk is asked for is checked, and sanitizers find the rest.
 */
#include "../unit/fake_time.h"
#include "device/virtio/balloon.h"
#include "device/virtio/blk.h"
#include "device/virtio/console.h"
#include "device/virtio/rng.h"
#include "hostile_driver.h"

#define RECORD_BYTES 10
#define MAX_RECORDS  1024
#define DEVICES      4
#define QUEUES       4 /* that are started; some devices have fewer, or more */
#define PORTS        2u

enum what {
	READ_REGISTER,
	WRITE_REGISTER,
	READ_CONFIG,
	WRITE_CONFIG,
	WRITE_MEMORY,
	WRITE_DESC,
	WRITE_HEADER,
	OFFER,
	NOTIFY,
	START,
	RESET,
	RUN,
	INPUT,
	END_REQUEST,
	WHATS
};

/* The header of a disk's request, or a message to the console. */
static void write_header(uint64_t value)
{
	static const uint32_t types[] = { 0, 1, 4, 8, 11, 13, 2, 0x80000000 };
	struct {
		uint32_t type, reserved;
		uint64_t sector;
		struct { /* to discard, when the buffer is long enough */
			uint64_t sector;
			uint32_t sectors, flags;
		} range;
	} h = { .type = types[value & 7], .sector = value >> 16 & 0xffff };

	/* A message of the console has its event and its value here. */
	h.reserved = (uint32_t)((value >> 48 & 7) | (value >> 51 & 1) << 16);

	h.range.sector = h.sector;
	h.range.sectors = value >> 32 & 0xfff;
	h.range.flags = value >> 44 & 1;

	if (value & 8)
		h.sector = UINT64_MAX - h.sector;
	put(0x200000 + ((value >> 8 & 0xff) << 12) + (value >> 56), &h, sizeof(h));
}

/* The other end of the ports takes what the input says, and bytes come from there. */

static struct virtio_console *console;
static size_t room;

static size_t take_output(void *opaque, const uint8_t *buf, size_t n)
{
	size_t taken = n < room ? n : room;

	room -= taken;
	return taken;
}

static void more_input(void *opaque)
{
	virtio_console_input(console, 0, (const uint8_t *)"0123456789", 10);
}

static void give_input(uint8_t which, uint64_t value)
{
	static const uint8_t bytes[8192];

	fake_advance(value >> 32);
	room = value & 0xffff;
	virtio_console_resume(console);
	virtio_console_input(console, which % PORTS, bytes, value >> 16 & 0x1fff);
}

static void add_devices(void)
{
	struct virtio_blk_config config = { .block = &world.disk, .serial = "serial", .queues = 2 };
	struct virtio_port_backend backend = { .output = take_output, .input_room = more_input };
	struct virtio_port_config ports[PORTS] = {
		{ .backend = backend },
		{ .name = "port", .backend = backend },
	};
	struct virtio_balloon *balloon;

	check(!virtio_blk_add(&world.host, &world.bus, world.mem, &config));
	check(!virtio_rng_add(&world.host, &world.bus, world.mem));
	check(!virtio_console_add(&console, &world.host, &world.bus, world.mem, ports, PORTS));
	check(!virtio_balloon_add(&balloon, &world.host, &world.bus, world.mem, NULL));
}

static void run_record(const uint8_t *record)
{
	uint8_t which = record[1];
	unsigned device = (which >> 6) % DEVICES, queue = (which >> 4 & 3) % QUEUES;
	gpa_t rings = RINGS(device, queue);
	uint64_t value;

	memcpy(&value, record + 2, sizeof(value));
	switch (record[0] % WHATS) {
	case READ_REGISTER:
	case WRITE_REGISTER:
		access_register(device, record[0] % WHATS == WRITE_REGISTER, which, value);
		break;
	case READ_CONFIG:
	case WRITE_CONFIG:
		access_config(device, record[0] % WHATS == WRITE_CONFIG, which, value);
		break;
	case WRITE_MEMORY:
		put(rings + (value & 0x7fff), &value, 1 + (which & 7));
		break;
	case WRITE_DESC:
		write_desc(rings, which & 1, value);
		break;
	case WRITE_HEADER:
		write_header(value);
		break;
	case OFFER:
		offer(rings, value);
		break;
	case NOTIFY:
		write_register(device, PAGE_NOTIFY + 4 * queue, 2, queue);
		break;
	case START:
		start(device, QUEUES, value);
		break;
	case RESET:
		write_register(device, COMMON(0x14), 1, 0);
		break;
	case RUN:
		run_workers();
		break;
	case INPUT:
		give_input(which, value);
		break;
	case END_REQUEST:
		end_request(which, value & 1 ? -EIO : 0);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	world_begin(size && data[size - 1] & 2);
	fake_nr_timers = 0;
	world.readonly = size && data[size - 1] & 1;
	add_devices();
	world_plugged();
	for (size_t i = 0; i < MAX_RECORDS && (i + 1) * RECORD_BYTES <= size; i++)
		run_record(data + i * RECORD_BYTES);
	world_end();
	return 0;
}

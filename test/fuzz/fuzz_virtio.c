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
#include "device_world.h"

#define RECORD_BYTES 10
#define MAX_RECORDS  1024
#define DEVICES      4
#define QUEUES       4 /* that are started; some devices have fewer, or more */
#define PORTS        2u

/* Where an honest start has the rings of a queue. */
#define RINGS(device, queue) (0x100000ull + ((device)*4 + (queue)) * 0x8000)
#define AREA                 0x1000ull /* from one ring to the next; then indirect tables */
#define PAGE_NOTIFY          0x3000
#define COMMON(reg)          (reg)

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

static void write_register(unsigned device, uint64_t reg, unsigned size, uint64_t value)
{
	bus_write(&world.bus, BUS_MMIO, bar_of(device + 1) + reg, size, value);
}

static void put(gpa_t gpa, const void *data, uint64_t len)
{
	mem_write(world.mem, gpa, data, len);
}

/* As a driver does it, with features of the input's choice. */
static void start(unsigned device, uint64_t features)
{
	write_register(device, COMMON(0x14), 1, 3);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t offered = 0;

		write_register(device, COMMON(0x00), 4, i);
		bus_read(&world.bus, BUS_MMIO, bar_of(device + 1) + 4, 4, &offered);
		write_register(device, COMMON(0x08), 4, i);
		write_register(device, COMMON(0x0c), 4,
		               offered & ((features >> 32 * i) | (i ? 1 : 0)));
	}
	write_register(device, COMMON(0x14), 1, 11);
	for (unsigned queue = 0; queue < QUEUES; queue++) {
		write_register(device, COMMON(0x16), 2, queue);
		write_register(device, COMMON(0x18), 2, 8);
		for (unsigned area = 0; area < 3; area++)
			write_register(device, COMMON(0x20) + 8 * area, 8,
			               RINGS(device, queue) + AREA * area);
		write_register(device, COMMON(0x1c), 2, 1);
	}
	write_register(device, COMMON(0x14), 1, 15);
}

/* Bytes of the value: place, link, length by 2, address by page and offset, flags. */
static void write_desc(gpa_t rings, bool table, uint64_t value)
{
	struct {
		uint64_t addr;
		uint32_t len;
		uint16_t a, b;
	} d;
	unsigned place = value & 15;
	uint64_t page = value >> 32 & 0xff;

	d.addr = page < 0x20   ? rings + 3 * AREA + (page << 4)    /* a table */
	         : page < 0xf8 ? 0x200000 + (page << 12)           /* data */
	         : page < 0xfc ? 0xdff00 + (page & 3) * 0x1000     /* around ROM */
	                       : MEM_MIN_BYTES - (page & 3) * 512; /* around the end */
	d.addr += value >> 40 & 0xff;
	d.len = (uint32_t)(value >> 8 & 0xffff) << (value >> 56 & 15);
	d.a = (uint16_t)(value >> 48);
	d.b = (uint16_t)(value >> 4 & 15);
	if (value >> 60 & 1) { /* the packed order */
		uint16_t a = d.a;

		d.a = d.b;
		d.b = a;
	}
	put(rings + (table ? 3 * AREA : 0) + place * sizeof(d), &d, sizeof(d));
}

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

static void offer(gpa_t rings, uint64_t value)
{
	uint16_t entry = (uint16_t)(value & 15), index = (uint16_t)(value >> 16);
	uint64_t slot = value >> 8 & 7;

	put(rings + AREA + 4 + 2 * slot, &entry, 2);
	put(rings + AREA + 2, &index, 2);
}

static void access_config(unsigned device, bool write, uint8_t which, uint64_t value)
{
	unsigned size = 1u << (value >> 62 & 1 ? 2 : value >> 60 & 1);
	uint64_t addr = WORLD_ECAM + ((device + 1ull) << 15) + (value & 0xff & ~(size - 1ull));

	if (write)
		bus_write(&world.bus, BUS_MMIO, addr, size, value >> 16);
	else
		bus_read(&world.bus, BUS_MMIO, addr, size, &value);
}

static void access_register(unsigned device, bool write, uint8_t which, uint64_t value)
{
	unsigned size = 1u << (value >> 62);
	uint64_t reg = (value & 0xfff & (which & 8 ? 0xff : 0x3f)) | (uint64_t)(which & 7) << 12;

	if (write)
		write_register(device, reg, size, value >> 16);
	else
		bus_read(&world.bus, BUS_MMIO, bar_of(device + 1) + reg, size, &value);
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
		start(device, value);
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
	world_begin();
	fake_nr_timers = 0;
	world.readonly = size && data[size - 1] & 1;
	add_devices();
	world_plugged();
	for (size_t i = 0; i < MAX_RECORDS && (i + 1) * RECORD_BYTES <= size; i++)
		run_record(data + i * RECORD_BYTES);
	world_end();
	return 0;
}

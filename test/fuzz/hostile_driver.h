/*
 * What hostile drivers of virtio devices have in common: registers, rings and descriptors, written
 * as the input says. Devices are numbered by their slots, less one. Include once.
 */
#pragma once

#include "device/virtio/virtio_pci.h"
#include "device_world.h"

/* Where an honest start has the rings of a queue. */
#define RINGS(device, queue) (0x100000ull + ((device)*8 + (queue)) * 0x8000)
#define AREA                 0x1000ull /* from one ring to the next; then indirect tables */
#define PAGE_NOTIFY          0x3000
#define COMMON(reg)          (reg)

static void write_register(unsigned device, uint64_t reg, unsigned size, uint64_t value)
{
	world_write(bar_of(device + 1) + reg, size, value);
}

static void put(gpa_t gpa, const void *data, uint64_t len)
{
	mem_write(world.mem, gpa, data, len);
}

#define PAGE_TABLE 0x4000
#define CAP_MSIX   0x11

/* Vectors 0 and 1 send messages, which go to no vCPU. */
static void open_vectors(unsigned device)
{
	unsigned slot = device + 1, at = config_of(slot, PCI_CAPS) & 0xff;

	while ((config_of(slot, at) & 0xff) != CAP_MSIX)
		at = config_of(slot, at) >> 8 & 0xff;
	bus_write(&world.bus, BUS_MMIO, WORLD_ECAM + (slot << 15) + at + 2, 2, 0x8000);
	for (unsigned n = 0; n < 2; n++) {
		write_register(device, PAGE_TABLE + 16 * n, 8, 0xfee00000);
		write_register(device, PAGE_TABLE + 16 * n + 8, 8, 0x41 + n);
	}
}

/* As a driver does it, with features of the input's choice. */
static void start(unsigned device, unsigned queues, uint64_t features)
{
	if (features >> 63)
		open_vectors(device);
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
	for (unsigned queue = 0; queue < queues; queue++) {
		write_register(device, COMMON(0x16), 2, queue);
		write_register(device, COMMON(0x18), 2, 8);
		for (unsigned area = 0; area < 3; area++)
			write_register(device, COMMON(0x20) + 8 * area, 8,
			               RINGS(device, queue) + AREA * area);
		write_register(device, COMMON(0x1a), 2, 1);
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

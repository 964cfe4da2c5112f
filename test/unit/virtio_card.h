/*
 * An honest driver of one virtio card on the bus of device_world.h, in slot 1: it negotiates, puts
 * chains into split rings, rings the doorbell and looks at what came back. Workers run when the
 * test says so, and when it rings. Include once, after cmocka.h.
 */
#pragma once

#include "../fuzz/device_world.h"
#include "device/virtio/virtio.h"

#define CARD_SLOT      1
#define CARD_RING_SIZE 8u
#define CARD_QUEUES    8u
#define CARD_AREA      0x1000ull /* from one area of a queue to the next */
#define CARD_RINGS(q)  (0x100000ull + (q)*0x8000ull)
#define CARD_DATA      0x200000ull

#define DESC_NEXT  1
#define DESC_WRITE 2

/* A buffer of a chain. */
struct piece {
	gpa_t addr;
	uint32_t len;
	bool in; /* for the device to write */
};

static struct card {
	uint16_t next[CARD_QUEUES];  /* free descriptor */
	uint16_t avail[CARD_QUEUES]; /* index */
	uint16_t seen[CARD_QUEUES];  /* used index */
} card;

static inline uint64_t card_read(uint64_t reg, unsigned size)
{
	uint64_t value = 0;

	bus_read(&world.bus, BUS_MMIO, bar_of(CARD_SLOT) + reg, size, &value);
	return value;
}

static inline void card_write(uint64_t reg, unsigned size, uint64_t value)
{
	world_write(bar_of(CARD_SLOT) + reg, size, value);
}

static inline uint8_t card_status(void)
{
	return (uint8_t)card_read(0x14, 1);
}

/* Of the device's own configuration. */
static inline uint64_t card_config(unsigned off, unsigned size)
{
	return card_read(0x2000 + off, size);
}

static inline void *guest(gpa_t gpa)
{
	return mem_host(world.mem, gpa, 1, false);
}

static inline uint64_t card_offered(void)
{
	uint64_t offered;

	card_write(0x00, 4, 1);
	offered = card_read(0x04, 4) << 32;
	card_write(0x00, 4, 0);
	return offered | card_read(0x04, 4);
}

/* Accepts features, enables the first queues, and is ready. */
static inline void card_start(uint64_t features, unsigned queues)
{
	memset(&card, 0, sizeof(card));
	features |= VIRTIO_F_VERSION_1;
	card_write(0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	for (unsigned i = 0; i < 2; i++) {
		card_write(0x08, 4, i);
		card_write(0x0c, 4, (uint32_t)(features >> 32 * i));
	}
	card_write(0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	assert_true(card_status() & VIRTIO_FEATURES_OK);
	for (unsigned q = 0; q < queues; q++) {
		memset(guest(CARD_RINGS(q)), 0, 3 * CARD_AREA);
		card_write(0x16, 2, q);
		card_write(0x18, 2, CARD_RING_SIZE);
		for (unsigned area = 0; area < 3; area++)
			card_write(0x20 + 8 * area, 8, CARD_RINGS(q) + CARD_AREA * area);
		card_write(0x1c, 2, 1);
	}
	card_write(0x14, 1,
	           VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
	run_workers();
}

static inline void card_notify(unsigned q)
{
	card_write(0x3000 + 4 * q, 2, q);
	run_workers();
}

/* Makes a chain available, without a word; its id. */
static inline uint16_t card_offer(unsigned q, const struct piece *p, unsigned n)
{
	uint8_t *ring = guest(CARD_RINGS(q) + CARD_AREA);
	uint16_t head = card.next[q];

	for (unsigned i = 0; i < n; i++) {
		uint16_t at = card.next[q], next = (uint16_t)((at + 1) % CARD_RING_SIZE);
		struct {
			uint64_t addr;
			uint32_t len;
			uint16_t flags, next;
		} d = { p[i].addr, p[i].len,
			(uint16_t)((i + 1 < n ? DESC_NEXT : 0) | (p[i].in ? DESC_WRITE : 0)),
			next };

		memcpy(guest(CARD_RINGS(q) + at * sizeof(d)), &d, sizeof(d));
		card.next[q] = next;
	}
	memcpy(ring + 4 + 2 * (card.avail[q] % CARD_RING_SIZE), &head, 2);
	card.avail[q]++;
	memcpy(ring + 2, &card.avail[q], 2);
	return head;
}

/* The same, and tells the device. */
static inline uint16_t card_send(unsigned q, const struct piece *p, unsigned n)
{
	uint16_t id = card_offer(q, p, n);

	card_notify(q);
	return id;
}

/* The next chain that came back, if one did: its id, and how much was written. */
static inline bool card_take_used(unsigned q, uint32_t *id, uint32_t *len)
{
	const uint8_t *ring = guest(CARD_RINGS(q) + 2 * CARD_AREA);
	const uint8_t *entry = ring + 4 + 8 * (card.seen[q] % CARD_RING_SIZE);
	uint16_t index;

	memcpy(&index, ring + 2, 2);
	if (index == card.seen[q])
		return false;
	memcpy(id, entry, 4);
	memcpy(len, entry + 4, 4);
	card.seen[q]++;
	return true;
}

static inline void expect_used(unsigned q, uint16_t id, uint32_t len)
{
	uint32_t got_id = UINT32_MAX, got_len = UINT32_MAX;

	assert_true(card_take_used(q, &got_id, &got_len));
	assert_int_equal(got_id, id);
	assert_int_equal(got_len, len);
}

static inline void expect_nothing(unsigned q)
{
	uint32_t id, len;

	assert_false(card_take_used(q, &id, &len));
}

/*
 * A driver's half of virtqueues, honest or not, around a device without a bus: rings in guest
 * memory and a transport that counts interrupts. Include once.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <sched.h>
#include <string.h>
#include <cmocka.h>

#include "device/virtio/ring.h"
#include "device/virtio/virtio.h"

#define RING_DESC   0x100000ull
#define RING_DRIVER 0x110000ull
#define RING_DEVICE 0x120000ull
#define RING_TABLE  0x130000ull /* an indirect table */
#define RING_DATA   0x200000ull
#define RING_ROM    0x180000ull
#define RING_SIZE   8u
#define RING_MEMORY (32 * MiB)

struct driver {
	struct bus bus;
	struct mem *mem;
	struct virtio v;
	unsigned interrupts, config_interrupts;
	_Atomic unsigned stops; /* calls of the device's stop() */
	bool packed;
	uint16_t avail;  /* split: next index; packed: next place */
	bool avail_wrap; /* packed */
	struct iovec iov[64];
};

static void driver_interrupt(void *opaque, uint16_t vector, uint8_t isr)
{
	struct driver *d = opaque;

	if (isr == 1)
		d->interrupts++;
	else
		d->config_interrupts++;
}

static void driver_cleared(void *opaque)
{
}

static void count_stop(void *dev)
{
	((struct driver *)dev)->stops++;
}

static const struct virtio_ops driver_ops = { .name = "test", .id = 4, .stop = count_stop };

static inline void *guest(struct driver *d, gpa_t gpa)
{
	return mem_host(d->mem, gpa, 1, false);
}

/* Negotiates and enables queue 0. */
static void driver_start(struct driver *d, uint64_t features)
{
	struct vq *q = &d->v.vq[0];

	memset(guest(d, RING_DESC), 0, 0x40000);
	d->packed = features & VIRTIO_F_RING_PACKED;
	d->avail = 0;
	d->avail_wrap = true;
	bus_lock(&d->bus);
	virtio_write_status(&d->v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	virtio_write_features(&d->v, features | VIRTIO_F_VERSION_1, ~0ull);
	virtio_write_status(&d->v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	assert_true(d->v.s.status & VIRTIO_FEATURES_OK);
	q->s.size = RING_SIZE;
	q->s.desc = RING_DESC;
	q->s.driver = RING_DRIVER;
	q->s.device = RING_DEVICE;
	virtio_enable_queue(q);
	assert_true(q->s.enabled);
	virtio_write_status(&d->v, d->v.s.status | VIRTIO_DRIVER_OK);
	bus_unlock(&d->bus);
}

static void driver_init(struct driver *d, uint64_t features)
{
	static const uint8_t rom[PAGE_SIZE];
	struct virtio_transport transport = { .interrupt = driver_interrupt,
		                              .clear = driver_cleared,
		                              .opaque = d };
	struct virtio_config config = { .ops = &driver_ops,
		                        .dev = d,
		                        .bus = &d->bus,
		                        .features = VIRTIO_F_RING_RESET,
		                        .nr_queues = 2,
		                        .queue_size = 16 };

	memset(d, 0, sizeof(*d));
	assert_int_equal(bus_init(&d->bus), 0);
	assert_int_equal(mem_new(&d->mem, RING_MEMORY), 0);
	assert_int_equal(mem_add_rom(d->mem, RING_ROM, rom, sizeof(rom)), 0);
	config.mem = d->mem;
	assert_int_equal(virtio_init(&d->v, &config, &transport), 0);
	driver_start(d, features);
}

static void driver_fini(struct driver *d)
{
	virtio_stop(&d->v);
	virtio_fini(&d->v);
	mem_free(d->mem);
	bus_fini(&d->bus);
}

static uint8_t driver_status(struct driver *d)
{
	uint8_t status;

	bus_lock(&d->bus);
	status = d->v.s.status;
	bus_unlock(&d->bus);
	return status;
}

/* The worker says it in its own time. */
static void wait_for_status(struct driver *d, uint8_t set, uint8_t clear)
{
	for (;;) {
		uint8_t status = driver_status(d);

		if ((status & set) == set && !(status & clear))
			return;
		sched_yield();
	}
}

static void driver_reset(struct driver *d)
{
	bus_lock(&d->bus);
	virtio_write_status(&d->v, 0);
	bus_unlock(&d->bus);
}

/* A descriptor; n is an index, or a place. link: the next index, or the id. */
static void put_desc(struct driver *d, gpa_t table, unsigned n, uint64_t addr, uint32_t len,
                     uint16_t flags, uint16_t link)
{
	struct vq_desc desc = { .addr = addr, .len = len, .flags = flags, .next = link };

	if (d->packed) {
		desc.flags = link;
		desc.next = flags;
	}
	memcpy((struct vq_desc *)guest(d, table) + n, &desc, sizeof(desc));
}

/* Split: offers the chain that begins with a descriptor. */
static void offer(struct driver *d, uint16_t head)
{
	uint8_t *ring = guest(d, RING_DRIVER);

	memcpy(ring + 4 + 2 * (d->avail % RING_SIZE), &head, 2);
	d->avail++;
	__atomic_store_n((uint16_t *)(void *)(ring + 2), d->avail, __ATOMIC_RELEASE);
}

/* Packed: the flags that make a descriptor at the next place available; steps on. */
static uint16_t next_place(struct driver *d, unsigned *place)
{
	uint16_t flags = d->avail_wrap ? 0x0080 : 0x8000;

	*place = d->avail;
	if (++d->avail == RING_SIZE) {
		d->avail = 0;
		d->avail_wrap = !d->avail_wrap;
	}
	return flags;
}

static void offer_packed(struct driver *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t id)
{
	unsigned place;
	uint16_t avail = next_place(d, &place);

	put_desc(d, RING_DESC, place, addr, len, flags | avail, id);
}

static bool pop(struct driver *d, struct vq_chain *c)
{
	*c = (struct vq_chain){ .iov = d->iov, .max = ARRAY_SIZE(d->iov) };
	return vq_pop(&d->v.vq[0], c);
}

static uint16_t used_index(struct driver *d)
{
	return vq_load16((uint8_t *)guest(d, RING_DEVICE) + 2);
}

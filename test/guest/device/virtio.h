/*
 * A driver for virtio devices on the PCI bus (virtio 1.2): one queue, split, with MSI-X. For guests
 * that look at how doorbells and interrupts travel, not at what rings can hold.
 */
#pragma once

#include "pci_device.h"

#define VIRTIO_ID_BLOCK   0x1042
#define VIRTIO_ID_ENTROPY 0x1044

#define VIRTIO_RING 8u /* entries */

#define DESC_NEXT  1u
#define DESC_WRITE 2u

struct virtio_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct virtio_rings {
	struct virtio_desc desc[VIRTIO_RING];
	struct {
		volatile uint16_t flags, index, entry[VIRTIO_RING];
	} avail;
	struct {
		volatile uint16_t flags, index;
		volatile struct {
			uint32_t id, len;
		} entry[VIRTIO_RING];
	} used __attribute__((aligned(4)));
};

struct virtio {
	struct pci_device pci;
	uintptr_t common, notify;
	unsigned bar; /* of the doorbells */
	uint32_t notify_off;
	struct virtio_rings *rings;
};

/* The first device of a kind, with memory and bus master on. False: there is none. */
bool virtio_find(struct virtio *v, uint16_t id);
/* Resets it and makes queue 0 work with these vectors of the CPU: entry 0 is for changes of the
 * configuration, entry 1 for the queue. */
void virtio_start(struct virtio *v, unsigned config_vector, unsigned queue_vector);
void virtio_reset(struct virtio *v);
/* Offers the chain that begins at descriptor 0, and rings. */
void virtio_offer(struct virtio *v);
void virtio_ring(struct virtio *v);
/* The device has used all that was offered. */
bool virtio_idle(const struct virtio *v);
/* Moves the BAR of the doorbells. */
void virtio_move(struct virtio *v, uint32_t distance);

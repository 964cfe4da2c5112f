/*
 * Virtio block device (virtio 1.2, 5.2): a disk of src/block for a driver.
 *
 * Its worker takes requests from the queues and submits them; the disk's thread ends them. The
 * order of two requests is the driver's business, as the specification has it.
 */
#pragma once

#include "block/block.h"
#include "device/disk_full.h"
#include "device/virtio/virtio_pci.h"

#define VIRTIO_BLK_SERIAL 20 /* bytes, 5.2.6 */

struct virtio_blk_config {
	struct block *block; /* outlives the device, and stays the caller's */
	const char *serial;  /* at most VIRTIO_BLK_SERIAL bytes; NULL: empty */
	unsigned queues;
	struct disk_full full;
};

/* Plugs one in; the host bridge owns it. 0 or -errno. */
int virtio_blk_add(struct pci_host *host, struct bus *bus, struct mem *mem,
                   const struct virtio_blk_config *config);

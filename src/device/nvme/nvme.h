/*
 * An NVM Express controller (NVMe base specification 1.4) with one namespace, a disk of src/block.
 */
#pragma once

#include "block/block.h"
#include "device/disk_full.h"
#include "device/pci_host.h"
#include "mem/mem.h"

#define NVME_SERIAL     20 /* bytes */
#define NVME_MAX_QUEUES 16 /* for I/O */

struct nvme_config {
	struct block *block; /* outlives the device, and stays the caller's */
	const char *serial;  /* at most NVME_SERIAL bytes; NULL: made up */
	unsigned queues;     /* for I/O, 1..NVME_MAX_QUEUES */
	struct disk_full full;
};

/* Plugs one in; the host bridge owns it. 0 or -errno. */
int nvme_add(struct pci_host *host, struct bus *bus, struct mem *mem,
             const struct nvme_config *config);

/*
 * Virtio over PCI (virtio 1.2, 4.1): the card around a virtio device. Modern only: there is no
 * legacy interface.
 */
#pragma once

#include "device/pci_host.h"
#include "device/virtio/virtio.h"

struct virtio_pci {
	struct pci_function f;
	struct virtio v;
	struct pci_bar bar;
	uint8_t access_cap; /* where the capability for access through configuration space is */
	uint64_t bells_at;  /* address of the first doorbell that the host's kernel answers */
	uint64_t bells;     /* queues whose doorbells it does */
	void (*free)(void *dev);
};

#define VIRTIO_PCI_NOTIFY      0x3000 /* in the BAR */
#define VIRTIO_PCI_NOTIFY_STEP 4      /* bytes between two queues' doorbells */

/* virtio_pci_bells.c, with bus.lock held: the device has started or was reset, or the BAR may be
 * elsewhere now. */
void virtio_pci_update_bells(struct virtio_pci *card);

/* Makes the card, embedded in the device, and plugs it into the first empty slot. On success the
 * host bridge owns the device: pci_host_free() stops it and calls ops->free(). 0 or -errno; then
 * the caller frees it. */
int virtio_pci_init(struct virtio_pci *card, struct pci_host *host,
                    const struct virtio_config *config);

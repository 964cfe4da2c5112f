/*
 * Virtio entropy device (virtio 1.2, 5.4): random bytes of the host's kernel.
 */
#pragma once

#include "device/virtio/virtio_pci.h"

/* Plugs one in; the host bridge owns it. 0 or -errno. */
int virtio_rng_add(struct pci_host *host, struct bus *bus, struct mem *mem);

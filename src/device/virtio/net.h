/*
 * Virtio network card (virtio 1.2, 5.1) before a backend of net/net.h.
 */
#pragma once

#include "device/virtio/virtio_pci.h"
#include "net/net.h"

/* Plugs one in; the host bridge owns it, and it owns the backend, which is closed if it fails. 0 or
 * -errno. Without a MAC in card it gets a random one. */
int virtio_net_add(struct pci_host *host, struct bus *bus, struct mem *mem, struct net *net,
                   const struct net_card *card);

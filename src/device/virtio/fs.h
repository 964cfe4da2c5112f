/*
 * Virtio file system device (virtio 1.2, 5.11): a host directory, by the FUSE protocol.
 */
#pragma once

#include "device/virtio/virtio_pci.h"
#include "share/share.h"

#define VIRTIO_FS_TAG 36 /* bytes that the name of a share may have */

/* Plugs one in; the host bridge owns it, and it owns the share, which is closed if it fails. tag:
 * what the guest mounts it by. 0 or -errno. */
int virtio_fs_add(struct pci_host *host, struct bus *bus, struct mem *mem, struct share *share,
                  const char *tag);

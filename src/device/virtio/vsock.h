/*
 * Virtio socket device (virtio 1.2, 5.10): streams between programs in the guest and on the host.
 */
#pragma once

#include "device/virtio/virtio_pci.h"

#define VSOCK_MIN_CID 3
#define VSOCK_MAX_CID 0xfffffffeu

struct vsock_options {
	const char *path; /* of the host's socket; see vsock_mux.h */
	uint32_t cid;     /* the guest's address */
};

/* Plugs one in; the host bridge owns it. 0, or -errno with a line in err. */
int virtio_vsock_add(struct pci_host *host, struct bus *bus, struct mem *mem,
                     const struct vsock_options *options, char *err, size_t errlen);

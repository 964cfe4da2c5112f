/*
 * Virtio console device (virtio 1.2, 5.3): ports that carry bytes both ways. Port 0 is a console,
 * the others have names for programs in the guest.
 */
#pragma once

#include "device/virtio/virtio_pci.h"

#define VIRTIO_CONSOLE_PORTS 8

struct virtio_console;

/* The host's end of a port; called on the device's thread with no lock held. */
struct virtio_port_backend {
	/* Takes up to n bytes and returns how many; after less than n, call
	 * virtio_console_resume(). */
	size_t (*output)(void *opaque, const uint8_t *buf, size_t n);
	/* virtio_console_input() will take bytes again. */
	void (*input_room)(void *opaque);
	void *opaque;
};

struct virtio_port_config {
	const char *name; /* lives as long as the device; NULL for port 0 */
	struct virtio_port_backend backend;
};

/* Plugs one in; the host bridge owns it. 0 or -errno. */
int virtio_console_add(struct virtio_console **out, struct pci_host *host, struct bus *bus,
                       struct mem *mem, const struct virtio_port_config *ports, unsigned nr);

/* From any thread, with no lock held that the backend's functions take. */
/* Bytes for the guest; how many were taken. After less than n, input_room() follows. */
size_t virtio_console_input(struct virtio_console *c, unsigned port, const uint8_t *buf, size_t n);
/* A port's output() can take bytes again. */
void virtio_console_resume(struct virtio_console *c);

/*
 * What is plugged into the PCI bus.
 */
#include <stdio.h>
#include <string.h>

#include "device/virtio/rng.h"
#include "monitor/vm_private.h"

static int fail(int rc, const char *what, char *err, size_t errlen)
{
	if (rc)
		snprintf(err, errlen, "%s: %s", what, strerror(-rc));
	return rc;
}

int plug_devices(struct vm *vm, char *err, size_t errlen)
{
	struct board *b = vm->board;
	int rc = 0;

	if (vm->config.rng)
		rc = fail(virtio_rng_add(&b->pci, &b->bus, vm->mem), "virtio-rng", err, errlen);
	if (rc)
		return rc;
	return fail(board_plugged(b), "PCI addresses", err, errlen);
}

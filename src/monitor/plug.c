/*
 * What is plugged into the PCI bus.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/virtio/net.h"
#include "device/virtio/rng.h"
#include "monitor/vm_private.h"

static int fail(int rc, const char *what, char *err, size_t errlen)
{
	if (rc)
		snprintf(err, errlen, "%s: %s", what, strerror(-rc));
	return rc;
}

static int plug_net(struct vm *vm, const char *what, char *err, size_t errlen)
{
	struct board *b = vm->board;
	char *text = strdup(what);
	struct net_card card;
	struct net *net;
	int rc = text ? net_card_parse(text, &card, err, errlen) : -ENOMEM;

	if (!rc)
		rc = net_open(&net, text, err, errlen);
	free(text);
	if (rc)
		return *err ? rc : fail(rc, "--net", err, errlen);
	return fail(virtio_net_add(&b->pci, &b->bus, vm->mem, net, &card), "virtio-net", err,
	            errlen);
}

int plug_devices(struct vm *vm, char *err, size_t errlen)
{
	struct board *b = vm->board;
	int rc = 0;

	if (vm->config.rng)
		rc = fail(virtio_rng_add(&b->pci, &b->bus, vm->mem), "virtio-rng", err, errlen);
	for (unsigned i = 0; !rc && i < vm->config.nr_nets; i++)
		rc = plug_net(vm, vm->config.net[i], err, errlen);
	if (rc)
		return rc;
	return fail(board_plugged(b), "PCI addresses", err, errlen);
}

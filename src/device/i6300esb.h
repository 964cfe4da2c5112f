/*
 * The watchdog of Intel's 6300ESB I/O controller hub (datasheet 300641, chapter 19): two stages of
 * time, which software has to begin anew before they are over. The first may interrupt (ours does
 * not), the second pulls the chip's output.
 *
 * Lock: bus.lock, for every function but add.
 */
#pragma once

#include "base/loop.h"
#include "device/pci_host.h"

struct i6300esb_config {
	struct loop *loop;
	/* The time is over; bus.lock is held. */
	void (*expired)(void *opaque);
	void *opaque;
};

/* Plugs one in; the host bridge owns it. 0 or -errno. */
int i6300esb_add(struct pci_host *host, const struct i6300esb_config *config);

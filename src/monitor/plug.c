/*
 * What is plugged into the PCI bus, and what stands behind it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "device/i6300esb.h"
#include "device/nvme/nvme.h"
#include "device/virtio/blk.h"
#include "device/virtio/rng.h"
#include "monitor/vm_private.h"

_Static_assert(VM_SERIAL_BYTES <= VIRTIO_BLK_SERIAL && VM_SERIAL_BYTES <= NVME_SERIAL,
               "a serial number fits");
_Static_assert(VM_MAX_VCPUS <= NVME_MAX_QUEUES, "a queue for each");

int plug_fail(int rc, const char *what, char *err, size_t errlen)
{
	if (rc == -ENOSPC)
		snprintf(err, errlen, "%s: no slot is free on the PCI bus of %d", what, PCI_SLOTS);
	else if (rc)
		snprintf(err, errlen, "%s: %s", what, strerror(-rc));
	return rc;
}

static void pause_for_room(void *opaque, const char *disk)
{
	struct vm *vm = opaque;

	vcpu_group_stop(&vm->group, VM_PAUSED, 0, "%s: no space left on the host", disk);
}

static struct disk_full when_full(struct vm *vm, const struct vm_disk *disk)
{
	return (struct disk_full){ .pause = disk->pause_when_full ? pause_for_room : NULL,
		                   .opaque = vm,
		                   .disk = disk->path };
}

static int add_virtio(struct vm *vm, struct block *block, const struct vm_disk *disk)
{
	struct virtio_blk_config config = { .block = block,
		                            .serial = disk->serial,
		                            .queues = vm->config.vcpus,
		                            .full = when_full(vm, disk) };

	return virtio_blk_add(&vm->board->pci, &vm->board->bus, vm->mem, &config);
}

static int add_nvme(struct vm *vm, struct block *block, const struct vm_disk *disk)
{
	struct nvme_config config = { .block = block,
		                      .serial = disk->serial,
		                      .queues = vm->config.vcpus,
		                      .full = when_full(vm, disk) };

	return nvme_add(&vm->board->pci, &vm->board->bus, vm->mem, &config);
}

static int (*const add_disk[])(struct vm *vm, struct block *block, const struct vm_disk *disk) = {
	[VM_DISK_VIRTIO] = add_virtio,
	[VM_DISK_NVME] = add_nvme,
};

static int plug_disk(struct vm *vm, unsigned n, char *err, size_t errlen)
{
	const struct vm_disk *disk = &vm->config.disk[n];
	int rc = block_open(&vm->block[n], disk->path, &disk->options, err, errlen);

	if (rc)
		return rc;
	return plug_fail(add_disk[disk->bus](vm, vm->block[n], disk), disk->path, err, errlen);
}

_Static_assert(VM_MAX_PORTS <= VIRTIO_CONSOLE_PORTS, "the console has so many");

static int plug_console(struct vm *vm, char *err, size_t errlen)
{
	struct virtio_port_config ports[VM_MAX_PORTS];
	struct board *b = vm->board;
	int rc;

	if (!vm->config.nr_ports)
		return 0;
	for (unsigned i = 0; i < vm->config.nr_ports; i++) {
		const struct vm_port *port = &vm->config.port[i];
		const struct vm_console *c = &port->console;

		ports[i] = (struct virtio_port_config){
			.name = port->name, .backend = { c->output, c->input_room, c->opaque }
		};
	}
	rc = virtio_console_add(&vm->console, &b->pci, &b->bus, vm->mem, ports,
	                        vm->config.nr_ports);
	return plug_fail(rc, "virtio-console", err, errlen);
}

static int plug_balloon(struct vm *vm, char *err, size_t errlen)
{
	struct board *b = vm->board;
	int rc;

	if (!vm->config.balloon)
		return 0;
	rc = virtio_balloon_add(&vm->balloon, &b->pci, &b->bus, vm->mem, vm->loop);
	if (!rc)
		virtio_balloon_set_target(vm->balloon, vm->config.memory - vm->config.balloon_keep);
	return plug_fail(rc, "virtio-balloon", err, errlen);
}

static void watchdog_expired(void *opaque)
{
	static const enum vm_outcome outcome[] = { [VM_WATCHDOG_RESET] = VM_REBOOTED,
		                                   [VM_WATCHDOG_POWEROFF] = VM_POWEROFF,
		                                   [VM_WATCHDOG_PAUSE] = VM_PAUSED };
	struct vm *vm = opaque;

	log_warn("the watchdog's time is over");
	vcpu_group_stop(&vm->group, outcome[vm->config.watchdog], 0, "the watchdog's time is over");
}

static int plug_watchdog(struct vm *vm, char *err, size_t errlen)
{
	struct i6300esb_config config = { .loop = vm->loop,
		                          .expired = watchdog_expired,
		                          .opaque = vm };

	if (vm->config.watchdog == VM_WATCHDOG_NONE)
		return 0;
	return plug_fail(i6300esb_add(&vm->board->pci, &config), "watchdog", err, errlen);
}

int plug_devices(struct vm *vm, char *err, size_t errlen)
{
	struct board *b = vm->board;
	int rc = 0;

	for (unsigned i = 0; i < vm->config.nr_disks && !rc; i++)
		rc = plug_disk(vm, i, err, errlen);
	if (!rc && vm->config.rng)
		rc = plug_fail(virtio_rng_add(&b->pci, &b->bus, vm->mem), "virtio-rng", err,
		               errlen);
	if (!rc)
		rc = plug_console(vm, err, errlen);
	if (!rc)
		rc = plug_balloon(vm, err, errlen);
	if (!rc)
		rc = plug_watchdog(vm, err, errlen);
	if (!rc)
		rc = plug_connections(vm, err, errlen);
	if (rc)
		return rc;
	return plug_fail(board_plugged(b), "PCI addresses", err, errlen);
}

void unplug_backends(struct vm *vm)
{
	for (unsigned i = 0; i < vm->config.nr_disks; i++) {
		int rc = block_close(vm->block[i]);

		vm->block[i] = NULL;
		if (rc)
			log_error("%s: the last data cannot be written: %s",
			          vm->config.disk[i].path, strerror(-rc));
	}
}

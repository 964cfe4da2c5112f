/*
 * PCI configuration mechanism #1 (PCI Local Bus Specification 3.0, 3.2.2.3.2): an address port at
 * 0xcf8, a data port at 0xcfc, and one bus of functions, of which 00:00.0 is the host bridge
 * itself. The same space again in memory, as PCI Express has it (Base Specification 3.0, 7.2.2):
 * 4 KiB a function, of which ours implement the first 256 bytes.
 */
#pragma once

#include "bus/bus.h"

#define PCI_HOST_ADDRESS_PORT 0xcf8
#define PCI_HOST_ADDRESS_LEN  4
#define PCI_HOST_DATA_PORT    0xcfc
#define PCI_HOST_DATA_LEN     4
#define PCI_HOST_CONFIG_LEN   (PCI_FUNCTIONS * 0x1000ull)

#define PCI_CONFIG_BYTES   256
#define PCI_FUNCTIONS      256 /* of one bus: 32 devices of 8 functions */
#define PCI_DEVFN(dev, fn) ((uint8_t)((dev) << 3 | (fn)))

/* The configuration space of one function, owned by its device. */
struct pci_function {
	uint8_t config[PCI_CONFIG_BYTES];
	uint8_t writable[PCI_CONFIG_BYTES]; /* bits that software can change */
};

struct pci_host {
	uint32_t address;
	/* The byte at 0xcf9 is not ours but the reset register's: only whole dwords reach
	 * CONFIG_ADDRESS. */
	const struct bus_ops *reset_ops;
	void *reset_dev;
	struct pci_function bridge;
	struct pci_function *function[PCI_FUNCTIONS]; /* by devfn, NULL where the slot is empty */
};

extern const struct bus_ops pci_host_address_ops;
extern const struct bus_ops pci_host_data_ops;
extern const struct bus_ops pci_host_config_ops;

/* reset_ops (NULL for none) serves byte accesses to 0xcf9, at offset 0 of reset_dev. */
void pci_host_init(struct pci_host *h, const struct bus_ops *reset_ops, void *reset_dev);
void pci_host_reset(struct pci_host *h);
/* -EEXIST when the slot is taken. The function must outlive the host. */
int pci_host_add(struct pci_host *h, uint8_t devfn, struct pci_function *f);

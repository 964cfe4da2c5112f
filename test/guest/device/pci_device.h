/*
 * A driver's access to one function on the PCI bus: configuration by ports, BARs as firmware left
 * them below 4 GiB, MSI-X with messages to CPU 0.
 */
#pragma once

#include "device.h"

#define PCI_COMMAND 0x04
#define PCI_BAR0    0x10
#define PCI_CAPS    0x34

#define PCI_COMMAND_MEMORY 2u
#define PCI_COMMAND_MASTER 4u

struct pci_device {
	unsigned slot, msix;      /* where the capability is */
	uintptr_t table, pending; /* of MSI-X */
};

uint32_t config_read(unsigned slot, unsigned reg); /* the dword that reg is in */
uint8_t config_byte(unsigned slot, unsigned reg);
void config_write(unsigned slot, unsigned reg, uint32_t v);
uintptr_t bar_address(unsigned slot, unsigned bar);

/* The first function whose dword at reg is id under the mask, with memory and bus master on. False:
 * there is none, or it has no MSI-X. */
bool pci_find(struct pci_device *d, unsigned reg, uint32_t mask, uint32_t id);
/* The BARs have moved. */
void pci_find_again(struct pci_device *d);

void msix_enable(struct pci_device *d);
void msix_set_vector(struct pci_device *d, unsigned entry, unsigned vector);
void msix_mask(struct pci_device *d, unsigned entry, bool mask);
void msix_mask_all(struct pci_device *d, bool mask);
bool msix_is_pending(const struct pci_device *d, unsigned entry);

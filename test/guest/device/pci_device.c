#include "pci_device.h"

#define PORT_CONFIG_ADDRESS 0xcf8
#define PORT_CONFIG_DATA    0xcfc

#define CAP_MSIX      0x11
#define MSIX_ENABLE   0x80000000u /* in the dword that begins with the capability's id */
#define MSIX_MASK_ALL 0x40000000u

uint32_t config_read(unsigned slot, unsigned reg)
{
	out32(PORT_CONFIG_ADDRESS, 0x80000000u | slot << 11 | (reg & 0xfc));
	return in32(PORT_CONFIG_DATA);
}

void config_write(unsigned slot, unsigned reg, uint32_t v)
{
	out32(PORT_CONFIG_ADDRESS, 0x80000000u | slot << 11 | (reg & 0xfc));
	out32(PORT_CONFIG_DATA, v);
}

uint8_t config_byte(unsigned slot, unsigned reg)
{
	return (uint8_t)(config_read(slot, reg) >> (8 * (reg & 3)));
}

uintptr_t bar_address(unsigned slot, unsigned bar)
{
	return config_read(slot, PCI_BAR0 + 4 * bar) & ~0xfu; /* all are below 4 GiB */
}

static uintptr_t msix_place(const struct pci_device *d, unsigned reg)
{
	uint32_t place = config_read(d->slot, d->msix + reg);

	return bar_address(d->slot, place & 7) + (place & ~7u);
}

void pci_find_again(struct pci_device *d)
{
	d->msix = 0;
	for (unsigned at = config_byte(d->slot, PCI_CAPS); at; at = config_byte(d->slot, at + 1))
		if (config_byte(d->slot, at) == CAP_MSIX)
			d->msix = at;
	d->table = msix_place(d, 4);
	d->pending = msix_place(d, 8);
}

bool pci_find(struct pci_device *d, unsigned reg, uint32_t mask, uint32_t id)
{
	d->slot = 1;
	while (d->slot < 32 && (config_read(d->slot, reg) & mask) != id)
		d->slot++;
	if (d->slot == 32)
		return false;
	config_write(d->slot, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	pci_find_again(d);
	return d->msix;
}

/* MSI-X. */

#define ENTRY(d, n) ((d)->table + 16 * (n))

void msix_enable(struct pci_device *d)
{
	config_write(d->slot, d->msix, MSIX_ENABLE);
}

void msix_set_vector(struct pci_device *d, unsigned entry, unsigned vector)
{
	store32(ENTRY(d, entry) + 12, 1);
	store32(ENTRY(d, entry), 0xfee00000);
	store32(ENTRY(d, entry) + 4, 0);
	store32(ENTRY(d, entry) + 8, vector);
	store32(ENTRY(d, entry) + 12, 0);
}

void msix_mask(struct pci_device *d, unsigned entry, bool mask)
{
	store32(ENTRY(d, entry) + 12, mask);
	load32(ENTRY(d, entry) + 12);
}

void msix_mask_all(struct pci_device *d, bool mask)
{
	config_write(d->slot, d->msix, MSIX_ENABLE | (mask ? MSIX_MASK_ALL : 0));
}

bool msix_is_pending(const struct pci_device *d, unsigned entry)
{
	return load32(d->pending) >> entry & 1;
}

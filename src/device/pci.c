#include "device/pci.h"

#include <assert.h>
#include <string.h>

#include "device/pci_host.h"

#define CAPS_START   0x40
#define BAR_64       0x4 /* memory, anywhere in 64 bits */
#define BAR_FLAGS    0xfu
#define BAR_REG(n)   (PCI_BAR0 + 4 * (n))
#define COMMAND_BITS 0x0546 /* memory, master, parity, SERR#, INTx disable */

void pci_init(struct pci_function *f, const struct pci_identity *id, const struct pci_ops *ops,
              void *dev)
{
	*f = (struct pci_function){ .ops = ops, .dev = dev, .caps_end = CAPS_START };
	pci_put16(&f->initial[PCI_VENDOR], id->vendor);
	pci_put16(&f->initial[PCI_DEVICE], id->device);
	f->initial[PCI_REVISION] = id->revision;
	f->initial[PCI_INTERFACE] = id->interface;
	pci_put16(&f->initial[PCI_CLASS], id->class);
	pci_put16(&f->initial[PCI_SUBVENDOR], id->subvendor);
	pci_put16(&f->initial[PCI_SUBDEVICE], id->subdevice);
	pci_put16(&f->writable[PCI_COMMAND], COMMAND_BITS);
	memcpy(f->config, f->initial, sizeof(f->config));
}

void pci_add_bar(struct pci_function *f, unsigned n, const struct pci_bar *bar)
{
	uint64_t mask = ~(bar->len - 1);

	assert(n + bar->is64 < PCI_BARS && bar->len >= 16 && !(bar->len & (bar->len - 1)));
	f->bar[n] = *bar;
	pci_put32(&f->writable[BAR_REG(n)], (uint32_t)mask);
	if (bar->is64) {
		f->initial[BAR_REG(n)] = BAR_64;
		pci_put32(&f->writable[BAR_REG(n + 1)], (uint32_t)(mask >> 32));
	}
	f->config[BAR_REG(n)] = f->initial[BAR_REG(n)];
}

/* A byte that is what it is from the start. */
static void set_byte(struct pci_function *f, unsigned reg, uint8_t value)
{
	f->initial[reg] = f->config[reg] = value;
}

unsigned pci_add_capability(struct pci_function *f, uint8_t id, unsigned len)
{
	unsigned at = f->caps_end;

	assert(at + len <= PCI_CONFIG_BYTES);
	set_byte(f, f->last_cap ? f->last_cap + 1u : PCI_CAPS, (uint8_t)at);
	set_byte(f, at, id);
	set_byte(f, PCI_STATUS, f->initial[PCI_STATUS] | PCI_STATUS_CAPS);
	f->last_cap = (uint8_t)at;
	f->caps_end = (uint8_t)((at + len + 3) & ~3u);
	return at;
}

void pci_add_intx(struct pci_function *f)
{
	set_byte(f, PCI_INT_PIN, 1);
	f->writable[PCI_INT_LINE] = 0xff;
}

void pci_add_msix(struct pci_function *f, unsigned vectors, unsigned bar, uint32_t table,
                  uint32_t pba)
{
	unsigned at = pci_add_capability(f, PCI_CAP_MSIX, PCI_CAP_MSIX_LEN);

	assert(!(table & 7) && !(pba & 7));
	pci_put32(&f->initial[at + PCI_MSIX_TABLE], table | bar);
	pci_put32(&f->initial[at + PCI_MSIX_PBA], pba | bar);
	pci_msix_init(f, at, vectors);
	memcpy(&f->config[at], &f->initial[at], PCI_CAP_MSIX_LEN);
}

/* Interrupts. */

/* The pin follows what the device wants, unless it is disabled or replaced by messages. */
static void update_pin(struct pci_function *f)
{
	bool disabled = pci_get16(&f->config[PCI_COMMAND]) & PCI_COMMAND_NOINTX;
	bool pin = f->intx && !disabled && !pci_msix_enabled(f);

	f->config[PCI_STATUS] = (uint8_t)((f->config[PCI_STATUS] & ~PCI_STATUS_INTX) |
	                                  (f->intx ? PCI_STATUS_INTX : 0));
	if (pin == f->pin)
		return;
	f->pin = pin;
	pci_host_set_intx(f->host, f->devfn, pin);
}

void pci_set_intx(struct pci_function *f, bool level)
{
	f->intx = level;
	if (f->host)
		update_pin(f);
}

/* Configuration space. */

uint64_t pci_read_config(struct pci_function *f, unsigned reg, unsigned size)
{
	uint64_t value = 0;

	assert(reg + size <= PCI_CONFIG_BYTES);
	if (f->ops && f->ops->config_read)
		f->ops->config_read(f->dev, reg, size);
	memcpy(&value, &f->config[reg], size);
	return value;
}

static bool covers(unsigned reg, unsigned size, unsigned at, unsigned len)
{
	return reg < at + len && at < reg + size;
}

void pci_write_config(struct pci_function *f, unsigned reg, unsigned size, uint64_t value)
{
	assert(reg + size <= PCI_CONFIG_BYTES);
	for (unsigned i = reg; i < reg + size; i++, value >>= 8)
		f->config[i] =
		        (uint8_t)((f->config[i] & ~f->writable[i]) | (value & f->writable[i]));
	if (covers(reg, size, PCI_COMMAND, 2) || covers(reg, size, PCI_BAR0, 4 * PCI_BARS))
		pci_host_bars_changed(f->host);
	update_pin(f);
	pci_msix_update(f);
	if (f->ops && f->ops->config_written)
		f->ops->config_written(f->dev, reg, size);
}

bool pci_bar_address(const struct pci_function *f, unsigned n, uint64_t *base)
{
	if (!f->bar[n].len || !(f->config[PCI_COMMAND] & PCI_COMMAND_MEMORY))
		return false;
	*base = pci_get32(&f->config[BAR_REG(n)]) & ~BAR_FLAGS;
	if (f->bar[n].is64)
		*base |= (uint64_t)pci_get32(&f->config[BAR_REG(n + 1)]) << 32;
	return true;
}

void pci_set_bar(struct pci_function *f, unsigned n, uint64_t base)
{
	assert(!(base & (f->bar[n].len - 1)));
	pci_put32(&f->config[BAR_REG(n)], (uint32_t)base | f->initial[BAR_REG(n)]);
	if (f->bar[n].is64)
		pci_put32(&f->config[BAR_REG(n + 1)], (uint32_t)(base >> 32));
}

void pci_reset(struct pci_function *f)
{
	memcpy(f->config, f->initial, sizeof(f->config));
	pci_msix_reset(f);
	f->intx = false;
	update_pin(f);
	if (f->ops && f->ops->reset)
		f->ops->reset(f->dev);
}

#include "device/pci.h"

#include <assert.h>
#include <string.h>

#include "device/pci_host.h"

#define CAPS_START   0x40
#define BAR_64       0x4 /* memory, anywhere in 64 bits */
#define BAR_FLAGS    0xfu
#define BAR_REG(n)   (PCI_BAR0 + 4 * (n))
#define COMMAND_BITS 0x0546 /* memory, master, parity, SERR#, INTx disable */

/* MSI-X, 6.8.2 */
#define CAP_MSIX      0x11
#define CAP_MSIX_LEN  12
#define MSIX_CONTROL  2
#define MSIX_TABLE    4
#define MSIX_PBA      8
#define MSIX_ENABLE   0x8000
#define MSIX_MASK_ALL 0x4000
#define ENTRY_MASKED  1u

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
	unsigned at = pci_add_capability(f, CAP_MSIX, CAP_MSIX_LEN);

	assert(vectors >= 1 && vectors <= PCI_MAX_VECTORS && !(table & 7) && !(pba & 7));
	pci_put16(&f->initial[at + MSIX_CONTROL], vectors - 1);
	pci_put32(&f->initial[at + MSIX_TABLE], table | bar);
	pci_put32(&f->initial[at + MSIX_PBA], pba | bar);
	pci_put16(&f->writable[at + MSIX_CONTROL], MSIX_ENABLE | MSIX_MASK_ALL);
	memcpy(&f->config[at], &f->initial[at], CAP_MSIX_LEN);
	f->msix_cap = (uint8_t)at;
	f->nr_vectors = vectors;
	for (unsigned i = 0; i < vectors; i++)
		f->msix.entry[i].control = ENTRY_MASKED;
}

/* Interrupts. */

static unsigned msix_control(const struct pci_function *f)
{
	return f->msix_cap ? pci_get16(&f->config[f->msix_cap + MSIX_CONTROL]) : 0;
}

bool pci_msix_enabled(const struct pci_function *f)
{
	return msix_control(f) & MSIX_ENABLE;
}

/* A message is a write on the bus, which only a bus master makes. */
static bool may_send(const struct pci_function *f)
{
	return (msix_control(f) & (MSIX_ENABLE | MSIX_MASK_ALL)) == MSIX_ENABLE &&
	       f->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

static void send_pending(struct pci_function *f)
{
	if (!f->msix.pending || !may_send(f))
		return;
	for (unsigned i = 0; i < f->nr_vectors; i++) {
		const struct pci_msix_entry *e = &f->msix.entry[i];

		if (!(f->msix.pending & BIT(i)) || e->control & ENTRY_MASKED)
			continue;
		f->msix.pending &= ~BIT(i);
		pci_host_send_msi(f->host, e->addr, e->data);
	}
}

void pci_raise_msix(struct pci_function *f, unsigned vector)
{
	if (vector >= f->nr_vectors || !f->host || !pci_msix_enabled(f))
		return;
	f->msix.pending |= BIT(vector);
	send_pending(f);
}

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

/* An entry as the guest sees it: address, data, control, little-endian like the host. */
_Static_assert(sizeof(struct pci_msix_entry) == PCI_MSIX_ENTRY_BYTES, "6.8.2.6");

static bool entry_at(const struct pci_function *f, uint64_t off, unsigned size, unsigned *n)
{
	*n = (unsigned)(off / PCI_MSIX_ENTRY_BYTES);
	return off / PCI_MSIX_ENTRY_BYTES < f->nr_vectors &&
	       off % PCI_MSIX_ENTRY_BYTES + size <= PCI_MSIX_ENTRY_BYTES;
}

uint64_t pci_msix_read(const struct pci_function *f, uint64_t off, unsigned size)
{
	uint64_t value = 0;
	unsigned n;

	if (entry_at(f, off, size, &n))
		memcpy(&value, (const uint8_t *)&f->msix.entry[n] + off % PCI_MSIX_ENTRY_BYTES,
		       size);
	return value;
}

/* Only whole double words are defined. */
void pci_msix_write(struct pci_function *f, uint64_t off, unsigned size, uint64_t value)
{
	unsigned n;

	if (size < 4 || off % 4 || !entry_at(f, off, size, &n))
		return;
	memcpy((uint8_t *)&f->msix.entry[n] + off % PCI_MSIX_ENTRY_BYTES, &value, size);
	f->msix.entry[n].addr &= ~3ull;
	f->msix.entry[n].control &= ENTRY_MASKED;
	send_pending(f);
}

uint64_t pci_msix_read_pending(const struct pci_function *f, uint64_t off, unsigned size)
{
	return off < PCI_MSIX_PBA_BYTES ? f->msix.pending >> (8 * off) : 0;
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
	send_pending(f);
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
	f->msix = (struct pci_msix_state){ 0 };
	for (unsigned i = 0; i < f->nr_vectors; i++)
		f->msix.entry[i].control = ENTRY_MASKED;
	f->intx = false;
	update_pin(f);
	if (f->ops && f->ops->reset)
		f->ops->reset(f->dev);
}

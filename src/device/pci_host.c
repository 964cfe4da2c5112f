#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/pci_host.h"

#define ADDRESS_ENABLE   BIT(31)
#define ADDRESS_MASK     0x80fffffcu /* bits 30:24 and 1:0 are reserved and read zero */
#define ADDRESS_BUS(a)   (((a) >> 16) & 0xff)
#define ADDRESS_DEVFN(a) (((a) >> 8) & 0xff)
#define ADDRESS_REG(a)   ((a)&0xfc)
#define RESET_OFFSET     1 /* of 0xcf9 */

/* Offset in the memory window. */
#define MEMORY_DEVFN(off) ((uint8_t)((off) >> 12))
#define MEMORY_REG(off)   ((unsigned)((off)&0xfff))

/* The identity of QEMU's generic host bridge, for which no system has workarounds. */
static const struct pci_identity bridge_identity = {
	.vendor = 0x1b36,
	.device = 0x0008,
	.class = 0x0600,
	.subvendor = 0x1af4,
	.subdevice = 0x1100,
};

static bool is_reset_access(const struct pci_host *h, uint64_t off, unsigned size)
{
	return h->reset_ops && off == RESET_OFFSET && size == 1;
}

static uint64_t read_address(void *dev, uint64_t off, unsigned size)
{
	const struct pci_host *h = dev;

	if (is_reset_access(h, off, size))
		return h->reset_ops->read(h->reset_dev, 0, 1);
	return size == 4 ? h->address : UINT64_MAX;
}

static void write_address(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_host *h = dev;

	if (is_reset_access(h, off, size))
		h->reset_ops->write(h->reset_dev, 0, 1, value);
	else if (size == 4)
		h->address = (uint32_t)value & ADDRESS_MASK;
}

const struct bus_ops pci_host_address_ops = {
	.read = read_address,
	.write = write_address,
	.max_size = 4,
};

/* The function that CONFIG_ADDRESS selects; NULL where nothing would answer on the bus. */
static struct pci_function *find_function(const struct pci_host *h)
{
	if (!(h->address & ADDRESS_ENABLE) || ADDRESS_BUS(h->address) != 0)
		return NULL;
	return h->function[ADDRESS_DEVFN(h->address)];
}

static uint64_t read_config(struct pci_function *f, unsigned reg, unsigned size)
{
	return f ? pci_read_config(f, reg, size) : UINT64_MAX; /* master abort */
}

static void write_config(struct pci_function *f, unsigned reg, unsigned size, uint64_t value)
{
	if (f)
		pci_write_config(f, reg, size, value);
}

static uint64_t read_data(void *dev, uint64_t off, unsigned size)
{
	const struct pci_host *h = dev;

	return read_config(find_function(h), ADDRESS_REG(h->address) + (unsigned)off, size);
}

static void write_data(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_host *h = dev;

	write_config(find_function(h), ADDRESS_REG(h->address) + (unsigned)off, size, value);
}

const struct bus_ops pci_host_data_ops = {
	.read = read_data,
	.write = write_data,
	.max_size = 4,
};

/* The function at an offset in the memory window; NULL beyond the registers that it has. */
static struct pci_function *function_at(struct pci_host *h, uint64_t off, unsigned size)
{
	if (MEMORY_REG(off) + size > PCI_CONFIG_BYTES)
		return NULL;
	return h->function[MEMORY_DEVFN(off)];
}

static uint64_t read_memory(void *dev, uint64_t off, unsigned size)
{
	return read_config(function_at(dev, off, size), MEMORY_REG(off), size);
}

static void write_memory(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	write_config(function_at(dev, off, size), MEMORY_REG(off), size, value);
}

const struct bus_ops pci_host_config_ops = {
	.read = read_memory,
	.write = write_memory,
	.max_size = 4,
};

/* Memory. */

static int compare_decoded(const void *a, const void *b)
{
	const struct pci_decoded *x = a, *y = b;

	return x->base < y->base ? -1 : x->base > y->base;
}

static void decode_function(struct pci_host *h, const struct pci_function *f)
{
	for (unsigned n = 0; n < PCI_BARS; n++) {
		struct pci_decoded d = { .bar = &f->bar[n] };

		if (pci_bar_address(f, n, &d.base) && h->nr_decoded < ARRAY_SIZE(h->decoded))
			h->decoded[h->nr_decoded++] = d;
	}
}

static void decode_all(struct pci_host *h)
{
	h->nr_decoded = 0;
	for (unsigned i = 0; i < PCI_FUNCTIONS; i++)
		if (h->function[i])
			decode_function(h, h->function[i]);
	qsort(h->decoded, h->nr_decoded, sizeof(h->decoded[0]), compare_decoded);
	h->stale = false;
}

void pci_host_bars_changed(struct pci_host *h)
{
	if (!h)
		return;
	h->stale = true;
	for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
		const struct pci_function *f = h->function[i];

		if (f && f->ops && f->ops->placed)
			f->ops->placed(f->dev);
	}
}

/* The BAR that all of the access falls into. Of several at one place, which is the guest's
 * mistake, one answers. */
static const struct pci_decoded *find_bar(struct pci_host *h, uint64_t addr, unsigned size)
{
	unsigned lo = 0, hi, mid;

	if (h->stale)
		decode_all(h);
	hi = h->nr_decoded;
	while (lo < hi) { /* the first that begins after addr */
		mid = (lo + hi) / 2;
		if (h->decoded[mid].base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == 0)
		return NULL;
	addr -= h->decoded[lo - 1].base;
	if (addr >= h->decoded[lo - 1].bar->len || size > h->decoded[lo - 1].bar->len - addr)
		return NULL;
	return &h->decoded[lo - 1];
}

static bool is_in_window(const struct pci_window *w, uint64_t addr, uint64_t len)
{
	return addr >= w->base && len <= w->len && addr - w->base <= w->len - len;
}

bool pci_host_decodes(struct pci_host *h, const struct pci_bar *bar, uint64_t off, uint64_t len,
                      uint64_t *addr)
{
	if (h->stale)
		decode_all(h);
	for (unsigned i = 0; i < h->nr_decoded; i++) {
		const struct pci_decoded *d = &h->decoded[i];

		if (d->bar != bar)
			continue;
		*addr = d->base + off;
		/* No BAR begins between this one's begin and the end of the range, then. */
		return (is_in_window(&h->low, *addr, len) || is_in_window(&h->high, *addr, len)) &&
		       find_bar(h, *addr + len - 1, 1) == d;
	}
	return false;
}

static uint64_t read_window(void *dev, uint64_t off, unsigned size)
{
	const struct pci_window *w = dev;
	const struct pci_decoded *d = find_bar(w->host, w->base + off, size);

	return d ? d->bar->ops->read(d->bar->dev, w->base + off - d->base, size) : UINT64_MAX;
}

static void write_window(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	const struct pci_window *w = dev;
	const struct pci_decoded *d = find_bar(w->host, w->base + off, size);

	if (d)
		d->bar->ops->write(d->bar->dev, w->base + off - d->base, size, value);
}

const struct bus_ops pci_host_window_ops = { .read = read_window, .write = write_window };

/* Takes len bytes, aligned to their length, off the front of a window. */
static bool take_space(const struct pci_window *w, uint64_t *used, uint64_t len, uint64_t *base)
{
	uint64_t at = (w->base + *used + len - 1) & ~(len - 1);

	if (at - w->base > w->len || len > w->len - (at - w->base))
		return false;
	*base = at;
	*used = at + len - w->base;
	return true;
}

static int assign_bar(struct pci_host *h, struct pci_function *f, unsigned n, uint64_t used[2])
{
	uint64_t len = f->bar[n].len, base;

	if (!take_space(&h->low, &used[0], len, &base) &&
	    !(f->bar[n].is64 && take_space(&h->high, &used[1], len, &base)))
		return -ENOSPC;
	pci_set_bar(f, n, base);
	return 0;
}

int pci_host_assign(struct pci_host *h)
{
	uint64_t used[2] = { 0, 0 };

	for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
		struct pci_function *f = h->function[i];

		for (unsigned n = 0; f && n < PCI_BARS; n++)
			if (f->bar[n].len && assign_bar(h, f, n, used))
				return -ENOSPC;
	}
	pci_host_bars_changed(h);
	return 0;
}

/* Interrupts. */

void pci_host_send_msi(struct pci_host *h, uint64_t addr, uint32_t data)
{
	if (h->wires.msi)
		h->wires.msi(h->wires.opaque, addr, data);
}

/* Only single-function devices are plugged in, and they use INTA#. */
void pci_host_set_intx(struct pci_host *h, uint8_t devfn, bool level)
{
	unsigned slot = PCI_SLOT(devfn), line = PCI_PIN_LINE(slot, 0);

	if (level)
		h->asserted[line] |= BIT(slot);
	else
		h->asserted[line] &= ~BIT(slot);
	irq_set(&h->wires.line[line], h->asserted[line]);
}

void pci_host_lock(struct pci_host *h)
{
	bus_lock(h->bus);
}

void pci_host_unlock(struct pci_host *h)
{
	bus_unlock(h->bus);
}

/* Life. */

void pci_host_init(struct pci_host *h, struct bus *bus, const struct bus_ops *reset_ops,
                   void *reset_dev)
{
	memset(h, 0, sizeof(*h));
	h->bus = bus;
	h->reset_ops = reset_ops;
	h->reset_dev = reset_dev;
	pci_init(&h->bridge, &bridge_identity, NULL, NULL);
	pci_host_add(h, PCI_DEVFN(0, 0), &h->bridge);
}

void pci_host_connect(struct pci_host *h, const struct pci_wires *wires)
{
	h->wires = *wires;
}

void pci_host_set_windows(struct pci_host *h, uint64_t low, uint64_t low_len, uint64_t high,
                          uint64_t high_len)
{
	h->low = (struct pci_window){ h, low, low_len };
	h->high = (struct pci_window){ h, high, high_len };
}

void pci_host_reset(struct pci_host *h)
{
	h->address = 0;
	for (unsigned i = 0; i < PCI_FUNCTIONS; i++)
		if (h->function[i])
			pci_reset(h->function[i]);
	pci_host_assign(h); /* as before, when there was room */
}

int pci_host_add(struct pci_host *h, uint8_t devfn, struct pci_function *f)
{
	if (h->function[devfn])
		return -EEXIST;
	f->devfn = devfn;
	f->host = h;
	h->function[devfn] = f;
	h->stale = true;
	return 0;
}

int pci_host_find_slot(const struct pci_host *h)
{
	for (unsigned slot = 1; slot < PCI_SLOTS; slot++)
		if (!h->function[PCI_DEVFN(slot, 0)])
			return (int)slot;
	return -ENOSPC;
}

void pci_host_stop(struct pci_host *h)
{
	for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
		struct pci_function *f = h->function[i];

		if (f && f->ops && f->ops->stop)
			f->ops->stop(f->dev);
	}
}

void pci_host_resume(struct pci_host *h)
{
	for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
		struct pci_function *f = h->function[i];

		if (f && f->ops && f->ops->resume)
			f->ops->resume(f->dev);
	}
}

void pci_host_free(struct pci_host *h)
{
	pci_host_stop(h);
	for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
		struct pci_function *f = h->function[i];

		if (!f)
			continue;
		pci_host_lock(h);
		pci_msix_release(f);
		pci_host_unlock(h);
		if (f->ops && f->ops->free)
			f->ops->free(f->dev);
		h->function[i] = NULL;
	}
}

/*
 * MSI-X (PCI Local Bus Specification 3.0, 6.8.2): the table, pending bits, and two ways for a
 * message.
 *
 * The long one is a routine of the bridge, under bus.lock. The short one, where the machine has
 * irqchip_ops.route_add(), is an event descriptor for each vector that a driver uses, which is made
 * when it first unmasks it and kept until the function goes away:
 *
 *   open     MSI-X is on, neither function nor vector masked, the function may be master, and the
 *            address is one of messages: the descriptor is the kernel's, which sends the message
 * for every write. Devices write without a lock. closed   The kernel has let go of the descriptor.
 * A message becomes a pending bit. A device that had found the vector open and is late leaves its
 * write in the descriptor: that is a pending bit, too, and found there (collect()).
 *
 * A vector for which there is no descriptor or no route left goes the long way.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "device/pci_host.h"

#define MSIX_ENABLE   0x8000
#define MSIX_MASK_ALL 0x4000
#define ENTRY_MASKED  1u

void pci_msix_init(struct pci_function *f, unsigned at, unsigned vectors)
{
	assert(vectors >= 1 && vectors <= PCI_MAX_VECTORS);
	pci_put16(&f->initial[at + PCI_MSIX_CONTROL], vectors - 1);
	pci_put16(&f->writable[at + PCI_MSIX_CONTROL], MSIX_ENABLE | MSIX_MASK_ALL);
	f->msix_cap = (uint8_t)at;
	f->nr_vectors = vectors;
	for (unsigned i = 0; i < vectors; i++) {
		f->msix.entry[i].control = ENTRY_MASKED;
		f->route[i].fd = f->route[i].number = -1;
	}
}

static unsigned msix_control(const struct pci_function *f)
{
	return f->msix_cap ? pci_get16(&f->config[f->msix_cap + PCI_MSIX_CONTROL]) : 0;
}

bool pci_msix_enabled(const struct pci_function *f)
{
	return msix_control(f) & MSIX_ENABLE;
}

/* A message is a write on the bus, which only a bus master makes. */
static bool may_send(const struct pci_function *f, unsigned n)
{
	return (msix_control(f) & (MSIX_ENABLE | MSIX_MASK_ALL)) == MSIX_ENABLE &&
	       f->config[PCI_COMMAND] & PCI_COMMAND_MASTER &&
	       !(f->msix.entry[n].control & ENTRY_MASKED);
}

/* ---- the short way ---- */

static const struct irqchip *irqchip_of(const struct pci_function *f)
{
	const struct irqchip *chip = f->host ? f->host->wires.irqchip : NULL;

	return chip && chip->ops && chip->ops->route_add ? chip : NULL;
}

/* A descriptor and a route for a vector that has none yet. */
static bool get_route(const struct irqchip *chip, struct pci_msix_route *r)
{
	if (r->fd < 0)
		r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->fd >= 0 && r->number < 0)
		r->number = chip->ops->route_add(chip->opaque, r->fd);
	return r->fd >= 0 && r->number >= 0;
}

static void close_route(struct pci_function *f, unsigned n)
{
	const struct irqchip *chip = irqchip_of(f);
	struct pci_msix_route *r = &f->route[n];

	if (!r->open)
		return;
	r->open = false;
	chip->ops->route_set(chip->opaque, r->number, 0, 0, true);
}

/* The entry of an open vector may have changed as well. */
static void open_route(struct pci_function *f, unsigned n)
{
	const struct pci_msix_entry *e = &f->msix.entry[n];
	const struct irqchip *chip = irqchip_of(f);
	struct pci_msix_route *r = &f->route[n];

	if (!chip || !get_route(chip, r))
		return;
	if (!chip->ops->route_set(chip->opaque, r->number, e->addr, e->data, false))
		r->open = true;
	else
		close_route(f, n);
}

/* What late devices have left in the descriptor of a closed vector. */
static void collect(struct pci_function *f, unsigned n)
{
	uint64_t count;

	if (f->route[n].fd >= 0 && !f->route[n].open &&
	    read(f->route[n].fd, &count, sizeof(count)) == sizeof(count))
		f->msix.pending |= BIT(n);
}

bool pci_signal_msix(struct pci_function *f, unsigned vector)
{
	const uint64_t one = 1;

	if (vector >= f->nr_vectors || !f->route[vector].open)
		return false;
	if (write(f->route[vector].fd, &one, sizeof(one)) < 0 &&
	    errno != EAGAIN) /* EAGAIN: it is pending */
		return false;
	f->host->shortcuts.messages++;
	return true;
}

/* ---- both ---- */

static void send_pending(struct pci_function *f, unsigned n)
{
	const struct pci_msix_entry *e = &f->msix.entry[n];

	if (!(f->msix.pending & BIT(n)))
		return;
	f->msix.pending &= ~BIT(n);
	pci_host_send_msi(f->host, e->addr, e->data);
}

/* After registers have changed: the vector opens or closes; what was pending goes. */
static void update(struct pci_function *f, unsigned n)
{
	bool sends = may_send(f, n);

	if (!sends || !irqchip_is_message(f->msix.entry[n].addr))
		close_route(f, n);
	collect(f, n);
	if (!sends)
		return;
	send_pending(f, n);
	if (irqchip_is_message(f->msix.entry[n].addr))
		open_route(f, n);
}

void pci_msix_update(struct pci_function *f)
{
	for (unsigned n = 0; n < f->nr_vectors; n++)
		if (f->route[n].open != may_send(f, n) || f->msix.pending & BIT(n))
			update(f, n);
}

void pci_raise_msix(struct pci_function *f, unsigned vector)
{
	if (vector >= f->nr_vectors || !f->host || !pci_msix_enabled(f))
		return;
	if (pci_signal_msix(f, vector))
		return;
	f->msix.pending |= BIT(vector);
	if (may_send(f, vector))
		send_pending(f, vector);
}

void pci_msix_reset(struct pci_function *f)
{
	for (unsigned n = 0; n < f->nr_vectors; n++) {
		close_route(f, n);
		collect(f, n);
		f->msix.entry[n] = (struct pci_msix_entry){ .control = ENTRY_MASKED };
	}
	f->msix.pending = 0;
}

void pci_msix_release(struct pci_function *f)
{
	const struct irqchip *chip = irqchip_of(f);

	pci_msix_reset(f);
	for (unsigned n = 0; n < f->nr_vectors; n++) {
		struct pci_msix_route *r = &f->route[n];

		if (r->number >= 0)
			chip->ops->route_remove(chip->opaque, r->number);
		if (r->fd >= 0)
			close(r->fd);
		r->fd = r->number = -1;
	}
}

/* ---- the table ---- */

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
	update(f, n);
}

uint64_t pci_msix_read_pending(struct pci_function *f, uint64_t off, unsigned size)
{
	for (unsigned n = 0; n < f->nr_vectors; n++)
		collect(f, n);
	return off < PCI_MSIX_PBA_BYTES ? f->msix.pending >> (8 * off) : 0;
}

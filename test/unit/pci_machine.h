/*
 * A PCI bus for unit tests: the bridge with its windows, two functions whose pins share a line, and
 * a driver's first steps with a virtio card in slot 1. Messages and lines are noted.
 */
#pragma once

#include <string.h>

#include "device/pci_host.h"
#include "mem/mem.h"
#include "unit.h"

#define ECAM     0xc0000000ull
#define LOW      0xc0100000ull
#define LOW_LEN  0x1000000ull
#define HIGH     0xf800000000ull
#define HIGH_LEN (32 * GiB)
#define SLOT     2
#define VECTORS  4
#define TABLE    0x800
#define PENDING  0xc00

struct machine {
	struct bus bus;
	struct pci_host host;
	struct pci_function f[2];
	struct pci_bar bar;
	uint64_t last_write; /* offset in the BAR */
	unsigned stopped, freed;
	bool line[PCI_LINES];
	uint64_t msi_addr;
	uint32_t msi_data;
	unsigned msis;
};

static uint64_t read_bar(void *dev, uint64_t off, unsigned size)
{
	struct machine *m = dev;

	if (off >= PENDING)
		return pci_msix_read_pending(&m->f[0], off - PENDING, size);
	return off >= TABLE ? pci_msix_read(&m->f[0], off - TABLE, size) : 0xba000000 + off;
}

static void write_bar(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct machine *m = dev;

	if (off >= TABLE)
		pci_msix_write(&m->f[0], off - TABLE, size, value);
	else
		m->last_write = off;
}

static const struct bus_ops bar_ops = { .read = read_bar, .write = write_bar };

static inline void stop(void *dev)
{
	((struct machine *)dev)->stopped++;
}

static inline void release(void *dev)
{
	((struct machine *)dev)->freed++;
}

static const struct pci_ops ops = { .stop = stop, .free = release };

static inline void set_line(void *opaque, unsigned n, bool level)
{
	((struct machine *)opaque)->line[n] = level;
}

static inline void take_msi(void *opaque, uint64_t addr, uint32_t data)
{
	struct machine *m = opaque;

	m->msi_addr = addr;
	m->msi_data = data;
	m->msis++;
}

static inline void make_host(struct machine *m)
{
	struct pci_wires wires = { .msi = take_msi, .opaque = m };

	memset(m, 0, sizeof(*m));
	assert_int_equal(bus_init(&m->bus), 0);
	for (unsigned i = 0; i < PCI_LINES; i++)
		wires.line[i] = (struct irq_line){ set_line, m, i };
	pci_host_init(&m->host, &m->bus, NULL, NULL);
	pci_host_connect(&m->host, &wires);
	pci_host_set_windows(&m->host, LOW, LOW_LEN, HIGH, HIGH_LEN);
	assert_int_equal(bus_add(&m->bus, BUS_MMIO, ECAM, PCI_HOST_CONFIG_LEN, &pci_host_config_ops,
	                         &m->host, "configuration"),
	                 0);
	assert_int_equal(
	        bus_add(&m->bus, BUS_MMIO, LOW, LOW_LEN, &pci_host_window_ops, &m->host.low, "low"),
	        0);
	assert_int_equal(bus_add(&m->bus, BUS_MMIO, HIGH, HIGH_LEN, &pci_host_window_ops,
	                         &m->host.high, "high"),
	                 0);
}

static inline void plug_function(struct machine *m, struct pci_function *f, unsigned slot)
{
	struct pci_identity id = { .vendor = 0x1234, .device = 0x5678, .class = 0x0180 };

	m->bar = (struct pci_bar){ .len = 0x1000, .is64 = true, .ops = &bar_ops, .dev = m };
	pci_init(f, &id, &ops, m);
	pci_add_intx(f);
	pci_add_bar(f, 0, &m->bar);
	assert_int_equal(pci_host_add(&m->host, PCI_DEVFN(slot, 0), f), 0);
}

/* Two functions whose pins share a line. */
static inline void make_machine(struct machine *m)
{
	make_host(m);
	for (unsigned i = 0; i < 2; i++)
		plug_function(m, &m->f[i], SLOT + i * PCI_LINES);
	pci_add_msix(&m->f[0], VECTORS, 0, TABLE, PENDING);
	assert_int_equal(pci_host_assign(&m->host), 0);
}

static inline void free_machine(struct machine *m)
{
	pci_host_free(&m->host);
	bus_fini(&m->bus);
}

static inline uint64_t mmio_read(struct machine *m, uint64_t addr, unsigned size)
{
	uint64_t value = 0;

	bus_read(&m->bus, BUS_MMIO, addr, size, &value);
	return value;
}

static inline void mmio_write(struct machine *m, uint64_t addr, unsigned size, uint64_t value)
{
	bus_write(&m->bus, BUS_MMIO, addr, size, value);
}

static inline uint64_t config(unsigned slot, unsigned reg)
{
	return ECAM + (slot << 15) + reg;
}

static inline void enable(struct machine *m, unsigned slot)
{
	mmio_write(m, config(slot, PCI_COMMAND), 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

/* The list of capabilities, as a guest walks it. */
static inline unsigned find_capability(struct machine *m, unsigned slot, uint8_t id, unsigned skip)
{
	unsigned at = (unsigned)mmio_read(m, config(slot, PCI_CAPS), 1);

	assert_true(mmio_read(m, config(slot, PCI_STATUS), 2) & PCI_STATUS_CAPS);
	for (unsigned n = 0; at && n < 48; n++) {
		if (mmio_read(m, config(slot, at), 1) == id && !skip--)
			return at;
		at = (unsigned)mmio_read(m, config(slot, at + 1), 1);
	}
	return 0;
}

static inline uint64_t bar_of(struct machine *m, unsigned slot)
{
	return (mmio_read(m, config(slot, PCI_BAR0), 4) & ~0xfull) |
	       mmio_read(m, config(slot, PCI_BAR0 + 4), 4) << 32;
}

static inline void set_vector(struct machine *m, uint64_t table, unsigned n, uint32_t data)
{
	mmio_write(m, table + 16 * n, 8, 0xfee01000);
	mmio_write(m, table + 16 * n + 8, 4, data);
	mmio_write(m, table + 16 * n + 12, 4, 0);
}

/* A virtio card in slot 1. */

#define QUEUE_DESC 0x100000ull
#define DATA       0x200000ull

static inline uint64_t structure(struct machine *m, uint8_t type)
{
	for (unsigned n = 0; n < 8; n++) {
		unsigned cap = find_capability(m, 1, 0x09, n);

		if (cap && mmio_read(m, config(1, cap + 3), 1) == type)
			return bar_of(m, 1) + mmio_read(m, config(1, cap + 8), 4);
	}
	fail();
	return 0;
}

static inline void start_card(struct machine *m, uint64_t common)
{
	mmio_write(m, common + 0x14, 1, 3);
	mmio_write(m, common + 8, 4, 1);
	mmio_write(m, common + 12, 4, 1); /* VERSION_1 */
	mmio_write(m, common + 0x14, 1, 11);
	assert_int_equal(mmio_read(m, common + 0x14, 1), 11);
	mmio_write(m, common + 0x16, 2, 0);
	assert_int_equal(mmio_read(m, common + 0x18, 2), 64);
	mmio_write(m, common + 0x18, 2, 8);
	mmio_write(m, common + 0x20, 4, QUEUE_DESC);
	mmio_write(m, common + 0x24, 4, 0);
	mmio_write(m, common + 0x28, 4, QUEUE_DESC + 0x1000);
	mmio_write(m, common + 0x30, 8, QUEUE_DESC + 0x2000);
	assert_int_equal(mmio_read(m, common + 0x30, 4), QUEUE_DESC + 0x2000);
	mmio_write(m, common + 0x1a, 2, 99); /* no such vector */
	assert_int_equal(mmio_read(m, common + 0x1a, 2), 0xffff);
	mmio_write(m, common + 0x1a, 2, 1);
	mmio_write(m, common + 0x1c, 2, 1);
	assert_int_equal(mmio_read(m, common + 0x1c, 2), 1);
	mmio_write(m, common + 0x14, 1, 15);
}

static inline void offer_buffer(struct mem *mem)
{
	struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} desc = { DATA, 64, 2, 0 };
	uint16_t ring[3] = { 0, 1, 0 };

	assert_int_equal(mem_write(mem, QUEUE_DESC, &desc, sizeof(desc)), 0);
	assert_int_equal(mem_write(mem, QUEUE_DESC + 0x1000, ring, sizeof(ring)), 0);
}

/*
 * One function on the PCI bus (PCI Local Bus Specification 3.0): its configuration space, memory
 * BARs that software moves about, capabilities, MSI-X (6.8.2) and its INTA# pin.
 *
 * A device embeds a struct pci_function, fills it with pci_init() and the calls that follow, and
 * plugs it into the host bridge (pci_host_add()).
 *
 * Lock: bus.lock, for every function here once the function is plugged in, unless it says
 * otherwise.
 */
#pragma once

#include "bus/bus.h"

#define PCI_CONFIG_BYTES 256
#define PCI_BARS         6
#define PCI_NO_VECTOR    0xffff
#define PCI_MAX_VECTORS  64

/* Registers, 6.1 */
#define PCI_VENDOR    0x00
#define PCI_DEVICE    0x02
#define PCI_COMMAND   0x04
#define PCI_STATUS    0x06
#define PCI_REVISION  0x08
#define PCI_INTERFACE 0x09
#define PCI_CLASS     0x0a /* subclass and class */
#define PCI_BAR0      0x10
#define PCI_SUBVENDOR 0x2c
#define PCI_SUBDEVICE 0x2e
#define PCI_CAPS      0x34
#define PCI_INT_LINE  0x3c
#define PCI_INT_PIN   0x3d

#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_MASTER 0x0004
#define PCI_COMMAND_NOINTX 0x0400
#define PCI_STATUS_INTX    0x0008
#define PCI_STATUS_CAPS    0x0010

/* The capability MSI-X, 6.8.2 */
#define PCI_CAP_MSIX     0x11
#define PCI_CAP_MSIX_LEN 12
#define PCI_MSIX_CONTROL 2
#define PCI_MSIX_TABLE   4
#define PCI_MSIX_PBA     8

struct pci_host;

struct pci_bar {
	uint64_t len; /* bytes, a power of two, at least 16; 0: no such BAR */
	bool is64;    /* takes the next BAR's register as its upper half */
	const struct bus_ops *ops;
	void *dev;
};

struct pci_msix_entry {
	uint64_t addr;
	uint32_t data;
	uint32_t control; /* bit 0: masked */
};

/* What a guest can see or change, beside the configuration space. */
struct pci_msix_state {
	struct pci_msix_entry entry[PCI_MAX_VECTORS];
	uint64_t pending; /* a bit a vector */
};
_Static_assert(PCI_MAX_VECTORS <= 64, "pending has a bit for each");

/* A vector's way to the guest without us, where the machine has such; pci_msix.c. */
struct pci_msix_route {
	int fd, number; /* -1: it has none */
	_Atomic bool open;
};

struct pci_ops {
	/* A register is about to be read, or was written. Either may be NULL. */
	void (*config_read)(void *dev, unsigned reg, unsigned size);
	void (*config_written)(void *dev, unsigned reg, unsigned size);
	/* BARs, of this function or others, have been moved, switched on or off. May be NULL. */
	void (*placed)(void *dev);
	/* With no lock held, while no vCPU runs: when it returns, the device touches guest memory
	 * no more, until a driver starts it again. May be NULL. */
	void (*stop)(void *dev);
	/* With no lock held: the machine goes on after a pause. May be NULL. */
	void (*resume)(void *dev);
	void (*reset)(void *dev); /* the RST# pin */
	void (*free)(void *dev);  /* after stop */
};

struct pci_function {
	uint8_t config[PCI_CONFIG_BYTES];
	uint8_t writable[PCI_CONFIG_BYTES]; /* bits that software can change */
	uint8_t initial[PCI_CONFIG_BYTES];  /* after a reset */
	struct pci_bar bar[PCI_BARS];
	uint8_t caps_end; /* where the next capability goes */
	uint8_t last_cap; /* 0: none yet */
	uint8_t msix_cap; /* 0: none */
	unsigned nr_vectors;
	struct pci_msix_state msix;
	struct pci_msix_route route[PCI_MAX_VECTORS];
	bool intx; /* the device wants its pin asserted */
	bool pin;  /* and whether it is */
	uint8_t devfn;
	struct pci_host *host; /* once it is plugged in */
	const struct pci_ops *ops;
	void *dev;
};

struct pci_identity {
	uint16_t vendor, device, class, subvendor, subdevice;
	uint8_t interface, revision;
};

static inline uint16_t pci_get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t pci_get32(const uint8_t *p)
{
	return pci_get16(p) | (uint32_t)pci_get16(p + 2) << 16;
}

static inline void pci_put16(uint8_t *p, unsigned value)
{
	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
}

static inline void pci_put32(uint8_t *p, uint32_t value)
{
	pci_put16(p, (uint16_t)value);
	pci_put16(p + 2, value >> 16);
}

/* ops and dev may be NULL for a function without a will of its own. */
void pci_init(struct pci_function *f, const struct pci_identity *id, const struct pci_ops *ops,
              void *dev);
void pci_add_bar(struct pci_function *f, unsigned n, const struct pci_bar *bar);
/* Room for a capability of len bytes with its header made; where it is. */
unsigned pci_add_capability(struct pci_function *f, uint8_t id, unsigned len);
/* The pin INTA#. */
void pci_add_intx(struct pci_function *f);
/* Table and pending bits at these offsets of a BAR, whose routines pass accesses on to
 * pci_msix_read() and pci_msix_write(). */
void pci_add_msix(struct pci_function *f, unsigned vectors, unsigned bar, uint32_t table,
                  uint32_t pba);
#define PCI_MSIX_ENTRY_BYTES 16u
#define PCI_MSIX_PBA_BYTES   8u

/* Offsets from the table's start, or, for reads of pending bits, from the PBA's. */
uint64_t pci_msix_read(const struct pci_function *f, uint64_t off, unsigned size);
void pci_msix_write(struct pci_function *f, uint64_t off, unsigned size, uint64_t value);
uint64_t pci_msix_read_pending(struct pci_function *f, uint64_t off, unsigned size);
bool pci_msix_enabled(const struct pci_function *f);

/* Sends a vector's message, or keeps it pending; PCI_NO_VECTOR and such beyond the table are lost.
 */
void pci_raise_msix(struct pci_function *f, unsigned vector);
/* The same with no lock held, where the host's kernel can do it alone. False: it cannot now, and
 * pci_raise_msix() is to do it. */
bool pci_signal_msix(struct pci_function *f, unsigned vector);
void pci_set_intx(struct pci_function *f, bool level);

/* For pci.c: the capability is at `at`; registers that messages depend on may have changed. */
void pci_msix_init(struct pci_function *f, unsigned at, unsigned vectors);
void pci_msix_update(struct pci_function *f);
void pci_msix_reset(struct pci_function *f);
/* The function goes away: all that it has of the machine's goes back. */
void pci_msix_release(struct pci_function *f);

/* For the host bridge. */
uint64_t pci_read_config(struct pci_function *f, unsigned reg, unsigned size);
void pci_write_config(struct pci_function *f, unsigned reg, unsigned size, uint64_t value);
void pci_reset(struct pci_function *f);
/* Where a BAR is; false while the function decodes no memory. */
bool pci_bar_address(const struct pci_function *f, unsigned n, uint64_t *base);
void pci_set_bar(struct pci_function *f, unsigned n, uint64_t base);

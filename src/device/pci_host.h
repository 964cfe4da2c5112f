/*
 * PCI configuration mechanism #1 (PCI Local Bus Specification 3.0, 3.2.2.3.2): an address port at
 * 0xcf8, a data port at 0xcfc, and one bus of functions, of which 00:00.0 is the host bridge
 * itself. The same space again in memory, as PCI Express has it (Base Specification 3.0, 7.2.2):
 * 4 KiB a function, of which ours implement the first 256 bytes.
 *
 * Memory BARs appear in windows of the memory bus. A window is one range of the bus for as long as
 * the machine lives; what lies in it is looked up here, among the BARs that are decoded now.
 *
 * Lock: bus.lock for everything that says nothing else.
 */
#pragma once

#include "bus/bus.h"
#include "bus/doorbell.h"
#include "bus/irqchip.h"
#include "device/pci.h"

#define PCI_HOST_ADDRESS_PORT 0xcf8
#define PCI_HOST_ADDRESS_LEN  4
#define PCI_HOST_DATA_PORT    0xcfc
#define PCI_HOST_DATA_LEN     4
#define PCI_HOST_CONFIG_LEN   (PCI_FUNCTIONS * 0x1000ull)

#define PCI_FUNCTIONS      256 /* of one bus: 32 devices of 8 functions */
#define PCI_SLOTS          32
#define PCI_DEVFN(dev, fn) ((uint8_t)((dev) << 3 | (fn)))
#define PCI_SLOT(devfn)    ((devfn) >> 3)

/* INTA# of slot n goes to line PCI_PIN_LINE(n, 0) of these; the ACPI tables say the same. */
#define PCI_LINES               8
#define PCI_PIN_LINE(slot, pin) (((slot) + (pin)) % PCI_LINES)

struct pci_window {
	struct pci_host *host;
	uint64_t base, len; /* 0: there is none */
};

struct pci_decoded {
	uint64_t base;
	const struct pci_bar *bar;
};

/* What leads from the bridge to the rest of the machine. */
struct pci_wires {
	struct irq_line line[PCI_LINES];
	void (*msi)(void *opaque, uint64_t addr, uint32_t data);
	void *opaque;
	/* Shorter ways through the host's kernel; either may be NULL. */
	const struct irqchip *irqchip;
	const struct doorbells *doorbells;
};

/* What has gone those ways; from any thread. */
struct pci_shortcuts {
	_Atomic uint64_t messages;  /* interrupts without a routine of the bridge */
	_Atomic uint64_t doorbells; /* writes without an exit */
};

struct pci_host {
	uint32_t address;
	struct bus *bus;
	/* The byte at 0xcf9 is not ours but the reset register's: only whole dwords reach
	 * CONFIG_ADDRESS. */
	const struct bus_ops *reset_ops;
	void *reset_dev;
	struct pci_function bridge;
	struct pci_function *function[PCI_FUNCTIONS]; /* by devfn, NULL where the slot is empty */
	struct pci_wires wires;
	struct pci_shortcuts shortcuts;
	uint32_t asserted[PCI_LINES]; /* slots that pull each line */
	struct pci_window low, high;  /* below and above 4 GiB */
	bool stale;                   /* decoded[] is to be made anew */
	unsigned nr_decoded;
	struct pci_decoded decoded[PCI_SLOTS * PCI_BARS]; /* sorted by base */
};

extern const struct bus_ops pci_host_address_ops;
extern const struct bus_ops pci_host_data_ops;
extern const struct bus_ops pci_host_config_ops;
extern const struct bus_ops pci_host_window_ops; /* dev is the window */

/* reset_ops (NULL for none) serves byte accesses to 0xcf9, at offset 0 of reset_dev. */
void pci_host_init(struct pci_host *h, struct bus *bus, const struct bus_ops *reset_ops,
                   void *reset_dev);
/* Windows and wires, before functions are added; a window of length 0 is none. */
void pci_host_connect(struct pci_host *h, const struct pci_wires *wires);
void pci_host_set_windows(struct pci_host *h, uint64_t low, uint64_t low_len, uint64_t high,
                          uint64_t high_len);
/* The bridge, and every function with it; BARs get their places. */
void pci_host_reset(struct pci_host *h);
/* -EEXIST when the slot is taken. The function must outlive the host. */
int pci_host_add(struct pci_host *h, uint8_t devfn, struct pci_function *f);
/* The first empty slot, or -ENOSPC. */
int pci_host_find_slot(const struct pci_host *h);
/* What firmware does after power-on: every BAR gets a place in a window. -ENOSPC. */
int pci_host_assign(struct pci_host *h);

/* With no lock held. */
void pci_host_stop(struct pci_host *h); /* all functions, see pci_ops */
void pci_host_resume(struct pci_host *h);
void pci_host_free(struct pci_host *h); /* stops and frees them */

/* For functions. */
void pci_host_lock(struct pci_host *h);
void pci_host_unlock(struct pci_host *h);
void pci_host_send_msi(struct pci_host *h, uint64_t addr, uint32_t data);
void pci_host_set_intx(struct pci_host *h, uint8_t devfn, bool level);
void pci_host_bars_changed(struct pci_host *h);
/* Where len bytes at an offset of a BAR are; false when the BAR does not answer to all of them: no
 * window is there, or another BAR has the guest's favour. */
bool pci_host_decodes(struct pci_host *h, const struct pci_bar *bar, uint64_t off, uint64_t len,
                      uint64_t *addr);

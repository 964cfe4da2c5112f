/*
 * The board: every chip of the machine, where it answers, and which interrupt line goes where.
 *
 * The numbers are layout.h's. What only the monitor can do (wake a vCPU, end the run, grant a
 * range) the board asks of its host through board_host_ops. All chips but the local APICs are
 * protected by bus.lock; see bus.h and lapic.h.
 */
#pragma once

#include "bus/bus.h"
#include "cpu/cpu.h"
#include "device/acpi_pm.h"
#include "device/debug_port.h"
#include "device/exit_port.h"
#include "device/fw_cfg.h"
#include "device/hpet.h"
#include "device/i8042.h"
#include "device/ioapic.h"
#include "device/lapic.h"
#include "device/pci_host.h"
#include "device/pic.h"
#include "device/pit.h"
#include "device/rtc.h"
#include "device/testdev.h"
#include "device/uart.h"
#include "machine/layout.h"

#define BOARD_MAX_CPUS 16

enum board_resource { BOARD_PAGES, BOARD_PORTS, BOARD_IRQ };

/* raise may be called with bus.lock held; reset, poweroff, exit and debug always are. They must not
 * block or touch the bus. */
struct board_host_ops {
	/* ATTN_ bits for a vCPU, which is woken if it sleeps; sipi_vector counts with ATTN_SIPI. */
	void (*raise)(void *opaque, unsigned cpu, uint32_t attention, uint8_t sipi_vector);
	void (*reset)(void *opaque);
	void (*poweroff)(void *opaque);
	void (*exit)(void *opaque, int status); /* as exit_port.h has it */
	void (*debug)(void *opaque, const uint8_t *buf, size_t n);
	/* Before anything is placed at [base, base+len). 0, or -errno with a line in err. */
	int (*grant)(void *opaque, enum board_resource kind, uint64_t base, uint64_t len,
	             const char *owner, char *err, size_t errlen);
};

struct board_config {
	struct mem *mem;
	struct loop *loop; /* for the chips' timers */
	unsigned vcpus;    /* 1..BOARD_MAX_CPUS */
	uint64_t tsc_hz;
	bool testdev;
	const struct irqchip *irqchip;     /* the engine's, or NULL: all chips are ours */
	const struct doorbells *doorbells; /* the engine's, or NULL */
	struct uart_backend uart;
	const struct board_host_ops *host;
	void *opaque;
};

/* What a local APIC knows its vCPU by. */
struct board_cpu {
	struct board *board;
	unsigned id;
	struct cpu *cpu;
	struct lapic lapic;
};

struct board {
	struct bus bus;
	struct lapic_bus lapics;
	struct pic pic;
	struct ioapic ioapic;
	struct pit pit;
	struct hpet hpet;
	struct rtc rtc;
	struct uart uart;
	struct i8042 i8042;
	struct acpi_pm pm;
	struct pci_host pci;
	struct fw_cfg fw_cfg;
	struct debug_port debug_port;
	struct exit_port exit_port;
	struct testdev *testdev; /* NULL without */
	struct board_cpu cpu[BOARD_MAX_CPUS];
	unsigned nr_cpus;
	const struct irqchip *irqchip;     /* never NULL */
	const struct doorbells *doorbells; /* NULL: a write always reaches the device */
	bool hpet_legacy;                  /* the HPET drives lines 0 and 8 */
	bool rtc_level;                    /* of the RTC's output */
	gpa_t rsdp;                        /* ACPI's root pointer */
	struct mem *mem;
	uint8_t generation[16]; /* random, and in guest memory at GPA_VMGENID */
	const struct board_host_ops *host;
	void *opaque;
};

/* Makes and wires all chips, in their power-on state, and puts the firmware tables into guest
 * memory. 0, or -errno with a line in err. */
int board_new(struct board **out, const struct board_config *config, char *err, size_t errlen);
/* Only when no vCPU runs; until it returns, timers may still raise attention. Safe on NULL. */
void board_free(struct board *b);
/* After the last PCI function was plugged in: they get their addresses. 0 or -ENOSPC. */
int board_plugged(struct board *b);
/* Devices stop their work in guest memory, which a reset has to follow. Only while no vCPU runs,
 * and without bus.lock. */
void board_stop(struct board *b);
/* The machine goes on after a pause; devices try again what could not be done. Without bus.lock. */
void board_resume(struct board *b);
/* The reset pin of every chip. Only while no vCPU runs; takes bus.lock. */
void board_reset(struct board *b);

/*
 * Gives the machine a new generation ID and tells the guest: for whoever lets a machine go on that
 * has been copied or set back. Without bus.lock.
 */
void board_new_generation(struct board *b);

/* Joins vCPU c->id to its local APIC, which is returned. */
struct lapic *board_attach_cpu(struct board *b, struct cpu *c);
/* Whose interrupt controllers it has. */
enum irqchip_kind board_irqchip(const struct board *b);
/* A local APIC that is not ours ended a level-triggered vector. Takes bus.lock. */
void board_end_of_interrupt(struct board *b, uint8_t vector);
/* The acknowledge cycle of the PICs: a vector. Takes bus.lock. */
int board_ack_pic(struct board *b);
/* Whether a chip may wake a CPU that is halted with interrupts off. Takes bus.lock. */
bool board_sends_nmi(struct board *b);

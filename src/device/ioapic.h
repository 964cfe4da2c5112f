/*
 * The I/O APIC (Intel 82093AA, in the version with an EOI register): 24 pins that become messages
 * to the local APICs.
 *
 * Lock: bus.lock, for every function.
 */
#pragma once

#include "base/base.h"
#include "bus/bus.h"
#include "device/lapic.h"

#define IOAPIC_DEFAULT_BASE 0xfec00000ull
#define IOAPIC_SIZE         0x1000
#define IOAPIC_PINS         24

struct ioapic_state {
	uint8_t select; /* register behind the window */
	uint8_t id;
	uint32_t lines; /* level of each pin */
	uint64_t redir[IOAPIC_PINS];
};

struct ioapic {
	struct lapic_bus *lapics;
	struct ioapic_state s;
};

/* MMIO, IOAPIC_SIZE bytes; dev is the struct ioapic. */
extern const struct bus_ops ioapic_ops;

void ioapic_init(struct ioapic *io, struct lapic_bus *lapics, uint8_t id);
void ioapic_reset(struct ioapic *io);
/* The value of struct irq_line.set; true means asserted, whatever polarity the guest chose. */
void ioapic_set_pin(void *ioapic, unsigned pin, bool level);
/* A local APIC ended a level-triggered vector. */
void ioapic_eoi(struct ioapic *io, uint8_t vector);
/* Whether a pin is wired to something that reaches a CPU with interrupts off: NMI or INIT. */
bool ioapic_sends_nmi(const struct ioapic *io);

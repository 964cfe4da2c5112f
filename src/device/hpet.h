/*
 * The high precision event timer (IA-PC HPET specification 1.0a): one 64-bit counter at 100 MHz,
 * three comparators, no FSB delivery.
 *
 * Lock: bus.lock, for every function; the timers' callbacks take it themselves.
 */
#pragma once

#include "base/base.h"
#include "base/loop.h"
#include "bus/bus.h"

#define HPET_DEFAULT_BASE 0xfed00000ull
#define HPET_SIZE         0x400
#define HPET_TIMERS       3
#define HPET_PERIOD_NS    10
#define HPET_PERIOD_FS    10000000u

struct hpet_timer_state {
	uint64_t config; /* writable bits of the low half */
	uint64_t comparator;
	uint64_t period;
	uint64_t expiry_ns; /* when the comparator matches, 0 when it will not */
};

struct hpet_state {
	uint64_t config, status;
	uint64_t counter; /* while halted; else counter at start_ns */
	uint64_t start_ns;
	struct hpet_timer_state timer[HPET_TIMERS];
};

struct hpet;
struct hpet_timer {
	struct hpet *hpet;
	unsigned n;
	struct timer timer;
};

struct hpet {
	struct bus *bus;
	struct irq_line gsi; /* .n is replaced by the pin of the I/O APIC */
	struct irq_line isa; /* .n is replaced by the ISA interrupt: 0 and 8, legacy replacement */
	struct irq_line legacy; /* high while timer 0 and 1 stand in for the PIT and the RTC */
	struct hpet_timer timer[HPET_TIMERS];
	struct hpet_state s;
};

/* MMIO, HPET_SIZE bytes; dev is the struct hpet. */
extern const struct bus_ops hpet_ops;

void hpet_init(struct hpet *h, struct bus *bus, struct loop *loop, struct irq_line gsi,
               struct irq_line isa, struct irq_line legacy);
void hpet_fini(struct hpet *h);
void hpet_reset(struct hpet *h);

/*
 * The 8254 interval timer of a PC, and the part of port 0x61 that goes with it.
 *
 * Lock: bus.lock, for every function; the timer's callback takes it itself.
 */
#pragma once

#include "base/base.h"
#include "base/loop.h"
#include "bus/bus.h"

#define PIT_HZ 1193182ull

struct pit_channel_state {
	uint8_t mode; /* 0..5 */
	uint8_t rw;   /* 1 low byte, 2 high byte, 3 low then high */
	bool bcd;
	bool gate;
	bool armed;   /* a count has been written since the control word */
	bool running; /* counting since load_ns; else stopped after held_ticks */
	uint32_t count;
	uint64_t load_ns;
	uint64_t held_ticks;
	uint32_t next_count; /* takes over at switch_ns, or at the trigger in modes 1 and 5; 0: none
	                      */
	uint64_t switch_ns;
	uint8_t low_byte;
	bool write_high, read_high; /* flip-flops of rw 3 */
	bool count_latched, status_latched;
	uint16_t latched_count;
	uint8_t latched_status;
};

struct pit_state {
	struct pit_channel_state channel[3];
	uint64_t edge_ns; /* next rising edge of channel 0's output, 0 when none */
	uint8_t port61;   /* its writable bits */
	bool irq_off;     /* HPET legacy replacement has taken IRQ 0 */
};

struct pit {
	struct bus *bus;
	struct irq_line irq;
	struct timer timer;
	struct pit_state s;
};

/* Ports 0x40 to 0x43, and 0x61; dev is the struct pit. */
extern const struct bus_ops pit_ops;
extern const struct bus_ops pit_port61_ops;

void pit_init(struct pit *p, struct bus *bus, struct loop *loop, struct irq_line irq);
void pit_fini(struct pit *p);
void pit_reset(struct pit *p);
/* A sink for struct irq_line: while true, IRQ 0 is not the PIT's (HPET legacy replacement). */
void pit_set_irq_off(void *pit, unsigned n, bool off);

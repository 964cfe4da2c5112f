/*
 * The pair of 8259A interrupt controllers of a PC, with the edge/level registers of its chipset.
 *
 * Lock: bus.lock, for every function.
 */
#pragma once

#include "base/base.h"
#include "bus/bus.h"

struct pic_chip_state {
	uint8_t lines; /* level of each input */
	uint8_t irr, imr, isr;
	uint8_t elcr;   /* inputs that are level triggered */
	uint8_t vector; /* ICW2 */
	uint8_t lowest; /* the input of lowest priority, 7 unless rotated */
	uint8_t init;   /* the next ICW expected, 0 when initialised */
	bool single;    /* ICW1: no cascade */
	bool need_icw4;
	bool auto_eoi, fully_nested; /* ICW4; "special fully nested" */
	bool rotate_auto_eoi;
	bool special_mask;
	bool read_isr, poll; /* OCW3: what the next read gives */
	bool output;         /* level of INT */
};

struct pic_chip {
	bool slave; /* which of the two this is */
	struct pic_chip_state s;
};

struct pic {
	struct irq_line intr; /* to the CPUs */
	struct pic_chip chip[2];
};

/* Ports: two for each chip (0x20 and 0xa0; dev is &pic->chip[n]), two for ELCR (0x4d0; dev is pic).
 */
extern const struct bus_ops pic_chip_ops;
extern const struct bus_ops pic_elcr_ops;

void pic_init(struct pic *p, struct irq_line intr);
/* As firmware leaves it to a loaded program: vectors 8 and 0x70, every input masked. */
void pic_reset(struct pic *p);
/* Finds the outputs anew after the state was set from outside. */
void pic_load(struct pic *p);
/* The value of struct irq_line.set; n is 0..15, input 2 is the cascade and ignored. */
void pic_set_irq(void *pic, unsigned n, bool level);
/* The CPU's acknowledge cycles: the vector, a spurious one when no request stands. */
uint8_t pic_ack(struct pic *p);

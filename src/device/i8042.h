/*
 * The keyboard controller of a PC (Intel 8042) with nothing plugged in: data port 0x60, command and
 * status port 0x64, and the fast A20 and reset port 0x92 of the PS/2.
 *
 * All functions are called with bus.lock held, and so are the callbacks.
 */
#pragma once

#include "bus/bus.h"

#define I8042_DATA_PORT    0x60
#define I8042_COMMAND_PORT 0x64
#define I8042_FAST_PORT    0x92
#define I8042_PORT_LEN     1 /* of each of the three */
#define I8042_RAM_BYTES    32

struct i8042_pins {
	void (*reset)(void *opaque);             /* the pulse on the CPU's reset pin */
	void (*a20)(void *opaque, bool enabled); /* may be NULL */
	void *opaque;
	struct irq_line kbd_irq;
};

struct i8042 {
	struct i8042_pins pins;
	uint8_t ram[I8042_RAM_BYTES]; /* byte 0 is the command byte */
	uint8_t output;               /* the byte that port 0x60 shows */
	bool output_full;
	bool output_from_kbd; /* raises the keyboard's interrupt */
	bool last_was_command;
	uint8_t command; /* that waits for its data byte, 0 for none */
	bool a20;
};

extern const struct bus_ops i8042_data_ops;
extern const struct bus_ops i8042_command_ops;
extern const struct bus_ops i8042_fast_ops;

void i8042_init(struct i8042 *k, struct i8042_pins pins);
void i8042_reset(struct i8042 *k);

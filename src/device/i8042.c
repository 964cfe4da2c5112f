/*
 * The 8042 as software sees it: commands to port 0x64, some with a data byte through port 0x60,
 * answers from port 0x60. No keyboard and no mouse: bytes sent to them vanish and the auxiliary
 * port's test fails, which is how drivers learn that the port is not there.
 */
#include <string.h>

#include "device/i8042.h"

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM      0x04 /* self-test passed */
#define STATUS_COMMAND     0x08 /* the last write was to port 0x64 */
#define STATUS_UNLOCKED    0x10

#define CONTROL_KBD_IRQ     0x01
#define CONTROL_SYSTEM      0x04
#define CONTROL_KBD_DISABLE 0x10
#define CONTROL_AUX_DISABLE 0x20
#define CONTROL_TRANSLATE   0x40

#define OUTPUT_NOT_RESET 0x01
#define OUTPUT_A20       0x02
#define OUTPUT_UNUSED    0xcc /* clock and data lines idle high, inputs high */

#define FAST_RESET 0x01
#define FAST_A20   0x02

enum {
	CMD_READ_RAM = 0x20,  /* to 0x3f */
	CMD_WRITE_RAM = 0x60, /* to 0x7f */
	CMD_AUX_DISABLE = 0xa7,
	CMD_AUX_ENABLE = 0xa8,
	CMD_AUX_TEST = 0xa9,
	CMD_SELF_TEST = 0xaa,
	CMD_KBD_TEST = 0xab,
	CMD_KBD_DISABLE = 0xad,
	CMD_KBD_ENABLE = 0xae,
	CMD_READ_INPUT = 0xc0,
	CMD_READ_OUTPUT = 0xd0,
	CMD_WRITE_OUTPUT = 0xd1,
	CMD_KBD_LOOP = 0xd2,
	CMD_AUX_LOOP = 0xd3,
	CMD_AUX_WRITE = 0xd4,
	CMD_A20_OFF = 0xdd,
	CMD_A20_ON = 0xdf,
	CMD_PULSE = 0xf0, /* to 0xff: a zero in bits 3:0 pulses that output line low */
};

#define SELF_TEST_PASSED     0x55
#define PORT_TEST_PASSED     0x00
#define PORT_TEST_CLOCK_HIGH 0x02
#define INPUT_UNLOCKED       0x80

static void update_irq(struct i8042 *k)
{
	irq_set(&k->pins.kbd_irq,
	        k->output_full && k->output_from_kbd && (k->ram[0] & CONTROL_KBD_IRQ));
}

static void answer(struct i8042 *k, uint8_t byte)
{
	k->output = byte;
	k->output_full = true;
	k->output_from_kbd = false;
}

static void set_a20(struct i8042 *k, bool enabled)
{
	if (k->a20 == enabled)
		return;
	k->a20 = enabled;
	if (k->pins.a20)
		k->pins.a20(k->pins.opaque, enabled);
}

static void pulse_reset(struct i8042 *k)
{
	if (k->pins.reset)
		k->pins.reset(k->pins.opaque);
}

static void self_test(struct i8042 *k)
{
	k->ram[0] = CONTROL_SYSTEM | CONTROL_KBD_DISABLE | CONTROL_AUX_DISABLE;
	answer(k, SELF_TEST_PASSED);
}

/* Commands that carry their operand in the number. True when taken. */
static bool run_ranged_command(struct i8042 *k, uint8_t cmd)
{
	switch (cmd & 0xf0) {
	case CMD_READ_RAM:
	case CMD_READ_RAM + 0x10:
		answer(k, k->ram[cmd % I8042_RAM_BYTES]);
		return true;
	case CMD_WRITE_RAM:
	case CMD_WRITE_RAM + 0x10:
		k->command = cmd;
		return true;
	case CMD_PULSE:
		if (!(cmd & OUTPUT_NOT_RESET))
			pulse_reset(k);
		return true;
	default:
		return false;
	}
}

static void run_command(struct i8042 *k, uint8_t cmd)
{
	k->command = 0;
	if (run_ranged_command(k, cmd))
		return;
	switch (cmd) {
	case CMD_AUX_DISABLE:
		k->ram[0] |= CONTROL_AUX_DISABLE;
		break;
	case CMD_AUX_ENABLE:
		k->ram[0] &= (uint8_t)~CONTROL_AUX_DISABLE;
		break;
	case CMD_AUX_TEST:
		answer(k, PORT_TEST_CLOCK_HIGH);
		break;
	case CMD_SELF_TEST:
		self_test(k);
		break;
	case CMD_KBD_TEST:
		answer(k, PORT_TEST_PASSED);
		break;
	case CMD_KBD_DISABLE:
		k->ram[0] |= CONTROL_KBD_DISABLE;
		break;
	case CMD_KBD_ENABLE:
		k->ram[0] &= (uint8_t)~CONTROL_KBD_DISABLE;
		break;
	case CMD_READ_INPUT:
		answer(k, INPUT_UNLOCKED);
		break;
	case CMD_READ_OUTPUT:
		answer(k, OUTPUT_UNUSED | OUTPUT_NOT_RESET | (k->a20 ? OUTPUT_A20 : 0));
		break;
	case CMD_WRITE_OUTPUT:
	case CMD_KBD_LOOP:
	case CMD_AUX_LOOP:
	case CMD_AUX_WRITE:
		k->command = cmd;
		break;
	case CMD_A20_OFF:
	case CMD_A20_ON:
		set_a20(k, cmd == CMD_A20_ON);
		break;
	default:
		break; /* the controller ignores what it does not know */
	}
}

static void write_output_port(struct i8042 *k, uint8_t value)
{
	set_a20(k, value & OUTPUT_A20);
	if (!(value & OUTPUT_NOT_RESET))
		pulse_reset(k);
}

/* The data byte of a command; without one it is meant for the keyboard that is not there. */
static void take_data(struct i8042 *k, uint8_t value)
{
	uint8_t cmd = k->command;

	k->command = 0;
	switch (cmd) {
	case CMD_WRITE_OUTPUT:
		write_output_port(k, value);
		break;
	case CMD_KBD_LOOP:
		answer(k, value);
		k->output_from_kbd = true;
		break;
	case CMD_AUX_LOOP:
		answer(k, value); /* without the auxiliary mark in the status: no such port */
		break;
	default:
		if (cmd >= CMD_WRITE_RAM && cmd < CMD_WRITE_RAM + I8042_RAM_BYTES)
			k->ram[cmd % I8042_RAM_BYTES] = value;
		break;
	}
}

static uint64_t read_data(void *dev, uint64_t off, unsigned size)
{
	struct i8042 *k = dev;

	k->output_full = false;
	update_irq(k);
	return k->output; /* an empty buffer still shows the last byte */
}

static void write_data(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct i8042 *k = dev;

	k->last_was_command = false;
	take_data(k, (uint8_t)value);
	update_irq(k);
}

const struct bus_ops i8042_data_ops = {
	.read = read_data,
	.write = write_data,
	.max_size = 1,
};

static uint64_t read_status(void *dev, uint64_t off, unsigned size)
{
	const struct i8042 *k = dev;

	return STATUS_UNLOCKED | (k->output_full ? STATUS_OUTPUT_FULL : 0) |
	       (k->last_was_command ? STATUS_COMMAND : 0) |
	       (k->ram[0] & CONTROL_SYSTEM ? STATUS_SYSTEM : 0);
}

static void write_command(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct i8042 *k = dev;

	k->last_was_command = true;
	run_command(k, (uint8_t)value);
	update_irq(k);
}

const struct bus_ops i8042_command_ops = {
	.read = read_status,
	.write = write_command,
	.max_size = 1,
};

static uint64_t read_fast(void *dev, uint64_t off, unsigned size)
{
	const struct i8042 *k = dev;

	return k->a20 ? FAST_A20 : 0;
}

static void write_fast(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct i8042 *k = dev;

	set_a20(k, value & FAST_A20);
	if (value & FAST_RESET)
		pulse_reset(k);
}

const struct bus_ops i8042_fast_ops = {
	.read = read_fast,
	.write = write_fast,
	.max_size = 1,
};

void i8042_init(struct i8042 *k, struct i8042_pins pins)
{
	memset(k, 0, sizeof(*k));
	k->pins = pins;
	k->a20 = true; /* as firmware leaves it */
	i8042_reset(k);
}

void i8042_reset(struct i8042 *k)
{
	memset(k->ram, 0, sizeof(k->ram));
	k->ram[0] = CONTROL_SYSTEM | CONTROL_TRANSLATE;
	k->output = 0;
	k->output_full = false;
	k->output_from_kbd = false;
	k->last_was_command = false;
	k->command = 0;
	set_a20(k, true);
	update_irq(k);
}

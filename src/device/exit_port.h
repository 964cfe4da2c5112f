/*
 * The exit port of test programs, as QEMU's isa-debug-exit: writing v ends the machine with the
 * status (v << 1) | 1, which is odd so that a test cannot look like a clean exit of the host
 * process.
 */
#pragma once

#include "bus/bus.h"

#define EXIT_PORT_BASE 0xf4
#define EXIT_PORT_LEN  4

struct exit_port {
	/* status is 0..255. Called with bus.lock held, on the vCPU that wrote. */
	void (*exit)(void *opaque, int status);
	void *opaque;
};

extern const struct bus_ops exit_port_ops;

void exit_port_init(struct exit_port *p, void (*exit)(void *opaque, int status), void *opaque);
void exit_port_reset(struct exit_port *p);

/*
 * The debug console port (0xe9 since Bochs): a byte written is a character for the host, a read
 * gives 0xe9, by which a guest knows that the port is there.
 */
#pragma once

#include "bus/bus.h"

#define DEBUG_PORT_BASE 0xe9
#define DEBUG_PORT_LEN  1

struct debug_port {
	/* Called with bus.lock held; must not block. */
	void (*put)(void *opaque, const uint8_t *buf, size_t n);
	void *opaque;
};

extern const struct bus_ops debug_port_ops;

void debug_port_init(struct debug_port *d, void (*put)(void *opaque, const uint8_t *buf, size_t n),
                     void *opaque);
void debug_port_reset(struct debug_port *d);

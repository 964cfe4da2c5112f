#include "device/debug_port.h"

#define DEBUG_PORT_MAGIC 0xe9

static uint64_t read_magic(void *dev, uint64_t off, unsigned size)
{
	return DEBUG_PORT_MAGIC;
}

static void write_char(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct debug_port *d = dev;
	uint8_t byte = (uint8_t)value;

	if (d->put)
		d->put(d->opaque, &byte, 1);
}

const struct bus_ops debug_port_ops = {
	.read = read_magic,
	.write = write_char,
	.max_size = 1,
};

void debug_port_init(struct debug_port *d, void (*put)(void *opaque, const uint8_t *buf, size_t n),
                     void *opaque)
{
	*d = (struct debug_port){ .put = put, .opaque = opaque };
}

/* The port keeps no state; every chip has a reset, so that a board can treat them alike. */
void debug_port_reset(struct debug_port *d)
{
}

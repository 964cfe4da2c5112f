/* What every unit test includes: cmocka with the headers it asks for, and byte-wide bus accesses.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bus/bus.h"

static inline uint8_t inb(struct bus *b, uint16_t port)
{
	uint64_t value = 0;

	bus_read(b, BUS_PIO, port, 1, &value);
	return (uint8_t)value;
}

static inline uint32_t inl(struct bus *b, uint16_t port)
{
	uint64_t value = 0;

	bus_read(b, BUS_PIO, port, 4, &value);
	return (uint32_t)value;
}

static inline void outb(struct bus *b, uint16_t port, uint8_t value)
{
	bus_write(b, BUS_PIO, port, 1, value);
}

static inline void outw(struct bus *b, uint16_t port, uint16_t value)
{
	bus_write(b, BUS_PIO, port, 2, value);
}

static inline void outl(struct bus *b, uint16_t port, uint32_t value)
{
	bus_write(b, BUS_PIO, port, 4, value);
}

/* An interrupt line that counts its rising edges. */
struct test_line {
	bool level;
	unsigned rises;
};

static inline void set_test_line(void *opaque, unsigned n, bool level)
{
	struct test_line *l = opaque;

	l->rises += level && !l->level;
	l->level = level;
}

static inline struct irq_line test_irq(struct test_line *l)
{
	return (struct irq_line){ .set = set_test_line, .opaque = l };
}

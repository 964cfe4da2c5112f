/*
 * The board's buses: port and memory-mapped ranges, interrupt lines as values, MSI.
 *
 * Lock: bus.lock serialises every access to devices, from vCPU threads (bus_read, bus_write take
 * it) and from the event loop (a device's timer or fd callback takes it with bus_lock). A device
 * has no lock of its own; the local APIC, which is per vCPU, is the exception and comes after
 * bus.lock.
 */
#pragma once

#include <pthread.h>
#include "base/base.h"

enum bus_space { BUS_PIO, BUS_MMIO, BUS_SPACES };
#define BUS_MAX_RANGES 64

struct bus_ops {
	/* off is relative to the range; size is 1, 2, 4 or 8 and never leaves the range. */
	uint64_t (*read)(void *dev, uint64_t off, unsigned size);
	void (*write)(void *dev, uint64_t off, unsigned size, uint64_t value);
	/* The widest access that the device decodes; wider ones are split into bytes, as a chipset
	 * does for 8-bit ISA chips. 0: any size. */
	unsigned max_size;
};

struct bus_range {
	uint64_t base, len;
	const struct bus_ops *ops;
	void *dev;
	const char *name;
};

struct bus {
	pthread_mutex_t lock;
	unsigned nr[BUS_SPACES];
	struct bus_range range[BUS_SPACES][BUS_MAX_RANGES]; /* sorted, disjoint */
};

int bus_init(struct bus *b);
void bus_fini(struct bus *b);
/* -EEXIST when the range meets another, -ENOSPC when the table is full. Only before vCPUs run. */
int bus_add(struct bus *b, enum bus_space space, uint64_t base, uint64_t len,
            const struct bus_ops *ops, void *dev, const char *name);
/* False when nothing answers: reads then give all ones, writes are lost. An access that straddles
 * the end of a range is split into bytes. */
bool bus_read(struct bus *b, enum bus_space space, uint64_t addr, unsigned size, uint64_t *value);
bool bus_write(struct bus *b, enum bus_space space, uint64_t addr, unsigned size, uint64_t value);
void bus_lock(struct bus *b);
void bus_unlock(struct bus *b);

/* An interrupt line as a value: give a device one and it needs to know nothing about who listens.
 */
struct irq_line {
	void (*set)(void *opaque, unsigned n, bool level);
	void *opaque;
	unsigned n;
};

static inline void irq_set(const struct irq_line *line, bool level)
{
	if (line->set)
		line->set(line->opaque, line->n, level);
}

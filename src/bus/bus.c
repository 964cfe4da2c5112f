/*
 * The port and memory-mapped buses: sorted tables of disjoint ranges and a binary search.
 *
 * Lock: bus.lock is held around every device routine. The tables themselves are written only by
 * bus_add(), before vCPUs run, and are then read without further care.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "bus/bus.h"

int bus_init(struct bus *b)
{
	memset(b, 0, sizeof(*b));
	return -pthread_mutex_init(&b->lock, NULL);
}

void bus_fini(struct bus *b)
{
	pthread_mutex_destroy(&b->lock);
}

void bus_lock(struct bus *b)
{
	pthread_mutex_lock(&b->lock);
}

void bus_unlock(struct bus *b)
{
	pthread_mutex_unlock(&b->lock);
}

/* Index of the first range that ends after addr; nr when there is none. */
static unsigned find_slot(const struct bus *b, enum bus_space space, uint64_t addr)
{
	unsigned lo = 0, hi = b->nr[space], mid;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (b->range[space][mid].base + (b->range[space][mid].len - 1) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static const struct bus_range *find_range(const struct bus *b, enum bus_space space, uint64_t addr)
{
	unsigned i = find_slot(b, space, addr);

	if (i == b->nr[space] || b->range[space][i].base > addr)
		return NULL;
	return &b->range[space][i];
}

int bus_add(struct bus *b, enum bus_space space, uint64_t base, uint64_t len,
            const struct bus_ops *ops, void *dev, const char *name)
{
	struct bus_range *table = b->range[space];
	unsigned i = find_slot(b, space, base);

	assert(len > 0 && base + (len - 1) >= base);
	assert(ops && ops->read && ops->write);
	if (i < b->nr[space] && table[i].base <= base + (len - 1))
		return -EEXIST;
	if (b->nr[space] == BUS_MAX_RANGES)
		return -ENOSPC;
	memmove(&table[i + 1], &table[i], (b->nr[space] - i) * sizeof(table[0]));
	table[i] = (struct bus_range){
		.base = base, .len = len, .ops = ops, .dev = dev, .name = name
	};
	b->nr[space]++;
	return 0;
}

static uint64_t size_mask(unsigned size)
{
	return UINT64_MAX >> (64 - 8 * size);
}

/* Whether one call of the device's routine can serve the access. */
static bool takes_whole(const struct bus_range *r, uint64_t addr, unsigned size)
{
	if (r->ops->max_size && size > r->ops->max_size)
		return false;
	return r->len - (addr - r->base) >= size;
}

/* Addresses wrap within their space: a port number has 16 bits. */
static uint64_t wrap_addr(enum bus_space space, uint64_t addr)
{
	return space == BUS_PIO ? addr & 0xffff : addr;
}

static bool read_byte(const struct bus *b, enum bus_space space, uint64_t addr, uint8_t *byte)
{
	const struct bus_range *r = find_range(b, space, addr);

	if (!r)
		return false;
	*byte = (uint8_t)r->ops->read(r->dev, addr - r->base, 1);
	return true;
}

static bool write_byte(const struct bus *b, enum bus_space space, uint64_t addr, uint8_t byte)
{
	const struct bus_range *r = find_range(b, space, addr);

	if (!r)
		return false;
	r->ops->write(r->dev, addr - r->base, 1, byte);
	return true;
}

static bool read_bytes(const struct bus *b, enum bus_space space, uint64_t addr, unsigned size,
                       uint64_t *value)
{
	bool answered = false;
	uint8_t byte;

	*value = 0;
	for (unsigned i = 0; i < size; i++) {
		byte = 0xff;
		answered |= read_byte(b, space, wrap_addr(space, addr + i), &byte);
		*value |= (uint64_t)byte << (8 * i);
	}
	return answered;
}

static bool write_bytes(const struct bus *b, enum bus_space space, uint64_t addr, unsigned size,
                        uint64_t value)
{
	bool answered = false;

	for (unsigned i = 0; i < size; i++)
		answered |= write_byte(b, space, wrap_addr(space, addr + i),
		                       (uint8_t)(value >> (8 * i)));
	return answered;
}

bool bus_read(struct bus *b, enum bus_space space, uint64_t addr, unsigned size, uint64_t *value)
{
	const struct bus_range *r;
	bool answered = true;

	assert(size == 1 || size == 2 || size == 4 || size == 8);
	bus_lock(b);
	r = find_range(b, space, addr);
	if (r && takes_whole(r, addr, size))
		*value = r->ops->read(r->dev, addr - r->base, size) & size_mask(size);
	else
		answered = read_bytes(b, space, addr, size, value);
	bus_unlock(b);
	return answered;
}

bool bus_write(struct bus *b, enum bus_space space, uint64_t addr, unsigned size, uint64_t value)
{
	const struct bus_range *r;
	bool answered = true;

	assert(size == 1 || size == 2 || size == 4 || size == 8);
	value &= size_mask(size);
	bus_lock(b);
	r = find_range(b, space, addr);
	if (r && takes_whole(r, addr, size))
		r->ops->write(r->dev, addr - r->base, size, value);
	else
		answered = write_bytes(b, space, addr, size, value);
	bus_unlock(b);
	return answered;
}

#include <string.h>

#include "device/testdev.h"

static uint64_t read_echo(void *dev, uint64_t off, unsigned size)
{
	const struct testdev *t = dev;

	return t->echo >> (8 * off);
}

static void write_echo(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct testdev *t = dev;
	uint32_t mask = (uint32_t)(UINT64_MAX >> (64 - 8 * size)) << (8 * off);

	t->echo = (t->echo & ~mask) | ((uint32_t)(value << (8 * off)) & mask);
}

const struct bus_ops testdev_echo_ops = {
	.read = read_echo,
	.write = write_echo,
	.max_size = 4,
};

const struct bus_ops testdev_echo_byte_ops = {
	.read = read_echo,
	.write = write_echo,
	.max_size = 1,
};

static uint64_t read_zero(void *dev, uint64_t off, unsigned size)
{
	return 0;
}

static void write_flush(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct testdev *t = dev;

	if (size == 4 && t->flush_page)
		t->flush_page(t->opaque, (uint32_t)value & PAGE_MASK);
}

const struct bus_ops testdev_flush_ops = {
	.read = read_zero,
	.write = write_flush,
};

static void write_irq(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct testdev *t = dev;

	if (size == 1)
		irq_set(&t->irq[off], value != 0);
}

const struct bus_ops testdev_irq_ops = {
	.read = read_zero,
	.write = write_irq,
};

static uint64_t read_iomem(void *dev, uint64_t off, unsigned size)
{
	const struct testdev *t = dev;
	uint64_t value = 0;

	memcpy(&value, &t->iomem[off], size);
	return value;
}

static void write_iomem(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct testdev *t = dev;

	memcpy(&t->iomem[off], &value, size);
}

const struct bus_ops testdev_iomem_ops = {
	.read = read_iomem,
	.write = write_iomem,
};

void testdev_init(struct testdev *t, struct irq_line first,
                  void (*flush_page)(void *opaque, gpa_t page), void *opaque)
{
	memset(t, 0, sizeof(*t));
	t->flush_page = flush_page;
	t->opaque = opaque;
	for (unsigned i = 0; i < TESTDEV_IRQ_LINES; i++) {
		t->irq[i] = first;
		t->irq[i].n = first.n + i;
	}
}

void testdev_reset(struct testdev *t)
{
	t->echo = 0;
	memset(t->iomem, 0, sizeof(t->iomem));
}

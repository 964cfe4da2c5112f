/*
 * The 8259A pair. Terms are the data sheet's: ICW1-4 initialise, OCW1-3 operate; IRR has the
 * requests, ISR those in service, IMR the masks.
 *
 * A request must stand until it is acknowledged, in edge mode too: an input that falls first takes
 * its request back, and an acknowledge cycle that finds none gives input 7 without setting its ISR
 * bit (the spurious IRQ7, or IRQ15 from the slave).
 *
 * Each INT output drops at its acknowledge and rises again if more is pending, so that the master
 * sees an edge on its cascade input for each of the slave's requests.
 */
#include "device/pic.h"

#include <assert.h>

enum { MASTER, SLAVE };
#define CASCADE 2

#define ICW1         BIT(4) /* on port 0 */
#define ICW1_ICW4    BIT(0)
#define ICW1_SINGLE  BIT(1)
#define ICW4_AEOI    BIT(1)
#define ICW4_SFNM    BIT(4)
#define OCW3         BIT(3) /* on port 0, without ICW1 */
#define POLL_REQUEST 0x80

/* The inputs that a PC's chipset lets be level triggered: not the timer, keyboard, cascade, clock
 * and FPU. */
static const uint8_t elcr_writable[2] = { 0xf8, 0xde };

static struct pic *pic_of(struct pic_chip *c)
{
	return container_of(c - c->slave, struct pic, chip[0]);
}

/* 0 is the highest; 8 for an empty set. */
static unsigned priority_of(const struct pic_chip *c, uint8_t set)
{
	unsigned priority = 0;

	while (priority < 8 && !(set & BIT((c->s.lowest + 1 + priority) & 7)))
		priority++;
	return priority;
}

static unsigned input_at(const struct pic_chip *c, unsigned priority)
{
	return (c->s.lowest + 1 + priority) & 7;
}

/* The input to serve next, or -1. */
static int pending_input(const struct pic_chip *c)
{
	uint8_t serving = c->s.isr;
	unsigned request = priority_of(c, c->s.irr & ~c->s.imr);

	if (request == 8)
		return -1;
	/* Special mask mode: a masked input in service holds off nobody. */
	if (c->s.special_mask)
		serving &= ~c->s.imr;
	/* Special fully nested: the slave in service does not hold off the slave. */
	if (c->s.fully_nested && !c->slave)
		serving &= ~BIT(CASCADE);
	return request < priority_of(c, serving) ? (int)input_at(c, request) : -1;
}

static void set_input(struct pic_chip *c, unsigned n, bool level)
{
	uint8_t bit = BIT(n);
	bool rising = level && !(c->s.lines & bit);

	if (level)
		c->s.lines |= bit;
	else
		c->s.lines &= ~bit;
	if (!level)
		c->s.irr &= ~bit;
	else if (rising || c->s.elcr & bit)
		c->s.irr |= bit;
}

static void set_output(struct pic_chip *c, bool level)
{
	struct pic *p = pic_of(c);

	if (c->s.output == level)
		return;
	c->s.output = level;
	if (c->slave)
		set_input(&p->chip[MASTER], CASCADE, level);
	else
		irq_set(&p->intr, level);
}

static void update(struct pic *p)
{
	set_output(&p->chip[SLAVE], pending_input(&p->chip[SLAVE]) >= 0);
	set_output(&p->chip[MASTER], pending_input(&p->chip[MASTER]) >= 0);
}

void pic_load(struct pic *p)
{
	p->chip[SLAVE].s.output = p->chip[MASTER].s.output = false;
	update(p);
}

void pic_set_irq(void *pic, unsigned n, bool level)
{
	struct pic *p = pic;

	assert(n < 16);
	if (n == CASCADE)
		return;
	set_input(&p->chip[n / 8], n % 8, level);
	update(p);
}

static void rotate_below(struct pic_chip *c, unsigned n)
{
	c->s.lowest = n & 7;
}

/* One chip's acknowledge; 7 when the request has gone. */
static unsigned acknowledge(struct pic_chip *c)
{
	int n = pending_input(c);

	set_output(c, false);
	if (n < 0)
		return 7;
	if (!(c->s.elcr & BIT(n)))
		c->s.irr &= ~BIT(n);
	if (!c->s.auto_eoi)
		c->s.isr |= BIT(n);
	else if (c->s.rotate_auto_eoi)
		rotate_below(c, (unsigned)n);
	return (unsigned)n;
}

uint8_t pic_ack(struct pic *p)
{
	struct pic_chip *master = &p->chip[MASTER], *slave = &p->chip[SLAVE];
	bool cascaded = pending_input(master) == CASCADE && !master->s.single;
	unsigned n = acknowledge(master);
	uint8_t vector = master->s.vector + n;

	if (cascaded)
		vector = slave->s.vector + acknowledge(slave);
	update(p);
	return vector;
}

/* Port 0: ICW1, OCW2, OCW3. */

static void write_icw1(struct pic_chip *c, uint8_t value)
{
	/* Edge detection starts afresh: a line that is already high asks again only by level. The
	 * chipset's ELCR takes the place of the level bit in ICW1. */
	c->s = (struct pic_chip_state){
		.lines = c->s.lines,
		.irr = c->s.lines & c->s.elcr,
		.elcr = c->s.elcr,
		.vector = c->s.vector,
		.output = c->s.output,
		.lowest = 7,
		.init = 2,
		.single = value & ICW1_SINGLE,
		.need_icw4 = value & ICW1_ICW4,
	};
}

static void end_of_interrupt(struct pic_chip *c, bool specific, bool rotate, unsigned n)
{
	if (!specific) {
		uint8_t serving = c->s.isr;

		/* An input that special mask mode lets others overtake is not meant. */
		if (c->s.special_mask)
			serving &= ~c->s.imr;
		if (!serving)
			return;
		n = input_at(c, priority_of(c, serving));
	}
	c->s.isr &= ~BIT(n);
	if (rotate)
		rotate_below(c, n);
}

static void write_ocw2(struct pic_chip *c, uint8_t value)
{
	unsigned n = value & 7;

	switch (value >> 5) {
	case 0: /* rotate in automatic EOI mode: clear, set */
	case 4:
		c->s.rotate_auto_eoi = value >> 7;
		break;
	case 1:
	case 5:
		end_of_interrupt(c, false, value >> 7, n);
		break;
	case 3:
	case 7:
		end_of_interrupt(c, true, value >> 7, n);
		break;
	case 6:
		rotate_below(c, n);
		break;
	}
}

static void write_ocw3(struct pic_chip *c, uint8_t value)
{
	c->s.poll = value & BIT(2);
	if (value & BIT(1))
		c->s.read_isr = value & BIT(0);
	if (value & BIT(6))
		c->s.special_mask = value & BIT(5);
}

/* Port 1: ICW2 to ICW4 while initialising, else OCW1. */
static void write_data(struct pic_chip *c, uint8_t value)
{
	switch (c->s.init) {
	case 0:
		c->s.imr = value;
		return;
	case 2:
		c->s.vector = value & 0xf8;
		c->s.init = c->s.single ? 4 : 3;
		break;
	case 3: /* which input has the slave: the board's wiring is fixed */
		c->s.init = 4;
		break;
	case 4:
		c->s.auto_eoi = value & ICW4_AEOI;
		c->s.fully_nested = value & ICW4_SFNM;
		c->s.init = 0;
		return;
	}
	if (c->s.init == 4 && !c->s.need_icw4)
		c->s.init = 0;
}

static void chip_write(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct pic_chip *c = dev;

	if (off == 1)
		write_data(c, (uint8_t)value);
	else if (value & ICW1)
		write_icw1(c, (uint8_t)value);
	else if (value & OCW3)
		write_ocw3(c, (uint8_t)value);
	else
		write_ocw2(c, (uint8_t)value);
	update(pic_of(c));
}

static uint8_t poll_chip(struct pic_chip *c)
{
	bool request = pending_input(c) >= 0;
	unsigned n = acknowledge(c);

	c->s.poll = false;
	update(pic_of(c));
	return request ? POLL_REQUEST | n : 0;
}

static uint64_t chip_read(void *dev, uint64_t off, unsigned size)
{
	struct pic_chip *c = dev;

	if (c->s.poll)
		return poll_chip(c);
	if (off == 1)
		return c->s.imr;
	return c->s.read_isr ? c->s.isr : c->s.irr;
}

const struct bus_ops pic_chip_ops = {
	.read = chip_read,
	.write = chip_write,
	.max_size = 1,
};

static uint64_t elcr_read(void *dev, uint64_t off, unsigned size)
{
	struct pic *p = dev;

	return p->chip[off & 1].s.elcr;
}

static void elcr_write(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct pic *p = dev;
	struct pic_chip *c = &p->chip[off & 1];

	c->s.elcr = (uint8_t)value & elcr_writable[off & 1];
	c->s.irr = (c->s.irr & ~c->s.elcr) | (c->s.lines & c->s.elcr);
	update(p);
}

const struct bus_ops pic_elcr_ops = {
	.read = elcr_read,
	.write = elcr_write,
	.max_size = 1,
};

void pic_reset(struct pic *p)
{
	for (int i = 0; i < 2; i++) {
		struct pic_chip_state *s = &p->chip[i].s;

		*s = (struct pic_chip_state){
			.lines = s->lines,
			.output = s->output,
			.imr = 0xff,
			.lowest = 7,
			.vector = i == MASTER ? 0x08 : 0x70,
		};
	}
	update(p);
}

void pic_init(struct pic *p, struct irq_line intr)
{
	*p = (struct pic){ .intr = intr, .chip[SLAVE].slave = true };
	pic_reset(p);
}

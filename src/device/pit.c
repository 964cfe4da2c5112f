/*
 * The 8254. Nothing ticks: a channel remembers when its count was loaded, and its count and output
 *at any moment follow from the ticks since then. Only a rising edge of channel 0's output, which is
 *IRQ 0, needs the host's timer.
 *
 * The six modes, with N the count and t the ticks since it was loaded (Intel 8254 data sheet):
 *
 *	0  interrupt on terminal count   low until t = N, then high
 *	1  one-shot                      as 0, loaded by the gate's rising edge; high before it
 *	2  rate generator                low in the last tick of every N
 *	3  square wave                   high for the first half of every N
 *	4  software strobe               low at t = N only
 *	5  hardware strobe               as 4, loaded by the gate's rising edge
 *
 * A count written to a running mode 2 or 3 takes over when the period ends.
 */
#include "device/pit.h"

#include <assert.h>

#define NSEC_PER_SEC 1000000000ull

/* Channel 0 interrupts no more often than this, whatever count the guest writes. */
#define MIN_PERIOD_NS 50000ull

enum { PORT_CONTROL = 3 };
#define SELECT_READ_BACK 3
#define RW_LATCH         0
#define RW_LOW           1
#define RW_HIGH          2
#define RW_BOTH          3

#define STATUS_OUT  BIT(7)
#define STATUS_NULL BIT(6)

#define PORT61_GATE2    BIT(0)
#define PORT61_WRITABLE 0x0f
#define PORT61_REFRESH  BIT(4)
#define PORT61_OUT2     BIT(5)
#define REFRESH_NS      15085 /* channel 1 as every BIOS programs it: 18 ticks */

static uint64_t ticks_from_ns(uint64_t ns)
{
	return (uint64_t)((__uint128_t)ns * PIT_HZ / NSEC_PER_SEC);
}

static uint64_t ns_from_ticks(uint64_t ticks)
{
	return (uint64_t)(((__uint128_t)ticks * NSEC_PER_SEC + PIT_HZ - 1) / PIT_HZ);
}

static bool is_periodic(const struct pit_channel_state *c)
{
	return c->mode == 2 || c->mode == 3;
}

static bool is_triggered(const struct pit_channel_state *c)
{
	return c->mode == 1 || c->mode == 5;
}

static void start(struct pit_channel_state *c, uint64_t now)
{
	if (c->next_count)
		c->count = c->next_count;
	c->next_count = 0;
	c->running = true;
	c->load_ns = now;
	c->held_ticks = 0;
}

/* Every look at a channel begins here: a new count whose time has come takes over. */
static uint64_t elapsed(struct pit_channel_state *c, uint64_t now)
{
	if (c->running && is_periodic(c) && c->next_count && now >= c->switch_ns)
		start(c, c->switch_ns);
	if (!c->running)
		return c->held_ticks;
	return now > c->load_ns ? ticks_from_ns(now - c->load_ns) : 0;
}

static uint16_t to_bcd(uint32_t n)
{
	return (uint16_t)(n % 10 | n / 10 % 10 << 4 | n / 100 % 10 << 8 | n / 1000 % 10 << 12);
}

static uint32_t from_bcd(uint16_t n)
{
	return (n & 15) + (n >> 4 & 15) * 10u + (n >> 8 & 15) * 100u + (n >> 12) * 1000u;
}

static uint16_t current_count(struct pit_channel_state *c, uint64_t now)
{
	uint64_t t = elapsed(c, now), value;
	uint32_t modulus = c->bcd ? 10000 : 65536, half = (c->count + 1) / 2;

	switch (c->mode) {
	case 2:
		value = c->count - t % c->count;
		break;
	case 3: /* by twos, from an even number, once in each half */
		t %= c->count;
		value = (c->count & ~1u) - 2 * (t < half ? t : t - half);
		break;
	default:
		value = c->count + modulus - t % modulus;
	}
	value %= modulus;
	return c->bcd ? to_bcd((uint32_t)value) : (uint16_t)value;
}

static bool output(struct pit_channel_state *c, uint64_t now)
{
	uint64_t t = elapsed(c, now);

	if (c->mode == 0)
		return c->armed && t >= c->count;
	if (!c->running)
		return true;
	switch (c->mode) {
	case 1:
		return t >= c->count;
	case 2:
		return t % c->count != c->count - 1;
	case 3:
		return t % c->count < (c->count + 1) / 2;
	default:
		return t != c->count;
	}
}

/* The first rising edge of the output after a time, 0 when there is none. */
static uint64_t next_edge(struct pit_channel_state *c, uint64_t now)
{
	uint64_t t = elapsed(c, now), at;

	if (!c->running || is_triggered(c))
		return 0;
	if (is_periodic(c))
		at = (t / c->count + 1) * c->count;
	else
		at = c->mode == 0 ? c->count : c->count + 1;
	return at > t ? c->load_ns + ns_from_ticks(at) : 0;
}

static void schedule_irq(struct pit *p, uint64_t after)
{
	p->s.edge_ns = next_edge(&p->s.channel[0], after);
	if (p->s.edge_ns)
		timer_arm(&p->timer, p->s.edge_ns);
	else
		timer_cancel(&p->timer);
}

static void raise_edge(struct pit *p)
{
	if (p->s.irq_off)
		return;
	irq_set(&p->irq, false);
	irq_set(&p->irq, true);
}

static void timer_fire(void *opaque)
{
	struct pit *p = opaque;
	uint64_t now, edge;

	bus_lock(p->bus);
	now = clock_ns();
	edge = p->s.edge_ns;
	if (edge && edge <= now) {
		raise_edge(p);
		schedule_irq(p, now);
		if (p->s.edge_ns && p->s.edge_ns < now + MIN_PERIOD_NS)
			schedule_irq(p, now + MIN_PERIOD_NS);
	}
	bus_unlock(p->bus);
}

/* Channel 0 has been programmed: between edges the line shows mode 0's low and nobody else's. */
static void update_irq(struct pit *p)
{
	uint64_t now = clock_ns();

	if (!p->s.irq_off && p->s.channel[0].mode == 0 && !output(&p->s.channel[0], now))
		irq_set(&p->irq, false);
	schedule_irq(p, now);
}

void pit_set_irq_off(void *pit, unsigned n, bool off)
{
	struct pit *p = pit;

	if (off && !p->s.irq_off)
		irq_set(&p->irq, false);
	p->s.irq_off = off;
}

static void set_gate(struct pit_channel_state *c, bool gate, uint64_t now)
{
	bool rising = gate && !c->gate;
	uint64_t t = elapsed(c, now);

	if (gate == c->gate)
		return;
	c->gate = gate;
	if (!c->armed)
		return;
	if (is_triggered(c) || is_periodic(c)) {
		if (rising)
			start(c, now);
		else if (is_periodic(c))
			c->running = false;
		return;
	}
	/* Modes 0 and 4 pause. */
	c->held_ticks = t;
	c->running = gate;
	c->load_ns = now - ns_from_ticks(t);
}

static void load_count(struct pit_channel_state *c, uint16_t value, uint64_t now)
{
	uint32_t count = c->bcd ? from_bcd(value) : value;
	uint64_t t = elapsed(c, now);

	if (count == 0)
		count = c->bcd ? 10000 : 65536;
	if (c->armed && c->running && (is_periodic(c) || is_triggered(c))) {
		c->switch_ns = c->load_ns + ns_from_ticks((t / c->count + 1) * c->count);
		c->next_count = count;
		return;
	}
	c->armed = true;
	c->next_count = 0;
	c->count = count;
	c->held_ticks = 0;
	if (c->gate && !is_triggered(c))
		start(c, now);
}

static void write_count(struct pit_channel_state *c, uint8_t value)
{
	uint64_t now = clock_ns();

	if (c->rw == RW_LOW) {
		load_count(c, value, now);
	} else if (c->rw == RW_HIGH) {
		load_count(c, (uint16_t)(value << 8), now);
	} else if (c->write_high) {
		c->write_high = false;
		load_count(c, (uint16_t)(value << 8 | c->low_byte), now);
	} else {
		c->write_high = true;
		c->low_byte = value;
		/* The first of two bytes stops mode 0 and takes its output low. */
		if (c->mode == 0)
			c->armed = c->running = false;
	}
}

static uint8_t read_count(struct pit_channel_state *c)
{
	uint16_t count;
	bool high = c->rw == RW_HIGH || c->read_high;

	if (c->status_latched) {
		c->status_latched = false;
		return c->latched_status;
	}
	count = c->count_latched ? c->latched_count : current_count(c, clock_ns());
	if (c->rw == RW_BOTH)
		c->read_high = !c->read_high;
	if (!c->read_high)
		c->count_latched = false;
	return (uint8_t)(high ? count >> 8 : count);
}

static void latch_count(struct pit_channel_state *c)
{
	if (c->count_latched)
		return;
	c->latched_count = current_count(c, clock_ns());
	c->count_latched = true;
}

static void latch_status(struct pit_channel_state *c)
{
	bool out = output(c, clock_ns());

	if (c->status_latched)
		return;
	c->status_latched = true;
	c->latched_status =
	        (uint8_t)((out ? STATUS_OUT : 0) | (!c->armed || c->next_count ? STATUS_NULL : 0) |
	                  c->rw << 4 | c->mode << 1 | c->bcd);
}

static void read_back(struct pit *p, uint8_t value)
{
	for (unsigned i = 0; i < 3; i++) {
		if (!(value & BIT(i + 1)))
			continue;
		if (!(value & BIT(5)))
			latch_count(&p->s.channel[i]);
		if (!(value & BIT(4)))
			latch_status(&p->s.channel[i]);
	}
}

static void write_control(struct pit *p, uint8_t value)
{
	unsigned select = value >> 6, rw = value >> 4 & 3, mode = value >> 1 & 7;
	struct pit_channel_state *c;

	if (select == SELECT_READ_BACK) {
		read_back(p, value);
		return;
	}
	c = &p->s.channel[select];
	if (rw == RW_LATCH) {
		latch_count(c);
		return;
	}
	*c = (struct pit_channel_state){
		.mode = mode > 5 ? mode - 4 : mode,
		.rw = rw,
		.bcd = value & 1,
		.gate = c->gate,
		.count = c->count,
	};
	if (select == 0)
		update_irq(p);
}

static void pit_write(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct pit *p = dev;

	if (off == PORT_CONTROL) {
		write_control(p, (uint8_t)value);
		return;
	}
	write_count(&p->s.channel[off], (uint8_t)value);
	if (off == 0)
		update_irq(p);
}

static uint64_t pit_read(void *dev, uint64_t off, unsigned size)
{
	struct pit *p = dev;

	return off == PORT_CONTROL ? 0 : read_count(&p->s.channel[off]);
}

const struct bus_ops pit_ops = {
	.read = pit_read,
	.write = pit_write,
	.max_size = 1,
};

static uint64_t port61_read(void *dev, uint64_t off, unsigned size)
{
	struct pit *p = dev;
	uint64_t now = clock_ns();

	return p->s.port61 | (now / REFRESH_NS & 1 ? PORT61_REFRESH : 0) |
	       (output(&p->s.channel[2], now) ? PORT61_OUT2 : 0);
}

static void port61_write(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct pit *p = dev;

	p->s.port61 = value & PORT61_WRITABLE;
	set_gate(&p->s.channel[2], value & PORT61_GATE2, clock_ns());
}

const struct bus_ops pit_port61_ops = {
	.read = port61_read,
	.write = port61_write,
	.max_size = 1,
};

void pit_reset(struct pit *p)
{
	timer_cancel(&p->timer);
	p->s = (struct pit_state){ 0 };
	for (int i = 0; i < 3; i++) {
		p->s.channel[i] = (struct pit_channel_state){
			.mode = 3,
			.rw = RW_BOTH,
			.gate = i != 2,
			.count = 65536,
		};
	}
	irq_set(&p->irq, false);
}

void pit_init(struct pit *p, struct bus *bus, struct loop *loop, struct irq_line irq)
{
	*p = (struct pit){ .bus = bus, .irq = irq };
	timer_init(&p->timer, loop, timer_fire, p);
	pit_reset(p);
}

void pit_fini(struct pit *p)
{
	timer_fini(&p->timer);
}

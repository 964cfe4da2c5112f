/*
 * The HPET. The counter is the clock: while enabled it reads as its value at start_ns plus the time
 * since, ten nanoseconds a tick. A comparator becomes a moment on that clock, and the host's timer
 * is armed for it.
 *
 * A comparator matches when the counter reaches it, not when it has passed it: one set in the past
 * waits for the counter to wrap, which in 64 bits is never. Drivers know that they must read the
 * counter again after arming.
 *
 * An edge-triggered interrupt leaves its line high until just before the next one, because the 8259
 * takes back a request whose line falls before it is acknowledged.
 */
#include "device/hpet.h"

#include <assert.h>

/* Registers, by offset; those of timer n are 0x20 n further. */
enum {
	REG_CAPABILITIES = 0x000,
	REG_CONFIG = 0x010,
	REG_STATUS = 0x020,
	REG_COUNTER = 0x0f0,
	REG_TIMER = 0x100,
	TIMER_CONFIG = 0x00,
	TIMER_COMPARATOR = 0x08,
	TIMER_STRIDE = 0x20,
};

#define CAP_REVISION 0x01
#define CAP_64BIT    BIT(13)
#define CAP_LEGACY   BIT(15)
#define CAP_VENDOR   (0x8086ull << 16)

#define CONFIG_ENABLE BIT(0)
#define CONFIG_LEGACY BIT(1)

#define TN_LEVEL        BIT(1)
#define TN_ENABLE       BIT(2)
#define TN_PERIODIC     BIT(3)
#define TN_CAP_PERIODIC BIT(4)
#define TN_CAP_64BIT    BIT(5)
#define TN_SET_VALUE    BIT(6)
#define TN_32BIT        BIT(8)
#define TN_ROUTE(c)     ((unsigned)((c) >> 9 & 31))
#define TN_WRITABLE     (TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SET_VALUE | TN_32BIT | 31ull << 9)
/* Pins 2, 8 and 16 to 23. */
#define TN_ROUTES 0x00ff0104ull

/* A periodic timer interrupts no more often than this, whatever period the guest asks for. */
#define MIN_PERIOD_NS 50000ull
/* Beyond this a match is as good as never: a century. */
#define MAX_WAIT_TICKS (100ull * 366 * 86400 * 1000000000 / HPET_PERIOD_NS)

static const unsigned legacy_irq[] = { 0, 8 };

static uint64_t width_mask(const struct hpet_timer_state *t)
{
	return t->config & TN_32BIT ? UINT32_MAX : UINT64_MAX;
}

static uint64_t counter_at(const struct hpet *h, uint64_t now)
{
	if (!(h->s.config & CONFIG_ENABLE))
		return h->s.counter;
	return h->s.counter + (now - h->s.start_ns) / HPET_PERIOD_NS;
}

/* When the counter, now before value, will have reached it. */
static uint64_t time_of(const struct hpet *h, uint64_t value)
{
	return h->s.start_ns + (value - h->s.counter) * HPET_PERIOD_NS;
}

/* The line that a timer's interrupts take (2.3.8 and 2.4.3 of the specification). */
static void set_line(struct hpet *h, unsigned n, bool level)
{
	bool legacy = h->s.config & CONFIG_LEGACY && n < ARRAY_SIZE(legacy_irq);
	unsigned pin = TN_ROUTE(h->s.timer[n].config);
	struct irq_line line = legacy ? h->isa : h->gsi;

	if (!legacy && !(TN_ROUTES & BIT(pin)))
		return;
	line.n = legacy ? legacy_irq[n] : pin;
	irq_set(&line, level);
}

static void update_level(struct hpet *h, unsigned n)
{
	const struct hpet_timer_state *t = &h->s.timer[n];

	if (t->config & TN_LEVEL)
		set_line(h, n, t->config & TN_ENABLE && h->s.status & BIT(n));
}

/* Finds the next match after a counter value that has just been seen at time now. */
static void schedule(struct hpet *h, unsigned n, uint64_t now)
{
	struct hpet_timer_state *t = &h->s.timer[n];
	uint64_t counter = counter_at(h, now);
	uint64_t ticks = (t->comparator - counter) & width_mask(t);

	t->expiry_ns = 0;
	if (h->s.config & CONFIG_ENABLE && t->config & (TN_ENABLE | TN_LEVEL) &&
	    ticks < MAX_WAIT_TICKS)
		t->expiry_ns = time_of(h, counter + ticks);
	if (t->expiry_ns)
		timer_arm(&h->timer[n].timer, t->expiry_ns);
	else
		timer_cancel(&h->timer[n].timer);
}

/* Moves a periodic comparator past a counter value; the periods skipped have no interrupt. */
static void advance(struct hpet_timer_state *t, uint64_t counter)
{
	uint64_t mask = width_mask(t), late = (counter - t->comparator) & mask;
	uint64_t period = t->period & mask;

	if (period)
		t->comparator = (t->comparator + (late / period + 1) * period) & mask;
}

static void match(struct hpet *h, unsigned n, uint64_t now)
{
	struct hpet_timer_state *t = &h->s.timer[n];

	if (t->config & TN_LEVEL) {
		h->s.status |= BIT(n);
		update_level(h, n);
	} else if (t->config & TN_ENABLE) {
		set_line(h, n, false);
		set_line(h, n, true);
	}
	if (t->config & TN_PERIODIC && t->period & width_mask(t)) {
		uint64_t counter = counter_at(h, now);

		if ((t->period & width_mask(t)) < MIN_PERIOD_NS / HPET_PERIOD_NS)
			counter += MIN_PERIOD_NS / HPET_PERIOD_NS;
		advance(t, counter);
	}
	/* Not the value that just matched: in 32 bits a one-shot matches again after a wrap. */
	schedule(h, n, now + HPET_PERIOD_NS);
}

static void timer_fire(void *opaque)
{
	struct hpet_timer *ht = opaque;
	struct hpet *h = ht->hpet;
	uint64_t now, expiry;

	bus_lock(h->bus);
	now = clock_ns();
	expiry = h->s.timer[ht->n].expiry_ns;
	if (expiry && expiry <= now)
		match(h, ht->n, now);
	bus_unlock(h->bus);
}

static void schedule_all(struct hpet *h, uint64_t now)
{
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		schedule(h, n, now);
}

/* Writes. */

static void write_config(struct hpet *h, uint64_t value)
{
	uint64_t old = h->s.config, now = clock_ns();

	value &= CONFIG_ENABLE | CONFIG_LEGACY;
	h->s.counter = counter_at(h, now);
	h->s.start_ns = now;
	if ((old ^ value) & CONFIG_LEGACY) {
		for (unsigned n = 0; n < HPET_TIMERS; n++)
			set_line(h, n, false);
		irq_set(&h->legacy, value & CONFIG_LEGACY);
	}
	h->s.config = value;
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		update_level(h, n);
	schedule_all(h, now);
}

static void write_status(struct hpet *h, uint64_t value)
{
	h->s.status &= ~value;
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		update_level(h, n);
}

/* The counter may be written while it is halted only (2.3.7). */
static void write_counter(struct hpet *h, uint64_t value)
{
	if (!(h->s.config & CONFIG_ENABLE))
		h->s.counter = value;
}

static void write_timer_config(struct hpet *h, unsigned n, uint64_t value)
{
	struct hpet_timer_state *t = &h->s.timer[n];
	uint64_t old = t->config;

	value &= TN_WRITABLE;
	/* A route, type or enable that changes lets go of the line. */
	if ((old ^ value) & (TN_LEVEL | TN_ENABLE | 31ull << 9))
		set_line(h, n, false);
	t->config = value;
	t->comparator &= width_mask(t);
	if (!(value & TN_LEVEL))
		h->s.status &= ~BIT(n);
	update_level(h, n);
	schedule(h, n, clock_ns());
}

/* In periodic mode a write sets the period, and the comparator too when TN_SET_VALUE asks for it
 * (2.3.9.2.2); the bit clears itself. */
static void write_comparator(struct hpet *h, unsigned n, uint64_t value)
{
	struct hpet_timer_state *t = &h->s.timer[n];

	value &= width_mask(t);
	if (t->config & TN_PERIODIC)
		t->period = value;
	if (!(t->config & TN_PERIODIC) || t->config & TN_SET_VALUE)
		t->comparator = value;
	t->config &= ~TN_SET_VALUE;
	schedule(h, n, clock_ns());
}

/* Reads, and the two halves of 64-bit registers. */

static uint64_t read_timer(const struct hpet *h, unsigned n, unsigned reg)
{
	const struct hpet_timer_state *t = &h->s.timer[n];

	switch (reg) {
	case TIMER_CONFIG:
		return t->config | TN_CAP_PERIODIC | TN_CAP_64BIT | TN_ROUTES << 32;
	case TIMER_COMPARATOR:
		return t->comparator;
	}
	return 0;
}

static uint64_t read_register(const struct hpet *h, uint64_t reg)
{
	switch (reg) {
	case REG_CAPABILITIES:
		return CAP_REVISION | (HPET_TIMERS - 1) << 8 | CAP_64BIT | CAP_LEGACY | CAP_VENDOR |
		       (uint64_t)HPET_PERIOD_FS << 32;
	case REG_CONFIG:
		return h->s.config;
	case REG_STATUS:
		return h->s.status;
	case REG_COUNTER:
		return counter_at(h, clock_ns());
	}
	if (reg >= REG_TIMER && (reg - REG_TIMER) / TIMER_STRIDE < HPET_TIMERS)
		return read_timer(h, (unsigned)(reg - REG_TIMER) / TIMER_STRIDE,
		                  reg % TIMER_STRIDE);
	return 0;
}

/* The value that a narrow write leaves the 64-bit register meant to have. Halves of the comparator
 * of a periodic timer combine with the period, which is what such writes set. */
static uint64_t merge(const struct hpet *h, uint64_t reg, unsigned shift, unsigned size,
                      uint64_t value)
{
	uint64_t mask = (size < 8 ? BIT(size * 8) - 1 : UINT64_MAX) << shift;
	uint64_t old = read_register(h, reg);

	if (reg == REG_STATUS)
		old = 0; /* bits are cleared by ones */
	if (reg >= REG_TIMER && reg % TIMER_STRIDE == TIMER_COMPARATOR) {
		const struct hpet_timer_state *t =
		        &h->s.timer[(reg - REG_TIMER) / TIMER_STRIDE % HPET_TIMERS];

		if (t->config & TN_PERIODIC && !(t->config & TN_SET_VALUE))
			old = t->period;
	}
	return (old & ~mask) | (value << shift & mask);
}

static void hpet_write(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct hpet *h = dev;
	uint64_t reg = off & ~7ull;
	unsigned n = (unsigned)((reg - REG_TIMER) / TIMER_STRIDE);

	value = merge(h, reg, (off & 7) * 8, size, value);
	if (reg == REG_CONFIG)
		write_config(h, value);
	else if (reg == REG_STATUS)
		write_status(h, value);
	else if (reg == REG_COUNTER)
		write_counter(h, value);
	else if (reg < REG_TIMER || n >= HPET_TIMERS)
		return;
	else if (reg % TIMER_STRIDE == TIMER_CONFIG)
		write_timer_config(h, n, value);
	else if (reg % TIMER_STRIDE == TIMER_COMPARATOR)
		write_comparator(h, n, value);
}

static uint64_t hpet_read(void *dev, uint64_t off, unsigned size)
{
	return read_register(dev, off & ~7ull) >> (off & 7) * 8;
}

const struct bus_ops hpet_ops = { .read = hpet_read, .write = hpet_write };

void hpet_reset(struct hpet *h)
{
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		timer_cancel(&h->timer[n].timer);
		set_line(h, n, false);
	}
	h->s = (struct hpet_state){ 0 };
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		h->s.timer[n].comparator = UINT64_MAX;
	irq_set(&h->legacy, false);
}

void hpet_init(struct hpet *h, struct bus *bus, struct loop *loop, struct irq_line gsi,
               struct irq_line isa, struct irq_line legacy)
{
	*h = (struct hpet){ .bus = bus, .gsi = gsi, .isa = isa, .legacy = legacy };
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		h->timer[n] = (struct hpet_timer){ .hpet = h, .n = n };
		timer_init(&h->timer[n].timer, loop, timer_fire, &h->timer[n]);
	}
	hpet_reset(h);
}

void hpet_fini(struct hpet *h)
{
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		timer_fini(&h->timer[n].timer);
}

#include "device/i6300esb.h"

#include <errno.h>
#include <stdlib.h>

static const struct pci_identity identity = {
	.vendor = 0x8086,
	.device = 0x25ab,
	.class = 0x0880,
	.subvendor = 0x8086,
	.subdevice = 0x25ab,
};

/* Configuration space. */
#define CONFIG          0x60 /* 16 bits */
#define CONFIG_KEPT     0x27
#define CONFIG_FAST     0x04 /* steps of about 1 us instead of 1 ms */
#define CONFIG_NO_RESET 0x20 /* the output stays quiet */
#define LOCK            0x68 /* 8 bits */
#define LOCK_LOCKED     0x01
#define LOCK_ENABLE     0x02
#define LOCK_KEPT       0x07

/* Memory. */
#define BAR_LEN      16
#define REG_PRELOAD1 0x00
#define REG_PRELOAD2 0x04
#define REG_STATUS   0x08
#define REG_RELOAD   0x0c
#define PRELOAD_MASK 0xfffffu
#define RELOAD_NOW   0x0100u
#define TIMED_OUT    0x0200u

/* Two writes to the reload register that open the registers for one write. */
#define KEY1 0x80
#define KEY2 0x86

#define PCI_HZ 33000000ull

enum stage { STOPPED, FIRST, SECOND };

struct i6300esb_state {
	uint32_t preload[2];
	enum stage stage;
	uint64_t deadline_ns;
	uint8_t keys; /* seen */
	bool timed_out;
};

struct i6300esb {
	struct pci_function f;
	struct i6300esb_config config;
	struct timer timer;
	struct i6300esb_state s;
};

/* A step is 2^15 or 2^5 ticks of the bus. */
static uint64_t stage_ns(const struct i6300esb *w, unsigned n)
{
	unsigned shift = w->f.config[CONFIG] & CONFIG_FAST ? 5 : 15;

	return ((uint64_t)w->s.preload[n] << shift) * 1000000000 / PCI_HZ;
}

static void enter(struct i6300esb *w, enum stage stage)
{
	w->s.stage = stage;
	if (stage == STOPPED) {
		timer_cancel(&w->timer);
		return;
	}
	w->s.deadline_ns = clock_ns() + stage_ns(w, stage == SECOND);
	timer_arm(&w->timer, w->s.deadline_ns);
}

static void expire(struct i6300esb *w)
{
	enter(w, STOPPED);
	w->s.timed_out = true;
	if (!(w->f.config[CONFIG] & CONFIG_NO_RESET))
		w->config.expired(w->config.opaque);
}

static void on_timer(void *opaque)
{
	struct i6300esb *w = opaque;

	pci_host_lock(w->f.host);
	if (w->s.stage != STOPPED && clock_ns() >= w->s.deadline_ns) {
		if (w->s.stage == FIRST)
			enter(w, SECOND);
		else
			expire(w);
	}
	pci_host_unlock(w->f.host);
}

static uint64_t read_bar(void *dev, uint64_t off, unsigned size)
{
	const struct i6300esb *w = dev;

	return (off & ~1ull) == REG_RELOAD && w->s.timed_out ? TIMED_OUT >> (8 * (off & 1)) : 0;
}

static void write_reload(struct i6300esb *w, uint32_t value, bool open)
{
	if (value == KEY1) {
		w->s.keys = 1;
	} else if (value == KEY2 && w->s.keys == 1) {
		w->s.keys = 2;
	} else if (open) {
		if (value & TIMED_OUT)
			w->s.timed_out = false;
		if (value & RELOAD_NOW && w->f.config[LOCK] & LOCK_ENABLE)
			enter(w, FIRST);
	}
}

static void write_bar(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct i6300esb *w = dev;
	bool open = w->s.keys == 2;

	w->s.keys = open ? 0 : w->s.keys;
	if (off == REG_PRELOAD1 && open)
		w->s.preload[0] = value & PRELOAD_MASK;
	else if (off == REG_PRELOAD2 && open)
		w->s.preload[1] = value & PRELOAD_MASK;
	else if (off == REG_RELOAD)
		write_reload(w, (uint32_t)value, open);
}

static const struct bus_ops bar_ops = { .read = read_bar, .write = write_bar, .max_size = 4 };

static void config_written(void *dev, unsigned reg, unsigned size)
{
	struct i6300esb *w = dev;
	bool enabled = w->f.config[LOCK] & LOCK_ENABLE;

	if (reg > LOCK || reg + size <= LOCK)
		return;
	if (w->f.config[LOCK] & LOCK_LOCKED) /* until a reset */
		w->f.writable[LOCK] = 0;
	if (enabled && w->s.stage == STOPPED && !w->s.timed_out)
		enter(w, FIRST);
	else if (!enabled)
		enter(w, STOPPED);
}

static void reset(void *dev)
{
	struct i6300esb *w = dev;
	bool timed_out = w->s.timed_out; /* outlasts it, for software to know */

	enter(w, STOPPED);
	w->s = (struct i6300esb_state){ .preload = { PRELOAD_MASK, PRELOAD_MASK },
		                        .timed_out = timed_out };
	w->f.writable[LOCK] = LOCK_KEPT;
}

static void free_watchdog(void *dev)
{
	struct i6300esb *w = dev;

	timer_fini(&w->timer);
	free(w);
}

static const struct pci_ops ops = {
	.config_written = config_written,
	.reset = reset,
	.free = free_watchdog,
};

int i6300esb_add(struct pci_host *host, const struct i6300esb_config *config)
{
	struct pci_bar bar = { .len = BAR_LEN, .ops = &bar_ops };
	int slot = pci_host_find_slot(host);
	struct i6300esb *w;

	if (slot < 0)
		return slot;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->config = *config;
	timer_init(&w->timer, config->loop, on_timer, w);
	pci_init(&w->f, &identity, &ops, w);
	bar.dev = w;
	pci_add_bar(&w->f, 0, &bar);
	pci_put16(&w->f.writable[CONFIG], CONFIG_KEPT);
	reset(w);
	return pci_host_add(host, PCI_DEVFN(slot, 0), &w->f);
}

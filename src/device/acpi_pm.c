/*
 * ACPI's fixed hardware. Registers are 16 bits wide and may be accessed by byte, word or dword at
 * any alignment (operating systems differ), so reads and writes work on bytes and words are
 * assembled.
 *
 * Event: a status bit is set by hardware and cleared by writing one to it; SCI, a level, is high
 * while any enabled status bit is set (ACPI 6.4, 4.8.2). The timer counts at 3.579545 MHz from
 * clock_ns(); its status bit is set whenever the top bit of the counter toggles (4.8.2.1), found
 * out by comparing counts, with a host timer only while the guest has enabled that interrupt.
 */
#include <assert.h>
#include <string.h>

#include "device/acpi_pm.h"

#define NSEC_PER_SEC 1000000000ull

#define PM1_TMR     0x0001
#define PM1_GBL     0x0020
#define PM1_PWRBTN  0x0100
#define PM1_SLPBTN  0x0200
#define PM1_RTC     0x0400
#define PM1_EVENTS  (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)
#define PM1_ENABLES PM1_EVENTS

#define CNT_SCI_EN     0x0001
#define CNT_KEPT       0x1c02 /* BM_RLD, SLP_TYP */
#define CNT_SLP_TYP(v) (((v) >> 10) & 7)
#define CNT_SLP_EN     0x2000

#define RESET_CPU  0x04
#define RESET_KEPT 0x0a /* SYS_RST, FULL_RST */

static uint64_t scale(uint64_t value, uint64_t mul, uint64_t div)
{
	return (uint64_t)((unsigned __int128)value * mul / div);
}

static uint64_t timer_ticks(const struct acpi_pm *p)
{
	return scale(clock_ns() - p->epoch_ns, ACPI_PM_TMR_HZ, NSEC_PER_SEC);
}

/* How often the counter's top bit has toggled by then. */
static uint64_t toggles(const struct acpi_pm *p, uint64_t ticks)
{
	return ticks >> (p->timer_bits - 1);
}

static void catch_up(struct acpi_pm *p)
{
	uint64_t now = timer_ticks(p);

	if (toggles(p, now) != toggles(p, p->seen_ticks))
		p->status |= PM1_TMR;
	p->seen_ticks = now;
}

static void arm_timer(struct acpi_pm *p)
{
	uint64_t ticks = (toggles(p, p->seen_ticks) + 1) << (p->timer_bits - 1);

	/* One more nanosecond, so that rounding never wakes us a tick early. */
	if ((p->enable & PM1_TMR) && !(p->status & PM1_TMR))
		timer_arm(&p->timer, p->epoch_ns + scale(ticks, NSEC_PER_SEC, ACPI_PM_TMR_HZ) + 1);
	else
		timer_cancel(&p->timer);
}

static void update_sci(struct acpi_pm *p)
{
	irq_set(&p->sci, (p->status & p->enable) || (p->gpe_status & p->gpe_enable));
}

static void on_timer(void *opaque)
{
	struct acpi_pm *p = opaque;

	bus_lock(p->bus);
	catch_up(p);
	update_sci(p);
	arm_timer(p);
	bus_unlock(p->bus);
}

/* Registers by byte offset; 0 where nothing is. */
static uint8_t read_byte(const struct acpi_pm *p, unsigned off)
{
	uint32_t ticks;

	switch (off) {
	case ACPI_PM_EVT ... ACPI_PM_EVT + 1:
		return (uint8_t)(p->status >> (8 * (off - ACPI_PM_EVT)));
	case ACPI_PM_EVT + 2 ... ACPI_PM_EVT + 3:
		return (uint8_t)(p->enable >> (8 * (off - ACPI_PM_EVT - 2)));
	case ACPI_PM_CNT ... ACPI_PM_CNT + 1:
		return (uint8_t)(p->control >> (8 * (off - ACPI_PM_CNT)));
	case ACPI_PM_TMR ... ACPI_PM_TMR + 3:
		ticks = (uint32_t)(p->seen_ticks & (BIT(p->timer_bits) - 1));
		return (uint8_t)(ticks >> (8 * (off - ACPI_PM_TMR)));
	case ACPI_PM_GPE0 ... ACPI_PM_GPE0 + 1:
		return (uint8_t)(p->gpe_status >> (8 * (off - ACPI_PM_GPE0)));
	case ACPI_PM_GPE0 + 2 ... ACPI_PM_GPE0 + 3:
		return (uint8_t)(p->gpe_enable >> (8 * (off - ACPI_PM_GPE0 - 2)));
	default:
		return 0;
	}
}

/* Bits of the control register that were written, in place; only a transition can start sleeping.
 */
static void write_control(struct acpi_pm *p, uint16_t value, uint16_t mask)
{
	uint16_t next = (uint16_t)((p->control & ~mask) | (value & mask));

	p->control = (next & CNT_KEPT) | CNT_SCI_EN;
	if (!(value & mask & CNT_SLP_EN))
		return;
	/* Only \_S5 is declared; other types would be sleep states that this machine lacks. */
	if (CNT_SLP_TYP(next) == ACPI_PM_SLP_TYP_S5 && p->callbacks.power_off)
		p->callbacks.power_off(p->callbacks.opaque);
}

static uint16_t merge(uint16_t old, uint16_t value, uint16_t mask)
{
	return (uint16_t)((old & ~mask) | (value & mask));
}

/* value and mask hold the bytes that were written, at their place in the 16-bit register. */
static void write_word(struct acpi_pm *p, unsigned reg, uint16_t value, uint16_t mask)
{
	switch (reg) {
	case ACPI_PM_EVT:
		p->status &= (uint16_t) ~(value & mask);
		break;
	case ACPI_PM_EVT + 2:
		p->enable = merge(p->enable, value, mask) & PM1_ENABLES;
		break;
	case ACPI_PM_CNT:
		write_control(p, value, mask);
		break;
	case ACPI_PM_GPE0:
		p->gpe_status &= (uint16_t) ~(value & mask);
		break;
	case ACPI_PM_GPE0 + 2:
		p->gpe_enable = merge(p->gpe_enable, value, mask);
		break;
	default:
		break; /* the timer is read-only */
	}
}

static uint64_t read_pm(void *dev, uint64_t off, unsigned size)
{
	struct acpi_pm *p = dev;
	uint64_t value = 0;

	catch_up(p);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)read_byte(p, (unsigned)off + i) << (8 * i);
	update_sci(p);
	return value;
}

static void write_pm(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct acpi_pm *p = dev;
	unsigned at = (unsigned)off, end = at + size, n;
	uint16_t word, mask;

	catch_up(p);
	for (; at < end; at += n, value >>= 8 * n) {
		n = (at & 1) || end - at == 1 ? 1 : 2;
		mask = (uint16_t)((n == 2 ? 0xffff : 0xff) << (8 * (at & 1)));
		word = (uint16_t)(value << (8 * (at & 1)));
		write_word(p, at & ~1u, word, mask);
	}
	update_sci(p);
	arm_timer(p);
}

const struct bus_ops acpi_pm_ops = {
	.read = read_pm,
	.write = write_pm,
};

static uint64_t read_reset(void *dev, uint64_t off, unsigned size)
{
	const struct acpi_pm *p = dev;

	return p->reset_control;
}

/* The reset control register of Intel's chipsets (ICH9 datasheet, 13.7.5). */
static void write_reset(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct acpi_pm *p = dev;

	p->reset_control = value & RESET_KEPT;
	if ((value & RESET_CPU) && p->callbacks.reset)
		p->callbacks.reset(p->callbacks.opaque);
}

const struct bus_ops acpi_reset_ops = {
	.read = read_reset,
	.write = write_reset,
	.max_size = 1,
};

void acpi_pm_init(struct acpi_pm *p, struct irq_line sci, struct acpi_pm_callbacks callbacks,
                  struct bus *bus, struct loop *loop, unsigned timer_bits)
{
	assert(timer_bits == 24 || timer_bits == 32);
	memset(p, 0, sizeof(*p));
	p->sci = sci;
	p->callbacks = callbacks;
	p->bus = bus;
	p->timer_bits = timer_bits;
	p->control = CNT_SCI_EN;
	p->epoch_ns = clock_ns();
	timer_init(&p->timer, loop, on_timer, p);
}

void acpi_pm_fini(struct acpi_pm *p)
{
	timer_fini(&p->timer);
}

void acpi_pm_reset(struct acpi_pm *p)
{
	p->status = p->enable = 0;
	p->gpe_status = p->gpe_enable = 0;
	p->control = CNT_SCI_EN;
	p->reset_control = 0;
	update_sci(p);
	arm_timer(p);
}

bool acpi_pm_press_power(struct acpi_pm *p)
{
	p->status |= PM1_PWRBTN;
	update_sci(p);
	return p->enable & PM1_PWRBTN;
}

void acpi_pm_raise_gpe(struct acpi_pm *p, unsigned n)
{
	assert(n < ACPI_PM_GPE0_BITS);
	p->gpe_status |= (uint16_t)BIT(n);
	update_sci(p);
}

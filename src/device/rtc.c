/*
 * The MC146818A.
 *
 * Nothing ticks. The chip is a divider chain that counts nanoseconds (struct rtc), and its state at
 * any moment follows from the count: the time registers from the second, UIP from the fraction, and
 * the flags of register C from which boundaries lie between the last look (seen_ns) and now. Each
 * access looks (catch_up), and a host timer is armed only while the guest has enabled an interrupt
 * and has acknowledged the last one, so an idle clock costs nothing and a deaf guest cannot make it
 * spin.
 *
 * The clock is stopped while the SET bit is one or the divider is held in reset; only then do the
 * time registers live in cmos[]. Example, a guest that sets the time: it writes SET (the current
 * time is copied to cmos[]), stores new fields there, clears SET (offset_s is computed from the
 * fields).
 */
#include <string.h>
#include <time.h>

#include "device/rtc.h"

#define NSEC_PER_SEC 1000000000ull
#define SEC_PER_DAY  86400
#define UIP_NS       244000ull /* UIP rises 244 us before the update, datasheet table 6 */
#define CRYSTAL_HZ   32768

enum {
	REG_SECONDS,
	REG_SECONDS_ALARM,
	REG_MINUTES,
	REG_MINUTES_ALARM,
	REG_HOURS,
	REG_HOURS_ALARM,
	REG_WEEKDAY,
	REG_DAY,
	REG_MONTH,
	REG_YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
};

#define A_UIP      0x80
#define A_DIVIDER  0x70
#define A_DV_32KHZ 0x20
#define A_RATE     0x0f
#define A_RESET    0x26 /* 32.768 kHz, 1024 Hz periodic: what firmware leaves */
#define B_24H      0x02
#define B_BINARY   0x04
#define B_SQWE     0x08
#define B_UIE      0x10
#define B_AIE      0x20
#define B_PIE      0x40
#define B_SET      0x80
#define C_UF       0x10
#define C_AF       0x20
#define C_PF       0x40
#define C_IRQF     0x80
#define C_EVENTS   (C_UF | C_AF | C_PF) /* at the bits of their enables in B */
#define D_VRT      0x80
#define HOURS_PM   0x80
#define ALARM_ANY  0xc0 /* both top bits set: this field always matches */
#define INDEX_MASK 0x7f /* bit 7 of port 0x70 gates NMI on a PC */

/* Where PC firmware keeps the size of RAM. */
#define CMOS_BASE_KB  0x15
#define CMOS_EXT_KB   0x17
#define CMOS_EXT2_KB  0x30
#define CMOS_16M_64KB 0x34
#define CMOS_4G_64KB  0x5b

static uint64_t chain_ns(const struct rtc *r)
{
	return clock_ns() + r->phase_ns;
}

static bool is_running(const struct rtc *r)
{
	return !(r->cmos[REG_B] & B_SET) && (r->cmos[REG_A] & A_DIVIDER) <= A_DV_32KHZ;
}

static uint8_t encode(const struct rtc *r, unsigned value)
{
	if (r->cmos[REG_B] & B_BINARY)
		return (uint8_t)value;
	return (uint8_t)((value / 10 % 10) << 4 | value % 10);
}

static unsigned decode(const struct rtc *r, uint8_t byte)
{
	if (r->cmos[REG_B] & B_BINARY)
		return byte;
	return (byte >> 4) * 10u + (byte & 0xf);
}

static uint8_t encode_hours(const struct rtc *r, unsigned hours)
{
	if (r->cmos[REG_B] & B_24H)
		return encode(r, hours);
	return encode(r, hours % 12 ? hours % 12 : 12) | (hours >= 12 ? HOURS_PM : 0);
}

static unsigned decode_hours(const struct rtc *r, uint8_t byte)
{
	if (r->cmos[REG_B] & B_24H)
		return decode(r, byte);
	return decode(r, byte & ~HOURS_PM) % 12 + (byte & HOURS_PM ? 12 : 0);
}

/* UTC second of the guest's clock to the time registers. */
static void store_time(struct rtc *r, int64_t second)
{
	time_t t = (time_t)second;
	struct tm tm;
	unsigned year;

	if (!gmtime_r(&t, &tm))
		return;
	year = (unsigned)(tm.tm_year + 1900);
	r->cmos[REG_SECONDS] = encode(r, (unsigned)tm.tm_sec);
	r->cmos[REG_MINUTES] = encode(r, (unsigned)tm.tm_min);
	r->cmos[REG_HOURS] = encode_hours(r, (unsigned)tm.tm_hour);
	r->cmos[REG_WEEKDAY] = encode(r, (unsigned)tm.tm_wday + 1);
	r->cmos[REG_DAY] = encode(r, (unsigned)tm.tm_mday);
	r->cmos[REG_MONTH] = encode(r, (unsigned)tm.tm_mon + 1);
	r->cmos[REG_YEAR] = encode(r, year % 100);
	r->cmos[RTC_REG_CENTURY] = encode(r, year / 100);
}

/* The reverse. Fields out of range carry over, as timegm() does: every byte pattern is some time.
 */
static int64_t load_time(const struct rtc *r)
{
	unsigned year = decode(r, r->cmos[RTC_REG_CENTURY]) * 100 + decode(r, r->cmos[REG_YEAR]);
	struct tm tm = {
		.tm_sec = (int)decode(r, r->cmos[REG_SECONDS]),
		.tm_min = (int)decode(r, r->cmos[REG_MINUTES]),
		.tm_hour = (int)decode_hours(r, r->cmos[REG_HOURS]),
		.tm_mday = (int)decode(r, r->cmos[REG_DAY]),
		.tm_mon = (int)decode(r, r->cmos[REG_MONTH]) - 1,
		.tm_year = (int)year - 1900,
	};

	return (int64_t)timegm(&tm);
}

static int64_t guest_second(const struct rtc *r, uint64_t chain)
{
	return (int64_t)(chain / NSEC_PER_SEC) + r->offset_s;
}

/* Period of the periodic interrupt in crystal cycles, 0 for none. Rates 1 and 2 repeat 8 and 9 at
 * the 32 kHz time base (datasheet table 5). */
static uint64_t periodic_cycles(const struct rtc *r)
{
	unsigned rate = r->cmos[REG_A] & A_RATE;

	if (!rate)
		return 0;
	return 1ull << ((rate <= 2 ? rate + 7 : rate) - 1);
}

/* Split, because ns * 32768 leaves 64 bits after a week. */
static uint64_t chain_cycles(uint64_t chain)
{
	return chain / NSEC_PER_SEC * CRYSTAL_HZ + chain % NSEC_PER_SEC * CRYSTAL_HZ / NSEC_PER_SEC;
}

/* The first nanosecond at which chain_cycles() gives the count. */
static uint64_t cycles_to_ns(uint64_t cycles)
{
	return cycles / CRYSTAL_HZ * NSEC_PER_SEC +
	       (cycles % CRYSTAL_HZ * NSEC_PER_SEC + CRYSTAL_HZ - 1) / CRYSTAL_HZ;
}

static bool alarm_field_matches(uint8_t alarm, uint8_t now)
{
	return (alarm & ALARM_ANY) == ALARM_ANY || alarm == now;
}

static bool alarm_matches(const struct rtc *r, int64_t second)
{
	unsigned tod = (unsigned)((second % SEC_PER_DAY + SEC_PER_DAY) % SEC_PER_DAY);

	return alarm_field_matches(r->cmos[REG_SECONDS_ALARM], encode(r, tod % 60)) &&
	       alarm_field_matches(r->cmos[REG_MINUTES_ALARM], encode(r, tod / 60 % 60)) &&
	       alarm_field_matches(r->cmos[REG_HOURS_ALARM], encode_hours(r, tod / 3600));
}

/* Whether the alarm went off in the seconds (from, to]. A day holds every alarm, so the loop is
 * bounded, and it runs at most once for each second that has really passed. */
static bool alarm_between(const struct rtc *r, int64_t from, int64_t to)
{
	if (to - from > SEC_PER_DAY)
		from = to - SEC_PER_DAY;
	while (from < to) {
		if (alarm_matches(r, ++from))
			return true;
	}
	return false;
}

static void update_irq(struct rtc *r)
{
	if (r->cmos[REG_B] & r->cmos[REG_C] & C_EVENTS)
		r->cmos[REG_C] |= C_IRQF;
	else
		r->cmos[REG_C] &= (uint8_t)~C_IRQF;
	irq_set(&r->irq, r->cmos[REG_C] & C_IRQF);
}

/* Brings register C up to date. The chain of a stopped clock still divides for the periodic rate
 * unless it is the divider that is held. */
static void catch_up(struct rtc *r)
{
	uint64_t now = chain_ns(r), before = r->seen_ns;
	uint64_t period = periodic_cycles(r);

	r->seen_ns = now;
	if ((r->cmos[REG_A] & A_DIVIDER) > A_DV_32KHZ)
		return;
	if (period && chain_cycles(now) / period != chain_cycles(before) / period)
		r->cmos[REG_C] |= C_PF;
	if (!is_running(r) || now / NSEC_PER_SEC == before / NSEC_PER_SEC)
		return;
	r->cmos[REG_C] |= C_UF;
	if (alarm_between(r, guest_second(r, before), guest_second(r, now)))
		r->cmos[REG_C] |= C_AF;
}

/* Arms the timer for the next event that would interrupt. After catch_up(). */
static void arm_timer(struct rtc *r)
{
	uint64_t next = UINT64_MAX, period = periodic_cycles(r), at;
	bool counting = (r->cmos[REG_A] & A_DIVIDER) <= A_DV_32KHZ;

	if ((r->cmos[REG_B] & (B_UIE | B_AIE)) && is_running(r))
		next = (r->seen_ns / NSEC_PER_SEC + 1) * NSEC_PER_SEC;
	if ((r->cmos[REG_B] & B_PIE) && period && counting) {
		at = cycles_to_ns((chain_cycles(r->seen_ns) / period + 1) * period);
		next = at < next ? at : next;
	}
	if (next == UINT64_MAX || (r->cmos[REG_C] & C_IRQF))
		timer_cancel(&r->timer);
	else
		timer_arm(&r->timer, next - r->phase_ns);
}

static void settle(struct rtc *r)
{
	update_irq(r);
	arm_timer(r);
}

static void on_timer(void *opaque)
{
	struct rtc *r = opaque;

	bus_lock(r->bus);
	catch_up(r);
	settle(r);
	bus_unlock(r->bus);
}

/* The first update comes half a second after the divider is released (datasheet, "divider
 * control"). */
static void restart_divider(struct rtc *r)
{
	uint64_t fraction = clock_ns() % NSEC_PER_SEC;

	r->phase_ns = (NSEC_PER_SEC + NSEC_PER_SEC / 2 - fraction) % NSEC_PER_SEC;
	r->seen_ns = chain_ns(r);
}

/* Registers A and B decide whether the clock runs; stopping freezes the fields, starting reads
 * them. */
static void write_control(struct rtc *r, unsigned reg, uint8_t value)
{
	bool ran = is_running(r);
	bool was_held = (r->cmos[REG_A] & A_DIVIDER) > A_DV_32KHZ;

	if (ran)
		store_time(r, guest_second(r, r->seen_ns));
	r->cmos[reg] = value;
	if (was_held && (r->cmos[REG_A] & A_DIVIDER) <= A_DV_32KHZ)
		restart_divider(r);
	if (!ran && is_running(r))
		r->offset_s = load_time(r) - (int64_t)(r->seen_ns / NSEC_PER_SEC);
}

static bool is_time_register(unsigned reg)
{
	return (reg <= REG_YEAR && reg != REG_SECONDS_ALARM && reg != REG_MINUTES_ALARM &&
	        reg != REG_HOURS_ALARM) ||
	       reg == RTC_REG_CENTURY;
}

/* A running clock takes a field too, though a careful guest stops it first. */
static void write_time(struct rtc *r, unsigned reg, uint8_t value)
{
	if (!is_running(r)) {
		r->cmos[reg] = value;
		return;
	}
	store_time(r, guest_second(r, r->seen_ns));
	r->cmos[reg] = value;
	r->offset_s = load_time(r) - (int64_t)(r->seen_ns / NSEC_PER_SEC);
}

static void write_register(struct rtc *r, unsigned reg, uint8_t value)
{
	switch (reg) {
	case REG_A:
		write_control(r, reg, value & ~A_UIP);
		break;
	case REG_B:
		/* Stopping the clock also turns the update-ended interrupt off (datasheet, SET). */
		write_control(r, reg, value & B_SET ? value & ~B_UIE : value);
		break;
	case REG_C:
	case REG_D:
		break; /* read-only */
	default:
		if (is_time_register(reg))
			write_time(r, reg, value);
		else
			r->cmos[reg] = value;
		break;
	}
}

static uint8_t read_c(struct rtc *r)
{
	uint8_t value = r->cmos[REG_C];

	r->cmos[REG_C] = 0;
	return value;
}

static uint8_t read_register(struct rtc *r, unsigned reg)
{
	uint64_t fraction = r->seen_ns % NSEC_PER_SEC;

	if (reg == REG_A)
		return r->cmos[reg] |
		       (is_running(r) && fraction >= NSEC_PER_SEC - UIP_NS ? A_UIP : 0);
	if (reg == REG_C)
		return read_c(r);
	if (is_time_register(reg) && is_running(r))
		store_time(r, guest_second(r, r->seen_ns));
	return r->cmos[reg];
}

static uint64_t read_port(void *dev, uint64_t off, unsigned size)
{
	struct rtc *r = dev;
	uint8_t value;

	if (off == 0)
		return 0xff; /* the index is write-only */
	catch_up(r);
	update_irq(r);
	value = read_register(r, r->index);
	settle(r);
	return value;
}

static void write_port(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct rtc *r = dev;

	if (off == 0) {
		r->index = value & INDEX_MASK;
		return;
	}
	catch_up(r);
	write_register(r, r->index, (uint8_t)value);
	settle(r);
}

const struct bus_ops rtc_ops = {
	.read = read_port,
	.write = write_port,
	.max_size = 1,
};

void rtc_init(struct rtc *r, struct irq_line irq, struct bus *bus, struct loop *loop)
{
	uint64_t utc = clock_utc_ns();

	memset(r, 0, sizeof(*r));
	r->irq = irq;
	r->bus = bus;
	r->cmos[REG_A] = A_RESET;
	r->cmos[REG_B] = B_24H;
	r->cmos[REG_D] = D_VRT;
	r->phase_ns =
	        (utc % NSEC_PER_SEC + NSEC_PER_SEC - clock_ns() % NSEC_PER_SEC) % NSEC_PER_SEC;
	r->seen_ns = chain_ns(r);
	r->offset_s = (int64_t)(utc / NSEC_PER_SEC) - (int64_t)(r->seen_ns / NSEC_PER_SEC);
	timer_init(&r->timer, loop, on_timer, r);
}

void rtc_fini(struct rtc *r)
{
	timer_fini(&r->timer);
}

void rtc_reset(struct rtc *r)
{
	catch_up(r);
	r->cmos[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
	r->cmos[REG_C] = 0;
	settle(r);
}

static void store_u16(struct rtc *r, unsigned reg, uint64_t value, uint64_t limit)
{
	value = value < limit ? value : limit;
	r->cmos[reg] = (uint8_t)value;
	r->cmos[reg + 1] = (uint8_t)(value >> 8);
}

static uint64_t above(uint64_t bytes, uint64_t start)
{
	return bytes > start ? bytes - start : 0;
}

void rtc_set_memory(struct rtc *r, uint64_t low_bytes, uint64_t high_bytes)
{
	uint64_t high_units = high_bytes / (64 * KiB);

	store_u16(r, CMOS_BASE_KB, 640, UINT16_MAX);
	store_u16(r, CMOS_EXT_KB, above(low_bytes, MiB) / KiB, UINT16_MAX);
	store_u16(r, CMOS_EXT2_KB, above(low_bytes, MiB) / KiB, UINT16_MAX);
	store_u16(r, CMOS_16M_64KB, above(low_bytes, 16 * MiB) / (64 * KiB), UINT16_MAX);
	store_u16(r, CMOS_4G_64KB, high_units & 0xffff, UINT16_MAX);
	r->cmos[CMOS_4G_64KB + 2] = (uint8_t)(high_units >> 16);
}

/* The real-time clock: a sane time, updates, alarms and periodic interrupts, CMOS memory. */
#include "device.h"

enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY,
	MONTH,
	YEAR
};
enum { REG_A = 10, REG_B, REG_C, REG_D, CENTURY = 0x32 };

#define A_UIP 0x80
#define B_SET 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define B_DM  0x04
#define B_24H 0x02
#define C_IRQ 0x80
#define C_PF  0x40
#define C_AF  0x20
#define C_UF  0x10
#define ANY   0xc0 /* in an alarm register */

#define BASE   0x40
#define VECTOR (BASE + 8)

static uint8_t get(uint8_t reg)
{
	out8(PORT_RTC, reg);
	return in8(PORT_RTC + 1);
}

static void set(uint8_t reg, uint8_t v)
{
	out8(PORT_RTC, reg);
	out8(PORT_RTC + 1, v);
}

static unsigned field(uint8_t reg)
{
	unsigned v = get(reg);

	return get(REG_B) & B_DM ? v : (v >> 4) * 10 + (v & 15);
}

static void test_time(void)
{
	unsigned year;

	ok("the battery is good", get(REG_D) & 0x80);
	ok("24 hours a day", get(REG_B) & B_24H);
	WAIT_FOR(!(get(REG_A) & A_UIP), 2000);
	year = field(CENTURY) * 100 + field(YEAR);
	ok("seconds, minutes, hours",
	   field(SECONDS) < 60 && field(MINUTES) < 60 && field(HOURS) < 24);
	ok("day, month, weekday",
	   field(DAY) - 1 < 31 && field(MONTH) - 1 < 12 && field(WEEKDAY) - 1 < 7);
	ok("a year of this century", year >= 2022 && year < 2100);
}

/* One update watched from start to end. */
struct update {
	bool announced, before, ended, changed, second;
};

static struct update watch_update(void)
{
	unsigned before = get(SECONDS);
	struct stopwatch w;
	struct update u;

	stopwatch_start(&w);
	u.announced = WAIT_FOR(get(REG_A) & A_UIP, 2500);
	u.before = get(SECONDS) == before || !(get(REG_A) & A_UIP);
	u.ended = WAIT_FOR(!(get(REG_A) & A_UIP), 100);
	delay_us(2000);
	u.changed = get(SECONDS) != before;
	u.second = is_near(stopwatch_us(&w), 1000000, 30);
	return u;
}

/* The announcement lasts 244 us: a host that is busy elsewhere then hides it, so look again. */
static void test_update(void)
{
	unsigned before = get(SECONDS);
	struct update u;

	ok("the seconds advance", WAIT_FOR(get(SECONDS) != before, 2500));
	for (unsigned tries = 0; tries < 8; tries++) {
		u = watch_update();
		if (u.before && u.second)
			break;
	}
	ok("an update announces itself", u.announced);
	ok("before the second changes", u.before);
	ok("and ends", u.ended);
	ok("with another second", u.changed);
	ok("a second later", u.second);
}

static void test_set(void)
{
	uint8_t b = get(REG_B);

	set(REG_B, b | B_SET);
	set(SECONDS, 0x58);
	set(MINUTES, 0x59);
	set(HOURS, 0x23);
	set(DAY, 0x28);
	set(MONTH, 0x02);
	set(YEAR, 0x24);
	ok("times read back while set", get(HOURS) == 0x23 && get(YEAR) == 0x24);
	set(REG_B, b);
	ok("midnight of a leap year's February",
	   WAIT_FOR(get(HOURS) == 0 && get(MINUTES) == 0 && get(DAY) == 0x29, 4500));
	ok_equal("of the same month", get(MONTH), 2);
}

static void test_periodic(void)
{
	struct stopwatch w;

	irq_clear();
	get(REG_C);
	set(REG_A, 0x26); /* 1024 Hz */
	set(REG_B, get(REG_B) | B_PIE);
	irq_enable();
	delay_us(20000);
	irq_disable();
	ok_equal("one interrupt until register C is read", irq_mine()->of[VECTOR], 1);
	ok_equal("which says why", get(REG_C) & (C_IRQ | C_PF), C_IRQ | C_PF);
	ok("and clears it", !(get(REG_C) & C_IRQ) || WAIT_FOR(!(get(REG_C) & C_IRQ), 10));
	set(REG_A, 0x29); /* 128 Hz */
	irq_clear();
	stopwatch_start(&w);
	while (irq_mine()->of[VECTOR] < 12) {
		get(REG_C);
		irq_sleep();
	}
	ok("at its rate", is_near(stopwatch_us(&w), 93750, 30));
	set(REG_B, get(REG_B) & ~B_PIE);
	get(REG_C);
	set(REG_A, 0x26);
}

static void test_alarm(void)
{
	irq_clear();
	set(SECONDS_ALARM, ANY);
	set(MINUTES_ALARM, ANY);
	set(HOURS_ALARM, ANY);
	set(REG_B, get(REG_B) | B_AIE);
	get(REG_C);
	while (!irq_mine()->of[VECTOR])
		irq_sleep();
	ok_equal("an alarm every second", get(REG_C) & (C_IRQ | C_AF), C_IRQ | C_AF);
	set(REG_B, (get(REG_B) & ~B_AIE) | B_UIE);
	get(REG_C);
	irq_clear();
	while (!irq_mine()->of[VECTOR])
		irq_sleep();
	ok_equal("an interrupt at the end of an update", get(REG_C) & (C_IRQ | C_UF), C_IRQ | C_UF);
	set(REG_B, get(REG_B) & ~B_UIE);
}

static void test_memory(void)
{
	uint8_t old = get(0x40);

	set(0x40, 0x5a);
	ok_equal("CMOS memory keeps", get(0x40), 0x5a);
	set(0x40, old);
	ok_equal("memory above 16 MiB, in 64 KiB", get(0x34) | get(0x35) << 8, (128 - 16) * 16);
}

void guest_run(void)
{
	test_time();
	test_update();
	test_memory();
	pic_begin(BASE);
	irq_begin(pic_end);
	out8(PORT_PIC0 + 1, 0xfb);
	out8(PORT_PIC1 + 1, 0xfe);
	test_periodic();
	test_alarm();
	test_set();
}

#include "unit.h"
#include "fake_time.h"
#include "device/rtc.h"

#define SEC 1000000000ull

struct fixture {
	struct bus bus;
	struct rtc rtc;
	struct test_line line;
};

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));

	bus_init(&f->bus);
	rtc_init(&f->rtc, test_irq(&f->line), &f->bus, NULL);
	bus_add(&f->bus, BUS_PIO, RTC_PORT, RTC_LEN, &rtc_ops, &f->rtc, "rtc");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rtc_fini(&f->rtc);
	bus_fini(&f->bus);
	test_free(f);
	return 0;
}

static uint8_t cmos(struct fixture *f, uint8_t reg)
{
	outb(&f->bus, 0x70, reg);
	return inb(&f->bus, 0x71);
}

static void set_cmos(struct fixture *f, uint8_t reg, uint8_t value)
{
	outb(&f->bus, 0x70, reg);
	outb(&f->bus, 0x71, value);
}

/* hh mm ss as one number in the registers' own notation. */
static unsigned time_of_day(struct fixture *f)
{
	return (unsigned)cmos(f, 4) << 16 | (unsigned)cmos(f, 2) << 8 | cmos(f, 0);
}

static unsigned date(struct fixture *f)
{
	return (unsigned)cmos(f, 0x32) << 24 | (unsigned)cmos(f, 9) << 16 |
	       (unsigned)cmos(f, 8) << 8 | cmos(f, 7);
}

static void starts_at_host_utc(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(cmos(f, 0x0a), 0x26);
	assert_int_equal(cmos(f, 0x0b), 0x02);
	assert_int_equal(cmos(f, 0x0d), 0x80);
	assert_int_equal(time_of_day(f), 0x221320);
	assert_int_equal(date(f), 0x20231114);
	assert_int_equal(cmos(f, 6), 3); /* Tuesday */
	fake_advance(2 * 3600 * SEC);
	assert_int_equal(time_of_day(f), 0x001320);
	assert_int_equal(date(f), 0x20231115);
	assert_int_equal(inb(&f->bus, 0x70), 0xff);
}

static void binary_and_twelve_hours(void **state)
{
	struct fixture *f = *state;

	set_cmos(f, 0x0b, 0x06);
	assert_int_equal(time_of_day(f), 22 << 16 | 13 << 8 | 20);
	assert_int_equal(cmos(f, 0x32), 20);
	set_cmos(f, 0x0b, 0x00);
	assert_int_equal(cmos(f, 4), 0x90); /* 10 pm */
	fake_advance(2 * 3600 * SEC);
	assert_int_equal(cmos(f, 4), 0x12); /* midnight */
	fake_advance(12 * 3600 * SEC);
	assert_int_equal(cmos(f, 4), 0x92); /* noon */
	set_cmos(f, 0x0b, 0x82);
	set_cmos(f, 4, 0x13);
	set_cmos(f, 0x0b, 0x02);
	assert_int_equal(cmos(f, 4), 0x13);
}

/* As Linux' mc146818_set_time(): SET, divider reset, fields, and back. */
static void the_guest_sets_the_time(void **state)
{
	struct fixture *f = *state;
	static const uint8_t reg[] = { 0x32, 9, 8, 7, 4, 2, 0 };
	static const uint8_t value[] = { 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58 };

	fake_advance(SEC / 3);
	set_cmos(f, 0x0b, 0x82);
	set_cmos(f, 0x0a, 0x76);
	for (unsigned i = 0; i < ARRAY_SIZE(reg); i++)
		set_cmos(f, reg[i], value[i]);
	fake_advance(10 * SEC);
	assert_int_equal(time_of_day(f), 0x235958); /* stopped */
	set_cmos(f, 0x0b, 0x02);
	set_cmos(f, 0x0a, 0x26);
	fake_advance(SEC / 2 - 1);
	assert_int_equal(time_of_day(f), 0x235958);
	fake_advance(1);
	assert_int_equal(time_of_day(f), 0x235959);
	fake_advance(SEC);
	assert_int_equal(time_of_day(f), 0x000000);
	assert_int_equal(date(f), 0x20000101);
	assert_int_equal(cmos(f, 6), 7); /* Saturday */
	set_cmos(f, 2, 0x30);            /* without stopping it */
	assert_int_equal(time_of_day(f), 0x003000);
}

static void any_bytes_are_some_time(void **state)
{
	struct fixture *f = *state;

	for (unsigned mode = 0; mode < 8; mode += 2) {
		for (unsigned v = 0; v < 256; v += 5) {
			set_cmos(f, 0x0b, (uint8_t)(0x80 | mode));
			for (uint8_t reg = 0; reg < 10; reg++)
				set_cmos(f, reg, (uint8_t)(v + reg));
			set_cmos(f, 0x32, (uint8_t)v);
			set_cmos(f, 0x0b, (uint8_t)mode);
			fake_advance(SEC);
			time_of_day(f);
		}
	}
}

static void update_in_progress(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(cmos(f, 0x0a) & 0x80, 0);
	fake_advance(SEC - 245000);
	assert_int_equal(cmos(f, 0x0a) & 0x80, 0);
	fake_advance(2000);
	assert_int_equal(cmos(f, 0x0a) & 0x80, 0x80);
	fake_advance(243000);
	assert_int_equal(cmos(f, 0x0a) & 0x80, 0);
	set_cmos(f, 0x0b, 0x82);
	fake_advance(SEC - 1000);
	assert_int_equal(cmos(f, 0x0a) & 0x80, 0); /* a stopped clock does not update */
}

static void flags_without_interrupts(void **state)
{
	struct fixture *f = *state;

	cmos(f, 0x0c);
	set_cmos(f, 0x0a, 0x20);
	assert_int_equal(cmos(f, 0x0c), 0);
	assert_int_equal(fake_advance(SEC), 0); /* and nothing wakes the host */
	assert_int_equal(cmos(f, 0x0c), 0x10);
	assert_int_equal(cmos(f, 0x0c), 0);
	set_cmos(f, 0x0a, 0x26);
	fake_advance(SEC / 1000);
	assert_int_equal(cmos(f, 0x0c), 0x40);
	assert_false(f->line.level);
}

static void periodic_interrupts(void **state)
{
	struct fixture *f = *state;
	unsigned n = 0;

	set_cmos(f, 0x0a, 0x2a); /* 64 Hz */
	set_cmos(f, 0x0b, 0x42);
	for (unsigned i = 0; i < 1000; i++) {
		fake_advance(SEC / 1000);
		if (f->line.level) {
			n++;
			assert_int_equal(cmos(f, 0x0c) & 0xc0, 0xc0);
			assert_false(f->line.level);
		}
	}
	assert_int_equal(n, 64);
	assert_int_equal(fake_advance(10 * SEC), 1); /* unacknowledged: no more wake-ups */
}

static void update_interrupts(void **state)
{
	struct fixture *f = *state;

	set_cmos(f, 0x0b, 0x12);
	for (unsigned i = 1; i <= 5; i++) {
		fake_advance(SEC);
		assert_int_equal(f->line.rises, i);
		assert_int_equal(cmos(f, 0x0c) & 0x90, 0x90);
	}
	fake_advance(SEC);
	assert_true(f->line.level);
	bus_lock(&f->bus);
	rtc_reset(&f->rtc);
	bus_unlock(&f->bus);
	assert_false(f->line.level);
	assert_int_equal(cmos(f, 0x0b), 0x02);
	assert_int_equal(time_of_day(f), 0x221326);
}

static void alarms(void **state)
{
	struct fixture *f = *state;

	set_cmos(f, 1, 0x25);
	set_cmos(f, 3, 0x13);
	set_cmos(f, 5, 0x22);
	set_cmos(f, 0x0b, 0x22);
	fake_advance(4 * SEC);
	assert_false(f->line.level);
	fake_advance(SEC);
	assert_true(f->line.level);
	assert_int_equal(cmos(f, 0x0c) & 0xa0, 0xa0);
	set_cmos(f, 3, 0xff); /* every minute and hour */
	set_cmos(f, 5, 0xc0);
	for (unsigned i = 0; i < 5 * 60; i++) {
		fake_advance(SEC);
		cmos(f, 0x0c);
	}
	assert_int_equal(f->line.rises, 6);
	set_cmos(f, 0x0b, 0x02);
	fake_advance(3 * 86400 * SEC); /* found out long after */
	assert_int_equal(cmos(f, 0x0c) & 0x30, 0x30);
}

static void memory_sizes_and_nvram(void **state)
{
	struct fixture *f = *state;

	rtc_set_memory(&f->rtc, 3 * GiB, 3 * GiB);
	assert_int_equal(cmos(f, 0x15) | cmos(f, 0x16) << 8, 640);
	assert_int_equal(cmos(f, 0x17) | cmos(f, 0x18) << 8, 0xffff);
	assert_int_equal(cmos(f, 0x34) | cmos(f, 0x35) << 8, (3 * GiB - 16 * MiB) / 65536);
	assert_int_equal(cmos(f, 0x5b) | cmos(f, 0x5c) << 8 | cmos(f, 0x5d) << 16, 3 * GiB / 65536);
	rtc_set_memory(&f->rtc, 32 * MiB, 0);
	assert_int_equal(cmos(f, 0x30) | cmos(f, 0x31) << 8, 31 * 1024);
	assert_int_equal(cmos(f, 0x5d), 0);
	set_cmos(f, 0x0f, 0x0a);
	set_cmos(f, 0xff, 0x77); /* bit 7 is NMI's, not the index' */
	set_cmos(f, 0x0c, 0xff);
	set_cmos(f, 0x0d, 0);
	bus_lock(&f->bus);
	rtc_reset(&f->rtc);
	bus_unlock(&f->bus);
	assert_int_equal(cmos(f, 0x0f), 0x0a);
	assert_int_equal(cmos(f, 0x7f), 0x77);
	assert_int_equal(cmos(f, 0x0c), 0);
	assert_int_equal(cmos(f, 0x0d), 0x80);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(starts_at_host_utc, setup, teardown),
		cmocka_unit_test_setup_teardown(binary_and_twelve_hours, setup, teardown),
		cmocka_unit_test_setup_teardown(the_guest_sets_the_time, setup, teardown),
		cmocka_unit_test_setup_teardown(any_bytes_are_some_time, setup, teardown),
		cmocka_unit_test_setup_teardown(update_in_progress, setup, teardown),
		cmocka_unit_test_setup_teardown(flags_without_interrupts, setup, teardown),
		cmocka_unit_test_setup_teardown(periodic_interrupts, setup, teardown),
		cmocka_unit_test_setup_teardown(update_interrupts, setup, teardown),
		cmocka_unit_test_setup_teardown(alarms, setup, teardown),
		cmocka_unit_test_setup_teardown(memory_sizes_and_nvram, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

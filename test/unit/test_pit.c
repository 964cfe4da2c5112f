/* The 8254: modes, latches, read-back, gate, port 0x61 and the interrupts of channel 0. */
#include "device/pit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "fake_time.h"

#define OUT        0x80
#define NULL_COUNT 0x40

static struct fixture {
	struct bus bus;
	struct pit pit;
	bool line;
	int edges;
} f;

static void set_line(void *opaque, unsigned n, bool level)
{
	if (level && !f.line)
		f.edges++;
	f.line = level;
}

static int setup(void **state)
{
	memset(&f, 0, sizeof(f));
	if (bus_init(&f.bus))
		return -1;
	pit_init(&f.pit, &f.bus, NULL, (struct irq_line){ .set = set_line });
	return 0;
}

static int teardown(void **state)
{
	pit_fini(&f.pit);
	bus_fini(&f.bus);
	return 0;
}

static void wr(unsigned port, uint8_t value)
{
	bus_lock(&f.bus);
	if (port == 0x61)
		pit_port61_ops.write(&f.pit, 0, 1, value);
	else
		pit_ops.write(&f.pit, port - 0x40, 1, value);
	bus_unlock(&f.bus);
}

static uint8_t rd(unsigned port)
{
	uint64_t value;

	bus_lock(&f.bus);
	value = port == 0x61 ? pit_port61_ops.read(&f.pit, 0, 1)
	                     : pit_ops.read(&f.pit, port - 0x40, 1);
	bus_unlock(&f.bus);
	return (uint8_t)value;
}

/* Latches first: unlatched bytes are of different moments. */
static uint16_t rd16(unsigned port)
{
	uint16_t low;

	wr(0x43, (uint8_t)((port - 0x40) << 6));
	low = rd(port);
	return (uint16_t)(low | rd(port) << 8);
}

static void program(unsigned channel, unsigned mode, uint16_t count)
{
	wr(0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
	wr(0x40 + channel, (uint8_t)count);
	wr(0x40 + channel, (uint8_t)(count >> 8));
}

static uint8_t status(unsigned channel)
{
	wr(0x43, (uint8_t)(0xe0 | 2 << channel));
	return rd(0x40 + channel);
}

static void wait_ticks(unsigned ticks)
{
	fake_advance((uint64_t)ticks * 1000000000 / PIT_HZ + 1);
}

static void test_count_down(void **state)
{
	uint16_t a, b;

	program(0, 2, 60000);
	a = rd16(0x40);
	assert_in_range(a, 40000, 60000);
	wait_ticks(1000);
	b = rd16(0x40);
	assert_in_range(b, 20000, a - 1000);

	/* A latched count waits; a second latch command does not replace it. */
	wr(0x43, 0x00);
	wait_ticks(500);
	wr(0x43, 0x00);
	a = rd16(0x40);
	b = rd16(0x40);
	assert_true(a >= b + 500);
}

static void test_square_wave(void **state)
{
	bool seen[2] = { 0 };

	program(0, 3, 0); /* 65536 */
	for (int i = 0; i < 100; i++)
		assert_int_equal(rd16(0x40) & 1, 0); /* by twos */
	program(0, 3, 101);
	for (int i = 0; i < 5000; i++) {
		uint16_t count = rd16(0x40);

		assert_int_equal(count & 1, 0);
		assert_in_range(count, 0, 100);
		seen[status(0) >> 7] = true;
		wait_ticks(1);
	}
	assert_true(seen[0] && seen[1]);
}

static void test_status(void **state)
{
	assert_int_equal(status(1) & 0x3f, 0x36);
	wr(0x43, 0x50); /* channel 1, low byte, mode 0 */
	assert_int_equal(status(1), NULL_COUNT | 0x10);
	wr(0x41, 200);
	assert_int_equal(status(1), 0x10);
	wait_ticks(200);
	assert_int_equal(status(1), OUT | 0x10);
	wr(0x43, 0x6f); /* channel 1, high byte, mode 7 is 3, BCD */
	assert_int_equal(status(1), OUT | NULL_COUNT | 0x27);
	wr(0x43, 0x7b); /* mode 5 */
	assert_int_equal(status(1) & 0x3f, 0x3b);

	/* Status and count latched together: status comes first. */
	program(0, 2, 60000);
	wr(0x43, 0xc2);
	assert_int_equal(rd(0x40), OUT | 0x34);
	assert_in_range(rd16(0x40), 40000, 60000);
	assert_int_equal(rd(0x43), 0);
}

static void test_mode0(void **state)
{
	program(2, 0, 2000);
	wr(0x61, 0); /* gate low from the start */
	assert_int_equal(rd(0x61) & 0x20, 0);
	wait_ticks(100);
	assert_int_equal(rd16(0x42), 2000);
	wr(0x61, 1);
	wait_ticks(100);
	wr(0x61, 0); /* paused */
	assert_in_range(rd16(0x42), 1, 1900);
	assert_int_equal(rd16(0x42), rd16(0x42));
	wr(0x61, 1);
	wait_ticks(2000);
	assert_int_equal(rd(0x61) & 0x21, 0x21);
	assert_in_range(rd16(0x42), 40000, 65535); /* it goes on counting */
	wr(0x43, 0xb0);
	assert_int_equal(rd(0x61) & 0x20, 0);
	wr(0x42, 1);
	wr(0x42, 0);
	wait_ticks(2);
	assert_int_equal(rd(0x61) & 0x20, 0x20);
	wr(0x42, 0xff); /* the first byte takes the output low */
	assert_int_equal(rd(0x61) & 0x20, 0);
}

static void test_one_shot(void **state)
{
	program(2, 1, 2000);
	assert_int_equal(rd(0x61) & 0x20, 0x20);
	wr(0x61, 1); /* trigger */
	assert_int_equal(rd(0x61) & 0x20, 0);
	wait_ticks(2000);
	assert_int_equal(rd(0x61) & 0x20, 0x20);
	wr(0x61, 0);
	wr(0x61, 1);
	assert_int_equal(rd(0x61) & 0x20, 0);
	wr(0x61, 0); /* dropping the gate changes nothing */
	assert_int_equal(rd(0x61) & 0x20, 0);
}

static void test_bcd(void **state)
{
	wr(0x43, 0xb1);
	wr(0x61, 0);
	wr(0x42, 0x34);
	wr(0x42, 0x12);
	wr(0x61, 0);
	assert_int_equal(rd16(0x42), 0x1234);
	wr(0x61, 1);
	wait_ticks(1300);
	assert_in_range(rd16(0x42) >> 12, 0, 9);
	wr(0x43, 0xb5); /* digits that are none */
	wr(0x42, 0xff);
	wr(0x42, 0xff);
	rd16(0x42);
	wr(0x43, 0xb7);
	wr(0x42, 0);
	wr(0x42, 0);
	rd16(0x42);
}

static void test_next_count(void **state)
{
	program(0, 2, 3000);
	wr(0x40, 0xa0);
	wr(0x40, 0x0f); /* 4000, from the end of this period */
	assert_int_equal(status(0) & NULL_COUNT, NULL_COUNT);
	assert_in_range(rd16(0x40), 0, 3000);
	wait_ticks(3000);
	assert_int_equal(status(0) & NULL_COUNT, 0);
	assert_in_range(rd16(0x40), 3000, 4000);
}

static bool wait_edges(int n)
{
	for (int i = 0; i < 5000; i++) {
		if (f.edges >= n)
			return true;
		fake_advance(1000000);
	}
	return false;
}

static void test_irq(void **state)
{
	uint64_t start = clock_ns();

	program(0, 2, 1193);
	assert_true(wait_edges(10));
	assert_true(clock_ns() - start >= 9000000);
	program(0, 0, 5000);
	bus_lock(&f.bus);
	f.edges = 0;
	assert_false(f.line);
	bus_unlock(&f.bus);
	assert_true(wait_edges(1));
	fake_advance(10000000);
	assert_int_equal(f.edges, 1); /* once */
	program(0, 4, 2000);
	assert_true(wait_edges(2));
	program(0, 1, 1000); /* no trigger, no interrupt */
	program(0, 2, 1);    /* as fast as it gets */
	fake_advance(20000000);
	assert_in_range(f.edges, 3, 1000);

	bus_lock(&f.bus);
	pit_set_irq_off(&f.pit, 0, true);
	assert_false(f.line);
	f.edges = 0;
	bus_unlock(&f.bus);
	fake_advance(3000000);
	assert_int_equal(f.edges, 0);
	bus_lock(&f.bus);
	pit_set_irq_off(&f.pit, 0, false);
	bus_unlock(&f.bus);
	assert_true(wait_edges(1));
}

static void test_port61(void **state)
{
	uint8_t first;
	int changes = 0;

	wr(0x61, 0xff);
	assert_int_equal(rd(0x61) & 0xcf, 0x0f);
	first = rd(0x61) & 0x10;
	for (uint64_t end = clock_ns() + 1000000; clock_ns() < end;) {
		uint8_t now = rd(0x61) & 0x10;

		changes += now != first;
		fake_advance(1000);
		first = now;
	}
	assert_in_range(changes, 2, 70);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_count_down), TEST(test_square_wave), TEST(test_status),
		TEST(test_mode0),      TEST(test_one_shot),    TEST(test_bcd),
		TEST(test_next_count), TEST(test_irq),         TEST(test_port61),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

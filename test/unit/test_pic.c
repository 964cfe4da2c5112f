/* The 8259A pair: initialisation, priorities, every kind of EOI, cascade, spurious requests. */
#include "device/pic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct fixture {
	struct pic pic;
	bool intr;
	int edges;
} f;

static void set_intr(void *opaque, unsigned n, bool level)
{
	f.edges += level && !f.intr;
	f.intr = level;
}

static void wr(unsigned port, uint8_t value)
{
	pic_chip_ops.write(&f.pic.chip[port >> 7], port & 1, 1, value);
}

static uint8_t rd(unsigned port)
{
	return (uint8_t)pic_chip_ops.read(&f.pic.chip[port >> 7], port & 1, 1);
}

static void irq(unsigned n, bool level)
{
	pic_set_irq(&f.pic, n, level);
}

static void pulse(unsigned n)
{
	irq(n, false);
	irq(n, true);
}

static void init(uint8_t icw4_master, uint8_t icw4_slave)
{
	wr(0x20, 0x11);
	wr(0x21, 0x20);
	wr(0x21, 0x04);
	wr(0x21, icw4_master);
	wr(0xa0, 0x11);
	wr(0xa1, 0x28);
	wr(0xa1, 0x02);
	wr(0xa1, icw4_slave);
	wr(0x21, 0);
	wr(0xa1, 0);
}

static int setup(void **state)
{
	f = (struct fixture){ 0 };
	pic_init(&f.pic, (struct irq_line){ .set = set_intr });
	init(1, 1);
	return 0;
}

static void test_power_on(void **state)
{
	pic_reset(&f.pic);
	assert_int_equal(rd(0x21), 0xff);
	irq(0, true);
	assert_false(f.intr);
	wr(0x21, 0xfe);
	assert_true(f.intr);
	assert_int_equal(pic_ack(&f.pic), 0x08);
}

static void test_basic(void **state)
{
	irq(4, true);
	assert_true(f.intr);
	wr(0x20, 0x0a);
	assert_int_equal(rd(0x20), 0x10);
	assert_int_equal(pic_ack(&f.pic), 0x24);
	assert_false(f.intr);
	assert_int_equal(rd(0x20), 0);
	wr(0x20, 0x0b);
	assert_int_equal(rd(0x20), 0x10);
	irq(5, true); /* lower priority waits for the EOI */
	assert_false(f.intr);
	irq(1, true); /* higher nests */
	assert_true(f.intr);
	assert_int_equal(pic_ack(&f.pic), 0x21);
	wr(0x20, 0x20);
	assert_false(f.intr);
	wr(0x20, 0x20);
	assert_true(f.intr);
	assert_int_equal(pic_ack(&f.pic), 0x25);
	wr(0x20, 0x65); /* specific */
	assert_int_equal(rd(0x20), 0);
	wr(0x21, 0x80);
	assert_int_equal(rd(0x21), 0x80);
	pulse(7);
	assert_false(f.intr);
	wr(0x21, 0);
	assert_true(f.intr);
}

static void test_cascade(void **state)
{
	irq(12, true);
	assert_true(f.intr);
	assert_int_equal(pic_ack(&f.pic), 0x2c);
	wr(0x20, 0x0b);
	wr(0xa0, 0x0b);
	assert_int_equal(rd(0x20), 0x04);
	assert_int_equal(rd(0xa0), 0x10);
	irq(14, true);
	wr(0xa0, 0x20);
	wr(0x20, 0x20);
	assert_true(f.intr); /* each of the slave's requests is an edge for the master */
	assert_int_equal(pic_ack(&f.pic), 0x2e);
	wr(0xa0, 0x20);
	wr(0x20, 0x20);
	assert_false(f.intr);
	irq(2, true); /* the cascade has no pin */
	assert_false(f.intr);
}

static void test_fully_nested(void **state)
{
	init(0x11, 0x01);
	irq(12, true);
	assert_int_equal(pic_ack(&f.pic), 0x2c);
	irq(9, true);
	assert_true(f.intr); /* a higher one of the slave's gets through */
	assert_int_equal(pic_ack(&f.pic), 0x29);
	wr(0xa0, 0x20);
	wr(0x20, 0x20);
	irq(4, true); /* the master's own inputs obey the usual order */
	assert_true(f.intr);
	assert_int_equal(pic_ack(&f.pic), 0x24);
}

static void test_spurious(void **state)
{
	irq(3, true);
	irq(3, false); /* taken back before the acknowledge */
	assert_false(f.intr);
	assert_int_equal(pic_ack(&f.pic), 0x27);
	wr(0x20, 0x0b);
	assert_int_equal(rd(0x20), 0);
	irq(11, true);
	irq(11, false);
	assert_false(f.intr);
}

static void test_level(void **state)
{
	pic_elcr_ops.write(&f.pic, 0, 1, 0xff);
	pic_elcr_ops.write(&f.pic, 1, 1, 0xff);
	assert_int_equal(pic_elcr_ops.read(&f.pic, 0, 1), 0xf8);
	assert_int_equal(pic_elcr_ops.read(&f.pic, 1, 1), 0xde);
	irq(5, true);
	assert_int_equal(pic_ack(&f.pic), 0x25);
	wr(0x20, 0x20);
	assert_true(f.intr); /* still asserted */
	assert_int_equal(pic_ack(&f.pic), 0x25);
	irq(5, false);
	wr(0x20, 0x20);
	assert_false(f.intr);
	irq(11, true);
	assert_int_equal(pic_ack(&f.pic), 0x2b);
	wr(0xa0, 0x20);
	wr(0x20, 0x20);
	assert_int_equal(pic_ack(&f.pic), 0x2b);
}

static void test_edge_needs_edge(void **state)
{
	irq(5, true);
	assert_int_equal(pic_ack(&f.pic), 0x25);
	wr(0x20, 0x20);
	assert_false(f.intr);
	init(1, 1);
	assert_false(f.intr);
	pulse(5);
	assert_true(f.intr);
}

static void test_auto_eoi(void **state)
{
	init(3, 3);
	wr(0x20, 0x80); /* rotate in automatic EOI mode */
	pulse(1), pulse(3);
	assert_int_equal(pic_ack(&f.pic), 0x21);
	wr(0x20, 0x0b);
	assert_int_equal(rd(0x20), 0);
	pulse(1);
	assert_int_equal(pic_ack(&f.pic), 0x23); /* 1 has become the lowest */
	assert_int_equal(pic_ack(&f.pic), 0x21);
	wr(0x20, 0x00);
	pulse(4), pulse(5);
	assert_int_equal(pic_ack(&f.pic), 0x24);
	pulse(4);
	assert_int_equal(pic_ack(&f.pic), 0x24);
}

static void test_rotate(void **state)
{
	wr(0x20, 0xc3); /* 3 is the lowest: 4 the highest */
	pulse(0), pulse(3), pulse(4);
	assert_int_equal(pic_ack(&f.pic), 0x24);
	wr(0x20, 0xa0); /* rotate on EOI: 4 becomes the lowest */
	pulse(4), pulse(5);
	assert_int_equal(pic_ack(&f.pic), 0x25);
	wr(0x20, 0xe5); /* specific EOI with rotation */
	assert_int_equal(pic_ack(&f.pic), 0x20);
	wr(0x20, 0x20);
	assert_int_equal(pic_ack(&f.pic), 0x23);
	wr(0x20, 0x20);
	assert_int_equal(pic_ack(&f.pic), 0x24);
}

static void test_special_mask(void **state)
{
	pulse(1);
	assert_int_equal(pic_ack(&f.pic), 0x21);
	pulse(4);
	assert_false(f.intr);
	wr(0x21, 0x02);
	assert_false(f.intr);
	wr(0x20, 0x68);
	assert_true(f.intr);
	assert_int_equal(pic_ack(&f.pic), 0x24);
	wr(0x20, 0x20); /* ends 4, not the masked 1 */
	wr(0x20, 0x0b);
	assert_int_equal(rd(0x20), 0x02);
	wr(0x20, 0x48);
	pulse(4);
	assert_false(f.intr);
}

static void test_poll(void **state)
{
	wr(0x20, 0x0c);
	assert_int_equal(rd(0x20), 0);
	pulse(6);
	wr(0x20, 0x0c);
	assert_int_equal(rd(0x20), 0x86);
	assert_false(f.intr);
	wr(0x20, 0x0b);
	assert_int_equal(rd(0x20), 0x40);
	wr(0x20, 0x20);
	pulse(13);
	wr(0x20, 0x0c);
	assert_int_equal(rd(0x21), 0x82);
	wr(0xa0, 0x0c);
	assert_int_equal(rd(0xa0), 0x85);
}

static void test_single(void **state)
{
	wr(0x20, 0x12); /* no cascade, no ICW4 */
	wr(0x21, 0x47);
	wr(0x21, 0xfb); /* OCW1 already */
	assert_int_equal(rd(0x21), 0xfb);
	irq(8, true); /* with one chip only, input 2 is like any other */
	assert_int_equal(pic_ack(&f.pic), 0x42);
}

#define TEST(t) cmocka_unit_test_setup(t, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_power_on),        TEST(test_basic),    TEST(test_cascade),
		TEST(test_fully_nested),    TEST(test_spurious), TEST(test_level),
		TEST(test_edge_needs_edge), TEST(test_auto_eoi), TEST(test_rotate),
		TEST(test_special_mask),    TEST(test_poll),     TEST(test_single),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The 8254: modes, latches and readback on channels 0 and 2. */
#include "device.h"

#define CHANNEL2   (PORT_PIT0 + 2)
#define COMMAND    (PORT_PIT0 + 3)
#define GATE2      0x01 /* of port 0x61 */
#define SPEAKER    0x02
#define OUTPUT2    0x20
#define STATUS_OUT 0x80
#define STATUS_NEW 0x40 /* the count is not loaded yet */

static void set_gate(bool on)
{
	out8(PORT_PIT_GATE,
	     (uint8_t)((in8(PORT_PIT_GATE) & ~(GATE2 | SPEAKER)) | (on ? GATE2 : 0)));
}

static bool output(void)
{
	return in8(PORT_PIT_GATE) & OUTPUT2;
}

static void load(unsigned mode, unsigned count)
{
	out8(COMMAND, (uint8_t)(0xb0 | mode << 1));
	out8(CHANNEL2, (uint8_t)count);
	out8(CHANNEL2, (uint8_t)(count >> 8));
}

static unsigned latched(void)
{
	unsigned low;

	out8(COMMAND, 0x80);
	low = in8(CHANNEL2);
	return low | (unsigned)in8(CHANNEL2) << 8;
}

static unsigned status(void)
{
	out8(COMMAND, 0xe8);
	return in8(CHANNEL2);
}

static void test_terminal_count(void)
{
	struct stopwatch w;

	set_gate(true);
	load(0, 23864); /* 20 ms */
	stopwatch_start(&w);
	ok("mode 0: the output is low", !output());
	ok_equal("its status", status() & 0x3f, 0x30);
	ok("and rises at the end", WAIT_FOR(output(), 1000));
	ok("not early", stopwatch_us(&w) >= 19000);
	ok("and stays", WAIT_FOR(output(), 5) && (status() & STATUS_OUT));
	ok("the count goes on below 0", latched() > 23864);
}

static void test_gate(void)
{
	unsigned before;

	set_gate(false);
	load(0, 60000);
	delay_us(2000);
	before = latched();
	delay_us(2000);
	ok_equal("without its gate it stands", latched(), before);
	set_gate(true);
	delay_us(2000);
	ok("with it it counts", latched() < before);
}

static void test_one_shot(void)
{
	set_gate(false);
	load(1, 11932); /* 10 ms */
	delay_us(1000);
	ok("mode 1: the output is high until triggered", output());
	set_gate(true);
	delay_us(1000);
	ok("then low", !output());
	ok("then high", WAIT_FOR(output(), 1000));
	set_gate(false);
	set_gate(true);
	delay_us(1000);
	ok("and can be triggered again", !output());
}

static void test_rate(void)
{
	unsigned last, now, wraps = 0;
	struct stopwatch w;

	set_gate(true);
	load(2, 2386); /* 2 ms */
	stopwatch_start(&w);
	last = latched();
	while (stopwatch_us(&w) < 50000 && wraps < 5) {
		now = latched();
		wraps += now > last;
		last = now;
	}
	ok("mode 2: it reloads", wraps >= 5);
	ok("within its count", last <= 2386);
}

static void test_square_wave(void)
{
	unsigned edges = 0;
	bool last = output(), now;
	struct stopwatch w;

	set_gate(true);
	load(3, 23864); /* 20 ms */
	stopwatch_start(&w);
	for (last = output(); stopwatch_us(&w) < 400000 && edges < 6; last = now) {
		now = output();
		edges += now != last;
	}
	ok("mode 3: the output swings", edges == 6);
	ok("every half period", is_near(stopwatch_us(&w), 60000, 40));
}

static void test_latches(void)
{
	unsigned low;

	set_gate(true);
	load(0, 0); /* 65536 */
	delay_us(1000);
	out8(COMMAND, 0x80);
	delay_us(2000);
	low = in8(CHANNEL2);
	low |= (unsigned)in8(CHANNEL2) << 8;
	ok("a latched count keeps", low > 65536 - 2400 - 12000 && latched() < low);
	out8(COMMAND, 0xc8); /* readback: count and status of channel 2 */
	ok_equal("readback gives the status first", in8(CHANNEL2) & 0x3f, 0x30);
	low = in8(CHANNEL2);
	low |= (unsigned)in8(CHANNEL2) << 8;
	ok("then the count", low > latched());
	out8(COMMAND, 0xb0);
	out8(CHANNEL2, 0x34);
	ok("a new count is not yet loaded", status() & STATUS_NEW);
	out8(CHANNEL2, 0x12);
	delay_us(100);
	ok("then it is", !(status() & STATUS_NEW));
	out8(COMMAND, 0x90); /* low byte only */
	out8(CHANNEL2, 200);
	ok_equal("low byte access", status() & 0x3f, 0x10);
}

static void test_bcd(void)
{
	unsigned v;

	set_gate(false);
	out8(COMMAND, 0xb1);
	out8(CHANNEL2, 0x34);
	out8(CHANNEL2, 0x12);
	delay_us(100);
	v = latched();
	ok("a decimal count reads back", v == 0x1234 || v == 0x1233);
	out8(COMMAND, 0xb0);
}

static void test_interrupt(void)
{
	struct stopwatch w;

	pic_begin(0x40);
	irq_begin(pic_end);
	irq_clear();
	out8(PORT_PIC0 + 1, 0xfe);
	out8(COMMAND, 0x30); /* channel 0, mode 0 */
	irq_window();
	irq_clear();
	out8(PORT_PIT0, 0xe8); /* 0x2e9c: 10 ms */
	out8(PORT_PIT0, 0x2e);
	stopwatch_start(&w);
	while (!irq_mine()->of[0x40])
		irq_sleep();
	ok("one interrupt at the end of the count", stopwatch_us(&w) >= 9000);
	irq_enable();
	delay_us(30000);
	irq_disable();
	ok_equal("and no other", irq_mine()->total, 1);
	irq_clear();
	pit_start(200);
	stopwatch_start(&w);
	while (irq_mine()->total < 20)
		irq_sleep();
	ok("a periodic one keeps its rate", is_near(stopwatch_us(&w), 100000, 30));
	pit_stop();
}

void guest_run(void)
{
	test_terminal_count();
	test_gate();
	test_one_shot();
	test_rate();
	test_square_wave();
	test_latches();
	test_bcd();
	test_interrupt();
}

/* The two 8259s: initialization, masks, priorities, ends of interrupts, the edge/level register. */
#include "device.h"

#define BASE 0x40 /* vectors */

#define READ_IRR 0x0a
#define READ_ISR 0x0b
#define POLL     0x0c

static unsigned pic_register(uint16_t port, uint8_t which)
{
	out8(port, which);
	return in8(port);
}

static void set_line(unsigned n, bool level)
{
	out8((uint16_t)(PORT_TEST_IRQ + n), level);
}

/* The line stays high: the 8259A forgets an edge whose line falls before it is acknowledged. */
static void raise_edge(unsigned n)
{
	set_line(n, false);
	set_line(n, true);
}

static void unmask(unsigned lines)
{
	out8(PORT_PIC0 + 1, (uint8_t)~lines);
	out8(PORT_PIC1 + 1, (uint8_t) ~(lines >> 8));
}

static void start(void (*end)(unsigned vector))
{
	for (unsigned n = 5; n < 8; n++)
		set_line(n, false);
	set_line(10, false);
	pic_begin(BASE);
	irq_begin(end);
	irq_clear();
}

static void test_masks(void)
{
	start(pic_end);
	out8(PORT_PIC0 + 1, 0x5a);
	out8(PORT_PIC1 + 1, 0xa5);
	ok("masks read back", in8(PORT_PIC0 + 1) == 0x5a && in8(PORT_PIC1 + 1) == 0xa5);
	pic_disable();
	raise_edge(5);
	irq_window();
	ok_equal("a masked line does not interrupt", irq_mine()->total, 0);
	ok("but is remembered", pic_register(PORT_PIC0, READ_IRR) & 0x20);
	unmask(0x20);
	irq_window();
	ok_equal("and interrupts once unmasked", irq_mine()->of[BASE + 5], 1);
	ok("and is forgotten", !(pic_register(PORT_PIC0, READ_IRR) & 0x20));
}

static void test_timer(void)
{
	start(pic_end);
	unmask(1);
	pit_start(1000);
	irq_enable();
	ok("the PIT ticks on line 0", WAIT_FOR(irq_mine()->of[BASE] >= 10, 2000));
	irq_disable();
	pit_stop();
	ok_equal("nothing else interrupts", irq_mine()->total, irq_mine()->of[BASE]);
}

static void test_end_of_interrupt(void)
{
	start(NULL);
	unmask(0x60);
	raise_edge(5);
	irq_window();
	ok_equal("an interrupt in service", pic_register(PORT_PIC0, READ_ISR), 0x20);
	raise_edge(5);
	raise_edge(6);
	irq_window();
	ok_equal("holds back its own and lower priorities", irq_mine()->total, 1);
	out8(PORT_PIC0, 0x66);
	ok_equal("a specific EOI of another line", pic_register(PORT_PIC0, READ_ISR), 0x20);
	out8(PORT_PIC0, 0x65);
	ok_equal("a specific EOI of this one", pic_register(PORT_PIC0, READ_ISR), 0);
	irq_window();
	ok_equal("the next comes", irq_mine()->of[BASE + 5], 2);
	out8(PORT_PIC0, 0x20);
	irq_window();
	ok_equal("non-specific EOI lets the lower one in", irq_mine()->of[BASE + 6], 1);
	out8(PORT_PIC0, 0x20);
}

static void test_priorities(void)
{
	start(pic_end);
	unmask(0xa0);
	raise_edge(7);
	raise_edge(5);
	irq_window();
	ok("the lower number first",
	   irq_mine()->log[0] == BASE + 5 && irq_mine()->log[1] == BASE + 7);
	irq_clear();
	out8(PORT_PIC0, 0xc5); /* 5 is lowest: 6, 7, 0, ... */
	raise_edge(5);
	raise_edge(7);
	irq_window();
	ok("after rotation the other one",
	   irq_mine()->log[0] == BASE + 7 && irq_mine()->log[1] == BASE + 5);
	out8(PORT_PIC0, 0xc7);
}

static void test_cascade(void)
{
	start(NULL);
	unmask(1u << 10 | 1u << 2);
	raise_edge(10);
	irq_window();
	ok_equal("the second chip's vector", irq_mine()->of[BASE + 10], 1);
	ok_equal("in service there", pic_register(PORT_PIC1, READ_ISR), 4);
	ok_equal("and on the first chip's line 2", pic_register(PORT_PIC0, READ_ISR), 4);
	pic_end(BASE + 10);
	ok("ended on both",
	   !pic_register(PORT_PIC0, READ_ISR) && !pic_register(PORT_PIC1, READ_ISR));
}

static void end_thrice(unsigned vector)
{
	if (irq_mine()->of[vector] == 3)
		set_line(5, false);
	pic_end(vector);
}

static void test_level(void)
{
	out8(PORT_ELCR, 0xff);
	out8(PORT_ELCR + 1, 0xff);
	ok_equal("lines 0 to 2 are always edge triggered", in8(PORT_ELCR), 0xf8);
	ok_equal("and 8 and 13", in8(PORT_ELCR + 1), 0xde);
	out8(PORT_ELCR, 0x20);
	out8(PORT_ELCR + 1, 0);
	start(end_thrice);
	unmask(0x20);
	set_line(5, true);
	irq_window();
	ok_equal("a level interrupts after each EOI until it falls", irq_mine()->of[BASE + 5], 3);
	out8(PORT_ELCR, 0);
}

static void test_poll(void)
{
	start(NULL);
	unmask(0x20);
	out8(PORT_PIC0, POLL);
	ok("nothing to poll", !(in8(PORT_PIC0) & 0x80));
	raise_edge(5);
	out8(PORT_PIC0, POLL);
	ok_equal("a polled line", in8(PORT_PIC0) & 0x87, 0x85);
	ok_equal("is in service", pic_register(PORT_PIC0, READ_ISR), 0x20);
	out8(PORT_PIC0, 0x20);
	irq_window();
	ok_equal("and does not interrupt", irq_mine()->total, 0);
}

static void test_automatic_end(void)
{
	start(NULL);
	out8(PORT_PIC0, 0x11);
	out8(PORT_PIC0 + 1, BASE);
	out8(PORT_PIC0 + 1, 4);
	out8(PORT_PIC0 + 1, 3);
	unmask(0x20);
	raise_edge(5);
	irq_window();
	raise_edge(5);
	irq_window();
	ok_equal("under automatic EOI each edge interrupts", irq_mine()->of[BASE + 5], 2);
	ok_equal("and none stays in service", pic_register(PORT_PIC0, READ_ISR), 0);
}

static void test_lint0(void)
{
	start(pic_end);
	unmask(0x20);
	apic_write(APIC_LVT_LINT0, 0x10700);
	raise_edge(5);
	irq_window();
	ok_equal("masked LINT0 stops the PIC", irq_mine()->total, 0);
	apic_write(APIC_LVT_LINT0, 0x700);
	irq_window();
	ok_equal("until it is unmasked", irq_mine()->of[BASE + 5], 1);
}

void guest_run(void)
{
	out8(PORT_ELCR, 0);
	out8(PORT_ELCR + 1, 0);
	test_masks();
	test_timer();
	test_end_of_interrupt();
	test_priorities();
	test_cascade();
	test_level();
	test_poll();
	test_automatic_end();
	test_lint0();
}

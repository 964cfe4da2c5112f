/* The I/O APIC: registers, edges, levels and what ends them. */
#include "device.h"

#define PIN    11
#define VECTOR 0x61

#define LEVEL      0x8000u
#define REMOTE_IRR 0x4000u
#define REG(pin)   (0x10 + 2 * (pin))

static void set_line(bool level)
{
	out8(PORT_TEST_IRQ + PIN, level);
}

static bool remote_irr(void)
{
	return ioapic_read(REG(PIN)) & REMOTE_IRR;
}

static void test_registers(void)
{
	uint32_t version = ioapic_read(1);

	ok_equal("24 pins", version >> 16 & 0xff, 23);
	ok("a version", (version & 0xff) == 0x11 || (version & 0xff) == 0x20);
	ioapic_write(REG(PIN) + 1, 0x5a000000);
	ioapic_write(REG(PIN), 0x1a9ff & ~REMOTE_IRR);
	ok_equal("destination reads back", ioapic_read(REG(PIN) + 1) >> 24, 0x5a);
	ok_equal("entry reads back", ioapic_read(REG(PIN)), 0x1a9ff);
	ioapic_write(REG(PIN), 0x17000 | VECTOR);
	ok_equal("delivery status and remote IRR are read-only", ioapic_read(REG(PIN)) & 0x7000,
	         0x2000);
}

static void test_edge(void)
{
	irq_clear();
	ioapic_route(PIN, 0, VECTOR);
	set_line(true);
	irq_window();
	ok_equal("a rising edge interrupts", irq_mine()->of[VECTOR], 1);
	irq_window();
	set_line(false);
	irq_window();
	ok_equal("once", irq_mine()->of[VECTOR], 1);
	ok("the local APIC knows it as an edge", !apic_test(APIC_TMR, VECTOR));
	ok("without remote IRR", !remote_irr());
	ioapic_write(REG(PIN), VECTOR | APIC_MASKED);
	set_line(true);
	set_line(false);
	irq_window();
	ok_equal("a masked edge does not interrupt", irq_mine()->of[VECTOR], 1);
}

static void end_and_lower(unsigned vector)
{
	set_line(false);
	apic_end(vector);
}

static void test_level(void)
{
	irq_clear();
	irq_end = NULL;
	ioapic_route(PIN, 0, VECTOR | LEVEL);
	set_line(true);
	irq_window();
	ok_equal("a level interrupts", irq_mine()->of[VECTOR], 1);
	ok("and has remote IRR", remote_irr());
	ok("the local APIC knows it as a level", apic_test(APIC_TMR, VECTOR));
	set_line(false);
	set_line(true);
	irq_window();
	ok_equal("not again before the EOI", irq_mine()->of[VECTOR], 1);
	apic_end(VECTOR);
	irq_window();
	ok_equal("again after it", irq_mine()->of[VECTOR], 2);
	set_line(false);
	apic_end(VECTOR);
	irq_window();
	ok("not when the line has fallen", irq_mine()->of[VECTOR] == 2 && !remote_irr());
	irq_end = end_and_lower;
	set_line(true);
	irq_window();
	ok_equal("a handler that quiets its device is called once", irq_mine()->of[VECTOR], 3);
	irq_end = apic_end;
}

static void test_masked_level(void)
{
	irq_clear();
	irq_end = end_and_lower;
	ioapic_route(PIN, 0, VECTOR | LEVEL | APIC_MASKED);
	set_line(true);
	irq_window();
	ok_equal("a masked level waits", irq_mine()->of[VECTOR], 0);
	ioapic_write(REG(PIN), VECTOR | LEVEL);
	irq_window();
	ok_equal("and interrupts when unmasked", irq_mine()->of[VECTOR], 1);
	irq_end = apic_end;
}

static void test_destinations(void)
{
	irq_clear();
	apic_write(APIC_LDR, 0x04000000);
	apic_write(APIC_DFR, 0xffffffff);
	ioapic_route(PIN, 0xfe & ~0x04, VECTOR | ICR_LOGICAL);
	set_line(true);
	set_line(false);
	irq_window();
	ok_equal("a logical destination that is not ours", irq_mine()->of[VECTOR], 0);
	ioapic_route(PIN, 0x0c, VECTOR | ICR_LOGICAL);
	set_line(true);
	set_line(false);
	irq_window();
	ok_equal("one that is ours among others", irq_mine()->of[VECTOR], 1);
	ioapic_route(PIN, 0x04, VECTOR | ICR_LOGICAL | ICR_LOWEST);
	set_line(true);
	set_line(false);
	irq_window();
	ok_equal("lowest priority", irq_mine()->of[VECTOR], 2);
	ioapic_route(PIN, 0xff, VECTOR);
	set_line(true);
	set_line(false);
	irq_window();
	ok_equal("broadcast", irq_mine()->of[VECTOR], 3);
}

static void test_nmi(void)
{
	irq_clear();
	ioapic_route(PIN, 0, ICR_NMI);
	set_line(true);
	set_line(false);
	ok("an NMI comes with interrupts off", WAIT_FOR(irq_mine()->of[EXC_NMI] == 1, 1000));
	ioapic_route(PIN, 0, APIC_MASKED);
}

/* The MADT sends ISA's line 0 to pin 2. */
static void test_timer(void)
{
	irq_clear();
	ioapic_route(2, 0, 0x70);
	pit_start(1000);
	irq_enable();
	ok("the PIT is on pin 2", WAIT_FOR(irq_mine()->of[0x70] >= 5, 2000));
	irq_disable();
	pit_stop();
	ioapic_route(2, 0, APIC_MASKED);
}

void guest_run(void)
{
	pic_begin(0x40);
	apic_write(APIC_LVT_LINT0, APIC_MASKED);
	irq_begin(apic_end);
	test_registers();
	test_edge();
	test_level();
	test_masked_level();
	test_destinations();
	test_nmi();
	test_timer();
}

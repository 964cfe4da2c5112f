/* The local APIC in xAPIC mode. */
#include "device.h"
#include "lapic_checks.h"

static void test_page(void)
{
	apic_write(APIC_ESR, 0);
	load32(LAPIC_BASE + 0x40);
	apic_write(APIC_ESR, 0);
	ok_equal("reading a register that is none is an error", apic_read(APIC_ESR), 0x80);
	apic_write(APIC_LDR, 0xa5123456);
	ok_equal("logical id has 8 bits", apic_read(APIC_LDR), 0xa5000000);
	apic_write(APIC_DFR, 0x0);
	ok_equal("the model has 4 bits", apic_read(APIC_DFR), 0x0fffffff);
	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_ICR_HIGH, 0x12345678);
	ok_equal("destination of the ICR", apic_read(APIC_ICR_HIGH) >> 24, 0x12);
}

static void test_logical(void)
{
	irq_clear();
	apic_write(APIC_LDR, 0x02000000);
	apic_send(0x03, ICR_LOGICAL | ICR_ASSERT | 0x60);
	irq_window();
	ok_equal("flat logical destination", irq_mine()->of[0x60], 1);
	apic_send(0x05, ICR_LOGICAL | ICR_ASSERT | 0x60);
	irq_window();
	ok_equal("not for us", irq_mine()->of[0x60], 1);
	apic_write(APIC_DFR, 0x0fffffff);
	apic_write(APIC_LDR, 0x32000000);
	apic_send(0x33, ICR_LOGICAL | ICR_ASSERT | 0x60);
	irq_window();
	ok_equal("cluster logical destination", irq_mine()->of[0x60], 2);
	apic_send(0x23, ICR_LOGICAL | ICR_ASSERT | 0x60);
	irq_window();
	ok_equal("of another cluster", irq_mine()->of[0x60], 2);
	apic_write(APIC_DFR, 0xffffffff);
	apic_send(0xff, ICR_ASSERT | 0x60);
	irq_window();
	ok_equal("broadcast reaches the sender", irq_mine()->of[0x60], 3);
	apic_send(0, ICR_ALL | ICR_ASSERT | 0x60);
	irq_window();
	ok_equal("shorthand all", irq_mine()->of[0x60], 4);
	apic_send(0, ICR_OTHERS | ICR_ASSERT | 0x60);
	irq_window();
	ok_equal("all but self does not", irq_mine()->of[0x60], 4);
}

void guest_run(void)
{
	pic_disable();
	check_lapic();
	test_page();
	test_logical();
}

#include "device.h"

#define PM_TIMER_HZ   3579545ull
#define PM_TIMER_MASK 0xffffffu /* the part that all chips have */
#define PIT_HZ        1193182u

struct irq_counts irq_counts[MAX_CPUS];
void (*irq_end)(unsigned vector);
bool apic_x2;

/* Time. */

void stopwatch_start(struct stopwatch *w)
{
	w->last = in32(PORT_PM_TIMER);
	w->ticks = 0;
}

uint64_t stopwatch_us(struct stopwatch *w)
{
	uint32_t now = in32(PORT_PM_TIMER);

	w->ticks += (now - w->last) & PM_TIMER_MASK;
	w->last = now;
	return w->ticks * 1000000 / PM_TIMER_HZ;
}

void delay_us(uint64_t us)
{
	struct stopwatch w;

	stopwatch_start(&w);
	while (stopwatch_us(&w) < us)
		pause();
}

bool is_near(uint64_t v, uint64_t want, unsigned percent)
{
	uint64_t slack = want * percent / 100;

	return v + slack >= want && v <= want + slack;
}

/* Interrupts. */

struct irq_counts *irq_mine(void)
{
	return &irq_counts[this_cpu()->index];
}

static bool count_interrupt(struct regs *r)
{
	struct irq_counts *c = irq_mine();
	unsigned vector = (unsigned)r->vector;

	if (vector < FIRST_IRQ_VECTOR && vector != EXC_NMI && vector != ILLEGAL_VECTOR)
		return false;
	c->of[vector]++;
	c->log[c->total++ % IRQ_LOG] = (uint8_t)vector;
	if (irq_end && vector != EXC_NMI)
		irq_end(vector);
	return true;
}

void irq_begin(void (*end)(unsigned vector))
{
	irq_end = end;
	trap_hook = count_interrupt;
}

void irq_clear(void)
{
	memset(irq_mine(), 0, sizeof(struct irq_counts));
}

/* The local APIC. */

uint32_t apic_read(unsigned reg)
{
	return apic_x2 ? (uint32_t)read_msr(MSR_X2APIC + reg / 16) : load32(LAPIC_BASE + reg);
}

void apic_write(unsigned reg, uint32_t v)
{
	if (apic_x2)
		write_msr(MSR_X2APIC + reg / 16, v);
	else
		store32(LAPIC_BASE + reg, v);
}

void apic_send(uint32_t dest, uint32_t icr)
{
	if (apic_x2) {
		__asm__ volatile("mfence" : : : "memory"); /* WRMSR there does not order */
		write_msr(MSR_X2APIC + APIC_ICR / 16, (uint64_t)dest << 32 | icr);
		return;
	}
	store32(LAPIC_BASE + APIC_ICR_HIGH, dest << 24);
	store32(LAPIC_BASE + APIC_ICR, icr);
	while (load32(LAPIC_BASE + APIC_ICR) & 0x1000)
		pause();
}

bool apic_test(unsigned set, unsigned vector)
{
	return apic_read(set + vector / 32 * 16) >> vector % 32 & 1;
}

void apic_enable(void)
{
	apic_write(APIC_TPR, 0);
	apic_write(APIC_SVR, 0x1ff);
}

void apic_end(unsigned vector)
{
	if (vector != 0xff)
		apic_write(APIC_EOI, 0);
}

/* The 8259s. */

void pic_begin(unsigned base)
{
	out8(PORT_PIC0, 0x11);
	out8(PORT_PIC1, 0x11);
	out8(PORT_PIC0 + 1, (uint8_t)base);
	out8(PORT_PIC1 + 1, (uint8_t)(base + 8));
	out8(PORT_PIC0 + 1, 4);
	out8(PORT_PIC1 + 1, 2);
	out8(PORT_PIC0 + 1, 1);
	out8(PORT_PIC1 + 1, 1);
	pic_disable();
	apic_enable();
	apic_write(APIC_LVT_LINT0, 0x700);
}

void pic_disable(void)
{
	out8(PORT_PIC0 + 1, 0xff);
	out8(PORT_PIC1 + 1, 0xff);
}

void pic_end(unsigned vector)
{
	if (vector & 8)
		out8(PORT_PIC1, 0x20);
	out8(PORT_PIC0, 0x20);
}

/* The I/O APIC. */

uint32_t ioapic_read(unsigned reg)
{
	store32(IOAPIC_BASE, reg);
	return load32(IOAPIC_BASE + 0x10);
}

void ioapic_write(unsigned reg, uint32_t v)
{
	store32(IOAPIC_BASE, reg);
	store32(IOAPIC_BASE + 0x10, v);
}

void ioapic_route(unsigned pin, unsigned cpu, uint32_t low)
{
	ioapic_write(0x10 + 2 * pin, APIC_MASKED);
	ioapic_write(0x11 + 2 * pin, cpu << 24);
	ioapic_write(0x10 + 2 * pin, low);
}

/* The PIT. */

void pit_start(unsigned hz)
{
	unsigned count = PIT_HZ / hz;

	out8(PORT_PIT0 + 3, 0x36);
	out8(PORT_PIT0, (uint8_t)count);
	out8(PORT_PIT0, (uint8_t)(count >> 8));
}

/* One-shot mode, no count yet: the output stays low. */
void pit_stop(void)
{
	out8(PORT_PIT0 + 3, 0x30);
}

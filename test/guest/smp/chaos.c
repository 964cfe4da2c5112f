/* All CPUs poke the chips at once, at random places with random values. They must get done. */
#include "smp.h"

#define POKES 100000

/* Left alone: what ends the machine, and what this guest prints and tells the time by. */
static const struct {
	uint16_t first, last;
} spared[] = { { 0x60, 0x64 },   { 0x92, 0x92 },   { 0xe9, 0xe9 },  { 0xf4, 0xf7 },
	       { 0x3f8, 0x3ff }, { 0x600, 0x60b }, { 0xcf9, 0xcf9 } };

/* Ports of chips that are worth more pokes than the empty rest. */
static const uint16_t bases[] = {
	0x20, 0x40, 0x60, 0x70, 0xa0, 0x4d0, 0x510, 0x610, 0xcf8, 0x2000
};
static const uintptr_t pages[] = { IOAPIC_BASE, HPET_BASE, 0xff000000 };

static uint32_t next(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

static bool is_spared(unsigned port, unsigned size)
{
	for (size_t i = 0; i < sizeof(spared) / sizeof(*spared); i++) {
		if (port <= spared[i].last && port + size > spared[i].first)
			return true;
	}
	return false;
}

static void poke_port(uint32_t *seed)
{
	uint32_t r = next(seed), value = next(seed);
	unsigned port = (r & 1 ? bases[(r >> 1) % 10] + (r >> 5) % 32 : r >> 1) & 0xffff;
	unsigned size = 1u << (r >> 12) % 3;

	if (is_spared(port, size))
		return;
	switch (size | (r >> 14 & 1) << 3) {
	case 1:
		in8((uint16_t)port);
		break;
	case 2:
		in16((uint16_t)port);
		break;
	case 4:
		in32((uint16_t)port);
		break;
	case 9:
		out8((uint16_t)port, (uint8_t)value);
		break;
	case 10:
		out16((uint16_t)port, (uint16_t)value);
		break;
	default:
		out32((uint16_t)port, value);
	}
}

/* An I/O APIC entry could send an INIT or NMI: bits 10:8 stay 0, as a fixed interrupt's. */
static void poke_page(uint32_t *seed)
{
	uint32_t r = next(seed), value = next(seed) & ~0x700u;
	uintptr_t at = pages[r % 3] + ((r >> 2) & 0xffc);

	if (r & 1u << 20)
		store32(at, value);
	else
		load32(at);
}

/* Interrupts to anyone, who has them off. */
static void poke_apic(uint32_t *seed)
{
	uint32_t r = next(seed);

	apic_send(r & 7, ICR_ASSERT | (r >> 4 & ICR_LOWEST) | 0x60 | (r >> 12 & 0x1f));
	apic_read(APIC_IRR + (r >> 16 & 7) * 16);
	apic_write(APIC_INITIAL, r);
	apic_write(APIC_EOI, 0);
}

static void poke(unsigned cpu)
{
	uint32_t seed = 0x5eed + cpu;

	for (unsigned i = 0; i < POKES; i++) {
		poke_port(&seed);
		poke_page(&seed);
		if (!(i % 8))
			poke_apic(&seed);
	}
}

static void go_deaf(unsigned cpu)
{
	irq_disable();
}

void guest_run(void)
{
	ok_equal("all CPUs come", smp_start(), smp_cpus());
	smp_run(go_deaf);
	smp_run(poke);
	ok("all get done", true);
}

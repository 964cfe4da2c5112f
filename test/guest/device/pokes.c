/*
 * A guest that pokes everything: each port in each width, each page of device memory, ROM, the
 * chips' registers with nonsense. None of it may end the machine or stop it.
 */
#include "device.h"

#define GIB             (1ul << 30)
#define PCI_CONFIG_BASE 0xc0000000ul

static bool ignore_nmi(struct regs *r)
{
	return r->vector == EXC_NMI;
}

/* What a write there does on purpose: end the machine. */
static const struct {
	uint16_t first, last;
} ends[] = { { 0x92, 0x92 }, { 0xf4, 0xf7 }, { 0x604, 0x605 }, { 0xcf9, 0xcf9 } };

static bool is_end(unsigned port, unsigned size)
{
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		if (port <= ends[i].last && port + size > ends[i].first)
			return true;
	}
	return false;
}

static void read_ports(void)
{
	for (unsigned port = 0; port < 0x10000; port++) {
		in8((uint16_t)port);
		in16((uint16_t)port);
		in32((uint16_t)port);
	}
}

static void write_ports(uint32_t value)
{
	for (unsigned port = 0; port < 0x10000; port++) {
		if (!is_end(port, 1))
			out8((uint16_t)port, (uint8_t)value);
		if (!is_end(port, 2))
			out16((uint16_t)port, (uint16_t)value);
		if (!is_end(port, 4))
			out32((uint16_t)port, value);
	}
}

static void test_ports(void)
{
	static const uint32_t values[] = { 0, 0xffffffff, 0x5a5a5a5a, 0x80000001 };

	read_ports();
	ok("every port can be read", true);
	for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++)
		write_ports(values[i]);
	read_ports();
	print("\n"); /* after what went to the console */
	ok("every port can be written", true);
}

static void test_sleep_types(void)
{
	for (unsigned type = 1; type < 8; type++)
		out16(0x604, (uint16_t)(0x2000 | type << 10));
	ok("only one sleep type ends the machine", true);
}

static void poke(uintptr_t at, uint64_t value)
{
	*(volatile uint8_t *)at = (uint8_t)value;
	*(volatile uint16_t *)at = (uint16_t)value;
	*(volatile uint32_t *)at = (uint32_t)value;
	*(volatile uint64_t *)at = value;
}

static void peek(uintptr_t at)
{
	(void)*(volatile uint8_t *)at;
	(void)*(volatile uint16_t *)at;
	(void)*(volatile uint32_t *)at;
	(void)*(volatile uint64_t *)at;
}

static void test_holes(void)
{
	uint64_t differ = 0;

	for (uintptr_t at = 1 * GIB; at < 4 * GIB; at += 1 << 20) {
		peek(at);
		poke(at, 0x1122334455667788);
		if (at < 0xfe000000 && at != PCI_CONFIG_BASE)
			differ += *(volatile uint64_t *)at != UINT64_MAX;
	}
	ok_equal("where nothing is, ones are read", differ, 0);
	(void)*(volatile uint64_t *)(4 * GIB - 8);
	ok("up to 4 GiB", true);
}

static void test_chips(void)
{
	static const uintptr_t pages[] = { IOAPIC_BASE, HPET_BASE, LAPIC_BASE, PCI_CONFIG_BASE,
		                           0xff000000 };
	static const uint64_t values[] = { 0, UINT64_MAX, 0x5a5a5a5a5a5a5a5a, 0x0000010100000201 };

	for (size_t p = 0; p < sizeof(pages) / sizeof(*pages); p++) {
		for (size_t v = 0; v < sizeof(values) / sizeof(*values); v++) {
			for (uintptr_t at = pages[p]; at < pages[p] + 0x1000; at++)
				poke(at, values[v]);
			for (uintptr_t at = pages[p]; at < pages[p] + 0x1000; at++)
				peek(at);
		}
	}
	ok("the chips take it", true);
}

static void test_rom(void)
{
	volatile uint8_t *rom = memory_at(0xe0000);
	unsigned changed = 0;

	for (unsigned at = 0; at < 0x20000; at++) {
		uint8_t old = rom[at];

		rom[at] = (uint8_t)~old;
		changed += rom[at] != old;
	}
	__asm__ volatile("lock incl %0" : "+m"(*(volatile uint32_t *)rom) : : "memory");
	ok_equal("ROM stays as it is", changed, 0);
}

/* Chips that read or write memory would do it at addresses like these. */
static void test_wrapping_strings(void)
{
	void *at = (void *)(4 * GIB - 64);
	word n = 16;

	__asm__ volatile("rep insl" : "+D"(at), "+c"(n) : "d"(0x510) : "memory");
	at = (void *)(4 * GIB - 64);
	n = 16;
	__asm__ volatile("rep outsl" : "+S"(at), "+c"(n) : "d"(0x510) : "memory");
	ok("string I/O from and to nowhere", true);
}

void guest_run(void)
{
	trap_hook = ignore_nmi;
	test_ports();
	test_sleep_types();
	test_holes();
	test_chips();
	test_rom();
	test_wrapping_strings();
	test_ports();
}

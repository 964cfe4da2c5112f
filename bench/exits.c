/*
 * What an exit costs: the guest reads one register of a device, EXITS times, and ends. A PIO guest
 * reads the RTC's data port, an MMIO guest the HPET's counter; every monitor's own code answers. A
 * BELL guest writes to the doorbell of a virtio device that has nothing to do: what the monitor
 * need not leave the guest for.
 */
#include <stdint.h>

#define PASS     0x10 /* for the exit port: process status 33 */
#define RTC_DATA 0x71
#define HPET     0xfed000f0u

unsigned bench_main(void);

#if defined(MMIO) || defined(BELL)
/* The first MiB are mapped; a device in the fourth GiB needs a page of its own. */
extern uint64_t pdpt[];
static uint64_t directory[512] __attribute__((aligned(4096)));

static void map(uint32_t address)
{
	directory[address >> 21 & 511] = (address & ~0x1fffffu) | 0x83; /* 2 MiB, writable, PS */
	pdpt[3] = (uintptr_t)directory | 3;
}
#endif

#ifdef MMIO
static void begin(void)
{
	map(HPET);
}

static void leave_once(void)
{
	*(volatile uint32_t *)(uintptr_t)HPET;
}
#elif defined(BELL)
#define ENTROPY    0x10441af4u /* virtio's source of random numbers */
#define CAP_VENDOR 0x09
#define CFG_COMMON 1
#define CFG_NOTIFY 2

static volatile uint8_t *common;
static volatile uint16_t *doorbell;

static void out32(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static uint32_t config(unsigned slot, unsigned reg)
{
	uint32_t v;

	out32(0xcf8, 0x80000000u | slot << 11 | (reg & 0xfc));
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"((uint16_t)0xcfc));
	return v >> (8 * (reg & 3));
}

static void use_capability(unsigned slot, unsigned at)
{
	unsigned bar = config(slot, at + 4) & 0xff, type = config(slot, at + 3) & 0xff;
	uint32_t address = (config(slot, 0x10 + 4 * bar) & ~0xfu) + config(slot, at + 8);

	if (type != CFG_COMMON && type != CFG_NOTIFY)
		return;
	map(address);
	if (type == CFG_COMMON)
		common = (volatile uint8_t *)(uintptr_t)address;
	else
		doorbell = (volatile uint16_t *)(uintptr_t)address;
}

/* As far as a device must be for its doorbells to be heard, with no ring behind any. */
static void begin(void)
{
	unsigned slot = 1;

	while (config(slot, 0) != ENTROPY && slot < 31)
		slot++;
	out32(0xcf8, 0x80000000u | slot << 11 | 4);
	out32(0xcfc, 6); /* memory, bus master */
	for (unsigned at = config(slot, 0x34) & 0xff; at; at = config(slot, at + 1) & 0xff)
		if ((config(slot, at) & 0xff) == CAP_VENDOR)
			use_capability(slot, at);
	common[0x14] = 3;
	*(volatile uint32_t *)(common + 8) = 1;
	*(volatile uint32_t *)(common + 12) = 1; /* VERSION_1 */
	common[0x14] = 11;
	common[0x14] = 15;
}

static void leave_once(void)
{
	*doorbell = 0;
}
#else
static void begin(void)
{
}

static void leave_once(void)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"((uint16_t)RTC_DATA));
}
#endif

unsigned bench_main(void)
{
	begin();
	for (uint32_t n = 0; n < EXITS; n++)
		leave_once();
	return PASS;
}

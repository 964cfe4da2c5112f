/*
 * What an exit costs: the guest reads one register of a device, EXITS times, and ends. A PIO guest
 * reads the RTC's data port, an MMIO guest the HPET's counter; every monitor's own code answers.
 */
#include <stdint.h>

#define PASS     0x10 /* for the exit port: process status 33 */
#define RTC_DATA 0x71
#define HPET     0xfed000f0u

unsigned bench_main(void);

#ifdef MMIO
/* The first MiB are mapped; the device needs a page of its own. */
extern uint64_t pdpt[];
static uint64_t directory[512] __attribute__((aligned(4096)));

static void begin(void)
{
	directory[HPET >> 21 & 511] = (HPET & ~0x1fffffu) | 0x83; /* 2 MiB, present, writable, PS */
	pdpt[HPET >> 30] = (uintptr_t)directory | 3;
}

static void leave_once(void)
{
	*(volatile uint32_t *)(uintptr_t)HPET;
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

/*
 * What the guests that test chips share: ports, registers in memory, time, counted interrupts and
 * the APICs.
 */
#pragma once

#include "guest.h"

/* Ports and pages that are the same on every PC, or that QEMU's boards agree on. */
#define PORT_PIC0     0x20
#define PORT_PIC1     0xa0
#define PORT_ELCR     0x4d0
#define PORT_PIT0     0x40
#define PORT_PIT_GATE 0x61
#define PORT_RTC      0x70
#define PORT_PM_TIMER 0x608
#define PORT_TEST_IRQ 0x2000 /* pc-testdev: + n, the level of ISA line n */
#define IOAPIC_BASE   0xfec00000ul
#define HPET_BASE     0xfed00000ul
#define LAPIC_BASE    0xfee00000ul

static inline void out16(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint16_t in16(uint16_t port)
{
	uint16_t v;
	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

/* A fixed address, which the compiler would take for a mistake. */
static inline void *memory_at(uintptr_t address)
{
	__asm__("" : "+r"(address));
	return (void *)address;
}

static inline uint32_t load32(uintptr_t address)
{
	return *(volatile uint32_t *)address;
}

static inline void store32(uintptr_t address, uint32_t v)
{
	*(volatile uint32_t *)address = v;
}

static inline uint64_t read_tsc(void)
{
	uint32_t lo, hi;
	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

static inline void pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

static inline void irq_enable(void)
{
	__asm__ volatile("sti" : : : "memory");
}

static inline void irq_disable(void)
{
	__asm__ volatile("cli" : : : "memory");
}

/* STI; HLT; CLI without a gap between the first two. */
static inline void irq_sleep(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

/* Lets everything in that is pending. */
static inline void irq_window(void)
{
	__asm__ volatile("sti; nop; nop; cli" : : : "memory");
}

/* Time, by the PM timer. */
struct stopwatch {
	uint32_t last;
	uint64_t ticks;
};

void stopwatch_start(struct stopwatch *w);
uint64_t stopwatch_us(struct stopwatch *w); /* call at least every 4 s */
void delay_us(uint64_t us);

/* Until cond, or for ms; gives cond. */
#define WAIT_FOR(cond, ms)                                             \
	({                                                             \
		struct stopwatch wait_;                                \
		stopwatch_start(&wait_);                               \
		while (!(cond) && stopwatch_us(&wait_) < (ms)*1000ull) \
			pause();                                       \
		(bool)(cond);                                          \
	})

/* Is v within percent of want? */
bool is_near(uint64_t v, uint64_t want, unsigned percent);

/*
 * Interrupts. After irq_begin() those from vector 0x30 and the NMI are counted; irq_end (may be
 * NULL) is called for each vector but the NMI, with interrupts off, and tells the controller.
 */
#define FIRST_IRQ_VECTOR 0x30
#define ILLEGAL_VECTOR   0x0f /* no exception, and not for an APIC: counted too */
#define IRQ_LOG          64

struct irq_counts {
	volatile unsigned of[256];
	volatile unsigned total;
	volatile uint8_t log[IRQ_LOG]; /* the vectors in order */
};

extern struct irq_counts irq_counts[MAX_CPUS];
extern void (*irq_end)(unsigned vector);

void irq_begin(void (*end)(unsigned vector));
void irq_clear(void); /* the caller's counts */
struct irq_counts *irq_mine(void);

/* The local APIC, through its page or through MSRs. Registers are offsets in the page. */
enum {
	APIC_ID = 0x20,
	APIC_VERSION = 0x30,
	APIC_TPR = 0x80,
	APIC_PPR = 0xa0,
	APIC_EOI = 0xb0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SVR = 0xf0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_ICR = 0x300,
	APIC_ICR_HIGH = 0x310,
	APIC_LVT_TIMER = 0x320,
	APIC_LVT_LINT0 = 0x350,
	APIC_LVT_LINT1 = 0x360,
	APIC_LVT_ERROR = 0x370,
	APIC_INITIAL = 0x380,
	APIC_CURRENT = 0x390,
	APIC_DIVIDE = 0x3e0,
	APIC_SELF = 0x3f0,
};

#define MSR_APIC_BASE    0x1b
#define MSR_TSC          0x10
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC       0x800
#define BASE_EXTD        0x400ul
#define BASE_EN          0x800ul

#define APIC_MASKED   0x10000u
#define APIC_PERIODIC 0x20000u
#define APIC_DEADLINE 0x40000u

#define ICR_FIXED   0x000u
#define ICR_LOWEST  0x100u
#define ICR_NMI     0x400u
#define ICR_INIT    0x500u
#define ICR_STARTUP 0x600u
#define ICR_LOGICAL 0x800u
#define ICR_ASSERT  0x4000u
#define ICR_LEVEL   0x8000u
#define ICR_SELF    0x40000u
#define ICR_ALL     0x80000u
#define ICR_OTHERS  0xc0000u

extern bool apic_x2; /* all CPUs are in x2APIC mode */

uint32_t apic_read(unsigned reg);
void apic_write(unsigned reg, uint32_t v);
void apic_send(uint32_t dest, uint32_t icr);
bool apic_test(unsigned set, unsigned vector); /* a bit of ISR, TMR or IRR */
void apic_enable(void);                        /* accept interrupts of every priority */
void apic_end(unsigned vector);                /* for irq_end */

/* The 8259s at vectors base and base + 8, everything masked; LINT0 as their wire. */
void pic_begin(unsigned base);
void pic_disable(void);
void pic_end(unsigned vector);

/* The I/O APIC. */
uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t v);
void ioapic_route(unsigned pin, unsigned cpu, uint32_t low);

/* PIT channel 0, square wave. */
void pit_start(unsigned hz);
void pit_stop(void);

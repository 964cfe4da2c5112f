/*
 * Local APICs (SDM 3A chapter 11, "Advanced Programmable Interrupt Controller") and the bus of
 * interrupt messages between them, the I/O APIC and MSI senders.
 *
 * Threads: every function may be called from any thread. A struct lapic has its own mutex, a leaf
 * after bus.lock; no callback but guest_tsc is made with it held. lapic_ops.raise may be called
 * with bus.lock held (by a device that raises a line) and must not take it; lapic_bus.eoi is called
 * by the vCPU that writes EOI, holds nothing, and takes bus.lock itself.
 */
#pragma once

#include <pthread.h>
#include "base/base.h"
#include "base/loop.h"
#include "bus/irqchip.h"

#define LAPIC_DEFAULT_BASE 0xfee00000ull
#define LAPIC_BUS_MAX      255
#define LAPIC_TIMER_HZ     1000000000ull /* before the divide configuration */

#define MSR_APIC_BASE    0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_FIRST 0x800
#define MSR_X2APIC_LAST  0x83f
#define APIC_BASE_BSP    BIT(8)
#define APIC_BASE_EXTD   BIT(10)
#define APIC_BASE_EN     BIT(11)

/* Delivery modes, SDM 3A 11.6.1 and 11.11.2. */
enum apic_delivery {
	APIC_FIXED,
	APIC_LOWEST,
	APIC_SMI,
	APIC_NMI = 4,
	APIC_INIT,
	APIC_SIPI,
	APIC_EXTINT,
};

/* An interrupt message. Senders with 8-bit destinations widen them with lapic_dest8(). */
#define LAPIC_BROADCAST 0xffffffffu
struct lapic_msg {
	uint32_t dest;
	uint8_t vector; /* SIPI: page number of the start address */
	uint8_t delivery;
	bool logical;
	bool level; /* level-triggered: its EOI is broadcast */
};

static inline uint32_t lapic_dest8(uint8_t dest)
{
	return dest == 0xff ? LAPIC_BROADCAST : dest;
}

struct lapic;
struct lapic_bus {
	struct lapic *cpu[LAPIC_BUS_MAX]; /* by APIC id, dense from 0 */
	unsigned nr;
	void (*eoi)(void *opaque, uint8_t vector); /* a level-triggered vector ended; may be NULL */
	void *eoi_opaque;
	/* The local APICs that are on the bus are not ours but the host kernel's; ours only hold
	 * state while the machine stands still. NULL: ours. */
	const struct irqchip *external;
};

struct lapic_ops {
	/* Sets ATTN_ bits of cpu/cpu.h and wakes the vCPU if it sleeps. sipi_vector is valid with
	 * ATTN_SIPI. A SIPI is the vCPU's to ignore unless it waits for one, after a pending INIT.
	 */
	void (*raise)(void *vcpu, uint32_t attention, uint8_t sipi_vector);
	/* The guest's time-stamp counter now; takes no lock. */
	uint64_t (*guest_tsc)(void *vcpu);
};

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

/* All that a guest can see or change. */
struct lapic_state {
	uint64_t base_msr;
	uint32_t tpr, svr, ldr, dfr;
	uint32_t esr, esr_collecting; /* as read, and since the last write */
	uint32_t icr_low, icr_high;
	uint32_t lvt[LVT_COUNT];
	uint32_t irr[8], isr[8], tmr[8];
	uint32_t divide, initial_count;
	uint64_t tsc_deadline; /* guest TSC, 0 when unarmed */
	uint64_t deadline_ns;  /* when the count reaches 0 (or the TSC its deadline), 0 when stopped
	                        */
	bool lint[2];          /* level of the pins */
	bool extint;           /* an ExtINT message waits to be acknowledged */
};

struct lapic {
	pthread_mutex_t lock; /* protects s and the arming of timer */
	struct lapic_bus *bus;
	const struct lapic_ops *ops;
	void *vcpu;
	uint32_t id;
	uint64_t tsc_hz;
	bool loaded;            /* s was set from outside since lapic_take_loaded() */
	uint64_t base_reserved; /* bits of IA32_APIC_BASE that must be zero */
	struct timer timer;
	struct lapic_state s;
};

void lapic_bus_init(struct lapic_bus *b);
/* Sends a message to all it addresses; false when nobody accepted it. */
bool lapic_bus_deliver(struct lapic_bus *b, const struct lapic_msg *m);
/* A write of an MSI: address 0xfeexxxxx and data (SDM 3A 11.11). */
bool lapic_bus_msi(struct lapic_bus *b, uint64_t addr, uint32_t data);
/* The value of struct irq_line.set for wires that go to pin LINTn of every CPU (opaque: the bus).
 */
void lapic_bus_set_lint(void *bus, unsigned n, bool level);

/* Puts the APIC with this id on the bus, in its power-on state; ids come in order from 0. phys_bits
 * is the width of physical addresses. */
void lapic_init(struct lapic *l, struct lapic_bus *bus, uint32_t id, struct loop *loop,
                const struct lapic_ops *ops, void *vcpu, uint64_t tsc_hz, unsigned phys_bits);
void lapic_fini(struct lapic *l);
void lapic_reset(struct lapic *l);       /* power-on */
void lapic_init_signal(struct lapic *l); /* for the vCPU to call when it acts on ATTN_INIT */

/* The highest deliverable vector, now in service, or -1. */
int lapic_ack(struct lapic *l);
/* After lapic_ack() gave -1: true when the vector is to come from the PIC (virtual wire). */
bool lapic_accepts_extint(struct lapic *l);
/* Would either of the above give something? */
bool lapic_has_interrupt(struct lapic *l);
/* Whether the LINT0 pin, where the PIC is, is programmed to give an NMI. */
bool lapic_lint0_is_nmi(struct lapic *l);

/*
 * The registers as the page at the APIC's base has them, LAPIC_PAGE bytes of it, plus what MSRs
 * hold: for an APIC that is kept elsewhere while the machine runs. The current count is part of
 * the page, and a timer goes on from it. lapic_take_loaded() says, once, whether the state was set
 * (also by lapic_reset()) since it last said so.
 */
#define LAPIC_PAGE 0x400
void lapic_get_page(struct lapic *l, uint8_t page[LAPIC_PAGE]);
void lapic_set_page(struct lapic *l, const uint8_t page[LAPIC_PAGE], uint64_t base_msr,
                    uint64_t tsc_deadline);
bool lapic_take_loaded(struct lapic *l);
/* A whole state from another machine's APIC; its timer goes on. */
void lapic_load(struct lapic *l, const struct lapic_state *s);

/* CR8: 0..15. */
uint8_t lapic_get_tpr(struct lapic *l);
void lapic_set_tpr(struct lapic *l, uint8_t class);

/* IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC range. Nonzero: raise #GP. */
int lapic_read_msr(struct lapic *l, uint32_t msr, uint64_t *value);
int lapic_write_msr(struct lapic *l, uint32_t msr, uint64_t value);
/* The guest's TSC jumped (WRMSR): finds the deadline anew. */
void lapic_tsc_changed(struct lapic *l);

/* The page of registers. lapic_decodes() says whether this CPU sees it at this address now. */
bool lapic_decodes(struct lapic *l, gpa_t gpa);
uint64_t lapic_read(struct lapic *l, uint64_t off, unsigned size);
void lapic_write(struct lapic *l, uint64_t off, unsigned size, uint64_t value);

/* For lapic_bus.c: taking a message (false: refused), and what selects its receivers. The caller of
 * lapic_logical_id() holds the lock. */
bool lapic_accept(struct lapic *l, const struct lapic_msg *m);
uint32_t lapic_logical_id(const struct lapic *l);
static inline bool lapic_is_x2apic(const struct lapic *l)
{
	return l->s.base_msr & APIC_BASE_EXTD;
}
uint8_t lapic_processor_priority(struct lapic *l);
void lapic_set_lint(struct lapic *l, unsigned n, bool level);

/*
 * The local APIC of one vCPU.
 *
 * Both faces of the registers, the xAPIC page and the x2APIC MSRs, number them alike: page offset
 * over 16 is MSR minus 0x800. One table says which face has which register and what bits it takes;
 * behind it there is one read and one write function.
 *
 * What a change asks of others (waking our vCPU, sending a message, telling the I/O APIC of an EOI)
 * is collected in a struct todo while the lock is held and done by finish() after it is released,
 * so that two APICs that signal each other never wait for each other's lock.
 */
#include "device/lapic.h"
#include "device/lapic_timer.h"

#include <assert.h>
#include <string.h>
#include "cpu/cpu.h"

/* Register numbers. */
enum {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_RRD = 0x0c,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_ICR = 0x30,
	REG_ICR_HIGH = 0x31,
	REG_LVT = 0x32,
	REG_INITIAL_COUNT = 0x38,
	REG_CURRENT_COUNT = 0x39,
	REG_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f,
	REG_COUNT = 0x40,
};

#define VERSION    ((LVT_COUNT - 1) << 16 | 0x14)
#define SVR_ENABLE BIT(8)
#define SVR_RESET  0xffu

#define ICR_LOGICAL      BIT(11)
#define ICR_BUSY         BIT(12)
#define ICR_ASSERT       BIT(14)
#define ICR_LEVEL        BIT(15)
#define ICR_SHORTHAND(v) ((v) >> 18 & 3)
enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

#define LVT_STATUS      BIT(12)
#define LVT_REMOTE_IRR  BIT(14)
#define LVT_LEVEL       BIT(15)
#define LVT_DELIVERY(v) ((v) >> 8 & 7)
#define LVT_READ_ONLY   (LVT_STATUS | LVT_REMOTE_IRR)

#define ESR_SEND_VECTOR    BIT(5)
#define ESR_RECEIVE_VECTOR BIT(6)
#define ESR_REGISTER       BIT(7)

/* Vectors below belong to exceptions; the APIC refuses them. */
#define FIRST_VECTOR 16

/* Which face has a register: x for the xAPIC page, 2 for the x2APIC MSRs. */
enum { RX = 1, WX = 2, R2 = 4, W2 = 8, RO = RX | R2, RW = RX | WX | R2 | W2 };

struct reg {
	uint8_t access;
	uint32_t valid; /* bits a write may set; x2APIC faults on others, xAPIC drops them */
};

static const struct reg regs[REG_COUNT] = {
	[REG_ID] = { RO, 0 },
	[REG_VERSION] = { RO, 0 },
	[REG_TPR] = { RW, 0xff },
	[REG_APR] = { RX, 0 },
	[REG_PPR] = { RO, 0 },
	[REG_EOI] = { WX | W2, 0 },
	[REG_RRD] = { RX, 0 },
	[REG_LDR] = { RX | WX | R2, 0xff000000 },
	[REG_DFR] = { RX | WX, 0xf0000000 },
	[REG_SVR] = { RW, 0x3ff },
	[REG_ISR... REG_ISR + 7] = { RO, 0 },
	[REG_TMR... REG_TMR + 7] = { RO, 0 },
	[REG_IRR... REG_IRR + 7] = { RO, 0 },
	[REG_ESR] = { RW, 0 },
	[REG_ICR] = { RW, 0x000cdfff },
	[REG_ICR_HIGH] = { RX | WX, 0xff000000 },
	[REG_LVT + LVT_TIMER] = { RW, 0x000710ff },
	[REG_LVT + LVT_THERMAL] = { RW, 0x000117ff },
	[REG_LVT + LVT_PERF] = { RW, 0x000117ff },
	[REG_LVT + LVT_LINT0] = { RW, 0x0001f7ff },
	[REG_LVT + LVT_LINT1] = { RW, 0x0001f7ff },
	[REG_LVT + LVT_ERROR] = { RW, 0x000110ff },
	[REG_INITIAL_COUNT] = { RW, 0xffffffff },
	[REG_CURRENT_COUNT] = { RO, 0 },
	[REG_DIVIDE] = { RW, 0x0b },
	[REG_SELF_IPI] = { W2, 0xff },
};

/* What is left to do once the lock is released. */
struct todo {
	uint32_t attention;
	uint8_t sipi_vector;
	bool eoi, send;
	uint8_t eoi_vector;
	uint8_t shorthand;
	struct lapic_msg msg;
};

static bool is_enabled(const struct lapic *l)
{
	return l->s.base_msr & APIC_BASE_EN;
}

uint32_t lapic_logical_id(const struct lapic *l)
{
	/* SDM 3A 11.12.10.2: cluster in the upper half, a bit within it in the lower. */
	if (lapic_is_x2apic(l))
		return (l->id >> 4) << 16 | 1u << (l->id & 15);
	return l->s.ldr;
}

/* Vector sets. */

static bool has_bit(const uint32_t *set, uint8_t v)
{
	return set[v / 32] >> v % 32 & 1;
}

static void put_bit(uint32_t *set, uint8_t v, bool on)
{
	if (on)
		set[v / 32] |= 1u << v % 32;
	else
		set[v / 32] &= ~(1u << v % 32);
}

static int highest_bit(const uint32_t *set)
{
	for (int i = 7; i >= 0; i--) {
		if (set[i])
			return i * 32 + 31 - __builtin_clz(set[i]);
	}
	return -1;
}

/* Priorities, SDM 3A 11.8.3.1. */

static uint8_t processor_priority(const struct lapic *l)
{
	int serving = highest_bit(l->s.isr);

	if (serving >= 0 && serving >> 4 > (int)(l->s.tpr >> 4))
		return (uint8_t)(serving & 0xf0);
	return (uint8_t)l->s.tpr;
}

static int deliverable_vector(const struct lapic *l)
{
	int v = highest_bit(l->s.irr);

	return v >= 0 && v >> 4 > processor_priority(l) >> 4 ? v : -1;
}

static bool extint_due(const struct lapic *l)
{
	uint32_t lvt = l->s.lvt[LVT_LINT0];

	if (l->s.extint)
		return true;
	if (!l->s.lint[0])
		return false;
	/* A disabled APIC leaves LINT0 to be the INTR pin of a CPU without one (11.4.3). */
	return !is_enabled(l) || (!(lvt & LVT_MASKED) && LVT_DELIVERY(lvt) == APIC_EXTINT);
}

static void notify_locked(const struct lapic *l, struct todo *todo)
{
	if (deliverable_vector(l) >= 0 || extint_due(l))
		todo->attention |= ATTN_INTR;
}

static void finish(struct lapic *l, const struct todo *todo);

/* Taking interrupts. */

static void record_error_locked(struct lapic *l, uint32_t bit, struct todo *todo);

static void accept_vector_locked(struct lapic *l, uint8_t v, bool level, struct todo *todo)
{
	if (v < FIRST_VECTOR) {
		record_error_locked(l, ESR_RECEIVE_VECTOR, todo);
		return;
	}
	put_bit(l->s.irr, v, true);
	put_bit(l->s.tmr, v, level);
	notify_locked(l, todo);
}

/* An event of one of our own sources: what its LVT entry makes of it. */
static void trigger_lvt_locked(struct lapic *l, enum lapic_lvt n, struct todo *todo)
{
	uint32_t lvt = l->s.lvt[n];

	if (lvt & LVT_MASKED)
		return;
	switch (LVT_DELIVERY(lvt)) {
	case APIC_FIXED:
		accept_vector_locked(l, (uint8_t)lvt, false, todo);
		break;
	case APIC_NMI:
		todo->attention |= ATTN_NMI;
		break;
	case APIC_EXTINT:
		notify_locked(l, todo);
		break;
	}
}

/* The error interrupt comes once for each kind of error between writes to ESR. An error entry whose
 * own vector is illegal only adds its bit to those collected. */
static void record_error_locked(struct lapic *l, uint32_t bit, struct todo *todo)
{
	if (l->s.esr_collecting & bit)
		return;
	l->s.esr_collecting |= bit;
	trigger_lvt_locked(l, LVT_ERROR, todo);
}

/* A fixed, level-triggered LINT0 interrupts while the pin is high and its last interrupt ended. */
static void sample_lint0_locked(struct lapic *l, struct todo *todo)
{
	uint32_t *lvt = &l->s.lvt[LVT_LINT0];

	if (!l->s.lint[0] || !(*lvt & LVT_LEVEL) || LVT_DELIVERY(*lvt) != APIC_FIXED ||
	    *lvt & (LVT_MASKED | LVT_REMOTE_IRR))
		return;
	*lvt |= LVT_REMOTE_IRR;
	accept_vector_locked(l, (uint8_t)*lvt, true, todo);
}

void lapic_set_lint(struct lapic *l, unsigned n, bool level)
{
	struct todo todo = { 0 };
	enum lapic_lvt lvt = n ? LVT_LINT1 : LVT_LINT0;
	bool rising, level_triggered;

	assert(n < 2);
	pthread_mutex_lock(&l->lock);
	rising = level && !l->s.lint[n];
	l->s.lint[n] = level;
	level_triggered =
	        n == 0 && l->s.lvt[lvt] & LVT_LEVEL && LVT_DELIVERY(l->s.lvt[lvt]) == APIC_FIXED;
	if (level_triggered)
		sample_lint0_locked(l, &todo);
	else if (rising && is_enabled(l))
		trigger_lvt_locked(l, lvt, &todo);
	if (n == 0 && level)
		notify_locked(l, &todo);
	pthread_mutex_unlock(&l->lock);
	finish(l, &todo);
}

bool lapic_accept(struct lapic *l, const struct lapic_msg *m)
{
	struct todo todo = { 0 };
	bool accepted;

	pthread_mutex_lock(&l->lock);
	accepted = is_enabled(l);
	if (!accepted)
		goto out;
	switch (m->delivery) {
	case APIC_FIXED:
	case APIC_LOWEST:
		accepted = l->s.svr & SVR_ENABLE;
		if (accepted)
			accept_vector_locked(l, m->vector, m->level, &todo);
		break;
	case APIC_NMI:
		todo.attention |= ATTN_NMI;
		break;
	case APIC_INIT:
		todo.attention |= ATTN_INIT;
		break;
	case APIC_SIPI:
		todo.attention |= ATTN_SIPI;
		todo.sipi_vector = m->vector;
		break;
	case APIC_EXTINT:
		l->s.extint = true;
		todo.attention |= ATTN_INTR;
		break;
	default: /* there is no system management mode here; 3 is reserved */
		accepted = false;
	}
out:
	pthread_mutex_unlock(&l->lock);
	finish(l, &todo);
	return accepted;
}

uint8_t lapic_processor_priority(struct lapic *l)
{
	uint8_t priority;

	pthread_mutex_lock(&l->lock);
	priority = processor_priority(l);
	pthread_mutex_unlock(&l->lock);
	return priority;
}

/* Giving interrupts to the CPU. */

int lapic_ack(struct lapic *l)
{
	struct todo todo = { 0 };
	int v;

	pthread_mutex_lock(&l->lock);
	v = deliverable_vector(l);
	if (v >= 0) {
		put_bit(l->s.irr, (uint8_t)v, false);
		put_bit(l->s.isr, (uint8_t)v, true);
		notify_locked(l, &todo); /* the PIC may be waiting behind this one */
	}
	pthread_mutex_unlock(&l->lock);
	finish(l, &todo);
	return v;
}

bool lapic_accepts_extint(struct lapic *l)
{
	bool due;

	pthread_mutex_lock(&l->lock);
	due = extint_due(l);
	l->s.extint = false;
	pthread_mutex_unlock(&l->lock);
	return due;
}

bool lapic_has_interrupt(struct lapic *l)
{
	bool has;

	pthread_mutex_lock(&l->lock);
	has = deliverable_vector(l) >= 0 || extint_due(l);
	pthread_mutex_unlock(&l->lock);
	return has;
}

uint8_t lapic_get_tpr(struct lapic *l)
{
	uint8_t class;

	pthread_mutex_lock(&l->lock);
	class = (uint8_t)(l->s.tpr >> 4);
	pthread_mutex_unlock(&l->lock);
	return class;
}

static void set_tpr_locked(struct lapic *l, uint32_t tpr, struct todo *todo)
{
	bool lowered = tpr < l->s.tpr;

	l->s.tpr = tpr;
	if (lowered)
		notify_locked(l, todo);
}

void lapic_set_tpr(struct lapic *l, uint8_t class)
{
	struct todo todo = { 0 };

	pthread_mutex_lock(&l->lock);
	set_tpr_locked(l, (uint32_t)(class & 15) << 4, &todo);
	pthread_mutex_unlock(&l->lock);
	finish(l, &todo);
}

static void end_of_interrupt_locked(struct lapic *l, struct todo *todo)
{
	int v = highest_bit(l->s.isr);
	uint32_t *lint0 = &l->s.lvt[LVT_LINT0];

	if (v < 0)
		return;
	put_bit(l->s.isr, (uint8_t)v, false);
	if (has_bit(l->s.tmr, (uint8_t)v)) {
		todo->eoi = true;
		todo->eoi_vector = (uint8_t)v;
		if (*lint0 & LVT_REMOTE_IRR && (uint8_t)*lint0 == v) {
			*lint0 &= ~LVT_REMOTE_IRR;
			sample_lint0_locked(l, todo);
		}
	}
	notify_locked(l, todo);
}

/* The timer. */

static void timer_fire(void *opaque)
{
	struct lapic *l = opaque;
	struct todo todo = { 0 };

	pthread_mutex_lock(&l->lock);
	if (lapic_timer_expired_locked(l))
		trigger_lvt_locked(l, LVT_TIMER, &todo);
	pthread_mutex_unlock(&l->lock);
	finish(l, &todo);
}

/* Registers. */

static void set_lvt_locked(struct lapic *l, enum lapic_lvt n, uint32_t value, struct todo *todo)
{
	uint32_t old = l->s.lvt[n];

	value = (value & ~LVT_READ_ONLY) | (old & LVT_READ_ONLY);
	if (!(l->s.svr & SVR_ENABLE))
		value |= LVT_MASKED;
	if (n == LVT_LINT0 && (!(value & LVT_LEVEL) || LVT_DELIVERY(value) != APIC_FIXED))
		value &= ~LVT_REMOTE_IRR;
	l->s.lvt[n] = value;
	if (n == LVT_TIMER && (old ^ value) >> 16) {
		/* Entering or leaving TSC-deadline mode disarms (SDM 3A 11.5.4.1). */
		if ((old >> 17 & 3) != lapic_timer_mode(l) &&
		    ((old >> 17 & 3) == TIMER_TSC || lapic_timer_mode(l) == TIMER_TSC))
			lapic_timer_stop_locked(l);
		lapic_timer_arm_locked(l);
	}
	if (n == LVT_LINT0) {
		sample_lint0_locked(l, todo);
		notify_locked(l, todo);
	}
}

/* Disabling masks every LVT entry; what is pending stays (SDM 3A 11.4.7.2). */
static void set_svr_locked(struct lapic *l, uint32_t value)
{
	l->s.svr = value;
	if (value & SVR_ENABLE)
		return;
	for (int i = 0; i < LVT_COUNT; i++)
		l->s.lvt[i] |= LVT_MASKED;
	lapic_timer_arm_locked(l);
}

/* Prepares the message that the ICR describes (SDM 3A 11.6.1). */
static void send_locked(struct lapic *l, struct todo *todo)
{
	uint32_t icr = l->s.icr_low;
	uint32_t dest = l->s.icr_high;
	uint8_t delivery = icr >> 8 & 7;
	bool fixed = delivery == APIC_FIXED || delivery == APIC_LOWEST;

	if (fixed && (uint8_t)icr < FIRST_VECTOR) {
		record_error_locked(l, ESR_SEND_VECTOR, todo);
		return;
	}
	/* INIT level de-assert does nothing since the Pentium 4; the last mode is reserved. */
	if ((delivery == APIC_INIT && icr & ICR_LEVEL && !(icr & ICR_ASSERT)) ||
	    delivery == APIC_EXTINT)
		return;
	/* IPIs other than INIT are edge triggered whatever the register says. */
	todo->send = true;
	todo->shorthand = ICR_SHORTHAND(icr);
	todo->msg = (struct lapic_msg){
		.dest = lapic_is_x2apic(l) ? dest : lapic_dest8((uint8_t)(dest >> 24)),
		.logical = icr & ICR_LOGICAL,
		.vector = (uint8_t)icr,
		.delivery = delivery,
	};
}

static void write_locked(struct lapic *l, unsigned reg, uint32_t value, struct todo *todo)
{
	switch (reg) {
	case REG_TPR:
		set_tpr_locked(l, value, todo);
		break;
	case REG_EOI:
		end_of_interrupt_locked(l, todo);
		break;
	case REG_LDR:
		l->s.ldr = value;
		break;
	case REG_DFR:
		l->s.dfr = value | 0x0fffffff;
		break;
	case REG_SVR:
		set_svr_locked(l, value);
		break;
	case REG_ESR:
		l->s.esr = l->s.esr_collecting;
		l->s.esr_collecting = 0;
		break;
	case REG_ICR:
		l->s.icr_low = value & ~ICR_BUSY;
		send_locked(l, todo);
		break;
	case REG_ICR_HIGH:
		l->s.icr_high = value;
		break;
	case REG_LVT ... REG_LVT + LVT_COUNT - 1:
		set_lvt_locked(l, reg - REG_LVT, value, todo);
		break;
	case REG_INITIAL_COUNT:
		lapic_timer_set_count_locked(l, value);
		break;
	case REG_DIVIDE:
		lapic_timer_set_divide_locked(l, value);
		break;
	case REG_SELF_IPI:
		if (l->s.svr & SVR_ENABLE)
			accept_vector_locked(l, (uint8_t)value, false, todo);
		break;
	}
}

static uint32_t read_locked(const struct lapic *l, unsigned reg)
{
	switch (reg) {
	case REG_ID:
		return lapic_is_x2apic(l) ? l->id : l->id << 24;
	case REG_VERSION:
		return VERSION;
	case REG_TPR:
		return l->s.tpr;
	case REG_APR:
	case REG_PPR:
		return processor_priority(l);
	case REG_LDR:
		return lapic_logical_id(l);
	case REG_DFR:
		return l->s.dfr;
	case REG_SVR:
		return l->s.svr;
	case REG_ISR ... REG_ISR + 7:
		return l->s.isr[reg - REG_ISR];
	case REG_TMR ... REG_TMR + 7:
		return l->s.tmr[reg - REG_TMR];
	case REG_IRR ... REG_IRR + 7:
		return l->s.irr[reg - REG_IRR];
	case REG_ESR:
		return l->s.esr;
	case REG_ICR:
		return l->s.icr_low;
	case REG_ICR_HIGH:
		return l->s.icr_high;
	case REG_LVT ... REG_LVT + LVT_COUNT - 1:
		return l->s.lvt[reg - REG_LVT];
	case REG_INITIAL_COUNT:
		return l->s.initial_count;
	case REG_CURRENT_COUNT:
		return lapic_timer_count(l);
	case REG_DIVIDE:
		return l->s.divide;
	}
	return 0;
}

static void send_to_others(struct lapic *l, const struct lapic_msg *m)
{
	for (unsigned i = 0; i < l->bus->nr; i++) {
		if (l->bus->cpu[i] != l)
			lapic_accept(l->bus->cpu[i], m);
	}
}

static void finish(struct lapic *l, const struct todo *todo)
{
	if (todo->eoi && l->bus->eoi)
		l->bus->eoi(l->bus->eoi_opaque, todo->eoi_vector);
	if (todo->send) {
		bool to_self =
		        todo->shorthand == SHORTHAND_SELF || todo->shorthand == SHORTHAND_ALL;

		if (todo->shorthand == SHORTHAND_NONE)
			lapic_bus_deliver(l->bus, &todo->msg);
		if (todo->shorthand >= SHORTHAND_ALL)
			send_to_others(l, &todo->msg);
		if (to_self)
			lapic_accept(l, &todo->msg);
	}
	if (todo->attention)
		l->ops->raise(l->vcpu, todo->attention, todo->sipi_vector);
}

/* The xAPIC page: 32-bit registers, one every 16 bytes. */

bool lapic_decodes(struct lapic *l, gpa_t gpa)
{
	uint64_t base;

	pthread_mutex_lock(&l->lock);
	base = l->s.base_msr;
	pthread_mutex_unlock(&l->lock);
	return base & APIC_BASE_EN && !(base & APIC_BASE_EXTD) && ((base ^ gpa) & PAGE_MASK) == 0;
}

uint64_t lapic_read(struct lapic *l, uint64_t off, unsigned size)
{
	unsigned reg = (unsigned)(off >> 4) % REG_COUNT;
	struct todo todo = { 0 };
	uint64_t value = 0;

	if ((off & 15) >= 4)
		return 0;
	pthread_mutex_lock(&l->lock);
	if (regs[reg].access & RX && off < REG_COUNT * 16)
		value = read_locked(l, reg);
	else
		record_error_locked(l, ESR_REGISTER, &todo);
	pthread_mutex_unlock(&l->lock);
	finish(l, &todo);
	return value >> (off & 3) * 8 & (size < 8 ? BIT(size * 8) - 1 : UINT64_MAX);
}

void lapic_write(struct lapic *l, uint64_t off, unsigned size, uint64_t value)
{
	unsigned reg = (unsigned)(off >> 4) % REG_COUNT;
	struct todo todo = { 0 };

	/* Other widths and alignments are undefined (SDM 3A 11.4.1); here they do nothing. */
	if (off & 15 || size < 4)
		return;
	pthread_mutex_lock(&l->lock);
	if (regs[reg].access & WX && off < REG_COUNT * 16)
		write_locked(l, reg, (uint32_t)value & regs[reg].valid, &todo);
	else if (!(regs[reg].access & RX) || off >= REG_COUNT * 16)
		record_error_locked(l, ESR_REGISTER, &todo);
	pthread_mutex_unlock(&l->lock);
	finish(l, &todo);
}

/* MSRs. */

static void write_tsc_deadline_locked(struct lapic *l, uint64_t value, struct todo *todo)
{
	if (lapic_timer_set_tsc_locked(l, value))
		trigger_lvt_locked(l, LVT_TIMER, todo);
}

static int read_x2apic_locked(const struct lapic *l, unsigned reg, uint64_t *value)
{
	if (!lapic_is_x2apic(l) || !(regs[reg].access & R2))
		return 1;
	*value = read_locked(l, reg);
	if (reg == REG_ICR)
		*value |= (uint64_t)l->s.icr_high << 32;
	return 0;
}

static int write_x2apic_locked(struct lapic *l, unsigned reg, uint64_t value, struct todo *todo)
{
	if (!lapic_is_x2apic(l) || !(regs[reg].access & W2))
		return 1;
	if ((uint32_t)value & ~regs[reg].valid || (reg != REG_ICR && value >> 32))
		return 1;
	if (reg == REG_ICR)
		l->s.icr_high = (uint32_t)(value >> 32);
	write_locked(l, reg, (uint32_t)value, todo);
	return 0;
}

static void reset_locked(struct lapic *l)
{
	struct lapic_state *s = &l->s;
	struct lapic_state reset = {
		.base_msr = s->base_msr,
		.svr = SVR_RESET,
		.dfr = 0xffffffff,
		.lint = { s->lint[0], s->lint[1] },
	};

	timer_cancel(&l->timer);
	*s = reset;
	for (int i = 0; i < LVT_COUNT; i++)
		s->lvt[i] = LVT_MASKED;
}

/* The modes are disabled, xAPIC and x2APIC; SDM 3A figure 11-27 has the legal ways between them:
 *
 *	disabled <--> xAPIC --> x2APIC --> disabled
 */
static int write_base_locked(struct lapic *l, uint64_t value)
{
	uint64_t mode = value & (APIC_BASE_EN | APIC_BASE_EXTD);
	uint64_t old = l->s.base_msr & (APIC_BASE_EN | APIC_BASE_EXTD);
	bool legal = mode == old || mode == 0 || (mode == APIC_BASE_EN && old == 0) ||
	             (mode == (APIC_BASE_EN | APIC_BASE_EXTD) && old == APIC_BASE_EN);

	if (!legal || value & l->base_reserved)
		return 1;
	l->s.base_msr = value;
	if (mode == 0 && old != 0)
		reset_locked(l);
	else if (mode != old)
		l->s.icr_high = 0; /* the destination is another field in each mode */
	return 0;
}

int lapic_read_msr(struct lapic *l, uint32_t msr, uint64_t *value)
{
	int fault = 0;

	pthread_mutex_lock(&l->lock);
	if (msr == MSR_APIC_BASE)
		*value = l->s.base_msr;
	else if (msr == MSR_TSC_DEADLINE)
		*value = l->s.tsc_deadline;
	else if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST)
		fault = read_x2apic_locked(l, msr - MSR_X2APIC_FIRST, value);
	else
		fault = 1;
	pthread_mutex_unlock(&l->lock);
	return fault;
}

int lapic_write_msr(struct lapic *l, uint32_t msr, uint64_t value)
{
	struct todo todo = { 0 };
	int fault = 0;

	pthread_mutex_lock(&l->lock);
	if (msr == MSR_APIC_BASE)
		fault = write_base_locked(l, value);
	else if (msr == MSR_TSC_DEADLINE)
		write_tsc_deadline_locked(l, value, &todo);
	else if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST)
		fault = write_x2apic_locked(l, msr - MSR_X2APIC_FIRST, value, &todo);
	else
		fault = 1;
	pthread_mutex_unlock(&l->lock);
	finish(l, &todo);
	return fault;
}

/* Life cycle. */

void lapic_reset(struct lapic *l)
{
	pthread_mutex_lock(&l->lock);
	l->s.base_msr = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (l->id == 0 ? APIC_BASE_BSP : 0);
	reset_locked(l);
	/* Machines start in the virtual wire mode that firmware sets up: the PIC reaches the first
	 * CPU through LINT0 (MultiProcessor Specification 3.6.2.2). */
	if (l->id == 0)
		l->s.lvt[LVT_LINT0] = APIC_EXTINT << 8;
	pthread_mutex_unlock(&l->lock);
}

void lapic_init_signal(struct lapic *l)
{
	pthread_mutex_lock(&l->lock);
	reset_locked(l);
	pthread_mutex_unlock(&l->lock);
}

void lapic_init(struct lapic *l, struct lapic_bus *bus, uint32_t id, struct loop *loop,
                const struct lapic_ops *ops, void *vcpu, uint64_t tsc_hz, unsigned phys_bits)
{
	assert(id == bus->nr && id < LAPIC_BUS_MAX && tsc_hz > 0);
	*l = (struct lapic){ .bus = bus, .ops = ops, .vcpu = vcpu, .id = id, .tsc_hz = tsc_hz };
	l->base_reserved = ~(BIT(phys_bits) - 1) | 0xff | BIT(9);
	pthread_mutex_init(&l->lock, NULL);
	timer_init(&l->timer, loop, timer_fire, l);
	lapic_reset(l);
	bus->cpu[bus->nr++] = l;
}

void lapic_fini(struct lapic *l)
{
	if (!l->bus)
		return;
	timer_fini(&l->timer);
	pthread_mutex_destroy(&l->lock);
	l->bus = NULL;
}

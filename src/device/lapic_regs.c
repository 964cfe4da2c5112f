/*
 * The local APIC's registers and MSRs.
 *
 * Both faces of the registers, the xAPIC page and the x2APIC MSRs, number them alike: page offset
 * over 16 is MSR minus 0x800. One table says which face has which register and what bits it takes;
 * behind it there is one read and one write function.
 */
#include "device/lapic.h"
#include "device/lapic_private.h"

#define ICR_LOGICAL      BIT(11)
#define ICR_BUSY         BIT(12)
#define ICR_ASSERT       BIT(14)
#define ICR_LEVEL        BIT(15)
#define ICR_SHORTHAND(v) ((v) >> 18 & 3)

#define LVT_STATUS    BIT(12)
#define LVT_READ_ONLY (LVT_STATUS | LVT_REMOTE_IRR)

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

static void set_lvt_locked(struct lapic *l, enum lapic_lvt n, uint32_t value,
                           struct lapic_todo *todo)
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
		lapic_sample_lint0_locked(l, todo);
		lapic_notify_locked(l, todo);
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
static void send_locked(struct lapic *l, struct lapic_todo *todo)
{
	uint32_t icr = l->s.icr_low;
	uint32_t dest = l->s.icr_high;
	uint8_t delivery = icr >> 8 & 7;
	bool fixed = delivery == APIC_FIXED || delivery == APIC_LOWEST;

	if (fixed && (uint8_t)icr < FIRST_VECTOR) {
		lapic_record_error_locked(l, ESR_SEND_VECTOR, todo);
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

static void write_locked(struct lapic *l, unsigned reg, uint32_t value, struct lapic_todo *todo)
{
	switch (reg) {
	case REG_TPR:
		lapic_set_tpr_locked(l, value, todo);
		break;
	case REG_EOI:
		lapic_end_interrupt_locked(l, todo);
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
			lapic_accept_vector_locked(l, (uint8_t)value, false, todo);
		break;
	}
}

static uint32_t read_locked(const struct lapic *l, unsigned reg)
{
	switch (reg) {
	case REG_ID:
		return lapic_is_x2apic(l) ? l->id : l->id << 24;
	case REG_VERSION:
		return LAPIC_VERSION;
	case REG_TPR:
		return l->s.tpr;
	case REG_APR:
	case REG_PPR:
		return lapic_priority_locked(l);
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
	struct lapic_todo todo = { 0 };
	uint64_t value = 0;

	if ((off & 15) >= 4)
		return 0;
	pthread_mutex_lock(&l->lock);
	if (regs[reg].access & RX && off < REG_COUNT * 16)
		value = read_locked(l, reg);
	else
		lapic_record_error_locked(l, ESR_REGISTER, &todo);
	pthread_mutex_unlock(&l->lock);
	lapic_finish(l, &todo);
	return value >> (off & 3) * 8 & (size < 8 ? BIT(size * 8) - 1 : UINT64_MAX);
}

void lapic_write(struct lapic *l, uint64_t off, unsigned size, uint64_t value)
{
	unsigned reg = (unsigned)(off >> 4) % REG_COUNT;
	struct lapic_todo todo = { 0 };

	/* Other widths and alignments are undefined (SDM 3A 11.4.1); here they do nothing. */
	if (off & 15 || size < 4)
		return;
	pthread_mutex_lock(&l->lock);
	if (regs[reg].access & WX && off < REG_COUNT * 16)
		write_locked(l, reg, (uint32_t)value & regs[reg].valid, &todo);
	else if (!(regs[reg].access & RX) || off >= REG_COUNT * 16)
		lapic_record_error_locked(l, ESR_REGISTER, &todo);
	pthread_mutex_unlock(&l->lock);
	lapic_finish(l, &todo);
}

/* MSRs. */

static void write_tsc_deadline_locked(struct lapic *l, uint64_t value, struct lapic_todo *todo)
{
	if (lapic_timer_set_tsc_locked(l, value))
		lapic_trigger_lvt_locked(l, LVT_TIMER, todo);
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

static int write_x2apic_locked(struct lapic *l, unsigned reg, uint64_t value,
                               struct lapic_todo *todo)
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
		lapic_reset_locked(l);
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
	struct lapic_todo todo = { 0 };
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
	lapic_finish(l, &todo);
	return fault;
}

/*
 * Between the files of the local APIC. lapic.c has the interrupts and their priorities,
 * lapic_regs.c the registers as the guest sees them, lapic_timer.c the timer. Functions named
 * _locked are called with the APIC's lock held.
 */
#pragma once

#include "device/lapic.h"

#define SVR_ENABLE      BIT(8)
#define LVT_REMOTE_IRR  BIT(14)
#define LVT_LEVEL       BIT(15)
#define LVT_MASKED      BIT(16)
#define LVT_DELIVERY(v) ((v) >> 8 & 7)

#define ESR_SEND_VECTOR    BIT(5)
#define ESR_RECEIVE_VECTOR BIT(6)
#define ESR_REGISTER       BIT(7)

/* Register numbers: the offset in the page of registers over 16. */
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

enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

#define LAPIC_VERSION ((LVT_COUNT - 1) << 16 | 0x14)

/* Vectors below belong to exceptions; the APIC refuses them. */
#define FIRST_VECTOR 16

/* What is left to do once the lock is released. */
struct lapic_todo {
	uint32_t attention;
	uint8_t sipi_vector;
	bool eoi, send;
	uint8_t eoi_vector;
	uint8_t shorthand;
	struct lapic_msg msg;
};

/* Does it; the lock has been released. */
void lapic_finish(struct lapic *l, const struct lapic_todo *todo);

/* Wakes the vCPU if there is something to deliver. */
void lapic_notify_locked(const struct lapic *l, struct lapic_todo *todo);
uint8_t lapic_priority_locked(const struct lapic *l);
void lapic_accept_vector_locked(struct lapic *l, uint8_t v, bool level, struct lapic_todo *todo);
/* An event of one of the APIC's own sources: what its LVT entry makes of it. */
void lapic_trigger_lvt_locked(struct lapic *l, enum lapic_lvt n, struct lapic_todo *todo);
void lapic_record_error_locked(struct lapic *l, uint32_t bit, struct lapic_todo *todo);
/* A fixed, level-triggered LINT0 interrupts while the pin is high and its last interrupt ended. */
void lapic_sample_lint0_locked(struct lapic *l, struct lapic_todo *todo);
void lapic_end_interrupt_locked(struct lapic *l, struct lapic_todo *todo);
void lapic_set_tpr_locked(struct lapic *l, uint32_t tpr, struct lapic_todo *todo);
/* All but the APIC base and the levels of the pins. */
void lapic_reset_locked(struct lapic *l);

/* The timer. */
enum { TIMER_ONESHOT, TIMER_PERIODIC, TIMER_TSC, TIMER_RESERVED };
unsigned lapic_timer_mode(const struct lapic *l);

/* The current-count register; writes of the initial count, divide and deadline registers. The last
 * returns true when the deadline has passed already: the interrupt is due at once. */
uint32_t lapic_timer_count(const struct lapic *l);
void lapic_timer_set_count_locked(struct lapic *l, uint32_t count);
void lapic_timer_set_divide_locked(struct lapic *l, uint32_t divide);
bool lapic_timer_set_tsc_locked(struct lapic *l, uint64_t deadline);

/* The LVT entry changed: sets the host's timer for what it says now; disarms for good. */
void lapic_timer_arm_locked(struct lapic *l);
void lapic_timer_stop_locked(struct lapic *l);

/* Takes a timer over in the middle: the count that is left, or the deadline. */
void lapic_timer_load_locked(struct lapic *l, uint32_t count, uint64_t tsc_deadline);

/* Decides what an expiry of the host's timer means; false when it came too early or for a setting
 * that has been replaced. */
bool lapic_timer_expired_locked(struct lapic *l);

/*
 * The timer within a local APIC: for lapic.c only, which holds the APIC's lock around every call.
 */
#pragma once

#include "device/lapic.h"

#define LVT_MASKED BIT(16)

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

/* Decides what an expiry of the host's timer means; false when it came too early or for a setting
 * that has been replaced. */
bool lapic_timer_expired_locked(struct lapic *l);

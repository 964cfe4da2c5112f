/*
 * The local APIC's timer (SDM 3A 11.5.4).
 *
 * The timer counts nothing. It keeps the time when the count reaches zero, on the clock_ns() scale;
 * the bus clock is 1 GHz, so a count is nanoseconds shifted by the divide configuration.
 */
#include "device/lapic_private.h"

/* A periodic timer interrupts no more often than this, whatever period the guest asks for. */
#define MIN_PERIOD_NS 50000ull

unsigned lapic_timer_mode(const struct lapic *l)
{
	return l->s.lvt[LVT_TIMER] >> 17 & 3;
}

/* Divide configuration: bits 3, 1 and 0 count from "by 2"; all ones is "by 1". */
static unsigned divide_shift(const struct lapic *l)
{
	return (((l->s.divide & 8) >> 1 | (l->s.divide & 3)) + 1) & 7;
}

static uint64_t period_ns(const struct lapic *l)
{
	return (uint64_t)l->s.initial_count << divide_shift(l);
}

void lapic_timer_stop_locked(struct lapic *l)
{
	l->s.deadline_ns = 0;
	l->s.tsc_deadline = 0;
	timer_cancel(&l->timer);
}

/* First expiry of a periodic timer at or after a time. */
static uint64_t next_expiry(const struct lapic *l, uint64_t time)
{
	uint64_t period = period_ns(l), late;

	if (l->s.deadline_ns >= time || period == 0)
		return l->s.deadline_ns;
	late = (time - l->s.deadline_ns) % period;
	return late ? time + period - late : time;
}

/* An APIC that only holds another's state interrupts nobody. */
static void arm_host_timer(struct lapic *l, uint64_t deadline_ns)
{
	if (!l->bus->external)
		timer_arm(&l->timer, deadline_ns);
}

/* A masked periodic timer runs without waking the host. */
void lapic_timer_arm_locked(struct lapic *l)
{
	bool periodic = lapic_timer_mode(l) == TIMER_PERIODIC;

	if (periodic && l->s.deadline_ns)
		l->s.deadline_ns = next_expiry(l, clock_ns());
	if (!l->s.deadline_ns || (periodic && l->s.lvt[LVT_TIMER] & LVT_MASKED))
		timer_cancel(&l->timer);
	else
		arm_host_timer(l, l->s.deadline_ns);
}

uint32_t lapic_timer_count(const struct lapic *l)
{
	uint64_t now = clock_ns(), expiry = l->s.deadline_ns;
	unsigned shift = divide_shift(l);

	if (!expiry || lapic_timer_mode(l) == TIMER_TSC)
		return 0;
	if (lapic_timer_mode(l) == TIMER_PERIODIC)
		expiry = next_expiry(l, now);
	return expiry <= now ? 0 : (uint32_t)((expiry - now + (1u << shift) - 1) >> shift);
}

void lapic_timer_set_count_locked(struct lapic *l, uint32_t count)
{
	if (lapic_timer_mode(l) == TIMER_TSC)
		return;
	l->s.initial_count = count;
	l->s.deadline_ns = count ? clock_ns() + period_ns(l) : 0;
	lapic_timer_arm_locked(l);
}

void lapic_timer_set_divide_locked(struct lapic *l, uint32_t divide)
{
	uint32_t count = lapic_timer_count(l);

	l->s.divide = divide;
	if (count) {
		l->s.deadline_ns = clock_ns() + ((uint64_t)count << divide_shift(l));
		lapic_timer_arm_locked(l);
	}
}

static void arm_tsc_deadline_locked(struct lapic *l)
{
	uint64_t now = l->ops->guest_tsc(l->vcpu);
	uint64_t ticks = l->s.tsc_deadline > now ? l->s.tsc_deadline - now : 0;
	__uint128_t ns = (__uint128_t)ticks * 1000000000 / l->tsc_hz;
	uint64_t far = UINT64_MAX / 4;

	l->s.deadline_ns = clock_ns() + (ns < far ? (uint64_t)ns : far);
	arm_host_timer(l, l->s.deadline_ns);
}

bool lapic_timer_set_tsc_locked(struct lapic *l, uint64_t deadline)
{
	if (lapic_timer_mode(l) != TIMER_TSC)
		return false;
	if (deadline == 0 || l->ops->guest_tsc(l->vcpu) >= deadline) {
		lapic_timer_stop_locked(l);
		return deadline != 0;
	}
	l->s.tsc_deadline = deadline;
	arm_tsc_deadline_locked(l);
	return false;
}

void lapic_timer_load_locked(struct lapic *l, uint32_t count, uint64_t tsc_deadline)
{
	lapic_timer_stop_locked(l);
	if (lapic_timer_mode(l) == TIMER_TSC) {
		l->s.tsc_deadline = tsc_deadline;
		if (tsc_deadline)
			arm_tsc_deadline_locked(l);
	} else if (count) {
		l->s.deadline_ns = clock_ns() + ((uint64_t)count << divide_shift(l));
		lapic_timer_arm_locked(l);
	}
}

void lapic_tsc_changed(struct lapic *l)
{
	pthread_mutex_lock(&l->lock);
	if (l->s.tsc_deadline)
		arm_tsc_deadline_locked(l);
	pthread_mutex_unlock(&l->lock);
}

bool lapic_timer_expired_locked(struct lapic *l)
{
	uint64_t now = clock_ns();

	if (!l->s.deadline_ns || now < l->s.deadline_ns)
		return false;
	switch (lapic_timer_mode(l)) {
	case TIMER_TSC:
		/* The two clocks drift: never interrupt before the guest's own has arrived. */
		if (l->ops->guest_tsc(l->vcpu) < l->s.tsc_deadline) {
			arm_tsc_deadline_locked(l);
			return false;
		}
		lapic_timer_stop_locked(l);
		return true;
	case TIMER_PERIODIC:
		if (period_ns(l) == 0)
			break;
		l->s.deadline_ns = next_expiry(l, now + 1);
		timer_arm(&l->timer, next_expiry(l, now + MIN_PERIOD_NS));
		return true;
	}
	l->s.deadline_ns = 0;
	return true;
}

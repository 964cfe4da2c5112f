/*
 * The local APIC of one vCPU.
 *
 * What a change asks of others (waking our vCPU, sending a message, telling the I/O APIC of an EOI)
 * is collected in a struct lapic_todo while the lock is held and done by lapic_finish() after it is
 * released, so that two APICs that signal each other never wait for each other's lock.
 */
#include "device/lapic.h"
#include "device/lapic_private.h"

#include <assert.h>
#include "cpu/cpu.h"

#define SVR_RESET 0xffu

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

uint8_t lapic_priority_locked(const struct lapic *l)
{
	int serving = highest_bit(l->s.isr);

	if (serving >= 0 && serving >> 4 > (int)(l->s.tpr >> 4))
		return (uint8_t)(serving & 0xf0);
	return (uint8_t)l->s.tpr;
}

static int deliverable_vector(const struct lapic *l)
{
	int v = highest_bit(l->s.irr);

	return v >= 0 && v >> 4 > lapic_priority_locked(l) >> 4 ? v : -1;
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

void lapic_notify_locked(const struct lapic *l, struct lapic_todo *todo)
{
	if (deliverable_vector(l) >= 0 || extint_due(l))
		todo->attention |= ATTN_INTR;
}

/* Doing what was left. */

static void send_to_others(struct lapic *l, const struct lapic_msg *m)
{
	for (unsigned i = 0; i < l->bus->nr; i++) {
		if (l->bus->cpu[i] != l)
			lapic_accept(l->bus->cpu[i], m);
	}
}

void lapic_finish(struct lapic *l, const struct lapic_todo *todo)
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

/* Taking interrupts. */

void lapic_accept_vector_locked(struct lapic *l, uint8_t v, bool level, struct lapic_todo *todo)
{
	if (v < FIRST_VECTOR) {
		lapic_record_error_locked(l, ESR_RECEIVE_VECTOR, todo);
		return;
	}
	put_bit(l->s.irr, v, true);
	put_bit(l->s.tmr, v, level);
	lapic_notify_locked(l, todo);
}

void lapic_trigger_lvt_locked(struct lapic *l, enum lapic_lvt n, struct lapic_todo *todo)
{
	uint32_t lvt = l->s.lvt[n];

	if (lvt & LVT_MASKED)
		return;
	switch (LVT_DELIVERY(lvt)) {
	case APIC_FIXED:
		lapic_accept_vector_locked(l, (uint8_t)lvt, false, todo);
		break;
	case APIC_NMI:
		todo->attention |= ATTN_NMI;
		break;
	case APIC_EXTINT:
		lapic_notify_locked(l, todo);
		break;
	}
}

/* The error interrupt comes once for each kind of error between writes to ESR. An error entry whose
 * own vector is illegal only adds its bit to those collected. */
void lapic_record_error_locked(struct lapic *l, uint32_t bit, struct lapic_todo *todo)
{
	if (l->s.esr_collecting & bit)
		return;
	l->s.esr_collecting |= bit;
	lapic_trigger_lvt_locked(l, LVT_ERROR, todo);
}

void lapic_sample_lint0_locked(struct lapic *l, struct lapic_todo *todo)
{
	uint32_t *lvt = &l->s.lvt[LVT_LINT0];

	if (!l->s.lint[0] || !(*lvt & LVT_LEVEL) || LVT_DELIVERY(*lvt) != APIC_FIXED ||
	    *lvt & (LVT_MASKED | LVT_REMOTE_IRR))
		return;
	*lvt |= LVT_REMOTE_IRR;
	lapic_accept_vector_locked(l, (uint8_t)*lvt, true, todo);
}

void lapic_set_lint(struct lapic *l, unsigned n, bool level)
{
	struct lapic_todo todo = { 0 };
	enum lapic_lvt lvt = n ? LVT_LINT1 : LVT_LINT0;
	bool rising, level_triggered;

	assert(n < 2);
	pthread_mutex_lock(&l->lock);
	rising = level && !l->s.lint[n];
	l->s.lint[n] = level;
	level_triggered =
	        n == 0 && l->s.lvt[lvt] & LVT_LEVEL && LVT_DELIVERY(l->s.lvt[lvt]) == APIC_FIXED;
	if (level_triggered)
		lapic_sample_lint0_locked(l, &todo);
	else if (rising && is_enabled(l))
		lapic_trigger_lvt_locked(l, lvt, &todo);
	if (n == 0 && level)
		lapic_notify_locked(l, &todo);
	pthread_mutex_unlock(&l->lock);
	lapic_finish(l, &todo);
}

bool lapic_accept(struct lapic *l, const struct lapic_msg *m)
{
	struct lapic_todo todo = { 0 };
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
			lapic_accept_vector_locked(l, m->vector, m->level, &todo);
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
	lapic_finish(l, &todo);
	return accepted;
}

uint8_t lapic_processor_priority(struct lapic *l)
{
	uint8_t priority;

	pthread_mutex_lock(&l->lock);
	priority = lapic_priority_locked(l);
	pthread_mutex_unlock(&l->lock);
	return priority;
}

/* Giving interrupts to the CPU. */

int lapic_ack(struct lapic *l)
{
	struct lapic_todo todo = { 0 };
	int v;

	pthread_mutex_lock(&l->lock);
	v = deliverable_vector(l);
	if (v >= 0) {
		put_bit(l->s.irr, (uint8_t)v, false);
		put_bit(l->s.isr, (uint8_t)v, true);
		lapic_notify_locked(l, &todo); /* the PIC may be waiting behind this one */
	}
	pthread_mutex_unlock(&l->lock);
	lapic_finish(l, &todo);
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

bool lapic_lint0_is_nmi(struct lapic *l)
{
	uint32_t lvt;

	pthread_mutex_lock(&l->lock);
	lvt = l->s.lvt[LVT_LINT0];
	pthread_mutex_unlock(&l->lock);
	return !(lvt & LVT_MASKED) && LVT_DELIVERY(lvt) == APIC_NMI;
}

uint8_t lapic_get_tpr(struct lapic *l)
{
	uint8_t class;

	pthread_mutex_lock(&l->lock);
	class = (uint8_t)(l->s.tpr >> 4);
	pthread_mutex_unlock(&l->lock);
	return class;
}

void lapic_set_tpr_locked(struct lapic *l, uint32_t tpr, struct lapic_todo *todo)
{
	bool lowered = tpr < l->s.tpr;

	l->s.tpr = tpr;
	if (lowered)
		lapic_notify_locked(l, todo);
}

void lapic_set_tpr(struct lapic *l, uint8_t class)
{
	struct lapic_todo todo = { 0 };

	pthread_mutex_lock(&l->lock);
	lapic_set_tpr_locked(l, (uint32_t)(class & 15) << 4, &todo);
	pthread_mutex_unlock(&l->lock);
	lapic_finish(l, &todo);
}

void lapic_end_interrupt_locked(struct lapic *l, struct lapic_todo *todo)
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
			lapic_sample_lint0_locked(l, todo);
		}
	}
	lapic_notify_locked(l, todo);
}

/* The timer. */

static void timer_fire(void *opaque)
{
	struct lapic *l = opaque;
	struct lapic_todo todo = { 0 };

	pthread_mutex_lock(&l->lock);
	if (lapic_timer_expired_locked(l))
		lapic_trigger_lvt_locked(l, LVT_TIMER, &todo);
	pthread_mutex_unlock(&l->lock);
	lapic_finish(l, &todo);
}

/* Life cycle. */

void lapic_reset_locked(struct lapic *l)
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

void lapic_reset(struct lapic *l)
{
	pthread_mutex_lock(&l->lock);
	l->s.base_msr = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (l->id == 0 ? APIC_BASE_BSP : 0);
	lapic_reset_locked(l);
	l->loaded = true;
	/* Machines start in the virtual wire mode that firmware sets up: the PIC reaches the first
	 * CPU through LINT0 (MultiProcessor Specification 3.6.2.2). */
	if (l->id == 0)
		l->s.lvt[LVT_LINT0] = APIC_EXTINT << 8;
	pthread_mutex_unlock(&l->lock);
}

void lapic_init_signal(struct lapic *l)
{
	pthread_mutex_lock(&l->lock);
	lapic_reset_locked(l);
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

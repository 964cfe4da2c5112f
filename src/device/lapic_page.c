/*
 * The local APIC's registers as a whole: out of, and into, an image of its page.
 */
#include "device/lapic.h"
#include "device/lapic_private.h"

#include <string.h>

static void put(uint8_t *page, unsigned reg, uint32_t value)
{
	memcpy(page + 16 * reg, &value, sizeof(value));
}

static uint32_t get(const uint8_t *page, unsigned reg)
{
	uint32_t value;

	memcpy(&value, page + 16 * reg, sizeof(value));
	return value;
}

/* Registers that are nothing but a word of the state. */
static const struct {
	uint8_t reg;
	size_t at;
} words[] = {
	{ REG_TPR, offsetof(struct lapic_state, tpr) },
	{ REG_DFR, offsetof(struct lapic_state, dfr) },
	{ REG_SVR, offsetof(struct lapic_state, svr) },
	{ REG_ESR, offsetof(struct lapic_state, esr) },
	{ REG_ICR, offsetof(struct lapic_state, icr_low) },
	{ REG_ICR_HIGH, offsetof(struct lapic_state, icr_high) },
	{ REG_INITIAL_COUNT, offsetof(struct lapic_state, initial_count) },
	{ REG_DIVIDE, offsetof(struct lapic_state, divide) },
};

/* Entries of the vector table, in the order of the page. */
static const uint8_t lvt_order[LVT_COUNT] = { LVT_TIMER, LVT_THERMAL, LVT_PERF,
	                                      LVT_LINT0, LVT_LINT1,   LVT_ERROR };

void lapic_get_page(struct lapic *l, uint8_t page[LAPIC_PAGE])
{
	const struct lapic_state *s = &l->s;

	memset(page, 0, LAPIC_PAGE);
	pthread_mutex_lock(&l->lock);
	put(page, REG_ID, l->id << 24);
	put(page, REG_VERSION, LAPIC_VERSION);
	put(page, REG_LDR, lapic_logical_id(l));
	for (unsigned n = 0; n < ARRAY_SIZE(words); n++)
		put(page, words[n].reg, *(const uint32_t *)((const char *)s + words[n].at));
	for (unsigned n = 0; n < 8; n++) {
		put(page, REG_ISR + n, s->isr[n]);
		put(page, REG_TMR + n, s->tmr[n]);
		put(page, REG_IRR + n, s->irr[n]);
	}
	for (unsigned n = 0; n < LVT_COUNT; n++)
		put(page, REG_LVT + n, s->lvt[lvt_order[n]]);
	put(page, REG_CURRENT_COUNT, lapic_timer_count(l));
	pthread_mutex_unlock(&l->lock);
}

void lapic_set_page(struct lapic *l, const uint8_t page[LAPIC_PAGE], uint64_t base_msr,
                    uint64_t tsc_deadline)
{
	struct lapic_state *s = &l->s;

	pthread_mutex_lock(&l->lock);
	s->base_msr = base_msr;
	if (!lapic_is_x2apic(l))
		s->ldr = get(page, REG_LDR);
	for (unsigned n = 0; n < ARRAY_SIZE(words); n++)
		*(uint32_t *)((char *)s + words[n].at) = get(page, words[n].reg);
	for (unsigned n = 0; n < 8; n++) {
		s->isr[n] = get(page, REG_ISR + n);
		s->tmr[n] = get(page, REG_TMR + n);
		s->irr[n] = get(page, REG_IRR + n);
	}
	for (unsigned n = 0; n < LVT_COUNT; n++)
		s->lvt[lvt_order[n]] = get(page, REG_LVT + n);
	lapic_timer_load_locked(l, get(page, REG_CURRENT_COUNT), tsc_deadline);
	pthread_mutex_unlock(&l->lock);
}

void lapic_load(struct lapic *l, const struct lapic_state *s)
{
	pthread_mutex_lock(&l->lock);
	l->s = *s;
	l->loaded = true;
	if (s->tsc_deadline)
		lapic_timer_load_locked(l, 0, s->tsc_deadline);
	else
		lapic_timer_arm_locked(l);
	pthread_mutex_unlock(&l->lock);
}

bool lapic_take_loaded(struct lapic *l)
{
	bool loaded;

	pthread_mutex_lock(&l->lock);
	loaded = l->loaded;
	l->loaded = false;
	pthread_mutex_unlock(&l->lock);
	return loaded;
}

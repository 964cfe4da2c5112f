/*
 * As fake_time.h, for chips with several timers: time stands still until a test moves it, and the
 * timers that fall due on the way fire in their order. Include once; the linker then takes these
 * definitions instead of those in the library.
 */
#pragma once

#include <assert.h>
#include "base/loop.h"

static uint64_t fake_now = 1000000000000ull;
static struct timer *fake_timers[16];
static unsigned fake_nr_timers;

uint64_t clock_ns(void)
{
	return fake_now;
}

void timer_init(struct timer *t, struct loop *l, timer_fn fn, void *opaque)
{
	assert(fake_nr_timers < ARRAY_SIZE(fake_timers));
	*t = (struct timer){ .loop = l, .fn = fn, .opaque = opaque, .heap_index = -1 };
	fake_timers[fake_nr_timers++] = t;
}

void timer_arm(struct timer *t, uint64_t deadline_ns)
{
	t->deadline_ns = deadline_ns ? deadline_ns : 1;
}

void timer_cancel(struct timer *t)
{
	t->deadline_ns = 0;
}

void timer_fini(struct timer *t)
{
	for (unsigned i = 0; i < fake_nr_timers; i++) {
		if (fake_timers[i] == t)
			fake_timers[i--] = fake_timers[--fake_nr_timers];
	}
}

static struct timer *fake_next_timer(void)
{
	struct timer *next = NULL;

	for (unsigned i = 0; i < fake_nr_timers; i++) {
		struct timer *t = fake_timers[i];

		if (t->deadline_ns && (!next || t->deadline_ns < next->deadline_ns))
			next = t;
	}
	return next;
}

static void fake_advance(uint64_t ns)
{
	uint64_t end = fake_now + ns;
	struct timer *t;

	while ((t = fake_next_timer()) && t->deadline_ns <= end) {
		if (t->deadline_ns > fake_now)
			fake_now = t->deadline_ns;
		t->deadline_ns = 0;
		t->fn(t->opaque);
	}
	fake_now = end;
}

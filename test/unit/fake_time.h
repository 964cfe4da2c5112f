/*
 * Time that stands still until a test moves it: definitions of the clocks and timers of src/base,
 * which the linker then takes instead of those in the library. One thread. Include once.
 */
#pragma once

#include <assert.h>
#include "base/loop.h"

static uint64_t fake_now = 1000000000000ull;
static uint64_t fake_utc = 1700000000ull * 1000000000ull; /* 2023-11-14 22:13:20, a Tuesday */
static struct timer *fake_timers[16];
static unsigned fake_nr_timers;

uint64_t clock_ns(void)
{
	return fake_now;
}

uint64_t clock_utc_ns(void)
{
	return fake_utc;
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

/* The timer that is due first, by end at the latest; NULL when none is. */
static struct timer *next_due(uint64_t end)
{
	struct timer *due = NULL;

	for (unsigned i = 0; i < fake_nr_timers; i++) {
		struct timer *t = fake_timers[i];

		if (t->deadline_ns && t->deadline_ns <= end &&
		    (!due || t->deadline_ns < due->deadline_ns))
			due = t;
	}
	return due;
}

/* Moves time by ns and fires each timer whenever it is due. Returns how often. */
static unsigned fake_advance(uint64_t ns)
{
	uint64_t end = fake_now + ns;
	unsigned fired = 0;
	struct timer *t;

	while ((t = next_due(end))) {
		if (t->deadline_ns > fake_now)
			fake_now = t->deadline_ns;
		t->deadline_ns = 0;
		t->fn(t->opaque);
		fired++;
	}
	fake_now = end;
	return fired;
}

/*
 * Time that stands still until a test moves it: definitions of the clocks and timers of src/base,
 * which the linker then takes instead of those in the library. One thread. Include once.
 */
#pragma once

#include "base/loop.h"

#define FAKE_TIMERS 4

static uint64_t fake_now = 1000000000000ull;
static uint64_t fake_utc = 1700000000ull * 1000000000ull; /* 2023-11-14 22:13:20, a Tuesday */
static struct timer *fake_timer[FAKE_TIMERS];

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
	*t = (struct timer){ .loop = l, .fn = fn, .opaque = opaque, .heap_index = -1 };
	for (unsigned i = 0; i < FAKE_TIMERS; i++) {
		if (!fake_timer[i]) {
			fake_timer[i] = t;
			return;
		}
	}
}

void timer_arm(struct timer *t, uint64_t deadline_ns)
{
	t->deadline_ns = deadline_ns;
}

void timer_cancel(struct timer *t)
{
	t->deadline_ns = 0;
}

void timer_fini(struct timer *t)
{
	for (unsigned i = 0; i < FAKE_TIMERS; i++) {
		if (fake_timer[i] == t)
			fake_timer[i] = NULL;
	}
}

/* The timer that is due first, by end at the latest; NULL when none is. */
static struct timer *next_due(uint64_t end)
{
	struct timer *due = NULL;

	for (unsigned i = 0; i < FAKE_TIMERS; i++) {
		struct timer *t = fake_timer[i];

		if (t && t->deadline_ns && t->deadline_ns <= end &&
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

/* The queue of frames against a plain list, and the token bucket with a clock of the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "net/net_private.h"

#define MODEL 65536

struct model {
	struct {
		uint32_t seed;
		size_t len;
	} frame[MODEL];
	unsigned head, tail;
};

static void fill(uint8_t *buf, size_t n, uint32_t seed)
{
	for (size_t i = 0; i < n; i++)
		buf[i] = (uint8_t)(seed + i * 31);
}

static void check_first(struct net_queue *q, struct model *m, uint8_t *scratch)
{
	const uint8_t *buf;
	size_t n;

	buf = net_queue_peek(q, &n);
	if (m->head == m->tail) {
		assert_null(buf);
		return;
	}
	assert_non_null(buf);
	assert_int_equal(n, m->frame[m->head].len);
	fill(scratch, n, m->frame[m->head].seed);
	assert_memory_equal(buf, scratch, n);
}

/* Puts and takes at random, with spells of filling and of draining. */
static void keeps_order_and_content(void **state)
{
	static uint8_t buf[NET_BUFFER];
	static struct model m;
	struct net_queue q;
	unsigned seed = 7, refused = 0;

	assert_int_equal(net_queue_init(&q), 0);
	for (unsigned i = 0; i < 8000; i++) {
		bool put = rand_r(&seed) % 100 < (i / 500 % 2 ? 70 : 30);
		size_t n = (size_t)rand_r(&seed) % (rand_r(&seed) % 8 ? 2000 : NET_BUFFER);

		check_first(&q, &m, buf);
		if (!put) {
			net_queue_drop(&q);
			m.head += m.head != m.tail;
			continue;
		}
		fill(buf, n, i);
		if (!net_queue_put(&q, buf, n)) {
			refused++;
			continue;
		}
		m.frame[m.tail].seed = i;
		m.frame[m.tail++].len = n;
		assert_true(q.used <= q.cap);
	}
	assert_true(refused > 0 && m.tail > 2000);
	while (m.head != m.tail) {
		check_first(&q, &m, buf);
		net_queue_drop(&q);
		m.head++;
	}
	assert_int_equal(q.used, 0);
	net_queue_fini(&q);
}

#define SECOND 1000000000ull

/* Passes whatever the bucket allows for a while; the bytes. */
static uint64_t run(struct rate *r, uint64_t *now, uint64_t until, uint64_t frame)
{
	uint64_t bytes = 0;

	while (*now < until) {
		uint64_t wait = rate_wait_until(r, *now);

		if (!wait) {
			rate_take(r, frame);
			bytes += frame;
		} else {
			assert_true(wait > *now);
			*now = wait;
		}
	}
	return bytes;
}

static void rate_holds(void **state)
{
	static const uint64_t bits[] = { 8000, 1000000, 100000000, 10000000000ull };
	static const uint64_t frames[] = { 60, 1514, 65550 };

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
		for (unsigned j = 0; j < ARRAY_SIZE(frames); j++) {
			uint64_t now = 5 * SECOND, rate = bits[i] / 8, seconds = 60, bytes;
			struct rate r;

			if (rate / frames[j] > 100000) /* too many rounds to tell more */
				seconds = 2;
			rate_init(&r, bits[i], now);
			bytes = run(&r, &now, (5 + seconds) * SECOND, frames[j]);
			assert_true(bytes >= rate * seconds);
			assert_true(bytes <= rate * seconds + r.burst + frames[j]);
		}
}

static void rest_gives_no_more_than_a_burst(void **state)
{
	uint64_t now = 0, bytes = 0;
	struct rate r;

	rate_init(&r, 8000000, now);
	run(&r, &now, SECOND, 1000);
	now += 1000000 * SECOND;
	for (; !rate_wait_until(&r, now); bytes += 1000)
		rate_take(&r, 1000);
	assert_true(bytes >= r.burst && bytes <= r.burst + 1000);
}

static void clock_that_stands_or_goes_back(void **state)
{
	uint64_t wait;
	struct rate r;

	rate_init(&r, 8000, 100 * SECOND);
	rate_take(&r, r.burst + 1000);
	wait = rate_wait_until(&r, 100 * SECOND);
	assert_in_range(wait, 101 * SECOND, 101 * SECOND + 2);
	assert_true(rate_wait_until(&r, 99 * SECOND) > 99 * SECOND);
}

static void no_limit(void **state)
{
	struct rate r;

	rate_init(&r, 0, 1);
	rate_take(&r, UINT64_MAX);
	assert_int_equal(rate_wait_until(&r, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keeps_order_and_content),
		cmocka_unit_test(rate_holds),
		cmocka_unit_test(rest_gives_no_more_than_a_burst),
		cmocka_unit_test(clock_that_stands_or_goes_back),
		cmocka_unit_test(no_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

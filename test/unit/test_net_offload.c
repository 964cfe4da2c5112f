/* Checksums and segments against arithmetic of their own (net_frames.h), and frames that lie. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "net_frames.h"

static void sums_of_all_lengths(void **state)
{
	uint8_t buf[300];
	unsigned seed = 1;

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)rand_r(&seed);
	for (size_t at = 0; at < 9; at++)
		for (size_t n = 0; n + at <= sizeof(buf); n++)
			assert_int_equal(offload_sum(buf + at, n, 0xfedc),
			                 plain_sum(buf + at, n, 0xfedc));
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(offload_sum(buf, sizeof(buf), 0), 0xffff);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(offload_sum(buf, sizeof(buf), 0), 0);
}

/* What RFC 1071 3 adds up itself. */
static void sum_of_the_standard(void **state)
{
	static const uint8_t data[] = { 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7 };

	assert_int_equal(offload_sum(data, sizeof(data), 0), 0xddf2);
}

/* A right checksum makes the sum over pseudo header and segment all ones. */
static void assert_tcp_sum(const uint8_t *frame, size_t n, size_t ip, size_t tcp, bool v6)
{
	uint16_t sum = frame_pseudo_sum(frame + ip, v6, n - tcp);

	assert_int_equal(plain_sum(frame + tcp, n - tcp, sum), 0xffff);
}

static void checksum_is_made(void **state)
{
	static struct frame f;

	for (unsigned v6 = 0; v6 < 2; v6++)
		for (size_t payload = 1; payload < 70; payload++) {
			struct net_header h;

			frame_make(&f, &(struct frame_shape){ .v6 = v6, .payload = payload });
			assert_int_equal(offload_check(f.buf, f.len), 0);
			offload_checksum(f.buf, f.len);
			assert_tcp_sum(f.buf + NET_HEADER, f.len - NET_HEADER, f.ip, f.tcp, v6);
			memcpy(&h, f.buf, sizeof(h));
			assert_int_equal(h.flags, NET_DATA_VALID);
		}
}

/* UDP's zero means "none", so a sum of zero is written as all ones. */
static void zero_checksum_is_written_as_ones(void **state)
{
	uint8_t buf[NET_HEADER + 64] = { 0 };
	struct net_header h = { .flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6 };

	memcpy(buf, &h, sizeof(h));
	memset(buf + NET_HEADER + 34, 0xff, 2);
	assert_int_equal(offload_check(buf, sizeof(buf)), 0);
	offload_checksum(buf, sizeof(buf));
	assert_int_equal(frame_get16(buf + NET_HEADER + 40), 0xffff);
}

struct cut {
	const struct frame *whole;
	const struct frame_shape *shape;
	size_t done;
	unsigned frames;
};

static bool check_segment(void *opaque, uint8_t *buf, size_t n)
{
	struct cut *c = opaque;
	const struct frame *f = c->whole;
	const uint8_t *e = buf + NET_HEADER, *was = f->buf + NET_HEADER;
	size_t len = n - NET_HEADER - f->payload, left = c->shape->payload - c->done;
	bool last = len == left;
	uint8_t flags = c->shape->tcp_flags;

	assert_int_equal(len, left < c->shape->mss ? left : c->shape->mss);
	assert_memory_equal(e, was, c->shape->v6 ? f->ip + 4 : f->ip + 2);
	assert_memory_equal(e + f->payload, was + f->payload + c->done, len);
	if (c->shape->v6) {
		assert_int_equal(frame_get16(e + f->ip + 4), n - NET_HEADER - f->ip - 40);
	} else {
		assert_int_equal(frame_get16(e + f->ip + 2), n - NET_HEADER - f->ip);
		assert_int_equal(frame_get16(e + f->ip + 4),
		                 (uint16_t)(frame_get16(was + f->ip + 4) + c->frames));
		assert_int_equal(plain_sum(e + f->ip, f->tcp - f->ip, 0), 0xffff);
	}
	assert_tcp_sum(e, n - NET_HEADER, f->ip, f->tcp, c->shape->v6);
	assert_int_equal(frame_get32(e + f->tcp + 4),
	                 (uint32_t)(frame_get32(was + f->tcp + 4) + c->done));
	if (!last)
		flags &= (uint8_t)~0x09;
	if (c->frames)
		flags &= (uint8_t)~0x80;
	assert_int_equal(e[f->tcp + 13], flags);
	c->done += len;
	c->frames++;
	return true;
}

static void cut_shape(const struct frame_shape *s)
{
	static struct frame f;
	static uint8_t scratch[NET_HEADER + NET_MAX_FRAME];
	struct cut c = { &f, s, 0, 0 };

	frame_make(&f, s);
	assert_int_equal(offload_check(f.buf, f.len), 0);
	offload_segment(f.buf, f.len, scratch, check_segment, &c);
	assert_int_equal(c.done, s->payload);
	assert_int_equal(c.frames, (s->payload + s->mss - 1) / s->mss);
}

static void segments(void **state)
{
	static const size_t payloads[] = { 1, 99, 100, 101, 200, 1447, 1449, 14480, 65000 };

	for (unsigned i = 0; i < 2 * ARRAY_SIZE(payloads); i++)
		for (unsigned tags = 0; tags < 3; tags++) {
			struct frame_shape s = { .v6 = i % 2,
				                 .tags = tags,
				                 .ip_options = i % 2 ? 0 : tags,
				                 .tcp_options = 3 * tags,
				                 .payload = payloads[i / 2],
				                 .tcp_flags = 0x99,
				                 .mss = payloads[i / 2] > 2000 ? 1448 : 100 };

			cut_shape(&s);
		}
}

static bool stop_at_second(void *opaque, uint8_t *buf, size_t n)
{
	return ++*(unsigned *)opaque < 2;
}

static void cutting_can_be_stopped(void **state)
{
	static struct frame f;
	static uint8_t scratch[NET_HEADER + NET_MAX_FRAME];
	unsigned frames = 0;

	frame_make(&f, &(struct frame_shape){ .payload = 5000, .mss = 100 });
	offload_segment(f.buf, f.len, scratch, stop_at_second, &frames);
	assert_int_equal(frames, 2);
}

static struct frame lie;

static void make_lie(bool v6)
{
	frame_make(&lie, &(struct frame_shape){ .v6 = v6, .payload = 3000, .mss = 1000 });
}

static void set_header(void (*change)(struct net_header *h))
{
	struct net_header h;

	memcpy(&h, lie.buf, sizeof(h));
	change(&h);
	memcpy(lie.buf, &h, sizeof(h));
}

static void no_checksum(struct net_header *h)
{
	h->flags = 0;
}
static void short_segments(struct net_header *h)
{
	h->gso_size = OFFLOAD_MIN_SEGMENT - 1;
}
static void other_start(struct net_header *h)
{
	h->csum_start++;
}
static void other_offset(struct net_header *h)
{
	h->csum_offset = 6;
}
static void udp(struct net_header *h)
{
	h->gso_type = 3;
}
static void other_version(struct net_header *h)
{
	h->gso_type ^= NET_GSO_TCPV4 ^ NET_GSO_TCPV6;
}
static void start_in_ethernet(struct net_header *h)
{
	h->csum_start = 13;
}
static void start_far(struct net_header *h)
{
	h->csum_start = 0xffff;
}
static void offset_far(struct net_header *h)
{
	h->csum_offset = 0xffff;
}

static void headers_that_lie(void **state)
{
	static void (*const changes[])(struct net_header *) = {
		no_checksum,   short_segments,    other_start, other_offset, udp,
		other_version, start_in_ethernet, start_far,   offset_far,
	};

	for (unsigned i = 0; i < 2 * ARRAY_SIZE(changes); i++) {
		make_lie(i % 2);
		set_header(changes[i / 2]);
		assert_int_equal(offload_check(lie.buf, lie.len), -EINVAL);
	}
}

/* One byte of the frame's own headers that makes them nonsense: where, from the IP header. */
static void frames_that_lie(void **state)
{
	static const struct {
		bool v6;
		unsigned at;
		uint8_t value;
	} lies[] = {
		{ false, 0, 0x65 },  { false, 0, 0x44 }, { false, 0, 0x4f }, { false, 2, 0 },
		{ false, 3, 0xff },  { false, 6, 0x20 }, { false, 7, 1 },    { false, 9, 17 },
		{ false, 32, 0x40 }, { true, 0, 0x45 },  { true, 4, 0 },     { true, 5, 0xff },
		{ true, 6, 17 },     { true, 6, 0 },     { true, 6, 43 },    { true, 6, 60 },
		{ true, 52, 0x40 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		make_lie(lies[i].v6);
		lie.buf[NET_HEADER + lie.ip + lies[i].at] = lies[i].value;
		assert_int_equal(offload_check(lie.buf, lie.len), -EINVAL);
	}
}

/* A frame may end anywhere: in memory of just its size, for a sanitizer to see. */
static void frames_that_end_early(void **state)
{
	for (unsigned v6 = 0; v6 < 2; v6++) {
		make_lie(v6);
		for (size_t n = 0; n < NET_HEADER + lie.payload + 2; n++) {
			uint8_t *copy = malloc(n ? n : 1);

			memcpy(copy, lie.buf, n);
			assert_int_equal(offload_check(copy, n), -EINVAL);
			free(copy);
		}
	}
	assert_int_equal(offload_check(lie.buf, NET_HEADER + NET_MAX_FRAME + 1), -EINVAL);
}

static void plain_frames_pass(void **state)
{
	uint8_t buf[NET_HEADER + NET_MIN_FRAME] = { 0 };

	assert_int_equal(offload_check(buf, sizeof(buf)), 0);
	assert_int_equal(offload_check(buf, sizeof(buf) - 1), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_of_all_lengths),
		cmocka_unit_test(sum_of_the_standard),
		cmocka_unit_test(checksum_is_made),
		cmocka_unit_test(zero_checksum_is_written_as_ones),
		cmocka_unit_test(segments),
		cmocka_unit_test(cutting_can_be_stopped),
		cmocka_unit_test(headers_that_lie),
		cmocka_unit_test(frames_that_lie),
		cmocka_unit_test(frames_that_end_early),
		cmocka_unit_test(plain_frames_pass),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

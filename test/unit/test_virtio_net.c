/*
 * The network card between a fake backend and fake queues: which frames reach the driver, in which
 * buffers, and what the control queue's commands do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "device/virtio/net_private.h"
#include "net_frames.h"

#define DATA   0x100000ull
#define CHAINS 600

struct offer {
	gpa_t out, in;
	uint32_t out_len, in_len;
};

/* Of one queue. */
struct fake_queue {
	struct offer offer[CHAINS];
	unsigned nr, taken;
	struct vq_used used[CHAINS];
	unsigned nr_used;
	bool kicks; /* the driver is to ring */
};

struct fixture {
	struct virtio_net n;
	struct vq vq[5];
	struct fake_queue queue[5];
	struct mem *mem;
	gpa_t next; /* free guest memory */
	/* The backend. */
	unsigned takes, kicks, sent, refuse_after;
	size_t sent_len;
};

static struct fixture f;

static struct fake_queue *fake(const struct vq *q)
{
	return &f.queue[q - f.vq];
}

bool vq_pop(struct vq *q, struct vq_chain *c)
{
	struct fake_queue *k = fake(q);
	const struct offer *o = &k->offer[k->taken];

	if (k->taken == k->nr)
		return false;
	c->id = (uint16_t)k->taken++;
	c->slots = 1;
	c->out = (struct dma){ .iov = c->iov, .max = c->max };
	assert_int_equal(dma_add(&c->out, f.mem, o->out, o->out_len, false), 0);
	c->in = (struct dma){ .iov = c->iov + c->out.nr, .max = c->max - c->out.nr };
	assert_int_equal(dma_add(&c->in, f.mem, o->in, o->in_len, true), 0);
	return true;
}

void vq_unpop(struct vq *q, const struct vq_chain *c)
{
	assert_int_equal(c->id, --fake(q)->taken);
}

void vq_push_list(struct vq *q, const struct vq_used *used, unsigned n)
{
	struct fake_queue *k = fake(q);

	memcpy(k->used + k->nr_used, used, n * sizeof(*used));
	k->nr_used += n;
}

void vq_push(struct vq *q, const struct vq_chain *c, uint32_t len)
{
	struct vq_used used = { .id = c->id, .len = len };

	vq_push_list(q, &used, 1);
}

bool vq_want_kicks(struct vq *q, bool on)
{
	fake(q)->kicks = on;
	return on && fake(q)->taken < fake(q)->nr;
}

bool net_send(struct net *net, const struct iovec *iov, unsigned nr_iov)
{
	if (f.sent == f.refuse_after)
		return false;
	f.sent++;
	f.sent_len = 0;
	for (unsigned i = 0; i < nr_iov; i++)
		f.sent_len += iov[i].iov_len;
	return true;
}

void net_kick(struct net *net)
{
	f.kicks++;
}

void net_tell_offloads(struct virtio_net *n, uint64_t bits)
{
	f.takes = (unsigned)bits;
}

static const uint8_t own[NET_MAC] = { 0x52, 0x54, 0, 1, 2, 3 };

static int set_up(void **state)
{
	memset(&f, 0, sizeof(f));
	assert_int_equal(mem_new(&f.mem, 64 * MiB), 0);
	f.next = DATA;
	f.refuse_after = UINT32_MAX;
	f.n.card.v.vq = f.vq;
	f.n.card.v.mem = f.mem;
	for (unsigned i = 0; i < ARRAY_SIZE(f.vq); i++)
		f.vq[i].s.size = 256;
	f.n.max_pairs = 2;
	f.n.pairs = 1;
	f.n.running = true;
	f.n.features = ~0ull;
	memcpy(f.n.own_mac, own, NET_MAC);
	pthread_mutex_init(&f.n.ring_lock, NULL);
	pthread_mutex_init(&f.n.state_lock, NULL);
	net_filter_reset(&f.n);
	return 0;
}

static int tear_down(void **state)
{
	mem_free(f.mem);
	return 0;
}

static gpa_t offer(unsigned queue, uint32_t out_len, uint32_t in_len)
{
	struct fake_queue *k = &f.queue[queue];
	gpa_t at = f.next;

	k->offer[k->nr++] = (struct offer){ at, at + out_len, out_len, in_len };
	f.next += (out_len + in_len + 4095) & ~4095u;
	return at;
}

/* Receiving. */

static uint8_t frame[NET_HEADER + NET_MAX_FRAME];

static size_t make_frame(size_t len)
{
	memset(frame, 0, NET_HEADER);
	for (size_t i = NET_HEADER; i < NET_HEADER + len; i++)
		frame[i] = (uint8_t)(i * 7 + (i >> 8));
	memcpy(frame + NET_HEADER, own, NET_MAC);
	return NET_HEADER + len;
}

static void long_frame_is_spread(void **state)
{
	size_t n = make_frame(60000), done = 0;
	gpa_t at[40];

	for (unsigned i = 0; i < 40; i++)
		at[i] = offer(0, 0, 2000);
	assert_true(net_receive(&f.n, frame, n));
	frame[10] = 31; /* num_buffers: 60012 in pieces of 2000 */
	assert_int_equal(f.queue[0].nr_used, 31);
	for (unsigned i = 0; i < 31; i++) {
		const struct vq_used *u = &f.queue[0].used[i];

		assert_int_equal(u->id, i);
		assert_memory_equal(mem_host(f.mem, at[i], 2000, false), frame + done, u->len);
		done += u->len;
	}
	assert_int_equal(done, n);
}

static void driver_without_buffers(void **state)
{
	size_t n = make_frame(3000);

	offer(0, 0, 2000);
	assert_false(net_receive(&f.n, frame, n));
	/* Nothing was used, and the driver is to ring. */
	assert_int_equal(f.queue[0].taken, 0);
	assert_int_equal(f.queue[0].nr_used, 0);
	assert_true(f.queue[0].kicks);
	assert_int_equal(f.n.starved, 1);
	offer(0, 0, 2000);
	assert_true(net_receive(&f.n, frame, n));
	assert_int_equal(f.queue[0].nr_used, 2);
}

static void frames_that_can_never_fit_are_dropped(void **state)
{
	size_t n = make_frame(3000);

	for (unsigned i = 0; i < NET_MAX_CHAINS + 5; i++)
		offer(0, 0, 8);
	assert_true(net_receive(&f.n, frame, n));
	assert_int_equal(f.queue[0].nr_used, 0);
	assert_int_equal(f.queue[0].taken, 0);
	assert_int_equal(f.n.dropped, 1);
	/* The same of a whole ring that is too small. */
	f.queue[0].nr = 4;
	f.vq[0].s.size = 4;
	assert_true(net_receive(&f.n, frame, n));
	assert_int_equal(f.n.dropped, 2);
}

static void without_mergeable_buffers_one_is_used(void **state)
{
	f.n.features &= ~NET_F_MRG_RXBUF;
	offer(0, 0, 1526);
	offer(0, 0, 1526);
	assert_true(net_receive(&f.n, frame, make_frame(1515)));
	assert_int_equal(f.queue[0].nr_used, 0);
	assert_true(net_receive(&f.n, frame, make_frame(1514)));
	assert_int_equal(f.queue[0].nr_used, 1);
	assert_int_equal(f.queue[0].used[0].len, 1526);
}

static void nothing_while_it_stands(void **state)
{
	f.n.running = false;
	offer(0, 0, 2000);
	offer(1, 100, 0);
	assert_true(net_receive(&f.n, frame, make_frame(100)));
	net_transmit(&f.n);
	assert_int_equal(f.queue[0].taken + f.queue[1].taken, 0);
}

/* Sending. */

static void frames_are_sent_and_given_back(void **state)
{
	for (unsigned i = 0; i < 100; i++)
		offer(1, NET_HEADER + 100 + i, 0);
	net_transmit(&f.n);
	assert_int_equal(f.sent, 100);
	assert_int_equal(f.sent_len, NET_HEADER + 199);
	assert_int_equal(f.queue[1].nr_used, 100);
	assert_true(f.queue[1].kicks);
}

static void refused_frames_stay(void **state)
{
	for (unsigned i = 0; i < 50; i++)
		offer(1, NET_HEADER + 100, 0);
	f.refuse_after = 33;
	net_transmit(&f.n);
	assert_int_equal(f.queue[1].nr_used, 33);
	assert_int_equal(f.queue[1].taken, 33);
	f.refuse_after = UINT32_MAX;
	net_transmit(&f.n);
	assert_int_equal(f.queue[1].nr_used, 50);
}

static void others_get_their_turn(void **state)
{
	for (unsigned i = 0; i < 500; i++)
		offer(1, NET_HEADER + 20, 0);
	net_transmit(&f.n);
	assert_int_equal(f.sent, 256);
	assert_int_equal(f.kicks, 1); /* it comes back by itself */
	net_transmit(&f.n);
	assert_int_equal(f.sent, 500);
}

/* An answer arrives on the pair that the flow was sent on. */
static void answers_come_on_the_senders_queue(void **state)
{
	static struct frame out;
	uint8_t *ip = out.buf + NET_HEADER + 14, addresses[4];
	gpa_t at;

	f.n.pairs = 2;
	frame_make(&out, &(struct frame_shape){ .payload = 100 });
	at = offer(3, (uint32_t)out.len, 0);
	mem_write(f.mem, at, out.buf, out.len);
	net_transmit(&f.n);
	assert_int_equal(f.sent, 1);
	memcpy(addresses, ip + 12, 4); /* the other way round */
	memcpy(ip + 12, ip + 16, 4);
	memcpy(ip + 16, addresses, 4);
	memcpy(addresses, ip + 20, 2);
	memcpy(ip + 20, ip + 22, 2);
	memcpy(ip + 22, addresses, 2);
	offer(0, 0, 2000);
	offer(2, 0, 2000);
	assert_true(net_receive(&f.n, out.buf, out.len));
	assert_int_equal(f.queue[0].nr_used, 0);
	assert_int_equal(f.queue[2].nr_used, 1);
}

/* Commands. */

static uint8_t command(const void *bytes, size_t n)
{
	gpa_t at = offer(4, (uint32_t)n, 1);
	uint8_t ack = 99;

	mem_write(f.mem, at, bytes, n);
	net_control(&f.n);
	mem_read(f.mem, at + n, &ack, 1);
	assert_int_equal(f.queue[4].nr_used, f.queue[4].nr);
	return ack;
}

#define COMMAND(...)                                      \
	({                                                \
		const uint8_t bytes_[] = { __VA_ARGS__ }; \
		command(bytes_, sizeof(bytes_));          \
	})

static bool wants(const char *to, int vlan)
{
	uint8_t buf[64] = { 0 };

	memcpy(buf, to, NET_MAC);
	if (vlan >= 0) {
		buf[12] = 0x81;
		buf[14] = (uint8_t)(vlan >> 8);
		buf[15] = (uint8_t)vlan;
	}
	return net_wants(&f.n, buf, sizeof(buf));
}

#define OWN       "\x52\x54\0\1\2\3"
#define OTHER     "\x52\x54\0\1\2\4"
#define MULTICAST "\1\0\x5e\0\0\1"
#define BROADCAST "\xff\xff\xff\xff\xff\xff"

static void receive_modes(void **state)
{
	assert_true(wants(OTHER, -1)); /* before the driver has said a word */
	assert_int_equal(COMMAND(0, 0, 0), 0);
	assert_true(wants(OWN, -1) && wants(BROADCAST, -1));
	assert_false(wants(OTHER, -1) || wants(MULTICAST, -1));
	assert_int_equal(COMMAND(0, 1, 1), 0);
	assert_true(wants(MULTICAST, -1) && !wants(OTHER, -1));
	assert_int_equal(COMMAND(0, 2, 1), 0);
	assert_true(wants(OTHER, -1));
	assert_int_equal(COMMAND(0, 3, 1), 0);
	assert_int_equal(COMMAND(0, 4, 1), 0);
	assert_int_equal(COMMAND(0, 5, 1), 0);
	assert_false(wants(MULTICAST, -1) || wants(OWN, -1) || wants(BROADCAST, -1));
	assert_int_equal(COMMAND(0, 0, 1), 0);
	assert_true(wants(OTHER, -1) && wants(BROADCAST, -1));
}

static void address_tables(void **state)
{
	static uint8_t many[2 + 4 + 100 * NET_MAC + 4] = { 1, 0, 100 };

	COMMAND(0, 0, 0);
	assert_int_equal(
	        COMMAND(1, 0, 1, 0, 0, 0, 0x52, 0x54, 0, 1, 2, 4, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1),
	        0);
	assert_true(wants(OTHER, -1) && wants(MULTICAST, -1) && wants(OWN, -1));
	assert_false(wants("\1\0\x5e\0\0\2", -1));
	/* Malformed ones change nothing: too long a list, bytes left over, one list only. */
	assert_int_equal(COMMAND(1, 0, 2, 0, 0, 0, 0x52, 0x54, 0, 1, 2, 9, 0, 0, 0, 0), 1);
	assert_int_equal(COMMAND(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), 1);
	assert_int_equal(COMMAND(1, 0, 0, 0, 0, 0), 1);
	assert_int_equal(COMMAND(1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0), 1);
	assert_true(wants(OTHER, -1));
	/* More than are kept: then all of the kind. */
	assert_int_equal(command(many, sizeof(many)), 0);
	assert_true(wants("\x52\x54\0\1\2\x77", -1));
	assert_false(wants(MULTICAST, -1));
	assert_int_equal(COMMAND(1, 1, 2, 0, 0, 0, 0, 7), 0);
	assert_memory_equal(f.n.config.mac, "\2\0\0\0\0\7", NET_MAC);
	net_filter_reset(&f.n);
	assert_memory_equal(f.n.config.mac, own, NET_MAC);
}

static void vlans(void **state)
{
	assert_true(wants(OWN, -1));
	assert_false(wants(OWN, 0) || wants(OWN, 7));
	assert_int_equal(COMMAND(2, 0, 7, 0), 0);
	assert_int_equal(COMMAND(2, 0, 0xff, 0x0f), 0);
	assert_true(wants(OWN, 7) && wants(OWN, 4095) && !wants(OWN, 8));
	assert_true(wants(OWN, 0xe000 | 7)); /* with a priority */
	assert_int_equal(COMMAND(2, 0, 0, 0x10), 1);
	assert_int_equal(COMMAND(2, 1, 7, 0), 0);
	assert_false(wants(OWN, 7));
	f.n.features &= ~NET_F_CTRL_VLAN;
	assert_true(wants(OWN, 8));
	assert_int_equal(COMMAND(2, 0, 7, 0), 1);
}

static void pairs_and_offloads(void **state)
{
	assert_int_equal(COMMAND(4, 0, 2, 0), 0);
	assert_int_equal(f.n.pairs, 2);
	assert_int_equal(COMMAND(4, 0, 0, 0), 1);
	assert_int_equal(COMMAND(4, 0, 3, 0), 1);
	assert_int_equal(COMMAND(4, 0, 1, 1), 1);
	assert_int_equal(f.n.pairs, 2);
	assert_int_equal(COMMAND(5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0), 0);
	assert_int_equal(f.takes, NET_F_GUEST_CSUM | NET_F_GUEST_TSO4);
	assert_int_equal(COMMAND(5, 0, 0, 4, 0, 0, 0, 0, 0, 0), 1);
	assert_int_equal(f.takes, NET_F_GUEST_CSUM | NET_F_GUEST_TSO4);
	f.n.features &= ~NET_F_GUEST_TSO6;
	assert_int_equal(COMMAND(5, 0, 0, 1, 0, 0, 0, 0, 0, 0), 1);
	f.n.config.status = NET_S_LINK_UP | NET_S_ANNOUNCE;
	assert_int_equal(COMMAND(3, 0), 0);
	assert_int_equal(f.n.config.status, NET_S_LINK_UP);
}

/* Every class and number with every length: none but those of the table is taken. */
static void commands_of_all_lengths(void **state)
{
	static uint8_t bytes[300];

	for (unsigned class = 0; class < 8; class ++)
		for (unsigned number = 0; number < 8; number++)
			for (size_t n = 0; n < 12; n++) {
				f.queue[4].nr = f.queue[4].taken = f.queue[4].nr_used = 0;
				f.next = DATA;
				memset(bytes, 0xff, sizeof(bytes));
				bytes[0] = (uint8_t) class;
				bytes[1] = (uint8_t)number;
				if (command(bytes, n) == 0)
					assert_true((class == 0 && number < 6 && n == 3) ||
					            (class == 1 && number == 1 && n == 8) ||
					            (class == 3 && number == 0 && n >= 2));
			}
}

static void command_that_is_too_long(void **state)
{
	static uint8_t bytes[8000] = { 1, 0 };

	assert_int_equal(command(bytes, sizeof(bytes)), 1);
}

int main(void)
{
#define WITH_CARD(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WITH_CARD(long_frame_is_spread),
		WITH_CARD(driver_without_buffers),
		WITH_CARD(frames_that_can_never_fit_are_dropped),
		WITH_CARD(without_mergeable_buffers_one_is_used),
		WITH_CARD(nothing_while_it_stands),
		WITH_CARD(frames_are_sent_and_given_back),
		WITH_CARD(refused_frames_stay),
		WITH_CARD(others_get_their_turn),
		WITH_CARD(answers_come_on_the_senders_queue),
		WITH_CARD(receive_modes),
		WITH_CARD(address_tables),
		WITH_CARD(vlans),
		WITH_CARD(pairs_and_offloads),
		WITH_CARD(commands_of_all_lengths),
		WITH_CARD(command_that_is_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

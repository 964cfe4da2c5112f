/*
 * User-mode NAT seen by a card that makes its own frames: ARP, DHCP, a connection to the host with
 * a segment of 40,000 bytes whose checksum is missing, a forwarded port.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "net_card.h"
#include "net_frames.h"

static const uint8_t guest_mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

struct tcp {
	uint16_t from, to;
	uint32_t seq, ack;
	uint8_t flags;
	uint32_t dest;
	const uint8_t *data;
	size_t len;
	uint16_t mss;
};

#define GUEST 0x0a00020fu
#define HOST  0x0a000202u
#define SYN   0x02
#define ACK   0x10
#define PSH   0x08

static void put32(uint8_t *p, uint32_t v)
{
	frame_put16(p, v >> 16);
	frame_put16(p + 2, v & 0xffff);
}

static void send_tcp(struct card *c, const struct tcp *t)
{
	static uint8_t buf[NET_HEADER + NET_MAX_FRAME];
	uint8_t *e = buf + NET_HEADER, *ip = e + 14, *tcp = ip + 20;
	struct net_header h = { .flags = NET_NEEDS_CSUM,
		                .csum_start = 34,
		                .csum_offset = 16,
		                .gso_type = t->mss ? NET_GSO_TCPV4 : NET_GSO_NONE,
		                .gso_size = t->mss };

	memset(buf, 0, NET_HEADER + 54);
	memcpy(buf, &h, sizeof(h));
	memcpy(e, "\x52\x55\x0a\0\x02\x02", 6); /* libslirp's own address */
	memcpy(e + 6, guest_mac, 6);
	frame_put16(e + 12, 0x0800);
	ip[0] = 0x45;
	frame_put16(ip + 2, (unsigned)(40 + t->len));
	ip[8] = 64;
	ip[9] = 6;
	put32(ip + 12, GUEST);
	put32(ip + 16, t->dest);
	frame_put16(ip + 10, (uint16_t)~plain_sum(ip, 20, 0));
	frame_put16(tcp, t->from);
	frame_put16(tcp + 2, t->to);
	put32(tcp + 4, t->seq);
	put32(tcp + 8, t->ack);
	tcp[12] = 0x50;
	tcp[13] = t->flags;
	frame_put16(tcp + 14, 0xffff);
	frame_put16(tcp + 16, frame_pseudo_sum(ip, false, 20 + t->len));
	if (t->len)
		memcpy(tcp + 20, t->data, t->len);
	card_send(c, buf, NET_HEADER + 54 + t->len);
}

static const uint8_t *ethernet(const struct card *c, unsigned i)
{
	return c->got[i].buf + NET_HEADER;
}

/* The first TCP frame from number *i on with these flags, or NULL. Called with the lock held. */
static const uint8_t *find_tcp(struct card *c, unsigned *i, uint8_t flags)
{
	for (; *i < c->nr_got; (*i)++) {
		const uint8_t *e = ethernet(c, *i);

		if (c->got[*i].len >= NET_HEADER + 54 && frame_get16(e + 12) == 0x0800 &&
		    e[23] == 6 && (e[47] & 0x3f) == flags)
			return e;
	}
	return NULL;
}

static void announce(struct card *c)
{
	uint8_t buf[NET_HEADER + 42] = { 0 }, *e = buf + NET_HEADER;

	memset(e, 0xff, 6);
	memcpy(e + 6, guest_mac, 6);
	memcpy(e + 12, "\x08\x06\0\1\x08\0\6\4\0\1", 10);
	memcpy(e + 22, guest_mac, 6);
	put32(e + 28, GUEST);
	put32(e + 38, HOST);
	card_send(c, buf, sizeof(buf));
}

static bool got_arp_reply(struct card *c)
{
	for (unsigned i = 0; i < c->nr_got; i++) {
		const uint8_t *e = ethernet(c, i);

		if (frame_get16(e + 12) == 0x0806 && e[21] == 2 && frame_get32(e + 28) == HOST)
			return true;
	}
	return false;
}

static int listen_on_loopback(int type, uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, type, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

static void arp(void **state)
{
	static struct card c;

	card_open(&c, "user");
	assert_true(net_is_up(c.net));
	announce(&c);
	card_wait(&c, got_arp_reply(&c));
	card_close(&c);
}

/* The guest's 40,000 bytes in one frame arrive whole; the answer comes in frames of the MTU. */
static void connection_out(void **state)
{
	static uint8_t data[40000], back[40000];
	static struct card c;
	uint16_t port;
	int listener = listen_on_loopback(SOCK_STREAM, &port), fd;
	struct tcp t = { .from = 4000, .to = port, .seq = 1000, .flags = SYN, .dest = HOST };
	const uint8_t *e = NULL;
	unsigned at = 0;
	size_t n = 0;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 13 + (i >> 9));
	card_open(&c, "user,ipv6=off");
	announce(&c);
	send_tcp(&c, &t);
	card_wait(&c, (e = find_tcp(&c, &at, SYN | ACK)));
	t.seq++;
	t.ack = frame_get32(e + 38) + 1;
	t.flags = ACK | PSH;
	t.data = data;
	t.len = sizeof(data);
	t.mss = 1460;
	send_tcp(&c, &t);
	fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	while (n < sizeof(back)) {
		ssize_t got = recv(fd, back + n, sizeof(back) - n, 0);

		assert_true(got > 0);
		n += (size_t)got;
	}
	assert_memory_equal(back, data, sizeof(data));

	assert_int_equal(send(fd, "hello, guest", 12, 0), 12);
	at = 0;
	card_wait(&c, (e = find_tcp(&c, &at, ACK | PSH)));
	assert_memory_equal(e + 54, "hello, guest", 12);
	assert_int_equal(frame_get32(e + 38), t.ack);
	assert_int_equal(plain_sum(e + 34, 32, frame_pseudo_sum(e + 14, false, 32)), 0xffff);
	close(fd);
	close(listener);
	card_close(&c);
}

static void forwarded_port(void **state)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	static struct card c;
	char text[100], err[256] = "";
	struct net *second;
	const uint8_t *e = NULL;
	unsigned at = 0;
	uint16_t port;
	int fd;

	close(listen_on_loopback(SOCK_STREAM, &port)); /* free again, most likely */
	snprintf(text, sizeof(text), "user,ipv6=off,hostfwd=tcp:127.0.0.1:%u-:22", port);
	card_open(&c, text);
	assert_int_equal(net_open(&second, text, err, sizeof(err)), -EADDRINUSE);
	assert_non_null(strstr(err, "is in use"));
	announce(&c);
	card_wait(&c, got_arp_reply(&c));
	a.sin_port = htons(port);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	card_wait(&c, (e = find_tcp(&c, &at, SYN)));
	assert_int_equal(frame_get16(e + 36), 22);
	assert_int_equal(frame_get32(e + 30), GUEST);
	close(fd);
	card_close(&c);
}

/* Several instances in one process share what libslirp keeps for the process. */
static void several(void **state)
{
	static struct card c[3];

	for (unsigned i = 0; i < 3; i++)
		card_open(&c[i], "user,network=10.0.2.0/24");
	for (unsigned i = 0; i < 3; i++)
		announce(&c[i]);
	for (unsigned i = 0; i < 3; i++)
		card_wait(&c[i], got_arp_reply(&c[i]));
	for (unsigned i = 0; i < 3; i++)
		card_close(&c[i]);
}

/* Noise, with and without the headers of what libslirp looks into. */
static void noise(void **state)
{
	static struct card c;
	static struct frame f;
	unsigned seed = 3;

	card_open(&c, "user");
	for (unsigned i = 0; i < 2000; i++) {
		frame_make(&f, &(struct frame_shape){ .v6 = i % 2,
		                                      .payload = rand_r(&seed) % 3000u,
		                                      .tcp_flags = (uint8_t)rand_r(&seed) });
		for (unsigned j = 0; j < i % 7; j++)
			f.buf[NET_HEADER + 12 + rand_r(&seed) % 60u] = (uint8_t)rand_r(&seed);
		card_send(&c, f.buf, f.len);
	}
	card_wait(&c, c.sent == 2000);
	announce(&c);
	card_wait(&c, got_arp_reply(&c));
	card_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arp),
		cmocka_unit_test(connection_out),
		cmocka_unit_test(forwarded_port),
		cmocka_unit_test(several),
		cmocka_unit_test(noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

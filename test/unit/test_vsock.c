/* Streams of a socket device, with a guest that sends the packets that the test says. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/unix_socket.h"
#include "device/virtio/vsock_mux.h"

#define CID     7
#define PACKETS 4096

struct fixture {
	char dir[64], path[80];
	struct vsock_mux *m;
	unsigned room; /* packets that the guest takes */
	struct vsock_header got[PACKETS];
	unsigned nr_got, seen;
	uint8_t *data; /* payload, of all RW packets */
	size_t data_len;
};

static struct fixture f;

static size_t guest_room(void *opaque)
{
	return f.room ? 4096 : 0;
}

static void guest_put(void *opaque, const struct vsock_header *h, const uint8_t *data)
{
	assert_true(f.room > 0 && f.nr_got < PACKETS && h->len <= 4096);
	f.room--;
	f.got[f.nr_got++] = *h;
	memcpy(f.data + f.data_len, data, h->len);
	f.data_len += h->len;
}

static const struct vsock_mux_ops guest_ops = { guest_room, guest_put };

static int set_up(void **state)
{
	char err[256];

	memset(&f, 0, sizeof(f));
	f.room = UINT32_MAX;
	f.data = malloc(PACKETS * 4096);
	strcpy(f.dir, "/tmp/test-vsock-XXXXXX");
	assert_non_null(mkdtemp(f.dir));
	snprintf(f.path, sizeof(f.path), "%s/v", f.dir);
	return vsock_mux_new(&f.m, f.path, CID, &guest_ops, NULL, err, sizeof(err));
}

static int tear_down(void **state)
{
	vsock_mux_free(f.m);
	free(f.data);
	return rmdir(f.dir); /* fails if the socket is still there */
}

/* One turn of the device's thread, without waiting. */
static void turn(void)
{
	struct pollfd fds[VSOCK_MAX_POLL];
	uint64_t deadline = UINT64_MAX;
	unsigned nr = vsock_mux_prepare(f.m, fds, &deadline);

	assert_true(nr <= VSOCK_MAX_POLL);
	assert_true(poll(fds, nr, 0) >= 0);
	vsock_mux_dispatch(f.m, fds, nr);
}

static void turns(void)
{
	for (int i = 0; i < 20; i++)
		turn();
}

static struct vsock_header packet(uint32_t guest_port, uint32_t host_port, enum vsock_op op)
{
	return (struct vsock_header){ .src_cid = CID,
		                      .dst_cid = VSOCK_HOST_CID,
		                      .src_port = guest_port,
		                      .dst_port = host_port,
		                      .type = VSOCK_STREAM,
		                      .op = (uint16_t)op,
		                      .buf_alloc = 1 << 20 };
}

static void send_op(uint32_t guest_port, uint32_t host_port, enum vsock_op op, uint32_t flags)
{
	struct vsock_header h = packet(guest_port, host_port, op);

	h.flags = flags;
	vsock_mux_take(f.m, &h, NULL);
}

static void send_data(uint32_t guest_port, uint32_t host_port, const uint8_t *data, uint32_t len)
{
	struct vsock_header h = packet(guest_port, host_port, VSOCK_RW);

	h.len = len;
	vsock_mux_take(f.m, &h, data);
}

/* The next packet that the guest got. */
static const struct vsock_header *next(enum vsock_op op)
{
	assert_true(f.seen < f.nr_got);
	assert_int_equal(f.got[f.seen].op, op);
	return &f.got[f.seen++];
}

/* A program's connection to a port of the guest, accepted; *host_port is its other number. */
static int connected(uint32_t port, uint32_t *host_port)
{
	int fd = unix_socket_connect(f.path, SOCK_STREAM);
	char line[32], answer[32] = "", wanted[32];
	int n = snprintf(line, sizeof(line), "CONNECT %u\n", port);

	assert_true(fd >= 0);
	assert_int_equal(send(fd, line, (size_t)n, 0), n);
	turns();
	*host_port = next(VSOCK_REQUEST)->src_port;
	assert_int_equal(f.got[f.seen - 1].dst_port, port);
	assert_int_equal(f.got[f.seen - 1].dst_cid, CID);
	send_op(port, *host_port, VSOCK_RESPONSE, 0);
	n = snprintf(wanted, sizeof(wanted), "OK %u\n", *host_port);
	assert_int_equal(recv(fd, answer, sizeof(answer), 0), n);
	assert_string_equal(answer, wanted);
	return fd;
}

static void program_connects(void **state)
{
	uint32_t port;
	int fd = connected(1234, &port);
	char buf[16] = "";

	assert_int_equal(send(fd, "to the guest", 12, 0), 12);
	turns();
	assert_int_equal(next(VSOCK_RW)->len, 12);
	assert_memory_equal(f.data, "to the guest", 12);
	send_data(1234, port, (const uint8_t *)"to the host", 11);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 11);
	assert_string_equal(buf, "to the host");
	close(fd);
	turns();
	assert_int_equal(next(VSOCK_SHUTDOWN)->flags, VSOCK_NO_SEND | VSOCK_NO_RECEIVE);
	send_op(1234, port, VSOCK_RST, 0);
	assert_int_equal(vsock_mux_streams(f.m), 0);
}

/* What is sent with the line, or right after it, is the guest's. */
static void bytes_behind_the_line(void **state)
{
	int fd = unix_socket_connect(f.path, SOCK_STREAM);

	assert_int_equal(send(fd, "CONN", 4, 0), 4);
	turns();
	assert_int_equal(f.nr_got, 0);
	assert_int_equal(send(fd, "ECT 5\nearly", 11, 0), 11);
	turns();
	send_op(5, next(VSOCK_REQUEST)->src_port, VSOCK_RESPONSE, 0);
	turns();
	assert_int_equal(next(VSOCK_RW)->len, 5);
	assert_memory_equal(f.data, "early", 5);
	close(fd);
}

static void lines_that_are_none(void **state)
{
	static const char *const bad[] = { "\n",
		                           "CONNECT\n",
		                           "CONNECT \n",
		                           "CONNECT x\n",
		                           "connect 1\n",
		                           "CONNECT 1 \n",
		                           "CONNECT -1\n",
		                           "CONNECT +1\n",
		                           "CONNECT 4294967295\n",
		                           "CONNECT 99999999999999999999\n",
		                           "CONNECT 00000000000000000000000000000000001\n" };
	char byte;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = unix_socket_connect(f.path, SOCK_STREAM);

		assert_int_equal(send(fd, bad[i], strlen(bad[i]), 0), (ssize_t)strlen(bad[i]));
		turns();
		if (recv(fd, &byte, 1, 0) > 0 || vsock_mux_streams(f.m))
			fail_msg("'%s' was taken", bad[i]);
		close(fd);
	}
	assert_int_equal(f.nr_got, 0);
}

static void guest_refuses(void **state)
{
	int fd = unix_socket_connect(f.path, SOCK_STREAM);
	char byte;

	assert_int_equal(send(fd, "CONNECT 9\n", 10, 0), 10);
	turns();
	send_op(9, next(VSOCK_REQUEST)->src_port, VSOCK_RST, 0);
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
	close(fd);
}

static int listen_for(unsigned port, char *path, size_t size)
{
	snprintf(path, size, "%s_%u", f.path, port);
	return unix_socket_listen(path, SOCK_STREAM, 1);
}

static void guest_connects(void **state)
{
	char path[100], buf[16];
	int listener = listen_for(80, path, sizeof(path)), fd;

	send_op(5000, 81, VSOCK_REQUEST, 0);
	assert_int_equal(next(VSOCK_RST)->dst_port, 5000);
	send_op(5000, 80, VSOCK_REQUEST, 0);
	assert_int_equal(next(VSOCK_RESPONSE)->src_port, 80);
	fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	send_data(5000, 80, (const uint8_t *)"hello", 5);
	/* Shut for sending: the program reads to the end, and may still answer. */
	send_op(5000, 80, VSOCK_SHUTDOWN, VSOCK_NO_SEND);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 5);
	assert_int_equal(recv(fd, buf, sizeof(buf), 0), 0);
	assert_int_equal(send(fd, "answer", 6, 0), 6);
	turns();
	assert_int_equal(next(VSOCK_RW)->len, 6);
	send_op(5000, 80, VSOCK_SHUTDOWN, VSOCK_NO_SEND | VSOCK_NO_RECEIVE);
	next(VSOCK_RST);
	assert_int_equal(vsock_mux_streams(f.m), 0);
	close(fd);
	close(listener);
	unlink(path);
}

/* The guest's credit bounds what it is sent, whatever it claims to have taken. */
static void credit_of_the_guest(void **state)
{
	static uint8_t data[20000];
	uint32_t port;
	int fd = connected(1, &port);
	struct vsock_header h = packet(1, port, VSOCK_CREDIT_UPDATE);

	h.buf_alloc = 10000;
	vsock_mux_take(f.m, &h, NULL);
	assert_int_equal(send(fd, data, sizeof(data), 0), sizeof(data));
	turns();
	assert_int_equal(f.data_len, 10000);
	h.fwd_cnt = 3000;
	vsock_mux_take(f.m, &h, NULL);
	turns();
	assert_int_equal(f.data_len, 13000);
	h.fwd_cnt = 0x80000000; /* more than it ever got */
	vsock_mux_take(f.m, &h, NULL);
	turns();
	assert_int_equal(f.data_len, 13000);
	h.fwd_cnt = 13000;
	vsock_mux_take(f.m, &h, NULL);
	turns();
	assert_int_equal(f.data_len, 20000);
	close(fd);
}

/* A slow program: the guest may send a window, all of which arrives, and one byte more ends it. */
static void window_of_ours(void **state)
{
	static uint8_t data[VSOCK_MAX_PAYLOAD], back[VSOCK_MAX_PAYLOAD];
	uint32_t port, sent = 0, told = 0;
	int fd = connected(1, &port), room = 4096;
	size_t total = 0;
	ssize_t n;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 3 + (i >> 8));
	for (int round = 0; round < 40; round++) {
		while (sent - told + sizeof(data) / 4 <= VSOCK_WINDOW) {
			send_data(1, port, data + sent % sizeof(data), sizeof(data) / 4);
			sent += sizeof(data) / 4;
		}
		while ((n = recv(fd, back, sizeof(back), 0)) > 0) {
			for (ssize_t i = 0; i < n; i++)
				assert_int_equal(back[i], data[(total + (size_t)i) % sizeof(data)]);
			total += (size_t)n;
			turn();
		}
		for (; f.seen < f.nr_got; f.seen++)
			told = f.got[f.seen].fwd_cnt;
		assert_true(told <= sent);
	}
	assert_int_equal(total, sent);
	assert_true(total > 4 * VSOCK_WINDOW);

	for (uint32_t left = VSOCK_WINDOW - (sent - told) + 300000; left;) {
		uint32_t len = left < sizeof(data) ? left : sizeof(data);

		send_data(1, port, data, len); /* beyond what it was told, with nobody who reads */
		left -= len;
	}
	turns();
	assert_int_equal(f.got[f.nr_got - 1].op, VSOCK_RST);
	assert_int_equal(vsock_mux_streams(f.m), 0);
	close(fd);
}

static void guest_without_room(void **state)
{
	int fd = unix_socket_connect(f.path, SOCK_STREAM);

	f.room = 0;
	assert_int_equal(send(fd, "CONNECT 9\n", 10, 0), 10);
	send_op(1, 2, VSOCK_RW, 0); /* asks for a reset that has to wait */
	turns();
	assert_int_equal(f.nr_got, 0);
	f.room = 1;
	turns();
	next(VSOCK_RST);
	f.room = 1;
	turns();
	next(VSOCK_REQUEST);
	close(fd);
}

static void packets_that_lie(void **state)
{
	uint32_t port;
	int fd = connected(1, &port);
	struct vsock_header h;

	/* Of somebody else: as if it had not come. */
	h = packet(1, port, VSOCK_RST);
	h.src_cid = CID + 1;
	vsock_mux_take(f.m, &h, NULL);
	assert_int_equal(vsock_mux_streams(f.m), 1);
	/* To somebody else, of another kind, for no stream: reset. */
	h = packet(1, port, VSOCK_RW);
	h.dst_cid = 9;
	vsock_mux_take(f.m, &h, NULL);
	assert_int_equal(next(VSOCK_RST)->src_cid, 9);
	h = packet(1, port, VSOCK_RW);
	h.type = 2;
	vsock_mux_take(f.m, &h, NULL);
	assert_int_equal(next(VSOCK_RST)->type, 2);
	send_op(1, port + 1, VSOCK_SHUTDOWN, 3);
	next(VSOCK_RST);
	/* A reset is not answered by one. */
	send_op(1, port + 1, VSOCK_RST, 0);
	turns();
	assert_int_equal(f.seen, f.nr_got);
	/* An operation that there is not, and RESPONSE twice: the stream ends. */
	send_op(1, port, 99, 0);
	next(VSOCK_RST);
	assert_int_equal(vsock_mux_streams(f.m), 0);
	close(fd);
	fd = connected(1, &port);
	send_op(1, port, VSOCK_RESPONSE, 0);
	next(VSOCK_RST);
	close(fd);
}

static void streams_are_bounded(void **state)
{
	char path[100];
	int listener = listen_for(80, path, sizeof(path)), fd;

	for (uint32_t i = 0; i < VSOCK_MAX_STREAMS + 10; i++) {
		send_op(1000 + i, 80, VSOCK_REQUEST, 0);
		assert_int_equal(f.got[f.nr_got - 1].op,
		                 i < VSOCK_MAX_STREAMS ? VSOCK_RESPONSE : VSOCK_RST);
		fd = accept(listener, NULL, NULL);
		if (fd >= 0)
			close(fd);
	}
	assert_int_equal(vsock_mux_streams(f.m), VSOCK_MAX_STREAMS);
	turns();
	vsock_mux_reset(f.m);
	assert_int_equal(vsock_mux_streams(f.m), 0);
	close(listener);
	unlink(path);
}

static void noise(void **state)
{
	static uint8_t data[VSOCK_MAX_PAYLOAD];
	char path[100];
	int listener = listen_for(80, path, sizeof(path)), fd;
	unsigned seed = 5;

	for (int i = 0; i < 50000; i++) {
		struct vsock_header h = packet(rand_r(&seed) % 5, 80, rand_r(&seed) % 9);

		h.len = h.op == VSOCK_RW ? rand_r(&seed) % 20000 : 0;
		h.flags = rand_r(&seed) % 4;
		h.buf_alloc = (uint32_t)rand_r(&seed);
		h.fwd_cnt = (uint32_t)rand_r(&seed) % 3;
		f.nr_got = 0;
		f.data_len = 0;
		f.room = rand_r(&seed) % 4;
		vsock_mux_take(f.m, &h, data);
		if (i % 3 == 0)
			turn();
		if (i % 7 == 0 && (fd = accept(listener, NULL, NULL)) >= 0) {
			send(fd, data, 5000, MSG_NOSIGNAL | MSG_DONTWAIT);
			close(fd);
		}
	}
	assert_true(vsock_mux_streams(f.m) <= 5);
	close(listener);
	unlink(path);
}

int main(void)
{
#define WITH_MUX(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WITH_MUX(program_connects),
		WITH_MUX(bytes_behind_the_line),
		WITH_MUX(lines_that_are_none),
		WITH_MUX(guest_refuses),
		WITH_MUX(guest_connects),
		WITH_MUX(credit_of_the_guest),
		WITH_MUX(window_of_ours),
		WITH_MUX(guest_without_room),
		WITH_MUX(packets_that_lie),
		WITH_MUX(streams_are_bounded),
		WITH_MUX(noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

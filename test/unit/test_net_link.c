/*
 * Two cards on a link, and what net.c does for every backend: order, offloads that a card does not
 * take, a card without room, the capture. And a peer that speaks nonsense.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/unix_socket.h"
#include "net_card.h"
#include "net_frames.h"

struct fixture {
	char dir[64], path[80], listen[100], connect[100];
	struct card a, b;
};

static struct fixture fixture;

static int make_folder(void **state)
{
	struct fixture *f = &fixture;

	*state = f;
	strcpy(f->dir, "/tmp/test-net-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	snprintf(f->listen, sizeof(f->listen), "link,listen=%.79s", f->path);
	snprintf(f->connect, sizeof(f->connect), "link,connect=%.79s", f->path);
	return 0;
}

static int remove_folder(void **state)
{
	unlink(fixture.path);
	return rmdir(fixture.dir);
}

static void join(struct fixture *f)
{
	card_open(&f->a, f->listen);
	card_open(&f->b, f->connect);
	card_wait(&f->a, f->a.up);
	card_wait(&f->b, f->b.up);
}

static void part(struct fixture *f)
{
	card_close(&f->a);
	card_close(&f->b);
}

static void frames_arrive_in_order(void **state)
{
	struct fixture *f = *state;
	static struct frame frame;

	join(f);
	for (unsigned i = 0; i < 500; i++) {
		frame_make(&frame, &(struct frame_shape){ .payload = i * 3 + 1 });
		offload_checksum(frame.buf, frame.len);
		card_send(i % 2 ? &f->a : &f->b, frame.buf, frame.len);
	}
	card_wait(&f->a, f->a.nr_got == 250);
	card_wait(&f->b, f->b.nr_got == 250);
	for (unsigned i = 0; i < 500; i++) {
		struct card_frame *got = i % 2 ? &f->b.got[i / 2] : &f->a.got[i / 2];

		frame_make(&frame, &(struct frame_shape){ .payload = i * 3 + 1 });
		offload_checksum(frame.buf, frame.len);
		assert_int_equal(got->len, frame.len);
		/* A card that has not asked for checksums is told nothing of them. */
		assert_int_equal(got->buf[0], 0);
		assert_memory_equal(got->buf + NET_HEADER, frame.buf + NET_HEADER,
		                    frame.len - NET_HEADER);
	}
	part(f);
}

static void offloads_pass_if_taken(void **state)
{
	struct fixture *f = *state;
	static struct frame frame;

	join(f);
	net_set_offloads(f->b.net, NET_TAKES_CHECKSUM | NET_TAKES_TSO4);
	frame_make(&frame, &(struct frame_shape){ .payload = 60000, .mss = 1448 });
	card_send(&f->a, frame.buf, frame.len);
	card_wait(&f->b, f->b.nr_got == 1);
	assert_int_equal(f->b.got[0].len, frame.len);
	assert_memory_equal(f->b.got[0].buf, frame.buf, frame.len);
	/* TSO6 is not among them: ten segments. */
	frame_make(&frame, &(struct frame_shape){ .v6 = true, .payload = 14480, .mss = 1448 });
	card_send(&f->a, frame.buf, frame.len);
	card_wait(&f->b, f->b.nr_got == 11);
	for (unsigned i = 1; i < 11; i++)
		assert_int_equal(f->b.got[i].len, NET_HEADER + frame.payload + 1448);
	part(f);
}

static void card_without_room(void **state)
{
	struct fixture *f = *state;
	static struct frame frame;

	join(f);
	f->b.room = 3;
	for (unsigned i = 0; i < 100; i++) {
		frame_make(&frame, &(struct frame_shape){ .payload = 100 + i });
		card_send(&f->a, frame.buf, frame.len);
	}
	card_wait(&f->b, f->b.nr_got == 3 && f->b.refused == 1);
	pthread_mutex_lock(&f->b.lock);
	f->b.room = UINT32_MAX;
	pthread_mutex_unlock(&f->b.lock);
	net_resume(f->b.net);
	card_wait(&f->b, f->b.nr_got == 100);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(f->b.got[i].len, NET_HEADER + 14 + 20 + 20 + 100 + i);
	part(f);
}

static void malformed_frames_are_counted(void **state)
{
	struct fixture *f = *state;
	static struct frame frame;
	struct net_counters n;

	join(f);
	frame_make(&frame, &(struct frame_shape){ .payload = 100, .mss = 1 });
	card_send(&f->a, frame.buf, frame.len);
	card_send(&f->a, frame.buf, 10);
	card_wait(&f->a, f->a.sent == 2);
	net_get_counters(f->a.net, &n);
	assert_int_equal(n.send_dropped, 2);
	assert_int_equal(n.sent, 0);
	part(f);
}

static void link_comes_back(void **state)
{
	struct fixture *f = *state;
	static struct frame frame;

	join(f);
	card_close(&f->a);
	card_wait(&f->b, !f->b.up);
	card_open(&f->a, f->listen);
	card_wait(&f->b, f->b.up);
	card_wait(&f->a, f->a.up);
	frame_make(&frame, &(struct frame_shape){ .payload = 100 });
	card_send(&f->b, frame.buf, frame.len);
	card_wait(&f->a, f->a.nr_got == 1);
	part(f);
}

static void one_peer_only(void **state)
{
	struct fixture *f = *state;
	char byte;
	int fd;

	join(f);
	fd = unix_socket_connect(f->path, SOCK_SEQPACKET);
	assert_true(fd >= 0);
	while (recv(fd, &byte, 1, 0) < 0)
		assert_int_equal(errno, EAGAIN);
	card_wait(&f->a, f->a.up);
	card_wait(&f->b, f->b.up);
	close(fd);
	part(f);
}

/* The listener waits for a hello, and lets go of whoever says something else. */
static void strangers(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[64];
	int fd;

	card_open(&f->a, f->listen);
	fd = unix_socket_connect(f->path, SOCK_SEQPACKET);
	assert_true(fd >= 0);
	assert_int_equal(send(fd, "Trapeze\2", 8, 0), 8);
	while (recv(fd, buf, sizeof(buf), 0) != 0)
		;
	close(fd);
	assert_false(net_is_up(f->a.net));
	/* The next is let in, and may send what it likes. */
	fd = unix_socket_connect(f->path, SOCK_SEQPACKET);
	assert_int_equal(send(fd, "Trapeze\1", 8, 0), 8);
	card_wait(&f->a, f->a.up);
	for (size_t n = 1; n <= sizeof(buf); n++) {
		memset(buf, 0xff, sizeof(buf));
		assert_int_equal(send(fd, buf, n, 0), (ssize_t)n);
	}
	memset(buf, 0, sizeof(buf));
	assert_int_equal(send(fd, buf, sizeof(buf), 0), sizeof(buf));
	card_wait(&f->a, f->a.nr_got == 1);
	assert_memory_equal(f->a.got[0].buf, buf, sizeof(buf));
	close(fd);
	card_wait(&f->a, !f->a.up);
	card_close(&f->a);
}

static void path_in_use(void **state)
{
	struct fixture *f = *state;
	char err[256] = "";
	struct net *n;

	card_open(&f->a, f->listen);
	assert_int_equal(net_open(&n, f->listen, err, sizeof(err)), -EADDRINUSE);
	assert_non_null(strstr(err, f->path));
	assert_non_null(strstr(err, "listens"));
	card_close(&f->a);
	assert_int_equal(access(f->path, F_OK), -1);
}

/* A lower bound, which a slow host cannot break. */
static void rate_limits_both_ways(void **state)
{
	struct fixture *f = *state;
	static struct frame frame;
	uint64_t start, ns;
	char text[200];

	card_open(&f->a, f->listen);
	snprintf(text, sizeof(text), "%s,rate=8M", f->connect);
	start = clock_ns();
	card_open(&f->b, text);
	card_wait(&f->a, f->a.up);
	card_wait(&f->b, f->b.up);
	frame_make(&frame, &(struct frame_shape){ .payload = 946 });
	for (unsigned i = 0; i < 300; i++) {
		card_send(&f->a, frame.buf, frame.len);
		card_send(&f->b, frame.buf, frame.len);
	}
	card_wait(&f->a, f->a.nr_got == 300);
	card_wait(&f->b, f->b.nr_got == 300);
	ns = clock_ns() - start;
	/* 300,000 bytes less the burst of 20,000 at 1,000,000 a second. */
	assert_true(ns > 250000000);
	part(f);
}

static void capture(void **state)
{
	struct fixture *f = *state;
	static struct frame frame;
	char text[200], path[80];
	uint32_t header[6], record[4];
	uint64_t before = clock_utc_ns(), at;
	static uint8_t buf[NET_MAX_FRAME];
	FILE *file;

	snprintf(path, sizeof(path), "%s/p", f->dir);
	snprintf(text, sizeof(text), "%s,pcap=%s", f->listen, path);
	card_open(&f->a, text);
	card_open(&f->b, f->connect);
	card_wait(&f->a, f->a.up);
	card_wait(&f->b, f->b.up);
	frame_make(&frame, &(struct frame_shape){ .payload = 30000, .mss = 1448 });
	card_send(&f->a, frame.buf, frame.len);
	card_wait(&f->b, f->b.nr_got == 21);
	frame_make(&frame, &(struct frame_shape){ .payload = 77 });
	card_send(&f->b, frame.buf, frame.len);
	card_wait(&f->a, f->a.nr_got == 1);
	part(f);

	file = fopen(path, "r");
	assert_non_null(file);
	assert_int_equal(fread(header, sizeof(header), 1, file), 1);
	assert_int_equal(header[0], 0xa1b23c4d);
	assert_int_equal(header[1], 4 << 16 | 2);
	assert_int_equal(header[5], 1);
	for (unsigned i = 0; i < 2; i++) {
		size_t payload = i ? 77 : 30000, len = 54 + payload;

		assert_int_equal(fread(record, sizeof(record), 1, file), 1);
		at = record[0] * 1000000000ull + record[1];
		assert_true(at >= before && at <= clock_utc_ns());
		assert_true(record[1] < 1000000000);
		assert_int_equal(record[2], len);
		assert_int_equal(record[3], len);
		assert_int_equal(fread(buf, len, 1, file), 1);
		frame_make(&frame, &(struct frame_shape){ .payload = payload });
		assert_memory_equal(buf, frame.buf + NET_HEADER, len);
	}
	assert_int_equal(fread(buf, 1, 1, file), 0);
	fclose(file);
	unlink(path);
}

static void capture_that_cannot_be(void **state)
{
	char err[256] = "";
	struct net *n;

	assert_int_equal(net_open(&n, "user,pcap=/nowhere/p", err, sizeof(err)), -ENOENT);
	assert_non_null(strstr(err, "pcap=/nowhere/p: No such file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(frames_arrive_in_order, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(offloads_pass_if_taken, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(card_without_room, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(malformed_frames_are_counted, make_folder,
		                                remove_folder),
		cmocka_unit_test_setup_teardown(link_comes_back, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(one_peer_only, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(strangers, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(path_in_use, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(rate_limits_both_ways, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(capture, make_folder, remove_folder),
		cmocka_unit_test(capture_that_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

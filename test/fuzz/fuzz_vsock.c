/*
 * A hostile driver of the socket device, and hostile programs at the unix sockets behind it. The
 * rounds of the device's thread are the input's, and the time that passes, too.
 *
 * Input: records of ten bytes, {what, which, value (8, little-endian)}; the last byte of all says
 * what has been done before. Checked beside the sanitizers: a packet for the guest fits
 * and is one that the standard has, streams are bounded, a reset ends all of them, and no
 * descriptor stays open.
 */
#include "base/thread.h"
#include "device/virtio/vsock_mux.h"

/* The file is compiled in here: records run the rounds of its thread, and its packets are looked
 * at. */
#define thread_start  start_no_thread
#define vsock_mux_new new_watched_mux
static int start_no_thread(pthread_t *thread, const char *name, void *(*fn)(void *), void *opaque);
static int new_watched_mux(struct vsock_mux **out, const char *path, uint32_t cid,
                           const struct vsock_mux_ops *ops, void *opaque, char *err, size_t errlen);
#include "../../src/device/virtio/vsock.c"
#undef vsock_mux_new

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>

#include "../unit/fake_time.h"
#include "base/unix_socket.h"
#include "hostile_driver.h"

#define RECORD_BYTES 10
#define MAX_RECORDS  1024
#define CID          7
#define PEERS        6
#define QUEUE_SIZE   8 /* start_driver()'s */
#define PORTS        3 /* from 1 on, that programs listen at */
#define PAYLOAD      (DATA + 0x40000)

static struct vsock *device;
static char folder[] = "/tmp/fuzz-vsock-XXXXXX", path[64];
static int peer[PEERS], listener[PORTS];

static int start_no_thread(pthread_t *thread, const char *name, void *(*fn)(void *), void *opaque)
{
	device = opaque;
	return 0;
}

/* What the device would have the guest read. */

static size_t promised; /* bytes of payload, by the last room() */

static size_t watched_room(void *opaque)
{
	promised = rx_room(opaque);
	return promised;
}

static void watched_put(void *opaque, const struct vsock_header *h, const uint8_t *data)
{
	check(promised && h->len <= promised && h->len <= VSOCK_MAX_PAYLOAD);
	check(h->op >= VSOCK_REQUEST && h->op <= VSOCK_CREDIT_REQUEST);
	check(h->op == VSOCK_RW ? h->len > 0 : h->len == 0);
	check(h->op == VSOCK_RST ||
	      (h->type == VSOCK_STREAM && h->src_cid == VSOCK_HOST_CID && h->dst_cid == CID));
	promised = 0;
	rx_put(opaque, h, data);
}

static int new_watched_mux(struct vsock_mux **out, const char *at, uint32_t cid,
                           const struct vsock_mux_ops *ops, void *opaque, char *err, size_t errlen)
{
	static const struct vsock_mux_ops watched = { .room = watched_room, .put = watched_put };

	return vsock_mux_new(out, at, cid, &watched, opaque, err, errlen);
}

/* Packets of the guest, and buffers for those to it. */

#define FIRST_PORT 0x40000001u /* that a program's stream gets */

/* Mostly of the two streams that open_streams() makes, both at the guest's port 1. */
static void choose_ports(struct vsock_header *h, uint64_t value)
{
	h->src_port = h->dst_port = 1;
	if ((value & 3) == 2)
		h->dst_port = FIRST_PORT;
	if ((value & 3) != 3)
		return;
	h->src_port = value >> 2 & 3;
	h->dst_port = value >> 4 & 1 ? FIRST_PORT + (value >> 5 & 3) : value >> 5 & 3;
}

/* A packet that has the form of one; the value: length, ports, flags, credit. */
static void send_packet(uint8_t which, uint64_t value)
{
	struct vsock_header h = { .src_cid = CID,
		                  .dst_cid = VSOCK_HOST_CID,
		                  .type = VSOCK_STREAM,
		                  .op = which & 15,
		                  .flags = value >> 16 & 3,
		                  .buf_alloc = (uint32_t)(value >> 18 & 0xffff)
		                               << (value >> 56 & 15),
		                  .fwd_cnt = (uint32_t)(value >> 34 & 0xffff) };
	uint32_t len = (uint32_t)(value & 0xff) << (which >> 4 & 7) << (value >> 62);

	choose_ports(&h, value >> 8 & 0xff);
	h.len = h.op == VSOCK_RW ? len : 0;
	if (value >> 60 & 1) /* a lie */
		memcpy((uint8_t *)&h + (value >> 50 & 31), &value, 4);
	put(PAYLOAD, &h, sizeof(h));
	put_chain(0, QUEUE_TX, PAYLOAD, (uint32_t)sizeof(h) + len, 0, 0);
}

static void offer_buffer(uint64_t value)
{
	uint32_t len =
	        (uint32_t)(value & 0xffff) + (value >> 16 & 1 ? sizeof(struct vsock_header) : 0);

	put_chain(0, QUEUE_RX, 0, 0, DATA + (value >> 32 & 0x3f) * 0x1000, len);
}

/* A guest that has room, for one round. */
static void receive(void)
{
	gpa_t rings = RINGS(0, QUEUE_RX);
	uint16_t offered = 0, used = 0;

	mem_read(world.mem, rings + AREA + 2, &offered, 2);
	mem_read(world.mem, rings + 2 * AREA + 2, &used, 2);
	if ((uint16_t)(offered - used) < QUEUE_SIZE)
		put_chain(0, QUEUE_RX, 0, 0, DATA, 0x1000);
	run_workers();
	run_once(device, true);
}

/* Programs. */

static void connect_program(uint8_t which)
{
	int *fd = &peer[which % 8 % PEERS];

	if (*fd < 0)
		*fd = unix_socket_connect(path, SOCK_STREAM);
	if (*fd < 0)
		*fd = -1;
}

static void accept_program(uint8_t which)
{
	int *fd = &peer[which % 8 % PEERS];

	if (*fd < 0)
		*fd = accept4(listener[(which >> 4) % PORTS], NULL, NULL,
		              SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/* A line as it should be, or bytes. */
static void say(uint8_t which, uint64_t value)
{
	static uint8_t bytes[0x10000];
	int fd = peer[which % 8 % PEERS];
	char line[32];

	if (fd < 0)
		return;
	if (which & 64) {
		snprintf(line, sizeof(line), "CONNECT %u\n", (unsigned)(value & 3));
		send(fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT);
	} else {
		memcpy(bytes, &value, sizeof(value));
		send(fd, bytes, which & 128 ? value >> 48 : value & 7, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
}

static void hear(uint8_t which, uint64_t value)
{
	static uint8_t bytes[0x10000];
	int fd = peer[which % 8 % PEERS];

	if (fd >= 0)
		recv(fd, bytes, value & 0xffff, MSG_DONTWAIT);
}

static void leave(uint8_t which, uint64_t value)
{
	int *fd = &peer[which % 8 % PEERS];

	if (*fd < 0)
		return;
	if (value & 1) {
		shutdown(*fd, value & 2 ? SHUT_WR : SHUT_RD);
		return;
	}
	close(*fd);
	*fd = -1;
}

/* The world. */

static void listen_at(unsigned n)
{
	char name[80];

	snprintf(name, sizeof(name), "%s_%u", path, n + 1);
	listener[n] = unix_socket_listen(name, SOCK_STREAM, 4);
	check(listener[n] >= 0);
}

/* Values of send_packet(), with credit. */
#define TO_PROGRAM (0xffffull << 18)
#define TO_STREAM  (0x200ull | 0xffffull << 18)

/* A stream that the guest has asked for, and one that a program has. */
static void open_streams(void)
{
	send_packet(VSOCK_REQUEST, TO_PROGRAM);
	receive();
	accept_program(0);
	connect_program(1);
	receive();
	say(64 | 1, 1);
	receive();
	send_packet(VSOCK_RESPONSE, TO_STREAM);
	receive();
}

/* What the input finds: nothing, a device that has been started in the plain layout, streams, too.
 */
static void begin(unsigned how, bool shortcuts)
{
	struct vsock_options options = { .path = path, .cid = CID };
	char err[256];

	world_begin(shortcuts);
	fake_nr_timers = 0;
	check(!virtio_vsock_add(&world.host, &world.bus, world.mem, &options, err, sizeof(err)));
	device->has_thread = false;
	world_plugged();
	memset(peer, 0xff, sizeof(peer));
	if (how == 0)
		return;
	start_driver(0, NR_QUEUES, 0);
	run_workers();
	if (how > 1)
		open_streams();
}

static void reset(void)
{
	bool running = device->running;

	write_register(0, COMMON(0x14), 1, 0);
	run_workers();
	/* Which the driver may have made impossible, by taking the BAR away. */
	check(device->running || !running || !vsock_mux_streams(device->mux));
}

static void end(void)
{
	for (unsigned i = 0; i < PEERS; i++)
		leave((uint8_t)i, 0);
	reset();
	world_end();
}

enum what {
	READ_REGISTER,
	WRITE_REGISTER,
	ACCESS_CONFIG,
	WRITE_MEMORY,
	WRITE_DESC,
	OFFER,
	START,
	RESET,
	ROUND,
	PACKET,
	BUFFER,
	RECEIVE,
	CONNECT,
	ACCEPT,
	SAY,
	HEAR,
	LEAVE,
	PASS_TIME,
	WHATS
};

static void run_record(const uint8_t *record)
{
	uint8_t which = record[1];
	gpa_t rings = RINGS(0, (which >> 4) % NR_QUEUES);
	uint64_t value;

	memcpy(&value, record + 2, sizeof(value));
	switch (record[0] % WHATS) {
	case READ_REGISTER:
	case WRITE_REGISTER:
		access_register(0, record[0] % WHATS == WRITE_REGISTER, which, value);
		break;
	case ACCESS_CONFIG:
		access_config(0, which & 128, which, value);
		break;
	case WRITE_MEMORY:
		put(rings + (value & 0x7fff), &value, 1 + (which & 7));
		break;
	case WRITE_DESC:
		write_desc(rings, which & 1, value);
		break;
	case OFFER:
		offer(rings, value);
		break;
	case START:
		start_driver(0, NR_QUEUES, value);
		run_workers();
		break;
	case RESET:
		reset();
		break;
	case ROUND:
		run_workers();
		run_once(device, true);
		break;
	case PACKET:
		send_packet(which, value);
		break;
	case BUFFER:
		offer_buffer(value);
		break;
	case RECEIVE:
		receive();
		break;
	case CONNECT:
		connect_program(which);
		break;
	case ACCEPT:
		accept_program(which);
		break;
	case SAY:
		say(which, value);
		break;
	case HEAR:
		hear(which, value);
		break;
	case LEAVE:
		leave(which, value);
		break;
	case PASS_TIME:
		fake_advance(value >> 28);
		break;
	}
	check(vsock_mux_streams(device->mux) <= VSOCK_MAX_STREAMS);
}

static void clean_up(void)
{
	char name[80];

	for (unsigned i = 0; i < PORTS; i++) {
		snprintf(name, sizeof(name), "%s_%u", path, i + 1);
		unlink(name);
	}
	rmdir(folder);
}

/* The number that the next descriptor gets. */
static int next_fd(void)
{
	int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);

	check(fd >= 0);
	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int before, fd;

	if (!*path) {
		check(mkdtemp(folder));
		atexit(clean_up);
		snprintf(path, sizeof(path), "%s/v", folder);
		for (unsigned i = 0; i < PORTS; i++)
			listen_at(i);
	}
	before = next_fd();
	begin(size ? data[size - 1] & 3 : 3, size && data[size - 1] & 4);
	for (size_t i = 0; i < MAX_RECORDS && (i + 1) * RECORD_BYTES <= size; i++)
		run_record(data + i * RECORD_BYTES);
	end();
	/* Connections that nobody took are the next input's otherwise. */
	for (unsigned i = 0; i < PORTS; i++)
		while ((fd = accept(listener[i], NULL, NULL)) >= 0)
			close(fd);
	check(next_fd() == before);
	return 0;
}

/*
 * A hostile driver of the network card and hostile frames on its wire. The backend is the fuzzer's:
 * it checks what it is given, and finishes every frame as a real one does.
 *
 * Input: records of ten bytes, {what, which, value (8, little-endian)}.
 */
#include "device/virtio/net.h"
#include "hostile_driver.h"
#include "net/offload.h"

#define RECORD_BYTES 10
#define MAX_RECORDS  1024
#define MAX_QUEUES   5
#define DATA         0x200000ull /* pages of buffers: 256 */

struct net {
	const struct net_card_ops *ops;
	void *card;
	bool kicked, resumed, refuses;
	unsigned sent;
};

static struct net wire;
static unsigned pairs;
static uint8_t frame[NET_HEADER + NET_MAX_FRAME], scratch[NET_HEADER + NET_MAX_FRAME];

/* The backend. */

void net_close(struct net *n)
{
	n->card = NULL;
}

int net_attach(struct net *n, const struct net_card_ops *ops, void *card)
{
	n->ops = ops;
	n->card = card;
	return 0;
}

void net_get_info(const struct net *n, struct net_info *info)
{
	*info = (struct net_info){ .kind = "fuzz", .mtu = 1500 };
}

bool net_is_up(struct net *n)
{
	return true;
}

void net_set_offloads(struct net *n, unsigned takes)
{
	check(!(takes &
	        ~(unsigned)(NET_TAKES_CHECKSUM | NET_TAKES_TSO4 | NET_TAKES_TSO6 | NET_TAKES_ECN)));
}

void net_kick(struct net *n)
{
	n->kicked = true;
}

void net_resume(struct net *n)
{
	n->resumed = true;
}

struct cut {
	const uint8_t *whole;
	size_t payload, headers;
	uint16_t mss;
};

static bool check_cut(void *opaque, uint8_t *buf, size_t n)
{
	struct cut *c = opaque;
	struct net_header h;

	memcpy(&h, buf, sizeof(h));
	check(!offload_check(buf, n) && h.gso_type == NET_GSO_NONE);
	check(n > NET_HEADER + c->headers && n - NET_HEADER - c->headers <= c->mss);
	c->payload += n - NET_HEADER - c->headers;
	return true;
}

/* Whatever offload_check() lets pass can be finished in the memory that it has. */
static void finish_frame(const uint8_t *buf, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1);
	struct net_header h;

	memcpy(copy, buf, n);
	if (!offload_check(copy, n)) {
		memcpy(&h, copy, sizeof(h));
		if (h.gso_type != NET_GSO_NONE) {
			struct cut c = { .whole = copy, .mss = h.gso_size };

			c.headers = h.csum_start + (copy[NET_HEADER + h.csum_start + 12] >> 4) * 4u;
			offload_segment(copy, n, scratch, check_cut, &c);
			check(c.payload == n - NET_HEADER - c.headers);
		}
		offload_checksum(copy, n);
	}
	free(copy);
}

bool net_send(struct net *n, const struct iovec *iov, unsigned nr_iov)
{
	size_t len = 0;

	if (n->refuses)
		return false;
	check(nr_iov <= NET_MAX_IOV);
	for (unsigned i = 0; i < nr_iov; i++) {
		check_host(world.mem, (uintptr_t)iov[i].iov_base, (unsigned)iov[i].iov_len, false);
		if (iov[i].iov_len > sizeof(frame) - len)
			return true;
		memcpy(frame + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	n->sent++;
	finish_frame(frame, len);
	return true;
}

/* The world's side. */

/* A frame for the guest; of the value: length, kind, addresses. */
static void receive(uint64_t value, uint8_t which)
{
	size_t len = NET_HEADER + NET_MIN_FRAME + (value & 0xffff);
	uint8_t *e = frame + NET_HEADER;

	memset(frame, (int)which, sizeof(frame));
	memset(frame, 0, NET_HEADER);
	memcpy(e, &value, 6);
	e[12] = which & 1 ? 0x81 : 0x08;
	e[13] = 0;
	if (len > sizeof(frame))
		len = sizeof(frame);
	if (wire.card)
		wire.ops->receive(wire.card, frame, len);
}

static void offer_chain(unsigned queue, unsigned place, uint64_t value)
{
	uint16_t index = 0;

	mem_read(world.mem, RINGS(0, queue) + AREA + 2, &index, 2);
	offer(RINGS(0, queue),
	      (place & 15) | (uint64_t)(index & 7) << 8 | (uint64_t)(uint16_t)(index + 1) << 16);
	write_register(0, PAGE_NOTIFY + 4 * queue, 2, queue);
}

struct descriptor {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

static void put_chain(unsigned queue, uint64_t out, uint32_t out_len, uint64_t in, uint32_t in_len)
{
	struct descriptor d[2] = {
		{ out, out_len, in_len ? 1 : 0, 1 },
		{ in, in_len, 2, 0 },
	};

	if (!out_len)
		put(RINGS(0, queue), &d[1], sizeof(d[1]));
	else
		put(RINGS(0, queue), d, sizeof(d));
	offer_chain(queue, 0, 0);
}

/* A command for the control queue: class, number, and the value's other bytes as its data. */
static void command(uint8_t which, uint64_t value)
{
	uint8_t bytes[10] = { which & 7, which >> 3 & 7 };

	memcpy(bytes + 2, &value, sizeof(value));
	put(DATA, bytes, sizeof(bytes));
	put_chain(which & 128 ? 4 : 2, DATA,
	          which & 64 ? 2 + (value >> 56) * 64 : 2 + (value >> 60), DATA + 0x10000, 1);
}

static void offer_buffer(unsigned queue, uint64_t value)
{
	put_chain(queue, 0, 0, DATA + (value & 0xff000), (uint32_t)(value >> 32 & 0x1ffff));
}

/* A frame to send: a header and the start of the frame from the value. */
static void send_frame(unsigned queue, uint8_t which, uint64_t value)
{
	static const uint8_t tcp4[] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45 };
	struct net_header h = { .flags = which & 3,
		                .gso_type = which >> 2 & 7,
		                .gso_size = (uint16_t)value,
		                .csum_start = 34,
		                .csum_offset = 16 };
	uint16_t len = (uint16_t)(value >> 16);
	uint8_t ip[40] = { 0x45, 0, (uint8_t)(len >> 8), (uint8_t)len, [9] = 6, [32] = 0x50 };

	put(DATA + 0x40000, &h, sizeof(h));
	put(DATA + 0x40000 + NET_HEADER, tcp4, sizeof(tcp4));
	put(DATA + 0x40000 + NET_HEADER + 14, ip, sizeof(ip));
	if (which & 32) /* and somewhere in it something else */
		put(DATA + 0x40000 + (value >> 56 & 63), (uint8_t *)&value + 4, 2);
	put_chain(queue, DATA + 0x40000, (uint32_t)(NET_HEADER + 14 + len + (which >> 6)), 0, 0);
}

enum what {
	READ_REGISTER,
	WRITE_REGISTER,
	READ_CONFIG,
	WRITE_CONFIG,
	WRITE_MEMORY,
	WRITE_DESC,
	OFFER,
	NOTIFY,
	START,
	RESET,
	RUN,
	TRANSMIT,
	RECEIVE,
	LINK,
	COMMAND,
	BUFFER,
	SEND,
	REFUSE,
	WHATS
};

static void run_record(const uint8_t *record)
{
	uint8_t which = record[1];
	unsigned queues = 2 * pairs + 1, queue = (which >> 4 & 7) % queues;
	gpa_t rings = RINGS(0, queue);
	uint64_t value;

	memcpy(&value, record + 2, sizeof(value));
	switch (record[0] % WHATS) {
	case READ_REGISTER:
	case WRITE_REGISTER:
		access_register(0, record[0] % WHATS == WRITE_REGISTER, which, value);
		break;
	case READ_CONFIG:
	case WRITE_CONFIG:
		access_config(0, record[0] % WHATS == WRITE_CONFIG, which, value);
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
	case NOTIFY:
		write_register(0, PAGE_NOTIFY + 4 * queue, 2, queue);
		break;
	case START:
		start(0, queues, value);
		break;
	case RESET:
		write_register(0, COMMON(0x14), 1, 0);
		break;
	case RUN:
		run_workers();
		break;
	case TRANSMIT:
		if (wire.card)
			wire.ops->transmit(wire.card);
		break;
	case RECEIVE:
		receive(value, which);
		break;
	case LINK:
		wire.ops->link(wire.card, value & 1);
		break;
	case COMMAND:
		command(which, value);
		break;
	case BUFFER:
		offer_buffer(queue & ~1u, value);
		break;
	case SEND:
		send_frame(queue | 1, which, value);
		break;
	case REFUSE:
		wire.refuses = value & 1;
		break;
	}
}

/* The frame as it is: the input's first byte says which of the two. */
static void run_frame(const uint8_t *data, size_t size)
{
	if (size <= NET_HEADER + NET_MAX_FRAME)
		finish_frame(data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct net_card card = { .has_mac = true, .mac = { 2, 0, 0, 0, 0, 1 } };

	if (!size || data[0] & 1) {
		run_frame(data + 1, size ? size - 1 : 0);
		return 0;
	}
	pairs = card.queues = 1 + (data[0] >> 1 & 1);
	world_begin(data[0] & 4);
	wire = (struct net){ 0 };
	check(!virtio_net_add(&world.host, &world.bus, world.mem, &wire, &card));
	world_plugged();
	data++, size--;
	for (size_t i = 0; i < MAX_RECORDS && (i + 1) * RECORD_BYTES <= size; i++)
		run_record(data + i * RECORD_BYTES);
	world_end();
	check(!wire.card);
	return 0;
}

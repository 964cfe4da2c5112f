/*
 * Frames for the driver: which it wants, on which queue, and into which buffers.
 */
#include <string.h>

#include "device/virtio/net_private.h"

#define TYPE_IPV4 0x0800
#define TYPE_IPV6 0x86dd
#define TYPE_VLAN 0x8100

static unsigned get16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

/* The addresses and, behind a header without options, the ports, added up. */
unsigned net_flow(const uint8_t *frame, size_t len)
{
	size_t at = 12, from, to;
	unsigned type, sum = 0;

	if (len >= 18 && get16(frame + at) == TYPE_VLAN)
		at += 4;
	type = len >= at + 2 ? get16(frame + at) : 0;
	if (type != TYPE_IPV4 && type != TYPE_IPV6)
		return 0;
	from = at + 2 + (type == TYPE_IPV4 ? 12 : 8);
	to = from + (type == TYPE_IPV4 ? 8 : 32) + 4;
	if (len < to)
		return 0;
	for (; from < to; from += 2)
		sum += get16(frame + from);
	return (sum + (sum >> 8)) % NET_FLOWS;
}

/* What is wanted. */

static bool has_mac(const struct virtio_net *n, const uint8_t *mac)
{
	if (!memcmp(n->config.mac, mac, NET_MAC))
		return true;
	for (unsigned i = 0; i < n->filter.nr_macs; i++)
		if (!memcmp(n->filter.macs[i], mac, NET_MAC))
			return true;
	return false;
}

static bool wants_address(const struct virtio_net *n, const uint8_t *to)
{
	static const uint8_t broadcast[NET_MAC] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	const struct net_filter *f = &n->filter;

	if (f->promiscuous)
		return true;
	if (!memcmp(to, broadcast, NET_MAC))
		return !f->no_broadcast;
	if (to[0] & 1)
		return !f->no_multicast && (f->all_multicast || has_mac(n, to));
	return !f->no_unicast && (f->all_unicast || has_mac(n, to));
}

bool net_wants(struct virtio_net *n, const uint8_t *frame, size_t len)
{
	bool wants;

	pthread_mutex_lock(&n->state_lock);
	wants = wants_address(n, frame);
	if (wants && n->features & NET_F_CTRL_VLAN && len >= 18 && get16(frame + 12) == TYPE_VLAN) {
		unsigned vlan = get16(frame + 14) % NET_VLANS;

		wants = n->filter.vlans[vlan / 64] & BIT(vlan % 64);
	}
	pthread_mutex_unlock(&n->state_lock);
	return wants;
}

/* Buffers. */

struct taken {
	struct vq_chain chain[NET_MAX_CHAINS];
	struct vq_used used[NET_MAX_CHAINS];
	unsigned nr, iov;
	uint64_t room;
};

enum take { TAKE_DONE, TAKE_STARVED, TAKE_NEVER };

/* Whether buffers came in before the driver knew that it is to ring. */
static bool ask_for_buffers(struct virtio_net *n, struct vq *q, unsigned pair)
{
	atomic_fetch_or(&n->starved, BIT(pair));
	if (!vq_want_kicks(q, true))
		return false;
	atomic_fetch_and(&n->starved, ~BIT(pair));
	return true;
}

/* The driver is asked to ring while the ring is drained: once chains are back in it, it would never
 * look empty. */
static enum take take_chains(struct virtio_net *n, unsigned pair, uint64_t need, struct taken *t)
{
	struct vq *q = net_rx_queue(n, pair);

	while (t->room < need) {
		struct vq_chain *c = &t->chain[t->nr];

		if (t->nr == NET_MAX_CHAINS || t->iov == NET_IOV)
			return TAKE_NEVER;
		*c = (struct vq_chain){ .iov = n->rx_iov + t->iov, .max = NET_IOV - t->iov };
		if (!vq_pop(q, c)) {
			if (ask_for_buffers(n, q, pair))
				continue;
			/* The whole ring is not enough: waiting would not help. */
			return t->nr < q->s.size ? TAKE_STARVED : TAKE_NEVER;
		}
		t->nr++;
		t->iov += c->out.nr + c->in.nr;
		t->room += c->in.len;
		if (t->room < need && !(n->features & NET_F_MRG_RXBUF))
			return TAKE_NEVER;
	}
	return TAKE_DONE;
}

static void put_back(struct vq *q, struct taken *t)
{
	while (t->nr)
		vq_unpop(q, &t->chain[--t->nr]);
}

static void fill(struct virtio_net *n, struct taken *t, const uint8_t *buf, size_t len)
{
	struct net_header h;
	uint64_t at = 0;

	for (unsigned i = 0; i < t->nr; i++) {
		const struct vq_chain *c = &t->chain[i];
		uint64_t part = dma_write(&c->in, n->card.v.mem, 0, buf + at, len - at);

		t->used[i] = (struct vq_used){ c->id, c->slots, (uint32_t)part };
		at += part;
	}
	memcpy(&h, buf, sizeof(h));
	h.num_buffers = (uint16_t)t->nr;
	dma_write(&t->chain[0].in, n->card.v.mem, 0, &h, sizeof(h));
}

static bool deliver(struct virtio_net *n, unsigned pair, const uint8_t *buf, size_t len)
{
	struct vq *q = net_rx_queue(n, pair);
	struct taken t;
	enum take result;

	t.nr = t.iov = 0;
	t.room = 0;
	result = take_chains(n, pair, len, &t);
	if (result == TAKE_DONE) {
		fill(n, &t, buf, len);
		vq_push_list(q, t.used, t.nr);
		return true;
	}
	put_back(q, &t);
	if (result == TAKE_NEVER)
		atomic_fetch_add(&n->dropped, 1);
	return result == TAKE_NEVER;
}

static bool receive_running(struct virtio_net *n, const uint8_t *buf, size_t len)
{
	const uint8_t *frame = buf + NET_HEADER;
	unsigned pairs = n->pairs, pair = 0;

	if (!net_wants(n, frame, len - NET_HEADER)) {
		atomic_fetch_add(&n->dropped, 1);
		return true;
	}
	if (pairs > 1)
		pair = n->flow[net_flow(frame, len - NET_HEADER)] % pairs;
	return deliver(n, pair, buf, len);
}

bool net_receive(void *card, const uint8_t *buf, size_t len)
{
	struct virtio_net *n = card;
	bool taken = true;

	/* A backend may answer a frame before net_send() returns. */
	if (!n->transmitting)
		pthread_mutex_lock(&n->ring_lock);
	if (n->running)
		taken = receive_running(n, buf, len);
	if (!n->transmitting)
		pthread_mutex_unlock(&n->ring_lock);
	return taken;
}

/*
 * The control queue (5.1.6.5): a table of commands, each with the length that it needs.
 */
#include <endian.h>
#include <string.h>

#include "device/virtio/net_private.h"

#define CONTROL_OK    0
#define CONTROL_ERR   1
#define MAX_LISTED    512 /* addresses in a command; we keep NET_MAX_MACS */
#define CONTROL_BYTES (2 + 2 * 4 + MAX_LISTED * NET_MAC)

/* A command's data, copied. */
struct command {
	const uint8_t *data;
	size_t len;
};

/* Receive mode, 5.1.6.5.1 */

static bool set_mode(struct virtio_net *n, const struct command *c, bool *mode)
{
	*mode = c->data[0];
	return true;
}

static bool set_promiscuous(struct virtio_net *n, const struct command *c)
{
	return set_mode(n, c, &n->filter.promiscuous);
}

static bool set_all_multicast(struct virtio_net *n, const struct command *c)
{
	return set_mode(n, c, &n->filter.all_multicast);
}

static bool set_all_unicast(struct virtio_net *n, const struct command *c)
{
	return set_mode(n, c, &n->filter.all_unicast);
}

static bool set_no_multicast(struct virtio_net *n, const struct command *c)
{
	return set_mode(n, c, &n->filter.no_multicast);
}

static bool set_no_unicast(struct virtio_net *n, const struct command *c)
{
	return set_mode(n, c, &n->filter.no_unicast);
}

static bool set_no_broadcast(struct virtio_net *n, const struct command *c)
{
	return set_mode(n, c, &n->filter.no_broadcast);
}

/* Addresses, 5.1.6.5.2 */

/* One list of the two; its bytes, or 0 when it is malformed. What does not fit is made good by
 * taking all of its kind. */
static size_t read_macs(struct net_filter *f, const uint8_t *p, size_t len, bool *all)
{
	uint32_t count;

	if (len < sizeof(count))
		return 0;
	memcpy(&count, p, sizeof(count));
	count = le32toh(count);
	if (count > (len - sizeof(count)) / NET_MAC)
		return 0;
	*all = false;
	for (uint32_t i = 0; i < count; i++) {
		if (f->nr_macs == NET_MAX_MACS)
			*all = true;
		else
			memcpy(f->macs[f->nr_macs++], p + sizeof(count) + (size_t)i * NET_MAC,
			       NET_MAC);
	}
	return sizeof(count) + (size_t)count * NET_MAC;
}

static bool set_macs(struct virtio_net *n, const struct command *c)
{
	struct net_filter f = n->filter;
	bool unicast = false, multicast = false;
	size_t first, second;

	f.nr_macs = 0;
	first = read_macs(&f, c->data, c->len, &unicast);
	second = first ? read_macs(&f, c->data + first, c->len - first, &multicast) : 0;
	if (!second || first + second != c->len)
		return false;
	f.all_unicast |= unicast;
	f.all_multicast |= multicast;
	n->filter = f;
	return true;
}

static bool set_mac(struct virtio_net *n, const struct command *c)
{
	memcpy(n->config.mac, c->data, NET_MAC);
	return true;
}

/* VLANs, 5.1.6.5.3 */

static bool set_vlan(struct virtio_net *n, const struct command *c, bool on)
{
	unsigned vlan = c->data[0] | (unsigned)c->data[1] << 8;

	if (vlan >= NET_VLANS)
		return false;
	if (on)
		n->filter.vlans[vlan / 64] |= BIT(vlan % 64);
	else
		n->filter.vlans[vlan / 64] &= ~BIT(vlan % 64);
	return true;
}

static bool add_vlan(struct virtio_net *n, const struct command *c)
{
	return set_vlan(n, c, true);
}

static bool remove_vlan(struct virtio_net *n, const struct command *c)
{
	return set_vlan(n, c, false);
}

/* The rest. */

static bool acknowledge_announce(struct virtio_net *n, const struct command *c)
{
	n->config.status &= (uint16_t)~NET_S_ANNOUNCE;
	return true;
}

static bool set_pairs(struct virtio_net *n, const struct command *c)
{
	unsigned pairs = c->data[0] | (unsigned)c->data[1] << 8;

	if (pairs < 1 || pairs > n->max_pairs)
		return false;
	n->pairs = pairs;
	net_kick(n->net);
	return true;
}

static bool set_offloads(struct virtio_net *n, const struct command *c)
{
	const uint64_t known =
	        NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN;
	uint64_t bits;

	memcpy(&bits, c->data, sizeof(bits));
	bits = le64toh(bits);
	if (bits & ~(known & n->features))
		return false;
	net_tell_offloads(n, bits);
	return true;
}

static const struct row {
	uint8_t class, number;
	uint64_t feature;
	size_t len; /* of the data; 0: any */
	bool (*run)(struct virtio_net *n, const struct command *c);
} commands[] = {
	{ 0, 0, NET_F_CTRL_RX, 1, set_promiscuous },
	{ 0, 1, NET_F_CTRL_RX, 1, set_all_multicast },
	{ 0, 2, NET_F_CTRL_RX_MORE, 1, set_all_unicast },
	{ 0, 3, NET_F_CTRL_RX_MORE, 1, set_no_multicast },
	{ 0, 4, NET_F_CTRL_RX_MORE, 1, set_no_unicast },
	{ 0, 5, NET_F_CTRL_RX_MORE, 1, set_no_broadcast },
	{ 1, 0, NET_F_CTRL_RX, 0, set_macs },
	{ 1, 1, NET_F_CTRL_MAC, NET_MAC, set_mac },
	{ 2, 0, NET_F_CTRL_VLAN, 2, add_vlan },
	{ 2, 1, NET_F_CTRL_VLAN, 2, remove_vlan },
	{ 3, 0, NET_F_ANNOUNCE, 0, acknowledge_announce },
	{ 4, 0, NET_F_MQ, 2, set_pairs },
	{ 5, 0, NET_F_OFFLOADS, 8, set_offloads },
};

static bool run(struct virtio_net *n, const uint8_t *buf, size_t len)
{
	struct command c;
	bool good = false;

	if (len < 2)
		return false;
	c = (struct command){ buf + 2, len - 2 };
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct row *r = &commands[i];

		if (r->class != buf[0] || r->number != buf[1] || !(n->features & r->feature))
			continue;
		if (r->len && r->len != c.len)
			return false;
		pthread_mutex_lock(&n->state_lock);
		good = r->run(n, &c);
		pthread_mutex_unlock(&n->state_lock);
		return good;
	}
	return false;
}

static void answer(struct virtio_net *n, struct vq *q, const struct vq_chain *c)
{
	uint8_t buf[CONTROL_BYTES], ack = CONTROL_ERR;
	uint64_t len = dma_read(&c->out, 0, buf, sizeof(buf));

	if (len == c->out.len && run(n, buf, len))
		ack = CONTROL_OK;
	vq_push(q, c, (uint32_t)dma_write(&c->in, n->card.v.mem, 0, &ack, sizeof(ack)));
}

void net_control(struct virtio_net *n)
{
	struct vq *q = &n->card.v.vq[net_control_index(n)];
	struct vq_chain c = { .iov = n->control_iov, .max = NET_IOV };

	do {
		vq_want_kicks(q, false);
		while (vq_pop(q, &c))
			answer(n, q, &c);
	} while (vq_want_kicks(q, true));
}

/* Until the driver says something, and with one that cannot, everything is wanted. */
void net_filter_reset(struct virtio_net *n)
{
	n->filter = (struct net_filter){ .promiscuous = true };
	n->config.status &= (uint16_t)~NET_S_ANNOUNCE;
	memcpy(n->config.mac, n->own_mac, NET_MAC);
}

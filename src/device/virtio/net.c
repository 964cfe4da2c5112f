#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "device/virtio/net_private.h"

#define ID_NETWORK         1
#define PCI_CLASS_ETHERNET 0x0200

#define OFFERED                                                                              \
	(NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_OFFLOADS | NET_F_MTU | NET_F_MAC |            \
	 NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN | NET_F_HOST_TSO4 |           \
	 NET_F_HOST_TSO6 | NET_F_HOST_ECN | NET_F_MRG_RXBUF | NET_F_STATUS | NET_F_CTRL_VQ | \
	 NET_F_CTRL_RX | NET_F_CTRL_VLAN | NET_F_CTRL_RX_MORE | NET_F_ANNOUNCE | NET_F_CTRL_MAC)

void net_tell_offloads(struct virtio_net *n, uint64_t bits)
{
	unsigned takes = 0;

	if (bits & NET_F_GUEST_CSUM)
		takes |= NET_TAKES_CHECKSUM;
	if (bits & NET_F_GUEST_TSO4)
		takes |= NET_TAKES_TSO4;
	if (bits & NET_F_GUEST_TSO6)
		takes |= NET_TAKES_TSO6;
	if (bits & NET_F_GUEST_ECN)
		takes |= NET_TAKES_ECN;
	net_set_offloads(n->net, takes);
}

/* The worker's side. */

static void start(void *dev)
{
	struct virtio_net *n = dev;
	uint64_t features;

	virtio_lock(&n->card.v);
	features = n->card.v.s.features;
	virtio_unlock(&n->card.v);
	net_tell_offloads(n, features);
	pthread_mutex_lock(&n->ring_lock);
	n->features = features;
	n->pairs = 1;
	n->starved = 0;
	n->running = true;
	pthread_mutex_unlock(&n->ring_lock);
	net_resume(n->net);
	net_kick(n->net);
}

/* The backend's thread keeps no chain between its callbacks. */
static void stop(void *dev)
{
	struct virtio_net *n = dev;

	pthread_mutex_lock(&n->ring_lock);
	n->running = false;
	pthread_mutex_unlock(&n->ring_lock);
	pthread_mutex_lock(&n->state_lock);
	net_filter_reset(n);
	pthread_mutex_unlock(&n->state_lock);
	net_tell_offloads(n, 0);
}

static void kick(void *dev, unsigned queue)
{
	struct virtio_net *n = dev;

	if (queue == net_control_index(n)) {
		net_control(n);
	} else if (queue % 2) {
		net_kick(n->net);
	} else {
		vq_want_kicks(&n->card.v.vq[queue], false);
		if (atomic_fetch_and(&n->starved, ~BIT(queue / 2)) & BIT(queue / 2))
			net_resume(n->net);
	}
}

static void free_net(void *dev)
{
	struct virtio_net *n = dev;

	net_close(n->net);
	pthread_mutex_destroy(&n->ring_lock);
	pthread_mutex_destroy(&n->state_lock);
	free(n);
}

/* Configuration; bus.lock is held. */

static void config_read(void *dev, uint32_t off, void *buf, unsigned size)
{
	struct virtio_net *n = dev;

	pthread_mutex_lock(&n->state_lock);
	memcpy(buf, (const uint8_t *)&n->config + off, size);
	pthread_mutex_unlock(&n->state_lock);
}

/* A wire that comes back may lead elsewhere: the driver is to tell the others where it is. */
static void link_changed(void *card, bool up)
{
	struct virtio_net *n = card;
	bool announce;

	pthread_mutex_lock(&n->ring_lock);
	announce = up && n->steady && n->running && n->features & NET_F_ANNOUNCE;
	n->steady |= up;
	virtio_lock(&n->card.v);
	pthread_mutex_lock(&n->state_lock);
	n->config.status = (uint16_t)((up ? NET_S_LINK_UP : 0) | (announce ? NET_S_ANNOUNCE : 0));
	pthread_mutex_unlock(&n->state_lock);
	virtio_config_changed_locked(&n->card.v);
	virtio_unlock(&n->card.v);
	pthread_mutex_unlock(&n->ring_lock);
}

static const struct net_card_ops card_ops = {
	.receive = net_receive,
	.transmit = net_transmit,
	.link = link_changed,
};

static const struct virtio_ops net_ops = {
	.name = "net",
	.id = ID_NETWORK,
	.pci_class = PCI_CLASS_ETHERNET,
	.config_len = sizeof(struct net_config),
	.config_read = config_read,
	.start = start,
	.kick = kick,
	.stop = stop,
	.free = free_net,
};

/* Construction. */

static int choose_mac(struct virtio_net *n, const struct net_card *card)
{
	static const uint8_t local[] = { 0x52, 0x54, 0x00 };

	memcpy(n->own_mac, card->mac, NET_MAC);
	if (card->has_mac)
		return 0;
	memcpy(n->own_mac, local, sizeof(local));
	if (getrandom(n->own_mac + sizeof(local), NET_MAC - sizeof(local), 0) !=
	    NET_MAC - sizeof(local))
		return -EAGAIN;
	return 0;
}

static struct virtio_net *make(struct net *net, const struct net_card *card)
{
	struct virtio_net *n = calloc(1, sizeof(*n));
	struct net_info info;

	if (!n || choose_mac(n, card)) {
		free(n);
		return NULL;
	}
	net_get_info(net, &info);
	n->net = net;
	n->max_pairs = card->queues;
	n->steady = net_is_up(net);
	n->config.status = n->steady ? NET_S_LINK_UP : 0;
	n->config.max_pairs = (uint16_t)n->max_pairs;
	n->config.mtu = info.mtu;
	pthread_mutex_init(&n->ring_lock, NULL);
	pthread_mutex_init(&n->state_lock, NULL);
	net_filter_reset(n);
	return n;
}

int virtio_net_add(struct pci_host *host, struct bus *bus, struct mem *mem, struct net *net,
                   const struct net_card *card)
{
	struct virtio_config config = {
		.ops = &net_ops,
		.mem = mem,
		.bus = bus,
		.features = OFFERED | (card->queues > 1 ? NET_F_MQ : 0),
		.nr_queues = 2 * card->queues + 1,
		.queue_size = VIRTIO_QUEUE_SIZE,
	};
	struct virtio_net *n = make(net, card);
	int rc;

	if (!n) {
		net_close(net);
		return -ENOMEM;
	}
	config.dev = n;
	rc = virtio_pci_init(&n->card, host, &config);
	if (rc)
		free_net(n);
	return rc ? rc : net_attach(net, &card_ops, n);
}

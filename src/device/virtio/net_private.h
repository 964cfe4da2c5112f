/*
 * The parts of the virtio network card.
 *
 * Threads: rings of frames belong to the backend's thread (receive(), transmit()), the control
 * queue to the worker, the configuration to vCPUs.
 *
 * Locks: ring_lock is held in the backend's callbacks, and says whether they may touch the rings
 * (`running`); the worker takes it to start and stop them. state_lock protects what the driver has
 * set up (struct net_filter) and the configuration. Order: ring_lock < bus.lock < state_lock.
 */
#pragma once

#include "device/virtio/net.h"
#include "net/offload.h"

/* Features, 5.1.3 */
#define NET_F_CSUM         BIT(0)
#define NET_F_GUEST_CSUM   BIT(1)
#define NET_F_OFFLOADS     BIT(2) /* changes of GUEST_ ones at any time */
#define NET_F_MTU          BIT(3)
#define NET_F_MAC          BIT(5)
#define NET_F_GUEST_TSO4   BIT(7)
#define NET_F_GUEST_TSO6   BIT(8)
#define NET_F_GUEST_ECN    BIT(9)
#define NET_F_HOST_TSO4    BIT(11)
#define NET_F_HOST_TSO6    BIT(12)
#define NET_F_HOST_ECN     BIT(13)
#define NET_F_MRG_RXBUF    BIT(15)
#define NET_F_STATUS       BIT(16)
#define NET_F_CTRL_VQ      BIT(17)
#define NET_F_CTRL_RX      BIT(18)
#define NET_F_CTRL_VLAN    BIT(19)
#define NET_F_CTRL_RX_MORE BIT(20)
#define NET_F_ANNOUNCE     BIT(21)
#define NET_F_MQ           BIT(22)
#define NET_F_CTRL_MAC     BIT(23)

/* 5.1.4 */
struct net_config {
	uint8_t mac[NET_MAC];
	uint16_t status;
	uint16_t max_pairs;
	uint16_t mtu;
} __attribute__((packed));

#define NET_S_LINK_UP  1
#define NET_S_ANNOUNCE 2

#define NET_MAX_MACS 64
#define NET_VLANS    4096
#define NET_FLOWS    256  /* a power of two */
#define NET_IOV      1024 /* buffers of the chains in hand */
#define NET_MAX_CHAINS \
	64 /* of one received frame: the longest in buffers of 1526 bytes, and more */

/* What frames the driver wants, as it has said over the control queue. */
struct net_filter {
	bool promiscuous, all_multicast, all_unicast;
	bool no_multicast, no_unicast, no_broadcast;
	unsigned nr_macs;
	uint8_t macs[NET_MAX_MACS][NET_MAC];
	uint64_t vlans[NET_VLANS / 64];
};

struct virtio_net {
	struct virtio_pci card;
	struct net *net;
	unsigned max_pairs;

	pthread_mutex_t ring_lock;
	bool running;
	bool transmitting;       /* the backend's thread holds the lock already */
	bool steady;             /* the wire has been up before */
	uint64_t features;       /* set with ring_lock held, before running */
	uint8_t flow[NET_FLOWS]; /* the pair that last sent of a flow */
	struct iovec rx_iov[NET_IOV], tx_iov[NET_IOV];
	_Atomic unsigned pairs;   /* in use */
	_Atomic uint64_t dropped; /* received, but unwanted or not to be had */
	_Atomic uint64_t starved; /* rings of which a driver's doorbell is awaited, by pair */

	pthread_mutex_t state_lock;
	struct net_config config;
	uint8_t own_mac[NET_MAC]; /* after a reset */
	struct net_filter filter;

	struct iovec control_iov[NET_IOV];
};

static inline struct vq *net_rx_queue(struct virtio_net *n, unsigned pair)
{
	return &n->card.v.vq[2 * pair];
}

static inline struct vq *net_tx_queue(struct virtio_net *n, unsigned pair)
{
	return &n->card.v.vq[2 * pair + 1];
}

/* 5.1.2 */
static inline unsigned net_control_index(const struct virtio_net *n)
{
	return n->features & NET_F_MQ ? 2 * n->max_pairs : 2;
}

/* For flows: the same in both directions. From 0 to NET_FLOWS - 1. */
unsigned net_flow(const uint8_t *frame, size_t len);
/* Whether the driver wants a frame; state_lock is taken. */
bool net_wants(struct virtio_net *n, const uint8_t *frame, size_t len);
/* The state after a reset; state_lock is held. */
void net_filter_reset(struct virtio_net *n);
/* The backend's callbacks. */
bool net_receive(void *card, const uint8_t *buf, size_t len);
void net_transmit(void *card);
/* On the worker. */
void net_control(struct virtio_net *n);
/* Tells the backend what the driver takes. bits as the NET_F_GUEST_ features. */
void net_tell_offloads(struct virtio_net *n, uint64_t bits);

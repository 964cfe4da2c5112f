/*
 * Packets without devices: where a network card's frames go, and come from.
 *
 * A backend (user-mode NAT, tap device, link to another machine) has a port, which a card plugs
 * into. Frames travel with the header of virtio 1.2 5.1.6 (struct virtio_net_hdr_v1, 12 bytes)
 * that says what checksum and segmentation they still need; a backend that cannot pass that on does
 * the work itself, so a card may always offer the offloads that net_get_info() names.
 *
 * Threads: a backend has one thread, and that is the card's as well: every callback runs on it, one
 * at a time, and net_send() is for transmit() alone. So a frame goes from the guest's memory to the
 * host's socket without a queue or a change of threads between. Everything else may be called from
 * any thread. The card guards what its callbacks share with its guest's accesses by a lock of its
 * own, which it must not hold in net_attach() and net_close().
 */
#pragma once

#include <sys/uio.h>
#include "base/base.h"

#define NET_MAX_FRAME (65536 + 14 + 4) /* a segment for offload, Ethernet and VLAN header */
#define NET_MIN_FRAME 14               /* an Ethernet header */
#define NET_HEADER    12
#define NET_MAX_IOV   1024
#define NET_MAC       6
#define NET_MIN_MTU   1280 /* of IPv6 */
#define NET_MAX_MTU   65521

/* What a guest takes unfinished (net_set_offloads). */
#define NET_TAKES_CHECKSUM BIT(0) /* checksums that are still to be made, or known to be right */
#define NET_TAKES_TSO4     BIT(1) /* TCP segments longer than the MTU */
#define NET_TAKES_TSO6     BIT(2)
#define NET_TAKES_ECN      BIT(3) /* such segments with congestion marks */

struct net;

/* The card's side. */
struct net_card_ops {
	/*
	 * A frame for the guest: header and frame, contiguous, NET_HEADER + NET_MIN_FRAME to
	 * NET_HEADER + NET_MAX_FRAME. True if taken or dropped; false if the card has no room: the
	 * backend then keeps the frame and waits for net_resume().
	 */
	bool (*receive)(void *card, const uint8_t *buf, size_t n);
	/* The card may send: after net_kick(), and again after net_send() returned false. */
	void (*transmit)(void *card);
	/* The wire came up or went down. */
	void (*link)(void *card, bool up);
};

struct net_info {
	const char *kind; /* "user", "tap", "link" */
	uint16_t mtu;
};

struct net_counters {
	uint64_t sent, sent_bytes, received, received_bytes; /* frames; bytes without headers */
	uint64_t send_dropped, receive_dropped;
};

/* Keys of --net that are the card's. */
struct net_card {
	uint8_t mac[NET_MAC];
	bool has_mac;
	unsigned queues; /* pairs, 1 unless given */
};
#define NET_MAX_QUEUES 16

/*
 * Takes mac= and queues= out of what follows --net, in place, and leaves the backend's text. 0, or
 * -EINVAL with one line in err.
 */
int net_card_parse(char *text, struct net_card *card, char *err, size_t errlen);

/*
 * text is what follows --net without the card's keys, e.g.
 * "user,hostfwd=tcp:127.0.0.1:2222-:22,pcap=FILE,rate=10M": doc/trapeze.1 has the list. 0, or
 * -errno with one line in err.
 */
int net_open(struct net **out, const char *text, char *err, size_t errlen);
/* Stops its thread first: no callback runs after it. Safe on NULL. */
void net_close(struct net *n);

/* Plugs a card in and starts the thread; once. 0 or -errno. */
int net_attach(struct net *n, const struct net_card_ops *ops, void *card);
void net_get_info(const struct net *n, struct net_info *info);
void net_get_counters(struct net *n, struct net_counters *out);
/* Whether the wire is up now. */
bool net_is_up(struct net *n);
/* NET_TAKES_ bits, none at first; what is not among them is finished before receive(). */
void net_set_offloads(struct net *n, unsigned takes);

/*
 * A frame from the guest, header first. True: sent; what is malformed or can't go anywhere is
 * dropped, as a wire does, and counted. False: not now, the card keeps it and is asked again by
 * transmit(). The memory is read once.
 */
bool net_send(struct net *n, const struct iovec *iov, unsigned nr_iov);
/* There is something to transmit. */
void net_kick(struct net *n);
/* The card has room for frames again. */
void net_resume(struct net *n);

/*
 * Packets without devices: where a network card's frames go, and come from.
 *
 * A backend (user-mode NAT, tap device, link to another machine) has a port, which a card plugs
 * into. Frames travel with the header of virtio 1.2 5.1.6 (struct virtio_net_hdr_v1, 12 bytes)
 * that says what checksum and segmentation they still need; a backend that cannot pass that on does
 * the work itself, so a card may always offer the offloads that net_get_info() names.
 *
 * Threads: a backend does its work on a thread of its own (user NAT, link) or on the event loop it
 * was given (tap). net_send() may be called from any thread but from one at a time; it copies or
 * writes at once and never waits. receive() is called on the backend's thread, one call at a time.
 */
#pragma once

#include <sys/uio.h>
#include "base/base.h"

#define NET_MAX_FRAME (65536 + 14 + 4) /* a segment for offload, Ethernet and VLAN header */
#define NET_HEADER    12
#define NET_MAX_IOV   64

struct net;
struct loop;

/* The card's side. */
struct net_card_ops {
	/*
	 * A frame for the guest: header and frame, contiguous, NET_HEADER + at most NET_MAX_FRAME.
	 * True if taken; false if the card has no room: the backend then keeps the frame and waits
	 * for net_resume().
	 */
	bool (*receive)(void *card, const uint8_t *buf, size_t n);
	/* The wire came up or went down. */
	void (*link)(void *card, bool up);
};

struct net_info {
	const char *kind;  /* "user", "tap", "link" */
	bool checksum;     /* takes frames without their checksums, may deliver such */
	bool segmentation; /* the same for TCP segments longer than the MTU (TSO4, TSO6) */
	uint16_t mtu;
};

/*
 * text is what follows --net, e.g. "user,hostfwd=tcp:127.0.0.1:2222-:22,pcap=FILE,rate=10M":
 * doc/trapeze.1 has the list. Keys of the card (mac=, queues=) are not the backend's; the caller
 * takes them out first. 0, or -errno with one line in err.
 */
int net_open(struct net **out, const char *text, struct loop *loop, char *err, size_t errlen);
/* Stops its thread first. Safe on NULL. */
void net_close(struct net *n);

/* Plugs a card in, before which nothing is received; once. */
void net_attach(struct net *n, const struct net_card_ops *ops, void *card);
void net_get_info(const struct net *n, struct net_info *info);
/* A frame from the guest, header first. What is malformed or can't go out now is dropped, as a wire
 * does, and counted. */
void net_send(struct net *n, const struct iovec *iov, unsigned nr_iov);
/* The card has room again. From any thread. */
void net_resume(struct net *n);

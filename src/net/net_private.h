/*
 * Between net.c, which has the thread, the card's side, limits and capture, and the backends.
 */
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "net/net.h"
#include "net/offload.h"
#include "net/pcap.h"
#include "net/rate.h"

#define NET_MAX_FORWARDS 64
#define NET_NEVER        UINT64_MAX
#define NET_BUFFER       (NET_HEADER + NET_MAX_FRAME)

struct net_backend_ops;

struct net_endpoint {
	bool v6; /* which of the two addresses counts */
	struct in_addr addr;
	struct in6_addr addr6;
	uint16_t port;
};

/* hostfwd=PROTOCOL:[ADDRESS]:PORT-[ADDRESS]:PORT */
struct net_forward {
	bool udp;
	struct net_endpoint host, guest; /* guest 0.0.0.0 is the one that DHCP gives first */
	const char *text;
};

/* What --net says. Strings point into text. */
struct net_options {
	const struct net_backend_ops *backend;
	const char *pcap;
	uint64_t rate; /* bits a second, each way; 0: no limit */
	uint16_t mtu;  /* 0: the backend's own */
	/* user */
	struct net_forward forward[NET_MAX_FORWARDS];
	unsigned nr_forwards;
	bool restricted, no_ipv4, no_ipv6;
	struct in_addr network, mask; /* network 0: not given */
	struct in6_addr network6;     /* the same, of 64 bits */
	struct in_addr host, dns, dhcp;
	const char *hostname, *domain;
	/* tap */
	const char *ifname;
	/* link */
	const char *listen, *connect;
	char *text;
};

/* 0, or -EINVAL with one line in err. net_options_fini() after either. */
int net_options_parse(struct net_options *o, const char *text, char *err, size_t errlen);
void net_options_fini(struct net_options *o);
/* Decimal digits and nothing else, from low to high. */
bool net_parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *out);

/* Which descriptors the thread is to wait for, and until when; made anew for every wait. */
struct net_poll {
	struct pollfd *fds;
	unsigned nr, cap;
	uint64_t deadline_ns;
};

/* The index of fd's entry, or -1 when there is no memory. */
int net_poll_add(struct net_poll *p, int fd, short events);
void net_poll_until(struct net_poll *p, uint64_t deadline_ns);

enum net_sent { NET_SENT, NET_DROPPED, NET_AGAIN };

/* All but open and close are called on the thread. */
struct net_backend_ops {
	const char *name;
	/* Sets n->backend and n->mtu; what it leaves behind on failure, close undoes. */
	int (*open)(struct net *n, const struct net_options *o, char *err, size_t errlen);
	void (*close)(struct net *n);
	/* Before the wait, and after it. */
	void (*prepare)(struct net *n, struct net_poll *p);
	void (*dispatch)(struct net *n, const struct net_poll *p);
	/* A frame that offload_check() has seen, in a buffer that may be changed. NET_AGAIN: the
	 * same frame comes again, unchanged, once dispatch() has been called. */
	enum net_sent (*send)(struct net *n, uint8_t *buf, size_t len);
	/* NULL, or on any thread: which NET_TAKES_ the backend may deliver. */
	void (*offloads)(struct net *n, unsigned takes);
};

extern const struct net_backend_ops net_user_ops;
extern const struct net_backend_ops net_tap_ops;
extern const struct net_backend_ops net_link_ops;

/* Frames that wait for the card. A frame is {length, bytes}, the ring wraps between frames. */
struct net_queue {
	uint8_t *data;
	size_t head, used; /* offset of the first, bytes */
	size_t cap;
};

#define NET_QUEUE_BYTES (1 * MiB)

int net_queue_init(struct net_queue *q);
void net_queue_fini(struct net_queue *q);
/* False when it is full. */
bool net_queue_put(struct net_queue *q, const uint8_t *buf, size_t n);
/* The first frame, contiguous until the next call, or NULL. */
const uint8_t *net_queue_peek(struct net_queue *q, size_t *n);
void net_queue_drop(struct net_queue *q);

/*
 * Belongs to the thread once that runs, but for what is atomic. The counters are written by the
 * thread alone.
 */
struct net {
	const struct net_backend_ops *ops;
	void *backend;
	uint16_t mtu;

	const struct net_card_ops *card_ops;
	void *card;
	_Atomic unsigned takes; /* NET_TAKES_ */
	_Atomic bool up;

	struct pcap *pcap;
	struct rate tx_rate, rx_rate;

	uint8_t *tx;       /* the frame that is being sent, NET_BUFFER bytes */
	size_t tx_pending; /* its length while the backend refuses it, or 0 */
	bool tx_refused;   /* transmit() is owed a call */
	uint8_t *cut;      /* NET_BUFFER bytes to cut segments in */
	struct net_queue rx;
	bool rx_refused; /* the card is to resume */

	pthread_t thread;
	bool started;
	int event;
	_Atomic bool stopping, kicked, resumed;

	_Atomic uint64_t sent, sent_bytes, received, received_bytes;
	_Atomic uint64_t send_dropped, receive_dropped;
};

static inline void net_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
	                      memory_order_relaxed);
}

/* For backends, on the thread. */

/* Whether net_deliver() would find room: a backend that can wait for it does. */
bool net_can_deliver(const struct net *n);
/* A frame for the guest, header first, unchecked; what does not fit is dropped. */
void net_deliver(struct net *n, const uint8_t *buf, size_t len);
void net_set_up(struct net *n, bool up);

/*
 * User-mode NAT: libslirp plays a router with DHCP and DNS, and ends the guest's connections in
 * sockets of our own. It needs no rights.
 *
 * libslirp takes and makes plain frames, but it has no wire: a long TCP segment of IPv4 becomes a
 * plain frame of up to 64 KiB as soon as its checksum is made, and is not cut. One of IPv6 is:
 * libslirp answers a packet that is longer than the MTU with ICMPv6's "Packet Too Big".
 *
 * Lock: libslirp keeps some of its state for the whole process (a list of instances, the time, the
 * host's name server), so slirp_lock is held around each call of it, for all instances. It comes
 * before every lock of a card.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/net_private.h"

#define NSEC_PER_MSEC 1000000ull
#define HOST_NUMBER   2 /* in the guest's network */
#define DNS_NUMBER    3
#define DHCP_NUMBER   15
#define DHCP_SMALL    4 /* where the network has no 15 */
#define NETWORK6      "fec0::"
#define PREFIX6       64

static pthread_mutex_t slirp_lock = PTHREAD_MUTEX_INITIALIZER;

struct user_timer {
	struct user_timer *next;
	SlirpTimerId id;
	void *opaque;
	int64_t expires_ms; /* 0: idle */
};

struct user {
	struct net *net;
	Slirp *slirp;
	struct user_timer *timers;
	const struct net_poll *poll; /* while slirp_pollfds_poll() runs */
	struct net_poll *fill;       /* while slirp_pollfds_fill() runs */
	uint8_t buf[NET_BUFFER], cut[NET_BUFFER];
};

/* What libslirp calls. */

static ssize_t from_slirp(const void *frame, size_t len, void *opaque)
{
	struct user *u = opaque;
	struct net_header h = { .flags = NET_DATA_VALID };

	if (len > NET_MAX_FRAME)
		return -1;
	memcpy(u->buf, &h, sizeof(h));
	memcpy(u->buf + NET_HEADER, frame, len);
	net_deliver(u->net, u->buf, NET_HEADER + len);
	return (ssize_t)len;
}

static void guest_error(const char *text, void *opaque)
{
	log_debug("--net user: %s", text);
}

static int64_t slirp_clock(void *opaque)
{
	return (int64_t)clock_ns();
}

static void *new_timer(SlirpTimerId id, void *timer_opaque, void *opaque)
{
	struct user *u = opaque;
	struct user_timer *t = calloc(1, sizeof(*t));

	if (!t) {
		log_error("out of memory for a timer of libslirp");
		abort();
	}
	*t = (struct user_timer){ .next = u->timers, .id = id, .opaque = timer_opaque };
	u->timers = t;
	return t;
}

static void free_timer(void *timer, void *opaque)
{
	struct user *u = opaque;
	struct user_timer **at = &u->timers;

	while (*at && *at != timer)
		at = &(*at)->next;
	if (*at)
		*at = (*at)->next;
	free(timer);
}

static void arm_timer(void *timer, int64_t expires_ms, void *opaque)
{
	((struct user_timer *)timer)->expires_ms = expires_ms > 0 ? expires_ms : 1;
}

static void ignore_fd(int fd, void *opaque)
{
}

static void ignore_notice(void *opaque)
{
}

static const SlirpCb callbacks = {
	.send_packet = from_slirp,
	.guest_error = guest_error,
	.clock_get_ns = slirp_clock,
	.timer_new_opaque = new_timer,
	.timer_free = free_timer,
	.timer_mod = arm_timer,
	.register_poll_fd = ignore_fd,
	.unregister_poll_fd = ignore_fd,
	.notify = ignore_notice,
};

/* Waiting. */

static const struct {
	int slirp;
	short poll;
} event_bits[] = {
	{ SLIRP_POLL_IN, POLLIN },   { SLIRP_POLL_OUT, POLLOUT }, { SLIRP_POLL_PRI, POLLPRI },
	{ SLIRP_POLL_ERR, POLLERR }, { SLIRP_POLL_HUP, POLLHUP },
};

static int add_poll(int fd, int events, void *opaque)
{
	short bits = 0;

	for (size_t i = 0; i < ARRAY_SIZE(event_bits); i++)
		if (events & event_bits[i].slirp)
			bits |= event_bits[i].poll;
	return net_poll_add(((struct user *)opaque)->fill, fd, bits);
}

static int get_events(int index, void *opaque)
{
	const struct net_poll *p = ((struct user *)opaque)->poll;
	int events = 0;

	if (index < 0 || (unsigned)index >= p->nr)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(event_bits); i++)
		if (p->fds[index].revents & event_bits[i].poll)
			events |= event_bits[i].slirp;
	return events;
}

static void user_prepare(struct net *n, struct net_poll *p)
{
	struct user *u = n->backend;
	uint32_t ms = UINT32_MAX;

	u->fill = p;
	pthread_mutex_lock(&slirp_lock);
	slirp_pollfds_fill(u->slirp, &ms, add_poll, u);
	pthread_mutex_unlock(&slirp_lock);
	if (ms != UINT32_MAX)
		net_poll_until(p, clock_ns() + ms * NSEC_PER_MSEC);
	for (struct user_timer *t = u->timers; t; t = t->next)
		if (t->expires_ms)
			net_poll_until(p, (uint64_t)t->expires_ms * NSEC_PER_MSEC);
}

static void run_timers(struct user *u)
{
	int64_t now_ms = (int64_t)(clock_ns() / NSEC_PER_MSEC);

	for (struct user_timer *t = u->timers, *next; t; t = next) {
		next = t->next;
		if (!t->expires_ms || t->expires_ms > now_ms)
			continue;
		t->expires_ms = 0;
		slirp_handle_timer(u->slirp, t->id, t->opaque);
	}
}

static void user_dispatch(struct net *n, const struct net_poll *p)
{
	struct user *u = n->backend;

	u->poll = p;
	pthread_mutex_lock(&slirp_lock);
	slirp_pollfds_poll(u->slirp, 0, get_events, u);
	run_timers(u);
	pthread_mutex_unlock(&slirp_lock);
}

static bool give_plain(void *opaque, uint8_t *buf, size_t len)
{
	struct user *u = opaque;

	slirp_input(u->slirp, buf + NET_HEADER, (int)(len - NET_HEADER));
	return true;
}

static bool must_be_cut(const uint8_t *buf)
{
	struct net_header h;

	memcpy(&h, buf, sizeof(h));
	return (h.gso_type & ~NET_GSO_ECN) == NET_GSO_TCPV6;
}

static enum net_sent user_send(struct net *n, uint8_t *buf, size_t len)
{
	struct user *u = n->backend;

	pthread_mutex_lock(&slirp_lock);
	if (must_be_cut(buf)) {
		offload_segment(buf, len, u->cut, give_plain, u);
	} else {
		offload_checksum(buf, len);
		give_plain(u, buf, len);
	}
	pthread_mutex_unlock(&slirp_lock);
	return NET_SENT;
}

/* Life. */

static struct in_addr numbered(const SlirpConfig *c, struct in_addr given, uint32_t number)
{
	return given.s_addr ? given : (struct in_addr){ c->vnetwork.s_addr | htonl(number) };
}

static struct in6_addr numbered6(struct in6_addr network, uint8_t number)
{
	network.s6_addr[15] = number;
	return network;
}

static void configure6(SlirpConfig *c, const struct net_options *o)
{
	c->in6_enabled = !o->no_ipv6;
	c->vprefix_len = PREFIX6;
	c->vprefix_addr6 = o->network6;
	if (IN6_IS_ADDR_UNSPECIFIED(&o->network6))
		inet_pton(AF_INET6, NETWORK6, &c->vprefix_addr6);
	c->vhost6 = numbered6(c->vprefix_addr6, HOST_NUMBER);
	c->vnameserver6 = numbered6(c->vprefix_addr6, DNS_NUMBER);
}

static void configure(SlirpConfig *c, const struct net *n, const struct net_options *o)
{
	uint32_t hosts;

	*c = (SlirpConfig){ .version = 4,
		            .restricted = o->restricted,
		            .in_enabled = !o->no_ipv4,
		            .vhostname = o->hostname ? o->hostname : "trapeze",
		            .vdomainname = o->domain,
		            .if_mtu = n->mtu,
		            .if_mru = n->mtu };
	c->vnetwork.s_addr = o->network.s_addr ? o->network.s_addr : htonl(0x0a000200);
	c->vnetmask.s_addr = o->network.s_addr ? o->mask.s_addr : htonl(0xffffff00);
	hosts = ~ntohl(c->vnetmask.s_addr);
	c->vhost = numbered(c, o->host, HOST_NUMBER);
	c->vnameserver = numbered(c, o->dns, DNS_NUMBER);
	c->vdhcp_start = numbered(c, o->dhcp, hosts > DHCP_NUMBER ? DHCP_NUMBER : DHCP_SMALL);
	configure6(c, o);
}

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t address_of(union address *a, const struct net_endpoint *e)
{
	*a = (union address){ 0 };
	if (e->v6) {
		a->v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
			                       .sin6_addr = e->addr6,
			                       .sin6_port = htons(e->port) };
		return sizeof(a->v6);
	}
	a->v4 = (struct sockaddr_in){ .sin_family = AF_INET,
		                      .sin_addr = e->addr,
		                      .sin_port = htons(e->port) };
	return sizeof(a->v4);
}

static int forward(struct user *u, const struct net_forward *f)
{
	int flags = (f->udp ? SLIRP_HOSTFWD_UDP : 0) | (f->host.v6 ? SLIRP_HOSTFWD_V6ONLY : 0);
	union address host, guest;
	socklen_t host_len = address_of(&host, &f->host);
	socklen_t guest_len = address_of(&guest, &f->guest);

	errno = 0;
	if (!slirp_add_hostxfwd(u->slirp, &host.any, host_len, &guest.any, guest_len, flags))
		return 0;
	return errno ? -errno : -EINVAL;
}

/* The name that the network gives a guest is libslirp's DHCP option 12; see configure(). */
static int add_forward(struct user *u, const struct net_forward *f, char *err, size_t errlen)
{
	int rc = forward(u, f);

	if (rc == -EADDRINUSE)
		snprintf(err, errlen, "hostfwd=%s: port %u is in use", f->text, f->host.port);
	else if (rc == -EACCES)
		snprintf(err, errlen, "hostfwd=%s: port %u needs rights that this user has not",
		         f->text, f->host.port);
	else if (rc)
		snprintf(err, errlen, "hostfwd=%s: %s", f->text, strerror(-rc));
	return rc;
}

static int user_open(struct net *n, const struct net_options *o, char *err, size_t errlen)
{
	struct user *u = calloc(1, sizeof(*u));
	SlirpConfig config;
	int rc = 0;

	n->backend = u;
	if (!u)
		return -ENOMEM;
	u->net = n;
	configure(&config, n, o);
	pthread_mutex_lock(&slirp_lock);
	u->slirp = slirp_new(&config, &callbacks, u);
	if (!u->slirp)
		rc = -EINVAL;
	for (unsigned i = 0; !rc && i < o->nr_forwards; i++)
		rc = add_forward(u, &o->forward[i], err, errlen);
	pthread_mutex_unlock(&slirp_lock);
	n->up = true;
	return rc;
}

static void user_close(struct net *n)
{
	struct user *u = n->backend;

	if (!u)
		return;
	pthread_mutex_lock(&slirp_lock);
	if (u->slirp)
		slirp_cleanup(u->slirp);
	pthread_mutex_unlock(&slirp_lock);
	while (u->timers)
		free_timer(u->timers, u);
	free(u);
}

const struct net_backend_ops net_user_ops = {
	.name = "user",
	.open = user_open,
	.close = user_close,
	.prepare = user_prepare,
	.dispatch = user_dispatch,
	.send = user_send,
};

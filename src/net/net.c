/*
 * The thread of a backend, and what all backends share: the card's side, limits, capture.
 *
 * The thread waits for the backend's descriptors and an eventfd, by which other threads say through
 * atomic flags what they want: `stopping`, `kicked`, `resumed`. Flags are set before the eventfd is
 * written and cleared before they are acted on, so none is lost.
 *
 * Towards the backend: net_send() copies the frame, and if the backend cannot take it now
 * (tx_pending), or the rate is used up, the card is refused until that has changed. So a full
 * socket or a limit reaches the guest as a full queue, not as loss.
 * Towards the card: frames go straight to receive(); the queue is used while the card has no room
 * or the rate is used up, and backends that can wait look at net_can_deliver() first.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "net/net_private.h"

#define DEFAULT_MTU 1500

int net_poll_add(struct net_poll *p, int fd, short events)
{
	if (p->nr == p->cap) {
		unsigned cap = p->cap ? 2 * p->cap : 16;
		struct pollfd *fds = reallocarray(p->fds, cap, sizeof(*fds));

		if (!fds)
			return -1;
		p->fds = fds;
		p->cap = cap;
	}
	p->fds[p->nr] = (struct pollfd){ .fd = fd, .events = events };
	return (int)p->nr++;
}

void net_poll_until(struct net_poll *p, uint64_t deadline_ns)
{
	if (deadline_ns < p->deadline_ns)
		p->deadline_ns = deadline_ns;
}

/* To the card. */

bool net_can_deliver(const struct net *n)
{
	return n->rx.used < n->rx.cap / 2;
}

/* False: not now. */
static bool give(struct net *n, const uint8_t *buf, size_t len)
{
	if (rate_wait_until(&n->rx_rate, n->rx_rate.bytes_per_s ? clock_ns() : 0))
		return false;
	if (!n->card_ops->receive(n->card, buf, len)) {
		n->rx_refused = true;
		return false;
	}
	rate_take(&n->rx_rate, len - NET_HEADER);
	net_count(&n->received, 1);
	net_count(&n->received_bytes, len - NET_HEADER);
	return true;
}

static bool deliver_final(void *opaque, uint8_t *buf, size_t len)
{
	struct net *n = opaque;

	if (!n->rx.used && !n->rx_refused && give(n, buf, len))
		return true;
	if (net_queue_put(&n->rx, buf, len))
		return true;
	net_count(&n->receive_dropped, 1);
	return false;
}

static unsigned takes_for(uint8_t gso_type)
{
	unsigned ecn = gso_type & NET_GSO_ECN ? NET_TAKES_ECN : 0;

	return ecn | ((gso_type & ~NET_GSO_ECN) == NET_GSO_TCPV4 ? NET_TAKES_TSO4 : NET_TAKES_TSO6);
}

void net_deliver(struct net *n, const uint8_t *buf, size_t len)
{
	unsigned takes = atomic_load_explicit(&n->takes, memory_order_relaxed);
	struct net_header h;

	if (offload_check(buf, len)) {
		net_count(&n->receive_dropped, 1);
		return;
	}
	pcap_write(n->pcap, clock_utc_ns(), buf + NET_HEADER, len - NET_HEADER);
	memcpy(&h, buf, sizeof(h));
	if (h.gso_type != NET_GSO_NONE && takes_for(h.gso_type) & ~takes) {
		offload_segment(buf, len, n->cut, deliver_final, n);
		return;
	}
	if (!h.flags || (takes & NET_TAKES_CHECKSUM)) {
		deliver_final(n, (uint8_t *)buf, len);
		return;
	}
	memcpy(n->cut, buf, len);
	offload_checksum(n->cut, len);
	n->cut[0] = 0; /* a guest that knows nothing of checksums is told nothing */
	deliver_final(n, n->cut, len);
}

static void drain(struct net *n)
{
	const uint8_t *buf;
	size_t len;

	while (!n->rx_refused && (buf = net_queue_peek(&n->rx, &len)) && give(n, buf, len))
		net_queue_drop(&n->rx);
}

void net_set_up(struct net *n, bool up)
{
	if (atomic_exchange(&n->up, up) != up && n->card_ops)
		n->card_ops->link(n->card, up);
}

/* From the card. */

static size_t gather(uint8_t *to, size_t max, const struct iovec *iov, unsigned nr)
{
	size_t n = 0;

	for (unsigned i = 0; i < nr; i++) {
		if (iov[i].iov_len > max - n)
			return 0;
		memcpy(to + n, iov[i].iov_base, iov[i].iov_len);
		n += iov[i].iov_len;
	}
	return n;
}

static void send_pending(struct net *n)
{
	size_t len = n->tx_pending;
	enum net_sent sent = n->ops->send(n, n->tx, len);

	if (sent == NET_AGAIN)
		return;
	n->tx_pending = 0;
	net_count(sent == NET_SENT ? &n->sent : &n->send_dropped, 1);
	if (sent == NET_SENT)
		net_count(&n->sent_bytes, len - NET_HEADER);
}

static bool may_send(struct net *n)
{
	if (n->tx_pending)
		return false;
	return !rate_wait_until(&n->tx_rate, n->tx_rate.bytes_per_s ? clock_ns() : 0);
}

bool net_send(struct net *n, const struct iovec *iov, unsigned nr_iov)
{
	size_t len;

	if (!may_send(n)) {
		n->tx_refused = true;
		return false;
	}
	len = gather(n->tx, NET_BUFFER, iov, nr_iov);
	if (!len || offload_check(n->tx, len)) {
		net_count(&n->send_dropped, 1);
		return true;
	}
	pcap_write(n->pcap, clock_utc_ns(), n->tx + NET_HEADER, len - NET_HEADER);
	rate_take(&n->tx_rate, len - NET_HEADER);
	n->tx_pending = len;
	send_pending(n);
	return true;
}

/* The thread. */

static void prepare(struct net *n, struct net_poll *p)
{
	uint64_t now = clock_ns();

	p->nr = 0;
	p->deadline_ns = NET_NEVER;
	net_poll_add(p, n->event, POLLIN);
	if (n->tx_refused && !n->tx_pending && n->tx_rate.bytes_per_s)
		net_poll_until(p, rate_wait_until(&n->tx_rate, now));
	if (n->rx.used && !n->rx_refused)
		net_poll_until(p, rate_wait_until(&n->rx_rate, now));
	n->ops->prepare(n, p);
}

static void wait_for(struct net_poll *p)
{
	struct timespec left, *timeout = NULL;

	if (p->deadline_ns != NET_NEVER) {
		uint64_t now = clock_ns(), ns = p->deadline_ns > now ? p->deadline_ns - now : 0;

		left = (struct timespec){ (time_t)(ns / 1000000000), (long)(ns % 1000000000) };
		timeout = &left;
	}
	if (ppoll(p->fds, p->nr, timeout, NULL) >= 0)
		return;
	for (unsigned i = 0; i < p->nr; i++) /* nothing is known */
		p->fds[i].revents = 0;
}

static void serve_card(struct net *n)
{
	bool kicked = atomic_exchange(&n->kicked, false);

	if (atomic_exchange(&n->resumed, false))
		n->rx_refused = false;
	drain(n);
	if (n->tx_pending)
		send_pending(n);
	if (kicked || (n->tx_refused && may_send(n))) {
		n->tx_refused = false;
		n->card_ops->transmit(n->card);
	}
}

static void *net_main(void *opaque)
{
	struct net *n = opaque;
	struct net_poll p = { 0 };
	eventfd_t count;

	while (!atomic_load(&n->stopping)) {
		prepare(n, &p);
		wait_for(&p);
		if (p.nr && p.fds[0].revents)
			eventfd_read(n->event, &count);
		n->ops->dispatch(n, &p);
		serve_card(n);
		pcap_flush(n->pcap);
	}
	free(p.fds);
	return NULL;
}

static void set_flag(struct net *n, _Atomic bool *flag)
{
	if (!atomic_exchange(flag, true))
		eventfd_write(n->event, 1);
}

void net_kick(struct net *n)
{
	set_flag(n, &n->kicked);
}

void net_resume(struct net *n)
{
	set_flag(n, &n->resumed);
}

/* Life. */

static int prepare_buffers(struct net *n)
{
	n->tx = malloc(NET_BUFFER);
	n->cut = malloc(NET_BUFFER);
	n->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (n->event < 0)
		return -errno;
	return n->tx && n->cut && !net_queue_init(&n->rx) ? 0 : -ENOMEM;
}

static int open_with(struct net *n, const struct net_options *o, char *err, size_t errlen)
{
	char why[256] = "";
	int rc = prepare_buffers(n);

	n->mtu = o->mtu ? o->mtu : DEFAULT_MTU;
	rate_init(&n->tx_rate, o->rate, clock_ns());
	rate_init(&n->rx_rate, o->rate, clock_ns());
	if (!rc && o->pcap)
		rc = pcap_open(&n->pcap, o->pcap, why, sizeof(why));
	if (!rc) {
		n->ops = o->backend;
		rc = n->ops->open(n, o, why, sizeof(why));
	}
	if (rc)
		snprintf(err, errlen, "--net %s: %s", o->backend->name, *why ? why : strerror(-rc));
	return rc;
}

int net_open(struct net **out, const char *text, char *err, size_t errlen)
{
	struct net *n = calloc(1, sizeof(*n));
	struct net_options o;
	int rc = net_options_parse(&o, text, err, errlen);

	if (!rc && !n) {
		rc = -ENOMEM;
		snprintf(err, errlen, "--net %s: %s", text, strerror(ENOMEM));
	}
	if (n)
		n->event = -1;
	if (!rc)
		rc = open_with(n, &o, err, errlen);
	net_options_fini(&o);
	if (!rc)
		*out = n;
	else
		net_close(n);
	return rc;
}

void net_close(struct net *n)
{
	if (!n)
		return;
	if (n->started) {
		set_flag(n, &n->stopping);
		pthread_join(n->thread, NULL);
	}
	if (n->ops)
		n->ops->close(n);
	pcap_close(n->pcap);
	net_queue_fini(&n->rx);
	if (n->event >= 0)
		close(n->event);
	free(n->tx);
	free(n->cut);
	free(n);
}

int net_attach(struct net *n, const struct net_card_ops *ops, void *card)
{
	int rc;

	assert(!n->card_ops);
	n->card_ops = ops;
	n->card = card;
	rc = thread_start(&n->thread, n->ops->name, net_main, n);
	n->started = !rc;
	return rc;
}

void net_get_info(const struct net *n, struct net_info *info)
{
	*info = (struct net_info){ .kind = n->ops->name, .mtu = n->mtu };
}

void net_get_counters(struct net *n, struct net_counters *out)
{
	*out = (struct net_counters){ n->sent,           n->sent_bytes,   n->received,
		                      n->received_bytes, n->send_dropped, n->receive_dropped };
}

bool net_is_up(struct net *n)
{
	return n->up;
}

void net_set_offloads(struct net *n, unsigned takes)
{
	if (!(takes & NET_TAKES_CHECKSUM))
		takes = 0; /* segments without checksums cannot be (virtio 1.2 5.1.3.1) */
	atomic_store(&n->takes, takes);
	if (n->ops->offloads)
		n->ops->offloads(n, takes);
}

/*
 * A cable between two machines on one host: a unix socket of type SOCK_SEQPACKET. One machine
 * listens, the other connects, and tries again for as long as it takes.
 *
 *            socket is connected, hello is sent
 *   (no peer) -------------------------------> (greeting) --- hello came ---> (up)
 *       ^          accept_peer, connect_peer        |                           |
 *       +-------------------------------------------+---------------------------+
 *                 drop_peer: end of file, error, or not a hello
 *
 * A message is a frame with its header, as it is, so offloads pass from guest to guest. The other
 * machine is not trusted: net_deliver() checks all of it. The hello tells a listener that takes
 * another peer (it has one only) from one that is ours.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/unix_socket.h"
#include "net/net_private.h"

#define RETRY_NS    200000000ull
#define PATIENCE_NS 100000000ull /* with a peer that takes nothing, before frames are lost */
#define BATCH       64
#define SOCKET_ROOM (1 * MiB)

static const uint8_t hello[8] = { 'T', 'r', 'a', 'p', 'e', 'z', 'e', 1 /* version */ };

struct link {
	char *path;
	int listener; /* -1: we connect */
	int peer;     /* -1: none */
	bool greeted;
	uint64_t retry_ns;
	uint64_t blocked_ns; /* since when the peer takes nothing, 0: it does */
	int listener_index, peer_index;
	uint8_t buf[NET_BUFFER];
};

static void drop_peer(struct net *n, struct link *l)
{
	if (l->peer >= 0)
		close(l->peer);
	l->peer = -1;
	l->greeted = false;
	l->blocked_ns = 0;
	l->retry_ns = clock_ns() + RETRY_NS;
	net_set_up(n, false);
}

static void take_peer(struct net *n, struct link *l, int fd)
{
	int room = SOCKET_ROOM;

	l->peer = fd;
	l->greeted = false;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)); /* as much as we may have */
	if (send(fd, hello, sizeof(hello), MSG_NOSIGNAL) != sizeof(hello))
		drop_peer(n, l);
}

static void accept_peer(struct net *n, struct link *l)
{
	int fd = accept4(l->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	if (l->peer >= 0)
		close(fd);
	else
		take_peer(n, l, fd);
}

static void connect_peer(struct net *n, struct link *l)
{
	int fd = unix_socket_connect(l->path, SOCK_SEQPACKET);

	if (fd >= 0)
		take_peer(n, l, fd);
	else
		l->retry_ns = clock_ns() + RETRY_NS;
}

/* False: the peer has gone. */
static bool take_message(struct net *n, struct link *l, size_t len)
{
	if (l->greeted) {
		net_deliver(n, l->buf, len);
		return true;
	}
	if (len != sizeof(hello) || memcmp(l->buf, hello, sizeof(hello))) {
		log_warn("--net link: %s: what answers there speaks something else", l->path);
		return false;
	}
	l->greeted = true;
	net_set_up(n, true);
	return true;
}

static void read_peer(struct net *n, struct link *l)
{
	for (unsigned i = 0; i < BATCH && net_can_deliver(n); i++) {
		struct iovec iov = { l->buf, sizeof(l->buf) };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t len = recvmsg(l->peer, &m, 0);

		if (len < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		/* A message that is too long is no frame. */
		if (len > 0 && (m.msg_flags & MSG_TRUNC))
			continue;
		if (len <= 0 || !take_message(n, l, (size_t)len)) {
			drop_peer(n, l);
			return;
		}
	}
}

static void link_prepare(struct net *n, struct net_poll *p)
{
	struct link *l = n->backend;
	short events = (short)((net_can_deliver(n) ? POLLIN : 0) | (l->blocked_ns ? POLLOUT : 0));

	l->listener_index = l->listener >= 0 ? net_poll_add(p, l->listener, POLLIN) : -1;
	l->peer_index = l->peer >= 0 ? net_poll_add(p, l->peer, events) : -1;
	if (l->blocked_ns)
		net_poll_until(p, l->blocked_ns + PATIENCE_NS);
	if (l->listener < 0 && l->peer < 0)
		net_poll_until(p, l->retry_ns);
}

static void link_dispatch(struct net *n, const struct net_poll *p)
{
	struct link *l = n->backend;

	if (l->peer_index >= 0 && (p->fds[l->peer_index].revents & (POLLIN | POLLHUP | POLLERR)))
		read_peer(n, l);
	if (l->listener_index >= 0 && p->fds[l->listener_index].revents)
		accept_peer(n, l);
	if (l->listener < 0 && l->peer < 0 && clock_ns() >= l->retry_ns)
		connect_peer(n, l);
}

static enum net_sent link_send(struct net *n, uint8_t *buf, size_t len)
{
	struct link *l = n->backend;

	if (!l->greeted)
		return NET_DROPPED;
	if (send(l->peer, buf, len, MSG_NOSIGNAL) >= 0) {
		l->blocked_ns = 0;
		return NET_SENT;
	}
	if (errno != EAGAIN)
		return NET_DROPPED; /* a peer that has gone is found by reading */
	if (!l->blocked_ns)
		l->blocked_ns = clock_ns();
	return clock_ns() - l->blocked_ns < PATIENCE_NS ? NET_AGAIN : NET_DROPPED;
}

static int link_open(struct net *n, const struct net_options *o, char *err, size_t errlen)
{
	struct link *l = calloc(1, sizeof(*l));

	n->backend = l;
	if (!l)
		return -ENOMEM;
	l->listener = l->peer = -1;
	l->path = strdup(o->listen ? o->listen : o->connect);
	if (!l->path)
		return -ENOMEM;
	if (!o->listen)
		return 0;
	l->listener = unix_socket_listen(l->path, SOCK_SEQPACKET, 1);
	if (l->listener >= 0)
		return 0;
	unix_socket_explain(l->path, l->listener, err, errlen);
	return l->listener;
}

static void link_close(struct net *n)
{
	struct link *l = n->backend;

	if (!l)
		return;
	if (l->peer >= 0)
		close(l->peer);
	if (l->listener >= 0) {
		unlink(l->path);
		close(l->listener);
	}
	free(l->path);
	free(l);
}

const struct net_backend_ops net_link_ops = {
	.name = "link",
	.open = link_open,
	.close = link_close,
	.prepare = link_prepare,
	.dispatch = link_dispatch,
	.send = link_send,
};

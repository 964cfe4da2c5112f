/*
 * A tap device: the host's kernel is on the other side, and does checksums and segmentation. The
 * bridge, addresses and routes around it are the administrator's; no script is run.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/net_private.h"

#define DEVICE "/dev/net/tun"
#define BATCH  64 /* frames before the card's side gets its turn */

struct tap {
	int fd;
	int poll_index; /* -1: not waited for */
	bool blocked;
	char name[IFNAMSIZ];
	uint8_t buf[NET_BUFFER];
};

static void tap_prepare(struct net *n, struct net_poll *p)
{
	struct tap *t = n->backend;
	short events = (short)((net_can_deliver(n) ? POLLIN : 0) | (t->blocked ? POLLOUT : 0));

	t->poll_index = events ? net_poll_add(p, t->fd, events) : -1;
}

static void tap_dispatch(struct net *n, const struct net_poll *p)
{
	struct tap *t = n->backend;
	ssize_t len;

	t->blocked = false;
	if (t->poll_index < 0 || !(p->fds[t->poll_index].revents & POLLIN))
		return;
	for (unsigned i = 0; i < BATCH && net_can_deliver(n); i++) {
		len = read(t->fd, t->buf, sizeof(t->buf));
		if (len <= 0)
			return;
		net_deliver(n, t->buf, (size_t)len);
	}
}

static enum net_sent tap_send(struct net *n, uint8_t *buf, size_t len)
{
	struct tap *t = n->backend;

	buf[0] &= NET_NEEDS_CSUM; /* that a checksum is right is for receivers */
	if (write(t->fd, buf, len) >= 0)
		return NET_SENT;
	t->blocked = errno == EAGAIN;
	return t->blocked ? NET_AGAIN : NET_DROPPED;
}

static void tap_offloads(struct net *n, unsigned takes)
{
	struct tap *t = n->backend;
	unsigned bits = 0;

	if (takes & NET_TAKES_CHECKSUM)
		bits |= TUN_F_CSUM;
	if (takes & NET_TAKES_TSO4)
		bits |= TUN_F_TSO4;
	if (takes & NET_TAKES_TSO6)
		bits |= TUN_F_TSO6;
	if (takes & NET_TAKES_ECN)
		bits |= TUN_F_TSO_ECN;
	/* What cannot be set stays with net_deliver(). */
	(void)ioctl(t->fd, TUNSETOFFLOAD, bits);
}

static int attach_interface(struct tap *t, const char *name, char *err, size_t errlen)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int rc, header = NET_HEADER, little = 1;

	if (name)
		snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
	if (!ioctl(t->fd, TUNSETIFF, &request)) {
		memcpy(t->name, request.ifr_name, IFNAMSIZ);
		if (!ioctl(t->fd, TUNSETVNETHDRSZ, &header) && !ioctl(t->fd, TUNSETVNETLE, &little))
			return 0;
	}
	rc = -errno;
	if (rc == -EPERM)
		snprintf(err, errlen,
		         "%s: no permission (root makes one for you: ip tuntap add %s mode tap "
		         "user NAME)",
		         name ? name : "a new interface", name ? name : "tap0");
	else if (rc == -EBUSY)
		snprintf(err, errlen, "%s: another process uses it", name ? name : "tap");
	else if (rc == -EINVAL)
		snprintf(err, errlen, "%s: is no tap interface", name ? name : "tap");
	else
		snprintf(err, errlen, "%s: %s", name ? name : "tap", strerror(-rc));
	return rc;
}

/* Up, and with the MTU that was asked for; what the user must not change stays as it is. */
static int set_interface(struct net *n, const struct tap *t, bool wants_mtu, char *err,
                         size_t errlen)
{
	struct ifreq request = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc = 0;

	if (fd < 0)
		return -errno;
	memcpy(request.ifr_name, t->name, IFNAMSIZ);
	request.ifr_mtu = n->mtu;
	if (wants_mtu && ioctl(fd, SIOCSIFMTU, &request)) {
		rc = -errno;
		snprintf(err, errlen, "mtu=%u: %s: %s", n->mtu, t->name, strerror(-rc));
	}
	if (!wants_mtu && !ioctl(fd, SIOCGIFMTU, &request) && request.ifr_mtu >= NET_MIN_MTU)
		n->mtu = (uint16_t)(request.ifr_mtu < NET_MAX_MTU ? request.ifr_mtu : NET_MAX_MTU);
	if (!ioctl(fd, SIOCGIFFLAGS, &request) && !(request.ifr_flags & IFF_UP)) {
		request.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &request))
			log_warn("--net tap: %s is down, and this user may not set it up", t->name);
	}
	close(fd);
	return rc;
}

static int tap_open(struct net *n, const struct net_options *o, char *err, size_t errlen)
{
	struct tap *t = calloc(1, sizeof(*t));
	int rc;

	n->backend = t;
	if (!t)
		return -ENOMEM;
	t->fd = open(DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (t->fd < 0) {
		rc = -errno;
		snprintf(err, errlen, "%s: %s", DEVICE, strerror(-rc));
		return rc;
	}
	rc = attach_interface(t, o->ifname, err, errlen);
	if (!rc)
		rc = set_interface(n, t, o->mtu, err, errlen);
	if (!rc)
		log_info("--net tap: interface %s", t->name);
	n->up = true;
	return rc;
}

static void tap_close(struct net *n)
{
	struct tap *t = n->backend;

	if (t && t->fd >= 0)
		close(t->fd);
	free(t);
}

const struct net_backend_ops net_tap_ops = {
	.name = "tap",
	.open = tap_open,
	.close = tap_close,
	.prepare = tap_prepare,
	.dispatch = tap_dispatch,
	.send = tap_send,
	.offloads = tap_offloads,
};

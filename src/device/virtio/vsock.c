/*
 * The rings of the socket device, and its thread, which waits for unix sockets and doorbells.
 *
 * Lock: `lock` protects the multiplexer and says whether rings may be touched (`running`); the
 * thread holds it but while it waits, the worker to start and stop. It comes before bus.lock.
 */
#include "device/virtio/vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "device/virtio/vsock_mux.h"

#define ID_SOCKET               19
#define PCI_CLASS_COMMUNICATION 0x0780
#define F_STREAM                BIT(0)
#define MAX_BUFFERS             256
#define BUDGET                  64 /* packets of the guest before the sockets get their turn */

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, NR_QUEUES };

struct vsock {
	struct virtio_pci card;
	struct vsock_mux *mux;
	uint64_t cid; /* the configuration, 5.10.4 */
	pthread_t thread;
	bool has_thread;
	int event;
	_Atomic bool stopping;

	pthread_mutex_t lock;
	bool running;
	bool holding; /* rx has been taken from its ring, and waits for a packet */
	struct vq_chain rx;
	struct iovec rx_iov[MAX_BUFFERS], tx_iov[MAX_BUFFERS];
	uint8_t payload[VSOCK_MAX_PAYLOAD];
};

static struct vq *queue(struct vsock *s, unsigned n)
{
	return &s->card.v.vq[n];
}

/* Packets for the guest: one chain each. */

static bool take_rx(struct vsock *s)
{
	struct vq *q = queue(s, QUEUE_RX);

	s->rx = (struct vq_chain){ .iov = s->rx_iov, .max = MAX_BUFFERS };
	do {
		if (vq_pop(q, &s->rx))
			return true;
	} while (vq_want_kicks(q, true));
	return false;
}

static size_t rx_room(void *opaque)
{
	struct vsock *s = opaque;

	if (!s->running)
		return 0;
	if (!s->holding)
		s->holding = take_rx(s);
	if (!s->holding)
		return 0;
	if (s->rx.in.len > sizeof(struct vsock_header))
		return s->rx.in.len - sizeof(struct vsock_header);
	s->holding = false;
	vq_push(queue(s, QUEUE_RX), &s->rx, 0);
	virtio_fail(&s->card.v, "a buffer of %llu bytes for a packet",
	            (unsigned long long)s->rx.in.len);
	return 0;
}

static void rx_put(void *opaque, const struct vsock_header *h, const uint8_t *data)
{
	struct vsock *s = opaque;
	struct mem *mem = s->card.v.mem;
	uint64_t n = dma_write(&s->rx.in, mem, 0, h, sizeof(*h));

	n += dma_write(&s->rx.in, mem, sizeof(*h), data, h->len);
	s->holding = false;
	vq_push(queue(s, QUEUE_RX), &s->rx, (uint32_t)n);
}

static const struct vsock_mux_ops mux_ops = { .room = rx_room, .put = rx_put };

/* Packets of the guest. */

static void take_tx(struct vsock *s, const struct vq_chain *c)
{
	struct vsock_header h;

	if (dma_read(&c->out, 0, &h, sizeof(h)) != sizeof(h) || h.len > sizeof(s->payload) ||
	    dma_read(&c->out, sizeof(h), s->payload, h.len) != h.len)
		virtio_fail(&s->card.v, "a packet of %llu bytes that does not fit its header",
		            (unsigned long long)c->out.len);
	else
		vsock_mux_take(s->mux, &h, s->payload);
}

/* True when the guest may have sent more. */
static bool serve_tx(struct vsock *s)
{
	struct vq_chain c = { .iov = s->tx_iov, .max = MAX_BUFFERS };
	struct vq *q = queue(s, QUEUE_TX);

	vq_want_kicks(q, false);
	for (unsigned i = 0; i < BUDGET; i++) {
		if (!vq_pop(q, &c))
			return vq_want_kicks(q, true);
		take_tx(s, &c);
		vq_push(q, &c, 0);
	}
	return true;
}

/* The thread. */

static void wait_for(struct pollfd *fds, unsigned nr, uint64_t deadline_ns, bool busy)
{
	struct timespec left = { 0 }, *timeout = &left;
	uint64_t now = clock_ns();

	if (!busy && deadline_ns == UINT64_MAX) {
		timeout = NULL;
	} else if (!busy && deadline_ns > now) {
		left.tv_sec = (time_t)((deadline_ns - now) / 1000000000);
		left.tv_nsec = (long)((deadline_ns - now) % 1000000000);
	}
	if (ppoll(fds, nr, timeout, NULL) >= 0)
		return;
	for (unsigned i = 0; i < nr; i++)
		fds[i].revents = 0;
}

/* One round: what the last one left to do makes it busy, and the next does not wait. */
static bool run_once(struct vsock *s, bool busy)
{
	struct pollfd fds[VSOCK_MAX_POLL + 1];
	uint64_t deadline = UINT64_MAX;
	eventfd_t count;
	unsigned nr;

	fds[0] = (struct pollfd){ .fd = s->event, .events = POLLIN };
	pthread_mutex_lock(&s->lock);
	nr = vsock_mux_prepare(s->mux, fds + 1, &deadline);
	pthread_mutex_unlock(&s->lock);
	wait_for(fds, nr + 1, deadline, busy);
	if (fds[0].revents)
		eventfd_read(s->event, &count);
	pthread_mutex_lock(&s->lock);
	busy = s->running && serve_tx(s);
	vsock_mux_dispatch(s->mux, fds + 1, nr);
	pthread_mutex_unlock(&s->lock);
	return busy;
}

static void *vsock_main(void *opaque)
{
	struct vsock *s = opaque;
	bool busy = false;

	while (!atomic_load(&s->stopping))
		busy = run_once(s, busy);
	return NULL;
}

static void wake(struct vsock *s)
{
	eventfd_write(s->event, 1);
}

/* The worker's side. */

static void start(void *dev)
{
	struct vsock *s = dev;

	pthread_mutex_lock(&s->lock);
	s->running = true;
	pthread_mutex_unlock(&s->lock);
	wake(s);
}

static void kick(void *dev, unsigned n)
{
	wake(dev);
}

static void stop(void *dev)
{
	struct vsock *s = dev;

	pthread_mutex_lock(&s->lock);
	s->running = false;
	if (s->holding)
		vq_drop(queue(s, QUEUE_RX));
	s->holding = false;
	vsock_mux_reset(s->mux);
	pthread_mutex_unlock(&s->lock);
}

static void config_read(void *dev, uint32_t off, void *buf, unsigned size)
{
	memcpy(buf, (const uint8_t *)&((struct vsock *)dev)->cid + off, size);
}

static void free_vsock(void *dev)
{
	struct vsock *s = dev;

	if (s->has_thread) {
		atomic_store(&s->stopping, true);
		wake(s);
		pthread_join(s->thread, NULL);
	}
	vsock_mux_free(s->mux);
	if (s->event >= 0)
		close(s->event);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static const struct virtio_ops vsock_ops = {
	.name = "vsock",
	.id = ID_SOCKET,
	.pci_class = PCI_CLASS_COMMUNICATION,
	.config_len = sizeof(uint64_t),
	.config_read = config_read,
	.start = start,
	.kick = kick,
	.stop = stop,
	.free = free_vsock,
};

int virtio_vsock_add(struct pci_host *host, struct bus *bus, struct mem *mem,
                     const struct vsock_options *options, char *err, size_t errlen)
{
	struct virtio_config config = {
		.ops = &vsock_ops,
		.mem = mem,
		.bus = bus,
		.features = F_STREAM,
		.nr_queues = NR_QUEUES,
		.queue_size = 128,
	};
	struct vsock *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	config.dev = s;
	s->cid = options->cid;
	pthread_mutex_init(&s->lock, NULL);
	s->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = s->event < 0 ? -errno : 0;
	if (!rc)
		rc = vsock_mux_new(&s->mux, options->path, options->cid, &mux_ops, s, err, errlen);
	if (!rc)
		rc = virtio_pci_init(&s->card, host, &config);
	if (rc) {
		free_vsock(s);
		return rc;
	}
	rc = thread_start(&s->thread, "vsock streams", vsock_main, s);
	s->has_thread = !rc;
	return rc;
}

/*
 * Bytes for the guest wait in a small buffer a port until the driver gives room; bytes from the
 * guest stay in the driver's chain until the backend has taken all of them. So neither side can
 * make us keep more than that.
 *
 * Locks: console.lock, a leaf, for the ports' input buffers and what the driver has said of them.
 * All else belongs to the worker.
 */
#include "device/virtio/console.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ID_CONSOLE              3
#define PCI_CLASS_COMMUNICATION 0x0780
#define F_MULTIPORT             BIT(1)
#define MAX_BUFFERS             64
#define INPUT_BYTES             4096u
#define PIECE_BYTES             1024u /* copied at a time */
#define MAX_MESSAGES            64u

/* 5.3.2: receive and transmit of port 0, of control, of port 1 and so on. */
enum { QUEUE_CONTROL_RX = 2, QUEUE_CONTROL_TX = 3 };

static unsigned rx_queue(unsigned port)
{
	return port ? 2 * port + 2 : 0;
}

static unsigned port_of(unsigned queue)
{
	return queue < 2 ? 0 : queue / 2 - 1;
}

/* 5.3.6.2 */
enum {
	DEVICE_READY,
	PORT_ADD,
	PORT_REMOVE,
	PORT_READY,
	CONSOLE_PORT,
	RESIZE,
	PORT_OPEN,
	PORT_NAME,
};

struct message {
	uint32_t port;
	uint16_t event, value;
};

struct config {
	uint16_t cols, rows;
	uint32_t max_ports;
};

struct port {
	const char *name;
	struct virtio_port_backend backend;
	/* Under the lock. */
	uint8_t input[INPUT_BYTES]; /* a ring */
	size_t at, len;
	bool refused; /* input() took less than it was given */
	bool open;    /* by the guest */
	/* The worker's. */
	struct vq_chain chain; /* on its way out */
	struct iovec iov[MAX_BUFFERS];
	uint64_t sent; /* bytes of it; the chain is there while `sending` */
	bool sending;
};

struct virtio_console {
	struct virtio_pci card;
	unsigned nr;
	struct config config;
	pthread_mutex_t lock;
	struct port port[VIRTIO_CONSOLE_PORTS];
	/* The worker's: messages that the driver has no room for yet. */
	struct message message[MAX_MESSAGES];
	unsigned nr_messages;
};

static struct vq *queue(struct virtio_console *c, unsigned n)
{
	return &c->card.v.vq[n];
}

/* From the guest. */

/* False when the backend has to be waited for. */
static bool send_chain(struct port *p)
{
	uint8_t buf[PIECE_BYTES];

	for (;;) {
		uint64_t n = dma_read(&p->chain.out, p->sent, buf, sizeof(buf));
		size_t taken =
		        n && p->backend.output ? p->backend.output(p->backend.opaque, buf, n) : n;

		if (!n)
			return true;
		p->sent += taken;
		if (taken < n)
			return false;
	}
}

static void transmit(struct virtio_console *c, unsigned n)
{
	struct port *p = &c->port[n];
	struct vq *q = queue(c, rx_queue(n) + 1);

	for (;;) {
		if (!p->sending) {
			p->chain.iov = p->iov;
			p->chain.max = MAX_BUFFERS;
			p->sending = vq_pop_or_ask(q, &p->chain);
			p->sent = 0;
		}
		if (!p->sending || !send_chain(p))
			return;
		p->sending = false;
		vq_push(q, &p->chain, 0);
	}
}

/* For the guest. */

static bool has_input(struct virtio_console *c, unsigned n)
{
	bool has;

	pthread_mutex_lock(&c->lock);
	has = c->port[n].open && c->port[n].len;
	pthread_mutex_unlock(&c->lock);
	return has;
}

/* Moves what there is, or fits, into a chain; how much. *room is true when the backend waits for
 * that. */
static uint32_t fill_chain(struct virtio_console *c, struct port *p, const struct vq_chain *chain,
                           bool *room)
{
	uint64_t done = 0, n;

	pthread_mutex_lock(&c->lock);
	do {
		size_t run = INPUT_BYTES - p->at < p->len ? INPUT_BYTES - p->at : p->len;

		n = dma_write(&chain->in, c->card.v.mem, done, p->input + p->at, run);
		p->at = (p->at + n) % INPUT_BYTES;
		p->len -= n;
		done += n;
	} while (n && p->len);
	*room = p->refused && p->len < INPUT_BYTES;
	if (*room)
		p->refused = false;
	pthread_mutex_unlock(&c->lock);
	return (uint32_t)done;
}

static void receive(struct virtio_console *c, unsigned n)
{
	struct vq *q = queue(c, rx_queue(n));
	struct port *p = &c->port[n];
	struct iovec iov[MAX_BUFFERS];
	struct vq_chain chain = { .iov = iov, .max = MAX_BUFFERS };

	while (has_input(c, n) && vq_pop_or_ask(q, &chain)) {
		bool room;

		vq_push(q, &chain, fill_chain(c, p, &chain, &room));
		if (room && p->backend.input_room)
			p->backend.input_room(p->backend.opaque);
	}
}

size_t virtio_console_input(struct virtio_console *c, unsigned n, const uint8_t *buf, size_t len)
{
	struct port *p = &c->port[n];
	size_t taken = 0;

	assert(n < c->nr);
	pthread_mutex_lock(&c->lock);
	while (taken < len && p->len < INPUT_BYTES) {
		p->input[(p->at + p->len++) % INPUT_BYTES] = buf[taken++];
	}
	p->refused = p->refused || taken < len;
	pthread_mutex_unlock(&c->lock);
	if (taken)
		virtio_wake(&c->card.v);
	return taken;
}

void virtio_console_resume(struct virtio_console *c)
{
	virtio_wake(&c->card.v);
}

/* Control messages. */

static void flush_messages(struct virtio_console *c)
{
	struct vq *q = queue(c, QUEUE_CONTROL_RX);
	struct iovec iov[MAX_BUFFERS];
	struct vq_chain chain = { .iov = iov, .max = MAX_BUFFERS };
	unsigned done = 0;

	while (done < c->nr_messages && vq_pop_or_ask(q, &chain)) {
		const struct message *m = &c->message[done++];
		struct mem *mem = c->card.v.mem;
		uint64_t n = dma_write(&chain.in, mem, 0, m, sizeof(*m));

		if (m->event == PORT_NAME)
			n += dma_write(&chain.in, mem, n, c->port[m->port].name,
			               strlen(c->port[m->port].name));
		vq_push(q, &chain, (uint32_t)n);
	}
	c->nr_messages -= done;
	memmove(c->message, c->message + done, c->nr_messages * sizeof(c->message[0]));
}

/* A driver that keeps asking and never gives room loses answers. */
static void tell(struct virtio_console *c, unsigned port, uint16_t event, uint16_t value)
{
	if (c->nr_messages < MAX_MESSAGES)
		c->message[c->nr_messages++] = (struct message){ port, event, value };
}

static void set_open(struct virtio_console *c, unsigned port, bool open)
{
	pthread_mutex_lock(&c->lock);
	c->port[port].open = open;
	pthread_mutex_unlock(&c->lock);
}

static void port_is_ready(struct virtio_console *c, unsigned port)
{
	if (port == 0)
		tell(c, port, CONSOLE_PORT, 1);
	else
		tell(c, port, PORT_NAME, 1);
	tell(c, port, PORT_OPEN, 1);
}

static void take_message(struct virtio_console *c, const struct message *m)
{
	if (m->event == DEVICE_READY) {
		for (unsigned i = 0; m->value == 1 && i < c->nr; i++)
			tell(c, i, PORT_ADD, 1);
		return;
	}
	if (m->port >= c->nr)
		return;
	if (m->event == PORT_READY && m->value == 1) {
		port_is_ready(c, m->port);
	} else if (m->event == PORT_OPEN) {
		set_open(c, m->port, m->value == 1);
		receive(c, m->port);
	}
}

static void take_messages(struct virtio_console *c)
{
	struct vq *q = queue(c, QUEUE_CONTROL_TX);
	struct iovec iov[MAX_BUFFERS];
	struct vq_chain chain = { .iov = iov, .max = MAX_BUFFERS };

	while (vq_pop_or_ask(q, &chain)) {
		struct message m;

		if (dma_read(&chain.out, 0, &m, sizeof(m)) == sizeof(m))
			take_message(c, &m);
		vq_push(q, &chain, 0);
	}
}

/* The worker. */

static void kick(void *dev, unsigned n)
{
	struct virtio_console *c = dev;

	if (n == QUEUE_CONTROL_TX)
		take_messages(c);
	else if (n != QUEUE_CONTROL_RX && n & 1)
		transmit(c, port_of(n));
	else if (n != QUEUE_CONTROL_RX)
		receive(c, port_of(n));
	flush_messages(c);
}

static void work(void *dev)
{
	struct virtio_console *c = dev;

	for (unsigned n = 0; n < c->nr; n++) {
		transmit(c, n);
		receive(c, n);
	}
}

static void start(void *dev)
{
	struct virtio_console *c = dev;

	if (!virtio_has(&c->card.v, F_MULTIPORT))
		set_open(c, 0, true);
}

static void stop(void *dev)
{
	struct virtio_console *c = dev;

	c->nr_messages = 0;
	for (unsigned n = 0; n < c->nr; n++) {
		if (c->port[n].sending)
			vq_push(queue(c, rx_queue(n) + 1), &c->port[n].chain, 0);
		c->port[n].sending = false;
		set_open(c, n, false);
	}
}

static void read_config(void *dev, uint32_t off, void *buf, unsigned size)
{
	memcpy(buf, (const uint8_t *)&((struct virtio_console *)dev)->config + off, size);
}

static void free_console(void *dev)
{
	struct virtio_console *c = dev;

	pthread_mutex_destroy(&c->lock);
	free(c);
}

static const struct virtio_ops console_ops = {
	.name = "console",
	.id = ID_CONSOLE,
	.pci_class = PCI_CLASS_COMMUNICATION,
	.config_len = sizeof(struct config),
	.config_read = read_config,
	.start = start,
	.kick = kick,
	.work = work,
	.stop = stop,
	.free = free_console,
};

int virtio_console_add(struct virtio_console **out, struct pci_host *host, struct bus *bus,
                       struct mem *mem, const struct virtio_port_config *ports, unsigned nr)
{
	struct virtio_config config = { .ops = &console_ops,
		                        .mem = mem,
		                        .bus = bus,
		                        .features = F_MULTIPORT,
		                        .nr_queues = 2 * nr + 2,
		                        .queue_size = 64 };
	struct virtio_console *c = calloc(1, sizeof(*c));
	int rc;

	assert(nr >= 1 && nr <= VIRTIO_CONSOLE_PORTS);
	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	c->nr = nr;
	c->config.max_ports = nr;
	for (unsigned i = 0; i < nr; i++) {
		c->port[i].name = ports[i].name;
		c->port[i].backend = ports[i].backend;
	}
	config.dev = c;
	rc = virtio_pci_init(&c->card, host, &config);
	if (rc) {
		free_console(c);
		return rc;
	}
	*out = c;
	return 0;
}

/*
 * Frames from the driver.
 */
#include "device/virtio/net_private.h"

#define BATCH      32  /* chains that go back at a time */
#define BUDGET     256 /* frames before the backend's sockets get their turn */
#define FLOW_BYTES 64  /* of a frame, in which addresses and ports are */

struct batch {
	struct vq *q;
	struct vq_used used[BATCH];
	unsigned nr;
};

static void flush(struct batch *b)
{
	vq_push_list(b->q, b->used, b->nr);
	b->nr = 0;
}

/* Answers go to the queue that the flow was last sent on (5.1.6.5.5). */
static void note_flow(struct virtio_net *n, unsigned pair, const struct vq_chain *c)
{
	uint8_t frame[FLOW_BYTES];
	uint64_t len = dma_read(&c->out, NET_HEADER, frame, sizeof(frame));

	n->flow[net_flow(frame, len)] = (uint8_t)pair;
}

/* False when the backend refuses, which calls again. */
static bool send_queue(struct virtio_net *n, unsigned pair, unsigned *budget)
{
	struct batch b = { .q = net_tx_queue(n, pair) };
	struct vq_chain c = { .iov = n->tx_iov, .max = NET_IOV };
	bool sent = true;

	while (*budget && vq_pop(b.q, &c)) {
		if (n->pairs > 1)
			note_flow(n, pair, &c);
		sent = net_send(n->net, c.out.iov, c.out.nr);
		if (!sent) {
			vq_unpop(b.q, &c);
			break;
		}
		b.used[b.nr++] = (struct vq_used){ c.id, c.slots, 0 };
		if (b.nr == BATCH)
			flush(&b);
		--*budget;
	}
	flush(&b);
	return sent;
}

static void transmit_running(struct virtio_net *n)
{
	unsigned budget = BUDGET;

	for (unsigned pair = 0; pair < n->pairs; pair++) {
		struct vq *q = net_tx_queue(n, pair);

		do {
			vq_want_kicks(q, false);
			if (!send_queue(n, pair, &budget))
				return;
			if (!budget) {
				net_kick(n->net);
				return;
			}
		} while (vq_want_kicks(q, true));
	}
}

void net_transmit(void *card)
{
	struct virtio_net *n = card;

	pthread_mutex_lock(&n->ring_lock);
	n->transmitting = true;
	if (n->running)
		transmit_running(n);
	n->transmitting = false;
	pthread_mutex_unlock(&n->ring_lock);
}

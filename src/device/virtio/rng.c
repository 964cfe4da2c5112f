#include "device/virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define ID_ENTROPY      4
#define PCI_CLASS_OTHER 0x00ff
#define MAX_BUFFERS     64
#define MAX_BYTES       4096u /* a request; the driver asks again if it wants more */

struct rng {
	struct virtio_pci card;
	struct iovec iov[MAX_BUFFERS];
};

static void serve(struct rng *r, struct vq *q, const struct vq_chain *c)
{
	uint64_t want = c->in.len < MAX_BYTES ? c->in.len : MAX_BYTES;
	uint8_t buf[MAX_BYTES];
	ssize_t n = getrandom(buf, want, 0);

	if (n < 0)
		n = 0;
	dma_write(&c->in, r->card.v.mem, 0, buf, (uint64_t)n);
	vq_push(q, c, (uint32_t)n);
}

static void kick(void *dev, unsigned n)
{
	struct rng *r = dev;
	struct vq *q = &r->card.v.vq[n];
	struct vq_chain c = { .iov = r->iov, .max = MAX_BUFFERS };

	do {
		vq_want_kicks(q, false);
		while (vq_pop(q, &c))
			serve(r, q, &c);
	} while (vq_want_kicks(q, true));
}

static const struct virtio_ops rng_ops = {
	.name = "rng",
	.id = ID_ENTROPY,
	.pci_class = PCI_CLASS_OTHER,
	.kick = kick,
	.free = free,
};

int virtio_rng_add(struct pci_host *host, struct bus *bus, struct mem *mem)
{
	struct virtio_config config = {
		.ops = &rng_ops,
		.mem = mem,
		.bus = bus,
		.features = VIRTIO_F_RING_RESET,
		.nr_queues = 1,
		.queue_size = 64,
	};
	struct rng *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return -ENOMEM;
	config.dev = r;
	rc = virtio_pci_init(&r->card, host, &config);
	if (rc)
		free(r);
	return rc;
}

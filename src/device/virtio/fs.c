#include "device/virtio/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ID_FS             26
#define PCI_CLASS_STORAGE 0x0180

enum { QUEUE_URGENT, QUEUE_REQUESTS, NR_QUEUES }; /* 5.11.2 */

/* 5.11.4 */
struct fs_config {
	char tag[VIRTIO_FS_TAG]; /* not terminated when it is full */
	uint32_t nr_requests_queues;
};

struct fs {
	struct virtio_pci card;
	struct share *share;
	struct fs_config config;
	struct iovec iov[VIRTIO_MAX_CHAIN];
};

/* Requests are done by the worker, one after the other. */
static void kick(void *dev, unsigned n)
{
	struct fs *f = dev;
	struct vq *q = &f->card.v.vq[n];
	struct vq_chain c = { .iov = f->iov, .max = VIRTIO_MAX_CHAIN };

	do {
		vq_want_kicks(q, false);
		while (vq_pop(q, &c)) {
			size_t len =
			        share_request(f->share, c.out.iov, c.out.nr, c.in.iov, c.in.nr);

			dma_wrote(&c.in, f->card.v.mem, len);
			vq_push(q, &c, (uint32_t)len);
		}
	} while (vq_want_kicks(q, true));
}

static void stop(void *dev)
{
	share_reset(((struct fs *)dev)->share);
}

static void config_read(void *dev, uint32_t off, void *buf, unsigned size)
{
	memcpy(buf, (const uint8_t *)&((struct fs *)dev)->config + off, size);
}

static void free_fs(void *dev)
{
	struct fs *f = dev;

	share_close(f->share);
	free(f);
}

static const struct virtio_ops fs_ops = {
	.name = "fs",
	.id = ID_FS,
	.pci_class = PCI_CLASS_STORAGE,
	.config_len = sizeof(struct fs_config),
	.config_read = config_read,
	.kick = kick,
	.stop = stop,
	.free = free_fs,
};

int virtio_fs_add(struct pci_host *host, struct bus *bus, struct mem *mem, struct share *share,
                  const char *tag)
{
	struct virtio_config config = {
		.ops = &fs_ops,
		.mem = mem,
		.bus = bus,
		.nr_queues = NR_QUEUES,
		.queue_size = VIRTIO_QUEUE_SIZE,
	};
	struct fs *f = calloc(1, sizeof(*f));
	int rc;

	if (!f) {
		share_close(share);
		return -ENOMEM;
	}
	config.dev = f;
	f->share = share;
	f->config.nr_requests_queues = 1;
	memcpy(f->config.tag, tag, strnlen(tag, VIRTIO_FS_TAG));
	rc = virtio_pci_init(&f->card, host, &config);
	if (rc)
		free_fs(f);
	return rc;
}

/*
 * Doorbells that the host's kernel answers: while the device is started, and for as long as its BAR
 * stays where it is, a write to a queue's doorbell rings the bell of the device's worker, and the
 * vCPU goes on without leaving the guest. What cannot be had this way (no such engine, no
 * descriptor left, a BAR at a place where the guest's write would not reach it) goes through
 * write_bar(), as everything does that was not asked for here.
 */
#include "device/virtio/virtio_pci.h"

#include <string.h>

static struct doorbell doorbell_of(const struct virtio_pci *card, unsigned queue, int fd)
{
	return (struct doorbell){
		.space = BUS_MMIO,
		.addr = card->bells_at + queue * VIRTIO_PCI_NOTIFY_STEP,
		.fd = fd,
	};
}

static void remove_bells(struct virtio_pci *card, const struct doorbells *bells, int fd)
{
	for (; card->bells; card->bells &= card->bells - 1) {
		struct doorbell d = doorbell_of(card, (unsigned)__builtin_ctzll(card->bells), fd);
		int rc = bells->ops->remove(bells->opaque, &d);

		if (rc)
			log_error("virtio %s: a doorbell stays: %s", card->v.ops->name,
			          strerror(-rc));
	}
}

static void add_bells(struct virtio_pci *card, const struct doorbells *bells, int fd)
{
	for (unsigned q = 0; q < card->v.nr_queues; q++) {
		struct doorbell d = doorbell_of(card, q, fd);

		if (!bells->ops->add(bells->opaque, &d))
			card->bells |= BIT(q);
	}
}

void virtio_pci_update_bells(struct virtio_pci *card)
{
	struct pci_host *host = card->f.host;
	const struct doorbells *bells = host ? host->wires.doorbells : NULL;
	uint64_t at = 0, len = card->v.nr_queues * VIRTIO_PCI_NOTIFY_STEP;
	int fd;

	if (!bells || (!card->v.started && !card->bells_at))
		return;
	if (!card->v.started ||
	    !pci_host_decodes(host, &card->f.bar[0], VIRTIO_PCI_NOTIFY, len, &at))
		at = 0;
	if (at == card->bells_at)
		return;
	fd = worker_bell(&card->v.worker);
	if (fd < 0)
		return;
	remove_bells(card, bells, fd);
	card->bells_at = at;
	if (at)
		add_bells(card, bells, fd);
}

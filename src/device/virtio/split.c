/*
 * Split virtqueues (virtio 1.2, 2.7): a table of descriptors, a ring of chains that are available
 * and one of those used.
 */
#include <string.h>

#include "device/virtio/ring.h"

#define NO_INTERRUPT 1 /* flags of the driver's ring */
#define NO_NOTIFY    1 /* of the device's */

/* Offsets in the rings: flags, index, entries, and behind these the event index. */
#define RING_FLAGS   0u
#define RING_INDEX   2u
#define RING_ENTRIES 4u

struct used_entry {
	uint32_t id, len;
};

static uint64_t driver_bytes(unsigned size)
{
	return RING_ENTRIES + size * 2 + 2;
}

static uint64_t device_bytes(unsigned size)
{
	return RING_ENTRIES + size * sizeof(struct used_entry) + 2;
}

static uint8_t *driver_at(const struct vq *q, unsigned off)
{
	return (uint8_t *)q->driver_area + off;
}

static uint8_t *device_at(const struct vq *q, unsigned off)
{
	return (uint8_t *)q->device_area + off;
}

static bool split_empty(struct vq *q)
{
	return vq_load16(driver_at(q, RING_INDEX)) == q->s.avail;
}

static int walk(struct vq *q, struct vq_chain *c)
{
	struct vq_walk w;
	struct vq_desc d = { .next = c->id, .flags = VQ_NEXT };

	vq_walk_begin(&w, q, c);
	while (d.flags & VQ_NEXT) {
		if (d.next >= q->s.size) {
			virtio_fail(q->v, "queue %u: descriptor %u of %u", q->index, d.next,
			            q->s.size);
			return -1;
		}
		if (w.seen >= q->s.size) {
			virtio_fail(q->v, "queue %u: a chain longer than the queue", q->index);
			return -1;
		}
		vq_copy_desc(&d, (const struct vq_desc *)q->desc_ring + d.next);
		if (d.flags & VQ_INDIRECT)
			return vq_walk_table(&w, &d, true);
		if (vq_walk_add(&w, &d))
			return -1;
	}
	return 0;
}

static int split_pop(struct vq *q, struct vq_chain *c)
{
	uint16_t ready = (uint16_t)(vq_load16(driver_at(q, RING_INDEX)) - q->s.avail);
	unsigned slot = q->s.avail & (q->s.size - 1u);

	if (!ready)
		return 0;
	if (ready > q->s.size) {
		virtio_fail(q->v, "queue %u: %u chains in a ring of %u", q->index, ready,
		            q->s.size);
		return -1;
	}
	c->id = vq_load16(driver_at(q, RING_ENTRIES + 2 * slot));
	c->slots = 1;
	if (walk(q, c))
		return -1;
	q->s.avail++;
	return 1;
}

static void split_unpop(struct vq *q, const struct vq_chain *c)
{
	q->s.avail--;
}

static bool wants_interrupt(struct vq *q, uint16_t before)
{
	/* The driver's word is read after it can see ours (2.7.7.2). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!q->event_idx)
		return !(vq_load16(driver_at(q, RING_FLAGS)) & NO_INTERRUPT);
	return vq_passed_event(vq_load16(driver_at(q, RING_ENTRIES + 2u * q->s.size)), q->s.used,
	                       before);
}

static bool split_push(struct vq *q, const struct vq_used *used, unsigned n)
{
	uint16_t before = q->s.used;

	for (unsigned i = 0; i < n; i++, q->s.used++) {
		struct used_entry e = { used[i].id, used[i].len };
		unsigned slot = q->s.used & (q->s.size - 1u);
		uint8_t *p = device_at(q, RING_ENTRIES + slot * (unsigned)sizeof(e));

		memcpy(p, &e, sizeof(e));
		mem_wrote_range(q->v->mem, p, sizeof(e));
	}
	vq_store16(q, device_at(q, RING_INDEX), q->s.used);
	return wants_interrupt(q, before);
}

static void split_want_kicks(struct vq *q, bool on)
{
	unsigned event = RING_ENTRIES + q->s.size * (unsigned)sizeof(struct used_entry);

	if (!q->event_idx)
		vq_store16(q, device_at(q, RING_FLAGS), on ? 0 : NO_NOTIFY);
	else if (on)
		vq_store16(q, device_at(q, event), q->s.avail);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

const struct vq_layout vq_split = {
	.driver_bytes = driver_bytes,
	.device_bytes = device_bytes,
	.driver_align = 2,
	.device_align = 4,
	.pop = split_pop,
	.unpop = split_unpop,
	.empty = split_empty,
	.push = split_push,
	.want_kicks = split_want_kicks,
};

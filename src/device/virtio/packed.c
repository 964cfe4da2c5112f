/*
 * Packed virtqueues (virtio 1.2, 2.8): one ring of descriptors, which the driver marks available
 * and the device used. Both have a wrap counter that starts at one and flips at the end of the
 * ring; a descriptor is available when its AVAIL bit is the driver's counter and its USED bit is
 * not.
 */
#include "device/virtio/ring.h"

#define DESC_AVAIL BIT(7)
#define DESC_USED  BIT(15)

/* The event suppression structures, 2.8.10. */
struct suppression {
	uint16_t where; /* place in the ring, and the wrap counter in bit 15 */
	uint16_t flags;
};
enum { EVENTS_ALL, EVENTS_NONE, EVENTS_AT };
#define WHERE_WRAP 0x8000u

static uint64_t event_bytes(unsigned size)
{
	return sizeof(struct suppression);
}

/* In the ring the flags come last, where a split descriptor has `next`. */
struct packed_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};
_Static_assert(sizeof(struct packed_desc) == sizeof(struct vq_desc), "2.8.13");

static struct packed_desc *desc_at(const struct vq *q, unsigned place)
{
	return (struct packed_desc *)q->desc_ring + place;
}

static void copy_desc(const struct vq *q, unsigned place, struct vq_desc *d)
{
	uint16_t id;

	vq_copy_desc(d, desc_at(q, place));
	id = d->flags;
	d->flags = d->next;
	d->next = id;
}

static bool is_available(const struct vq *q, uint16_t flags)
{
	return !!(flags & DESC_AVAIL) == q->s.avail_wrap &&
	       !!(flags & DESC_USED) != q->s.avail_wrap;
}

/* Steps n places on, n at most the size. */
static void advance(const struct vq *q, uint16_t *place, bool *wrap, unsigned n)
{
	unsigned next = *place + n;

	if (next >= q->s.size) {
		next -= q->s.size;
		*wrap = !*wrap;
	}
	*place = (uint16_t)next;
}

static bool packed_empty(struct vq *q)
{
	return !is_available(q, vq_load16(&desc_at(q, q->s.avail)->flags));
}

/* The first descriptor is published last, so all of the chain is there; the id is in the last. */
static int walk(struct vq *q, struct vq_chain *c)
{
	unsigned place = q->s.avail;
	struct vq_desc d = { .flags = VQ_NEXT };
	struct vq_walk w;

	vq_walk_begin(&w, q, c);
	for (c->slots = 0; d.flags & VQ_NEXT; c->slots++) {
		if (c->slots == q->s.size) {
			virtio_fail(q->v, "queue %u: a chain longer than the queue", q->index);
			return -1;
		}
		copy_desc(q, place, &d);
		if (++place == q->s.size)
			place = 0;
		if (d.flags & VQ_INDIRECT ? vq_walk_table(&w, &d, false) : vq_walk_add(&w, &d))
			return -1;
		if (d.flags & VQ_INDIRECT)
			d.flags &= (uint16_t)~VQ_NEXT; /* reserved there */
	}
	c->id = d.next;
	return 0;
}

static int packed_pop(struct vq *q, struct vq_chain *c)
{
	if (packed_empty(q))
		return 0;
	if (walk(q, c))
		return -1;
	advance(q, &q->s.avail, &q->s.avail_wrap, c->slots);
	return 1;
}

static void packed_unpop(struct vq *q, const struct vq_chain *c)
{
	unsigned back = q->s.size - c->slots;

	/* Once around, less what was taken; the counter flips twice, or once. */
	q->s.avail_wrap = !q->s.avail_wrap;
	advance(q, &q->s.avail, &q->s.avail_wrap, back);
}

static bool wants_interrupt(struct vq *q, unsigned places)
{
	const struct suppression *s = q->driver_area;
	uint16_t flags, where;
	unsigned at;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	flags = vq_load16(&s->flags);
	if (flags != EVENTS_AT || !q->event_idx)
		return flags != EVENTS_NONE;
	where = vq_load16(&s->where);
	at = where & ~WHERE_WRAP;
	if (!!(where & WHERE_WRAP) != q->s.used_wrap)
		at -= q->s.size;
	return vq_passed_event((uint16_t)at, q->s.used, (uint16_t)(q->s.used - places));
}

/* Flags last, and the first descriptor's after all others, for then the driver sees them. */
static bool packed_push(struct vq *q, const struct vq_used *used, unsigned n)
{
	uint16_t first_flags = 0, place = q->s.used;
	struct packed_desc *first = desc_at(q, place);
	unsigned places = 0;

	for (unsigned i = 0; i < n; i++) {
		struct packed_desc *d = desc_at(q, q->s.used);
		uint16_t flags = q->s.used_wrap ? DESC_AVAIL | DESC_USED : 0;

		if (used[i].len)
			flags |= VQ_WRITE;
		d->id = used[i].id;
		d->len = used[i].len;
		mem_wrote_range(q->v->mem, (const uint8_t *)d, sizeof(*d));
		if (i == 0)
			first_flags = flags;
		else
			vq_store16(q, &d->flags, flags);
		advance(q, &q->s.used, &q->s.used_wrap, used[i].slots);
		places += used[i].slots;
	}
	vq_store16(q, &first->flags, first_flags);
	return wants_interrupt(q, places);
}

static void packed_want_kicks(struct vq *q, bool on)
{
	struct suppression *s = q->device_area;

	if (on && q->event_idx)
		vq_store16(q, &s->where,
		           (uint16_t)(q->s.avail | (q->s.avail_wrap ? WHERE_WRAP : 0)));
	vq_store16(q, &s->flags, on ? (q->event_idx ? EVENTS_AT : EVENTS_ALL) : EVENTS_NONE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

const struct vq_layout vq_packed = {
	.driver_bytes = event_bytes,
	.device_bytes = event_bytes,
	.driver_align = 4,
	.device_align = 4,
	.any_size = true,
	.pop = packed_pop,
	.unpop = packed_unpop,
	.empty = packed_empty,
	.push = packed_push,
	.want_kicks = packed_want_kicks,
};

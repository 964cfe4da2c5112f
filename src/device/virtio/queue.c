/*
 * Virtqueues: what both layouts share.
 */
#include <assert.h>
#include <errno.h>

#include "device/virtio/ring.h"

/* Walking. */

void vq_walk_begin(struct vq_walk *w, struct vq *q, struct vq_chain *c)
{
	*w = (struct vq_walk){ .q = q, .c = c };
	c->out = (struct dma){ .iov = c->iov, .max = c->max };
	c->in = (struct dma){ .iov = c->iov };
}

#define MAX_CHAIN_BYTES (4 * GiB) /* 2.6.4.2 */

int vq_walk_add(struct vq_walk *w, const struct vq_desc *d)
{
	struct vq_chain *c = w->c;
	bool in = d->flags & VQ_WRITE;
	struct virtio *v = w->q->v;
	unsigned index = w->q->index;
	int rc;

	w->seen++;
	if (!in && c->in.nr) {
		virtio_fail(v, "queue %u: a buffer to read after one to write", index);
		return -1;
	}
	if (in) {
		c->in.iov = c->iov + c->out.nr;
		c->in.max = c->max - c->out.nr;
	}
	rc = dma_add(in ? &c->in : &c->out, v->mem, d->addr, d->len, in);
	if (rc == -E2BIG)
		virtio_fail(v, "queue %u: a chain of more than %u buffers", index, c->max);
	else if (rc)
		virtio_fail(v, "queue %u: no %s at 0x%llx, %u bytes", index, in ? "RAM" : "memory",
		            (unsigned long long)d->addr, d->len);
	else if (c->in.len + c->out.len > MAX_CHAIN_BYTES)
		virtio_fail(v, "queue %u: a chain of more than 4 GiB", index);
	else
		return 0;
	return -1;
}

/* 2.7.5.3, 2.8.7: only descriptors in it, and no further table. */
static int add_entry(struct vq_walk *w, const struct vq_desc *table, unsigned at, unsigned nr,
                     struct vq_desc *d)
{
	if (at >= nr || w->seen >= VIRTIO_MAX_CHAIN) {
		virtio_fail(w->q->v, "queue %u: an indirect chain beyond its table of %u",
		            w->q->index, nr);
		return -1;
	}
	vq_copy_desc(d, &table[at]);
	return 0;
}

static int walk_linked(struct vq_walk *w, const struct vq_desc *table, unsigned nr)
{
	struct vq_desc d = { .flags = VQ_NEXT };

	while (d.flags & VQ_NEXT) {
		if (add_entry(w, table, d.next, nr, &d))
			return -1;
		if (d.flags & VQ_INDIRECT) {
			virtio_fail(w->q->v, "queue %u: a table in a table", w->q->index);
			return -1;
		}
		if (vq_walk_add(w, &d))
			return -1;
	}
	return 0;
}

/* In a packed ring's table the last two fields are the other way round, and of the flags only
 * WRITE counts. */
static int walk_sequence(struct vq_walk *w, const struct vq_desc *table, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		struct vq_desc d;

		if (add_entry(w, table, i, nr, &d))
			return -1;
		d.flags = d.next & VQ_WRITE;
		if (vq_walk_add(w, &d))
			return -1;
	}
	return 0;
}

int vq_walk_table(struct vq_walk *w, const struct vq_desc *d, bool linked)
{
	unsigned nr = d->len / sizeof(*d);
	const struct vq_desc *table;

	if (!virtio_has(w->q->v, VIRTIO_F_INDIRECT_DESC) || d->flags & VQ_NEXT ||
	    d->flags & VQ_WRITE || !nr || d->len % sizeof(*d) || d->addr % sizeof(uint64_t)) {
		virtio_fail(w->q->v, "queue %u: an indirect table of %u bytes, flags 0x%x",
		            w->q->index, d->len, d->flags);
		return -1;
	}
	table = mem_host(w->q->v->mem, d->addr, d->len, false);
	if (!table) {
		virtio_fail(w->q->v, "queue %u: no memory at 0x%llx for a table of %u bytes",
		            w->q->index, (unsigned long long)d->addr, d->len);
		return -1;
	}
	return linked ? walk_linked(w, table, nr) : walk_sequence(w, table, nr);
}

/* For devices. */

bool vq_pop(struct vq *q, struct vq_chain *c)
{
	bool found = false;

	pthread_mutex_lock(&q->lock);
	if (q->running && !q->v->broken)
		found = q->layout->pop(q, c) > 0;
	/* A driver that gives a place again before it has it back could have us hold any number. */
	if (found && q->out == q->s.size) {
		virtio_fail(q->v, "queue %u: more than %u chains at a time", q->index, q->s.size);
		found = false;
	}
	q->out += found;
	q->v->out += found;
	pthread_mutex_unlock(&q->lock);
	return found;
}

static void give_back(struct vq *q, unsigned n)
{
	bool last;

	pthread_mutex_lock(&q->lock);
	assert(q->out >= n);
	q->out -= n;
	last = q->resetting && !q->out;
	pthread_mutex_unlock(&q->lock);
	if (last)
		virtio_request_queue_reset(q->v);
	virtio_returned(q->v, n);
}

void vq_unpop(struct vq *q, const struct vq_chain *c)
{
	pthread_mutex_lock(&q->lock);
	q->layout->unpop(q, c);
	pthread_mutex_unlock(&q->lock);
	give_back(q, 1);
}

void vq_drop(struct vq *q)
{
	give_back(q, 1);
}

static void interrupt(struct vq *q, uint16_t vector)
{
	const struct virtio_transport *t = &q->v->transport;

	if (t->signal && t->signal(t->opaque, vector))
		return;
	bus_lock(q->v->bus);
	t->interrupt(t->opaque, vector, 1);
	bus_unlock(q->v->bus);
}

void vq_push_list(struct vq *q, const struct vq_used *used, unsigned n)
{
	bool wanted = false;
	uint16_t vector;

	pthread_mutex_lock(&q->lock);
	if (n && !q->v->broken)
		wanted = q->layout->push(q, used, n);
	vector = q->s.vector;
	pthread_mutex_unlock(&q->lock);
	if (wanted)
		interrupt(q, vector);
	give_back(q, n); /* last, for then the queue may be reset */
}

void vq_push(struct vq *q, const struct vq_chain *c, uint32_t len)
{
	struct vq_used used = { .id = c->id, .slots = c->slots, .len = len };

	vq_push_list(q, &used, 1);
}

bool vq_want_kicks(struct vq *q, bool on)
{
	bool more = false;

	pthread_mutex_lock(&q->lock);
	if (q->running && !q->v->broken) {
		q->layout->want_kicks(q, on);
		more = on && !q->layout->empty(q);
	}
	pthread_mutex_unlock(&q->lock);
	return more;
}

bool vq_pop_or_ask(struct vq *q, struct vq_chain *c)
{
	return vq_pop(q, c) || (vq_want_kicks(q, true) && vq_pop(q, c));
}

/* For the transport. */

static void *map_area(const struct vq *q, uint64_t addr, uint64_t len, unsigned align,
                      bool writable)
{
	return addr % align ? NULL : mem_host(q->v->mem, addr, len, writable);
}

static bool size_fits(const struct vq *q)
{
	unsigned size = q->s.size;

	return size && size <= q->max_size && (q->layout->any_size || !(size & (size - 1)));
}

static bool map_rings(struct vq *q)
{
	const struct vq_layout *l = q->layout;
	unsigned size = q->s.size;
	bool packed = l == &vq_packed;

	q->desc_ring = map_area(q, q->s.desc, size * sizeof(struct vq_desc), sizeof(struct vq_desc),
	                        packed);
	q->driver_area = map_area(q, q->s.driver, l->driver_bytes(size), l->driver_align, false);
	q->device_area = map_area(q, q->s.device, l->device_bytes(size), l->device_align, true);
	return q->desc_ring && q->driver_area && q->device_area;
}

void virtio_enable_queue(struct vq *q)
{
	struct virtio *v = q->v;
	bool fits;

	pthread_mutex_lock(&q->lock);
	if (q->s.enabled || q->resetting || q->out)
		goto out;
	q->layout = virtio_has(v, VIRTIO_F_RING_PACKED) ? &vq_packed : &vq_split;
	q->event_idx = virtio_has(v, VIRTIO_F_EVENT_IDX);
	fits = size_fits(q) && map_rings(q);
	if (!fits) {
		virtio_fail(v, "queue %u: size %u, rings at 0x%llx, 0x%llx, 0x%llx", q->index,
		            q->s.size, (unsigned long long)q->s.desc,
		            (unsigned long long)q->s.driver, (unsigned long long)q->s.device);
		goto out;
	}
	q->s.enabled = true;
	q->s.avail = q->s.used = 0;
	q->s.avail_wrap = q->s.used_wrap = true;
	q->running = v->started;
out:
	pthread_mutex_unlock(&q->lock);
}

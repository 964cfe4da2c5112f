/*
 * The two layouts of a virtqueue (virtio 1.2, 2.7 and 2.8), behind one table. Private to this
 * folder. Every function is called with the queue's lock held.
 */
#pragma once

#include "device/virtio/virtio.h"

/* A descriptor of either layout, copied. */
struct vq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next; /* split: index of the next; packed: the buffer's id */
};

#define VQ_NEXT     1
#define VQ_WRITE    2
#define VQ_INDIRECT 4

struct vq_layout {
	/* Bytes of the areas beside the descriptors, and what their addresses must be multiples of.
	 */
	uint64_t (*driver_bytes)(unsigned size);
	uint64_t (*device_bytes)(unsigned size);
	unsigned driver_align, device_align;
	bool any_size; /* else a power of two */
	/* 1 and the chain, 0 when there is none, -1 when the driver has made a mistake that was
	 * told to virtio_fail(). */
	int (*pop)(struct vq *q, struct vq_chain *c);
	void (*unpop)(struct vq *q, const struct vq_chain *c);
	bool (*empty)(struct vq *q);
	/* True when the driver wants an interrupt. */
	bool (*push)(struct vq *q, const struct vq_used *used, unsigned n);
	void (*want_kicks)(struct vq *q, bool on);
};

extern const struct vq_layout vq_split, vq_packed;

/* A walk along a chain, as far as it is the same for both. */
struct vq_walk {
	struct vq *q;
	struct vq_chain *c;
	unsigned seen; /* descriptors */
};

void vq_walk_begin(struct vq_walk *w, struct vq *q, struct vq_chain *c);
/* Adds the buffer of one descriptor; -1 after virtio_fail(). */
int vq_walk_add(struct vq_walk *w, const struct vq_desc *d);
/* Follows an indirect table to its end. linked: by `next`, else one after the other. */
int vq_walk_table(struct vq_walk *w, const struct vq_desc *d, bool linked);

/* The entry after `old` up to `new` includes `event` (2.7.7.2), modulo 2^16. */
static inline bool vq_passed_event(uint16_t event, uint16_t new, uint16_t old)
{
	return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

/* Rings are shared with vCPUs that run: each word is read and written as a whole, once. */
static inline uint16_t vq_load16(const void *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}

static inline void vq_store16(struct vq *q, void *p, uint16_t value)
{
	__atomic_store_n((uint16_t *)p, value, __ATOMIC_RELEASE);
	mem_wrote_range(q->v->mem, p, sizeof(value));
}

static inline void vq_copy_desc(struct vq_desc *d, const void *from)
{
	uint64_t word[2];

	_Static_assert(sizeof(*d) == sizeof(word), "2.7.5");
	word[0] = __atomic_load_n((const uint64_t *)from, __ATOMIC_RELAXED);
	word[1] = __atomic_load_n((const uint64_t *)from + 1, __ATOMIC_RELAXED);
	__builtin_memcpy(d, word, sizeof(*d));
}

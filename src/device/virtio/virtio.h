/*
 * Virtio 1.2: what a device implements, and what it may use.
 *
 * A device fills a const struct virtio_ops, and asks virtio_pci.h for a card on the PCI bus. Its
 * work is done by a thread of its own, its worker: a doorbell only wakes that. Where the engine
 * can, the host's kernel does it, and then does not say which queue's doorbell it was: kick() is
 * called for each, and finds nothing in most. The worker calls start(), kick(), work() and stop(),
 * one at a time, with no lock held. Chains are taken from a queue (vq_pop()) and given back
 * (vq_push()) there or on any other thread (a disk's, a network backend's, the loop's), but never
 * with bus.lock held or a lock that config_read() or config_write() takes: vq_push() may raise an
 * interrupt, which takes bus.lock.
 *
 * Reset, by the driver or with the machine: vq_pop() finds nothing any more, the worker calls
 * stop(), in which the device gives back chains that it keeps for later,
 * and waits until every chain is back; only then is the device reset in the driver's eyes. So a
 * device needs no code for requests that outlive their queue.
 *
 * Errors: what a driver must not do (a chain that loops, an address without memory) ends in
 * vq_pop() or in the device calling virtio_fail(): the device says NEEDS_RESET (2.1.1) and does
 * nothing more until it is reset.
 *
 * Locks: bus.lock < vq.lock < virtio.work_lock. The first protects struct virtio_state, features
 * and the device's configuration; a queue's lock its struct vq_state and rings.
 */
#pragma once

#include "base/worker.h"
#include "bus/bus.h"
#include "mem/dma.h"

#define VIRTIO_MAX_QUEUES 64
#define VIRTIO_QUEUE_SIZE 256  /* entries, the usual maximum */
#define VIRTIO_MAX_CHAIN  1024 /* descriptors, in an indirect table too */
#define VIRTIO_NO_VECTOR  0xffff

/* Feature bits that belong to no type of device, 6. */
#define VIRTIO_F_INDIRECT_DESC BIT(28)
#define VIRTIO_F_EVENT_IDX     BIT(29)
#define VIRTIO_F_VERSION_1     BIT(32)
#define VIRTIO_F_RING_PACKED   BIT(34)
#define VIRTIO_F_RING_RESET    BIT(40)

/* Device status, 2.1 */
#define VIRTIO_ACKNOWLEDGE 1
#define VIRTIO_DRIVER      2
#define VIRTIO_DRIVER_OK   4
#define VIRTIO_FEATURES_OK 8
#define VIRTIO_NEEDS_RESET 0x40
#define VIRTIO_FAILED      0x80

struct virtio;

struct virtio_ops {
	const char *name;    /* of the thread, and in messages */
	uint16_t id;         /* 5 */
	uint16_t pci_class;  /* class and subclass */
	uint32_t config_len; /* bytes of device-specific configuration */
	/* Access to the configuration, within config_len; bus.lock is held. NULL: there is none, or
	 * nothing in it can be written. */
	void (*config_read)(void *dev, uint32_t off, void *buf, unsigned size);
	void (*config_write)(void *dev, uint32_t off, const void *buf, unsigned size);
	/* On the worker; each may be NULL. */
	void (*start)(void *dev);            /* the driver is ready, features are settled */
	void (*kick)(void *dev, unsigned q); /* there may be chains in a queue */
	void (*work)(void *dev);             /* virtio_wake() was called */
	void (*stop)(void *dev);             /* a reset: see above */
	/* The machine goes on after a pause; on any thread, with no lock held. May be NULL. */
	void (*resume)(void *dev);
	/* The machine goes away; the worker has ended. */
	void (*free)(void *dev);
};

/* A chain of descriptors. The caller gives iov and max before vq_pop(). */
struct vq_chain {
	struct iovec *iov;
	unsigned max;
	struct dma out; /* what the driver wrote for the device: the first part of iov */
	struct dma in;  /* what the device is to write: the rest */
	uint16_t id;
	uint16_t slots; /* places in the ring that it takes; packed rings */
};

struct vq_used {
	uint16_t id, slots;
	uint32_t len; /* bytes written to chain.in, from its start */
};

/* What a driver can see or change of a queue. */
struct vq_state {
	uint16_t size, vector;
	bool enabled;
	uint64_t desc, driver, device; /* addresses, 2.6 */
	/* Next to take and to give back. Split rings: counts; packed: places, with their wrap
	 * counters. */
	uint16_t avail, used;
	bool avail_wrap, used_wrap;
};

struct vq_layout;

struct vq {
	struct virtio *v;
	unsigned index;
	uint16_t max_size;
	pthread_mutex_t lock;
	struct vq_state s;
	bool running;   /* chains may be taken */
	bool resetting; /* queue_reset was written, chains are still out */
	bool event_idx; /* of the features, while it is enabled */
	unsigned out;   /* chains that are not given back */
	const struct vq_layout *layout;
	void *desc_ring, *driver_area, *device_area; /* in our memory, while it is enabled */
};

struct virtio_state {
	uint64_t features; /* that the driver has accepted */
	uint32_t device_select, driver_select;
	uint16_t queue_select, config_vector;
	uint8_t status, generation;
	uint8_t isr; /* bit 0: a queue, bit 1: the configuration */
};

/* What carries interrupts and doorbells; called with bus.lock held unless it says otherwise. */
struct virtio_transport {
	void (*interrupt)(void *opaque, uint16_t vector, uint8_t isr);
	void (*clear)(void *opaque); /* the device was reset */
	void *opaque;
	/* With no lock held, a queue's interrupt where there is a shorter way; false: there is none
	 * now. May be NULL. */
	bool (*signal)(void *opaque, uint16_t vector);
	/* The device has started: doorbells may ring its worker's bell (worker_bell()) from now
	 * until clear(). May be NULL. */
	void (*start)(void *opaque);
	/* On the worker, with no lock held: so many did. */
	void (*rung)(void *opaque, uint64_t n);
};

struct virtio {
	const struct virtio_ops *ops;
	void *dev;
	struct mem *mem;
	struct bus *bus;
	struct virtio_transport transport;
	uint64_t offered;
	struct virtio_state s;
	bool started;        /* DRIVER_OK, since the last reset */
	_Atomic bool broken; /* until the next reset */
	unsigned nr_queues;
	struct vq *vq;

	struct worker worker;
	bool serving;              /* the worker's: start() was called, and stop() not since */
	pthread_mutex_t work_lock; /* what follows */
	pthread_cond_t idle_cond;  /* a reset has ended, or a chain came back */
	unsigned todo;
	uint64_t kicked;
	_Atomic bool resetting; /* written with work_lock and bus.lock held */
	_Atomic unsigned out;   /* chains of all queues that are not given back */
};

/* For a device. */

static inline bool virtio_has(const struct virtio *v, uint64_t feature)
{
	return v->s.features & feature;
}

/* Takes the next chain. False when there is none, or none any more because of a reset or an error;
 * then nothing is to be given back. */
bool vq_pop(struct vq *q, struct vq_chain *c);
/* The same; when there is none it asks for a doorbell (vq_want_kicks()) and looks again. */
bool vq_pop_or_ask(struct vq *q, struct vq_chain *c);
/* Puts back the chain that was taken last, as if it had not been. */
void vq_unpop(struct vq *q, const struct vq_chain *c);
/* Gives chains back, of whose `in` the first len bytes were written, and tells the driver if it
 * wants to know. The driver sees all of a list or nothing. */
void vq_push(struct vq *q, const struct vq_chain *c, uint32_t len);
void vq_push_list(struct vq *q, const struct vq_used *used, unsigned n);
/* Forgets a chain that was taken: only in stop(). */
void vq_drop(struct vq *q);
/* Asks the driver for doorbells, or says that none are needed. After asking, true when chains came
 * in meanwhile. With an event index a doorbell has to be asked for again after each. */
bool vq_want_kicks(struct vq *q, bool on);

/* The device's configuration has changed: to be called with bus.lock held. */
void virtio_config_changed_locked(struct virtio *v);
void virtio_lock(struct virtio *v);
void virtio_unlock(struct virtio *v);
/* From any thread: has the worker call work(). */
void virtio_wake(struct virtio *v);
/* The driver has done what it must not; fmt says what, for our log. From any thread, with no lock
 * or a queue's. */
void virtio_fail(struct virtio *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* For queues: n chains less are out; and the last one that a queue's reset has waited for. */
void virtio_returned(struct virtio *v, unsigned n);
void virtio_request_queue_reset(struct virtio *v);

/* For the transport. */

struct virtio_config {
	const struct virtio_ops *ops;
	void *dev;
	struct mem *mem;
	struct bus *bus;
	/* Beside those of the rings, which are offered always; of them RING_RESET only where stop()
	 * has no chains to give back. */
	uint64_t features;
	unsigned nr_queues;
	uint16_t queue_size; /* of each, a power of two */
};

/* Makes the queues and the worker. 0 or -errno. */
int virtio_init(struct virtio *v, const struct virtio_config *config,
                const struct virtio_transport *transport);
/* Ends the worker, after a reset; no lock held. Safe after a failed or no init. */
void virtio_fini(struct virtio *v);
/* With no lock held, while no vCPU runs: a reset that has happened when it returns. */
void virtio_stop(struct virtio *v);

/* With bus.lock held. */
void virtio_write_status(struct virtio *v, uint8_t status);
void virtio_write_features(struct virtio *v, uint64_t features, uint64_t mask);
void virtio_enable_queue(struct vq *q);
void virtio_reset_queue(struct vq *q);
void virtio_kick(struct virtio *v, unsigned queue);

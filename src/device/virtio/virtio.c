/*
 * The life of a virtio device: status, features, resets, and the worker.
 *
 *   reset --ACKNOWLEDGE, DRIVER, FEATURES_OK--> negotiated --DRIVER_OK--> started
 *     ^                                                                      |
 *     +------ the worker: stop(), every chain is back <-- resetting <--- status 0
 *
 * A vCPU that writes 0 to the status only asks; the status reads as before until the worker is
 * done (2.1.2 has the driver wait for 0). Before DRIVER_OK there is nothing to wait for, and a
 * reset happens at once.
 */
#include "device/virtio/virtio.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/worker.h"

#define RING_FEATURES \
	(VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED)

enum {
	TODO_START = BIT(0),
	TODO_WORK = BIT(1),
	TODO_RESET = BIT(2),
	TODO_BROKEN = BIT(3),
	TODO_QUEUE_RESET = BIT(4)
};

/* Telling the worker. */

static void request(struct virtio *v, unsigned todo, uint64_t kicked)
{
	pthread_mutex_lock(&v->work_lock);
	v->todo |= todo;
	v->kicked |= kicked;
	pthread_mutex_unlock(&v->work_lock);
	worker_wake(&v->worker);
}

void virtio_kick(struct virtio *v, unsigned queue)
{
	if (queue < v->nr_queues && v->started)
		request(v, 0, BIT(queue));
}

void virtio_wake(struct virtio *v)
{
	request(v, TODO_WORK, 0);
}

void virtio_fail(struct virtio *v, const char *fmt, ...)
{
	char text[160];
	va_list ap;

	if (atomic_exchange(&v->broken, true))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_info("virtio %s stopped: %s", v->ops->name, text);
	request(v, TODO_BROKEN, 0);
}

/* The configuration. */

void virtio_lock(struct virtio *v)
{
	bus_lock(v->bus);
}

void virtio_unlock(struct virtio *v)
{
	bus_unlock(v->bus);
}

void virtio_config_changed_locked(struct virtio *v)
{
	v->s.generation++;
	if (v->s.status & VIRTIO_DRIVER_OK)
		v->transport.interrupt(v->transport.opaque, v->s.config_vector, 2);
}

/* Status. */

static void clear_queue_locked(struct vq *q)
{
	q->s = (struct vq_state){ .size = q->max_size, .vector = VIRTIO_NO_VECTOR };
	q->running = q->resetting = false;
	q->desc_ring = q->driver_area = q->device_area = NULL;
}

static void clear_locked(struct virtio *v)
{
	uint8_t generation = v->s.generation;

	for (unsigned i = 0; i < v->nr_queues; i++) {
		pthread_mutex_lock(&v->vq[i].lock);
		clear_queue_locked(&v->vq[i]);
		pthread_mutex_unlock(&v->vq[i].lock);
	}
	v->s = (struct virtio_state){ .config_vector = VIRTIO_NO_VECTOR, .generation = generation };
	v->started = false;
	v->broken = false;
	v->transport.clear(v->transport.opaque);
}

/* With bus.lock held. */
static void begin_reset(struct virtio *v)
{
	if (!v->started) {
		clear_locked(v);
		return;
	}
	for (unsigned i = 0; i < v->nr_queues; i++) {
		pthread_mutex_lock(&v->vq[i].lock);
		v->vq[i].running = false;
		pthread_mutex_unlock(&v->vq[i].lock);
	}
	pthread_mutex_lock(&v->work_lock);
	v->resetting = true;
	pthread_mutex_unlock(&v->work_lock);
	request(v, TODO_RESET, 0);
}

static uint64_t all_queues(const struct virtio *v)
{
	return UINT64_MAX >> (VIRTIO_MAX_QUEUES - v->nr_queues);
}

static void start(struct virtio *v)
{
	v->started = true;
	for (unsigned i = 0; i < v->nr_queues; i++) {
		pthread_mutex_lock(&v->vq[i].lock);
		v->vq[i].running = v->vq[i].s.enabled;
		pthread_mutex_unlock(&v->vq[i].lock);
	}
	if (v->transport.start)
		v->transport.start(v->transport.opaque);
	request(v, TODO_START, all_queues(v));
}

static bool features_fit(const struct virtio *v)
{
	return !(v->s.features & ~v->offered) && virtio_has(v, VIRTIO_F_VERSION_1);
}

void virtio_write_status(struct virtio *v, uint8_t status)
{
	uint8_t added = status & (uint8_t)~v->s.status;

	if (v->resetting)
		return;
	if (status == 0) {
		begin_reset(v);
		return;
	}
	if (added & VIRTIO_FEATURES_OK && !features_fit(v))
		status &= (uint8_t)~VIRTIO_FEATURES_OK;
	/* Bits are only ever added, and NEEDS_RESET is ours (2.1.1, 2.1.2). */
	v->s.status |= status & (uint8_t)~VIRTIO_NEEDS_RESET;
	if (added & VIRTIO_DRIVER_OK && v->s.status & VIRTIO_FEATURES_OK && !v->started)
		start(v);
}

void virtio_write_features(struct virtio *v, uint64_t features, uint64_t mask)
{
	if (!(v->s.status & VIRTIO_FEATURES_OK))
		v->s.features = (v->s.features & ~mask) | (features & mask);
}

/* One queue's reset, 2.6.1. */

void virtio_request_queue_reset(struct virtio *v)
{
	request(v, TODO_QUEUE_RESET, 0);
}

void virtio_reset_queue(struct vq *q)
{
	bool idle;

	if (!virtio_has(q->v, VIRTIO_F_RING_RESET))
		return;
	pthread_mutex_lock(&q->lock);
	idle = !q->s.enabled;
	q->running = false;
	q->resetting = !idle;
	pthread_mutex_unlock(&q->lock);
	if (!idle)
		virtio_request_queue_reset(q->v);
}

/* The worker. */

static void wait_for_chains(struct virtio *v)
{
	pthread_mutex_lock(&v->work_lock);
	while (v->out)
		pthread_cond_wait(&v->idle_cond, &v->work_lock);
	pthread_mutex_unlock(&v->work_lock);
}

void virtio_returned(struct virtio *v, unsigned n)
{
	if (atomic_fetch_sub(&v->out, n) > n || !v->resetting)
		return;
	pthread_mutex_lock(&v->work_lock);
	pthread_cond_broadcast(&v->idle_cond);
	pthread_mutex_unlock(&v->work_lock);
}

static void do_reset(struct virtio *v)
{
	v->serving = false;
	if (v->ops->stop)
		v->ops->stop(v->dev);
	wait_for_chains(v);
	bus_lock(v->bus);
	clear_locked(v);
	pthread_mutex_lock(&v->work_lock);
	v->todo = 0;
	v->kicked = 0;
	v->resetting = false;
	pthread_cond_broadcast(&v->idle_cond);
	pthread_mutex_unlock(&v->work_lock);
	bus_unlock(v->bus);
}

static void tell_broken(struct virtio *v)
{
	bus_lock(v->bus);
	if (v->broken) {
		v->s.status |= VIRTIO_NEEDS_RESET;
		virtio_config_changed_locked(v);
	}
	bus_unlock(v->bus);
}

static void finish_queue_resets(struct virtio *v)
{
	bus_lock(v->bus);
	for (unsigned i = 0; i < v->nr_queues; i++) {
		struct vq *q = &v->vq[i];

		pthread_mutex_lock(&q->lock);
		if (q->resetting && !q->out)
			clear_queue_locked(q);
		pthread_mutex_unlock(&q->lock);
	}
	bus_unlock(v->bus);
}

/* Queues whose doorbells the host's kernel may have passed on. A ring before the start needs no
 * answer, for that looks at every queue; one that a reset has overtaken gets none. */
static uint64_t take_rings(struct virtio *v)
{
	uint64_t rings = worker_take_rings(&v->worker);

	if (rings)
		v->transport.rung(v->transport.opaque, rings);
	return rings && v->serving ? all_queues(v) : 0;
}

static void kick_queues(struct virtio *v, uint64_t kicked)
{
	for (; kicked && v->ops->kick; kicked &= kicked - 1)
		v->ops->kick(v->dev, (unsigned)__builtin_ctzll(kicked));
}

static void work(void *opaque)
{
	struct virtio *v = opaque;
	uint64_t kicked;
	unsigned todo;

	pthread_mutex_lock(&v->work_lock);
	todo = v->todo;
	kicked = v->kicked;
	v->todo = 0;
	v->kicked = 0;
	pthread_mutex_unlock(&v->work_lock);
	if (todo & TODO_RESET) {
		do_reset(v);
		return;
	}
	if (todo & TODO_BROKEN)
		tell_broken(v);
	if (todo & TODO_QUEUE_RESET)
		finish_queue_resets(v);
	if (todo & TODO_START)
		v->serving = true;
	if (todo & TODO_START && v->ops->start)
		v->ops->start(v->dev);
	if (todo & TODO_WORK && v->ops->work)
		v->ops->work(v->dev);
	kick_queues(v, kicked | take_rings(v));
}

/* Construction. */

int virtio_init(struct virtio *v, const struct virtio_config *config,
                const struct virtio_transport *transport)
{
	assert(config->nr_queues <= VIRTIO_MAX_QUEUES);
	*v = (struct virtio){ .ops = config->ops,
		              .dev = config->dev,
		              .mem = config->mem,
		              .bus = config->bus,
		              .offered = config->features | RING_FEATURES,
		              .transport = *transport };
	pthread_mutex_init(&v->work_lock, NULL);
	pthread_cond_init(&v->idle_cond, NULL);
	v->vq = calloc(config->nr_queues, sizeof(*v->vq));
	if (!v->vq)
		return -ENOMEM;
	v->nr_queues = config->nr_queues;
	for (unsigned i = 0; i < v->nr_queues; i++) {
		v->vq[i] = (struct vq){ .v = v, .index = i, .max_size = config->queue_size };
		pthread_mutex_init(&v->vq[i].lock, NULL);
	}
	clear_locked(v);
	return worker_start(&v->worker, v->ops->name, work, v);
}

void virtio_stop(struct virtio *v)
{
	bus_lock(v->bus);
	if (!v->resetting)
		begin_reset(v);
	bus_unlock(v->bus);
	pthread_mutex_lock(&v->work_lock);
	while (v->resetting)
		pthread_cond_wait(&v->idle_cond, &v->work_lock);
	pthread_mutex_unlock(&v->work_lock);
}

void virtio_fini(struct virtio *v)
{
	worker_end(&v->worker);
	for (unsigned i = 0; i < v->nr_queues; i++)
		pthread_mutex_destroy(&v->vq[i].lock);
	if (v->ops) {
		pthread_cond_destroy(&v->idle_cond);
		pthread_mutex_destroy(&v->work_lock);
	}
	free(v->vq);
	*v = (struct virtio){ 0 };
}

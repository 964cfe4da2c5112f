/*
 * Submission and completion queues, and where commands have their data.
 */
#include <stdlib.h>
#include <string.h>

#include "device/nvme/private.h"

static uint32_t next_place(uint32_t at, uint32_t size)
{
	return at + 1 == size ? 0 : at + 1;
}

struct nvme_request *nvme_fetch(struct nvme *n, unsigned sq, struct nvme_command *c)
{
	struct nvme_sq_state *s = &n->s.sq[sq];
	struct nvme_request *r = NULL;
	const void *from;

	pthread_mutex_lock(&n->lock);
	/* No more at a time than the queue has places, whatever the driver does to it. */
	if (n->resetting || !s->size || s->head == s->tail || n->out[sq] >= s->size)
		goto out;
	r = n->spare;
	if (r)
		n->spare = r->next;
	else
		r = malloc(sizeof(*r));
	if (!r)
		goto out;
	from = mem_host(n->mem, s->base + s->head * sizeof(*c), sizeof(*c), false);
	memcpy(c, from, sizeof(*c));
	s->head = next_place(s->head, s->size);
	n->out[sq]++;
	r->n = n;
	r->sq = sq;
	r->cid = c->cid;
	r->result = 0;
	r->ranges = NULL;
	r->next = NULL;
out:
	pthread_mutex_unlock(&n->lock);
	return r;
}

/* Completion. */

static void release_locked(struct nvme_request *r)
{
	struct nvme *n = r->n;

	free(r->ranges);
	n->out[r->sq]--;
	r->next = n->spare;
	n->spare = r;
	pthread_cond_broadcast(&n->idle);
}

static bool is_full(const struct nvme_cq_state *s)
{
	return next_place(s->tail, s->size) == s->head;
}

static void post_locked(struct nvme_request *r, struct nvme_cq_state *s)
{
	struct nvme *n = r->n;
	uint8_t *to = mem_host(n->mem, s->base + s->tail * sizeof(struct nvme_completion),
	                       sizeof(struct nvme_completion), true);
	struct nvme_completion c = { .result = r->result,
		                     .sq_head = (uint16_t)n->s.sq[r->sq].head,
		                     .sq_id = (uint16_t)r->sq,
		                     .cid = r->cid,
		                     .status = (uint16_t)(r->status << 1 | s->phase) };
	uint32_t last;

	memcpy(to, &c, sizeof(c) - sizeof(last));
	/* The phase tells the driver that the rest is there. */
	memcpy(&last, &c.cid, sizeof(last));
	__atomic_store_n((uint32_t *)(void *)(to + sizeof(c) - sizeof(last)), last,
	                 __ATOMIC_RELEASE);
	mem_wrote_range(n->mem, to, sizeof(c));
	s->tail = next_place(s->tail, s->size);
	if (!s->tail)
		s->phase = !s->phase;
}

static void append(struct nvme_request **list, struct nvme_request *r)
{
	while (*list)
		list = &(*list)->next;
	r->next = NULL;
	*list = r;
}

/* An interrupt for what was posted: by message, or the pin. */
static void interrupt(struct nvme *n, const struct nvme_cq_state *s)
{
	if (!s->interrupts || pci_signal_msix(&n->f, s->vector))
		return;
	bus_lock(n->bus);
	if (pci_msix_enabled(&n->f))
		pci_raise_msix(&n->f, s->vector);
	else
		nvme_update_pin_locked(n);
	bus_unlock(n->bus);
}

void nvme_complete(struct nvme_request *r, enum nvme_status status)
{
	struct nvme *n = r->n;
	struct nvme_cq_state *s, copy = { 0 };
	unsigned cq;

	pthread_mutex_lock(&n->lock);
	cq = n->s.sq[r->sq].cq;
	s = &n->s.cq[cq];
	r->status = (uint16_t)status;
	if (!s->size || n->resetting) {
		release_locked(r); /* nobody wants to know any more */
	} else if (n->waiting[cq] || is_full(s)) {
		append(&n->waiting[cq], r);
	} else {
		post_locked(r, s);
		release_locked(r);
		copy = *s;
	}
	pthread_mutex_unlock(&n->lock);
	interrupt(n, &copy);
}

static void complete_waiting_on(struct nvme *n, unsigned cq)
{
	struct nvme_cq_state *s = &n->s.cq[cq], copy = { 0 };

	pthread_mutex_lock(&n->lock);
	while (n->waiting[cq] && s->size && !is_full(s)) {
		struct nvme_request *r = n->waiting[cq];

		n->waiting[cq] = r->next;
		post_locked(r, s);
		release_locked(r);
		copy = *s;
	}
	pthread_mutex_unlock(&n->lock);
	interrupt(n, &copy);
}

void nvme_complete_waiting(struct nvme *n)
{
	for (unsigned cq = 0; cq <= n->queues; cq++)
		complete_waiting_on(n, cq);
}

static void drop_waiting_locked(struct nvme *n, unsigned sq)
{
	for (unsigned cq = 0; cq <= n->queues; cq++) {
		struct nvme_request **p = &n->waiting[cq];

		while (*p) {
			struct nvme_request *r = *p;

			if (r->sq != sq) {
				p = &r->next;
				continue;
			}
			*p = r->next;
			release_locked(r);
		}
	}
}

void nvme_drain(struct nvme *n, unsigned sq)
{
	pthread_mutex_lock(&n->lock);
	for (;;) {
		drop_waiting_locked(n, sq);
		if (!n->out[sq])
			break;
		if (n->held) {
			pthread_mutex_unlock(&n->lock);
			nvme_fail_held(n);
			pthread_mutex_lock(&n->lock);
			continue;
		}
		pthread_cond_wait(&n->idle, &n->lock);
	}
	pthread_mutex_unlock(&n->lock);
}

/* 7.6.1: asserted while a queue that interrupts and is not masked has entries. Every queue uses
 * vector 0 when there is but one. */
void nvme_update_pin_locked(struct nvme *n)
{
	bool level = false;

	pthread_mutex_lock(&n->lock);
	for (unsigned cq = 0; cq <= n->queues; cq++) {
		const struct nvme_cq_state *s = &n->s.cq[cq];

		level = level || (s->size && s->interrupts && s->head != s->tail);
	}
	level = level && !(n->s.mask & 1);
	pthread_mutex_unlock(&n->lock);
	pci_set_intx(&n->f, level);
}

void nvme_update_pin(struct nvme *n)
{
	bus_lock(n->bus);
	nvme_update_pin_locked(n);
	bus_unlock(n->bus);
}

/* Data. */

#define IN_PAGE(a)     ((a) & (NVME_PAGE - 1))
#define LIST_ENTRIES   (NVME_PAGE / sizeof(uint64_t))
#define PRP_LIST_ALIGN 8

static enum nvme_status add_page(struct nvme_request *r, uint64_t prp, uint64_t len, bool writable)
{
	return dma_add(&r->data, r->n->mem, prp, len, writable) ? NVME_DATA_ERROR : NVME_OK;
}

/*
 * Pages from a list. When there are more than entries in the rest of its page, the last entry leads
 * to a further list, which has to begin at a page: so every list but the first gives us pages.
 */
static enum nvme_status add_list(struct nvme_request *r, uint64_t list, uint64_t left,
                                 bool writable)
{
	uint64_t at = IN_PAGE(list) / sizeof(uint64_t), entry;
	enum nvme_status status = NVME_OK;

	if (list % PRP_LIST_ALIGN)
		return NVME_BAD_PRP;
	while (left && status == NVME_OK) {
		bool leads_on = at == LIST_ENTRIES - 1 && left > NVME_PAGE;
		uint64_t len = left < NVME_PAGE ? left : NVME_PAGE;

		if (mem_read(r->n->mem, (list & ~(uint64_t)(NVME_PAGE - 1)) + at * sizeof(entry),
		             &entry, sizeof(entry)))
			return NVME_DATA_ERROR;
		if (IN_PAGE(entry))
			return NVME_BAD_PRP;
		if (leads_on) {
			list = entry;
			at = 0;
			continue;
		}
		status = add_page(r, entry, len, writable);
		left -= len;
		at++;
	}
	return status;
}

enum nvme_status nvme_map(struct nvme_request *r, const struct nvme_command *c, uint64_t len,
                          bool writable)
{
	uint64_t first = NVME_PAGE - IN_PAGE(c->prp1);
	enum nvme_status status;

	r->data = (struct dma){ .iov = r->iov, .max = NVME_MAX_IOV };
	if (c->flags & 0xc0 || len > NVME_MAX_BYTES) /* no scatter-gather lists */
		return NVME_BAD_FIELD;
	if (c->prp1 & 3)
		return NVME_BAD_PRP;
	if (first > len)
		first = len;
	status = add_page(r, c->prp1, first, writable);
	len -= first;
	if (status != NVME_OK || !len)
		return status;
	if (len > NVME_PAGE)
		return add_list(r, c->prp2, len, writable);
	return IN_PAGE(c->prp2) ? NVME_BAD_PRP : add_page(r, c->prp2, len, writable);
}

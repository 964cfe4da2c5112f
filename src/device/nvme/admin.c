/*
 * Commands of the administrator: queues, features, events.
 */
#include <string.h>

#include "device/nvme/private.h"

enum {
	ADMIN_DELETE_SQ = 0x00,
	ADMIN_CREATE_SQ = 0x01,
	ADMIN_GET_LOG = 0x02,
	ADMIN_DELETE_CQ = 0x04,
	ADMIN_CREATE_CQ = 0x05,
	ADMIN_IDENTIFY = 0x06,
	ADMIN_ABORT = 0x08,
	ADMIN_SET_FEATURES = 0x09,
	ADMIN_GET_FEATURES = 0x0a,
	ADMIN_EVENT = 0x0c,
};

/* Dword 11 of the commands that create queues. */
#define QUEUE_CONTIGUOUS BIT(0)
#define CQ_INTERRUPTS    BIT(1)

/* Queues. Their places in guest memory are looked up here, where a mistake has a status. */

static bool takes_memory(const struct nvme *n, uint64_t base, uint64_t len, bool writable)
{
	return base % NVME_PAGE == 0 && mem_host(n->mem, base, len, writable);
}

static enum nvme_status create_cq(struct nvme *n, const struct nvme_command *c)
{
	unsigned id = c->dw10 & 0xffff, vector = c->dw11 >> 16;
	uint32_t size = (c->dw10 >> 16) + 1;
	enum nvme_status status = NVME_OK;

	pthread_mutex_lock(&n->lock);
	if (!id || id > n->queues || n->s.cq[id].size)
		status = NVME_BAD_QID;
	else if (size < 2 || size > NVME_MAX_ENTRIES)
		status = NVME_BAD_SIZE;
	else if (!(c->dw11 & QUEUE_CONTIGUOUS))
		status = NVME_BAD_FIELD;
	else if (vector >= n->f.nr_vectors)
		status = NVME_BAD_VECTOR;
	else if (!takes_memory(n, c->prp1, size * sizeof(struct nvme_completion), true))
		status = NVME_BAD_PRP;
	else
		n->s.cq[id] = (struct nvme_cq_state){ .base = c->prp1,
			                              .size = size,
			                              .vector = (uint16_t)vector,
			                              .interrupts = c->dw11 & CQ_INTERRUPTS,
			                              .phase = true };
	pthread_mutex_unlock(&n->lock);
	return status;
}

static enum nvme_status create_sq(struct nvme *n, const struct nvme_command *c)
{
	unsigned id = c->dw10 & 0xffff, cq = c->dw11 >> 16;
	uint32_t size = (c->dw10 >> 16) + 1;
	enum nvme_status status = NVME_OK;

	pthread_mutex_lock(&n->lock);
	if (!id || id > n->queues || n->s.sq[id].size)
		status = NVME_BAD_QID;
	else if (!cq || cq > n->queues || !n->s.cq[cq].size)
		status = NVME_BAD_CQ;
	else if (size < 2 || size > NVME_MAX_ENTRIES)
		status = NVME_BAD_SIZE;
	else if (!(c->dw11 & QUEUE_CONTIGUOUS))
		status = NVME_BAD_FIELD;
	else if (!takes_memory(n, c->prp1, size * sizeof(struct nvme_command), false))
		status = NVME_BAD_PRP;
	else
		n->s.sq[id] =
		        (struct nvme_sq_state){ .base = c->prp1, .size = size, .cq = (uint16_t)cq };
	pthread_mutex_unlock(&n->lock);
	return status;
}

static bool has_sq(struct nvme *n, unsigned id)
{
	bool has;

	pthread_mutex_lock(&n->lock);
	has = id && id <= n->queues && n->s.sq[id].size;
	pthread_mutex_unlock(&n->lock);
	return has;
}

/* Commands under way are ended first (5.6). We are the only one to fetch new ones. */
static enum nvme_status delete_sq(struct nvme *n, const struct nvme_command *c)
{
	unsigned id = c->dw10 & 0xffff;

	if (!has_sq(n, id))
		return NVME_BAD_QID;
	nvme_drain(n, id);
	pthread_mutex_lock(&n->lock);
	n->s.sq[id] = (struct nvme_sq_state){ 0 };
	pthread_mutex_unlock(&n->lock);
	return NVME_OK;
}

static enum nvme_status delete_cq(struct nvme *n, const struct nvme_command *c)
{
	unsigned id = c->dw10 & 0xffff;
	enum nvme_status status = NVME_OK;

	pthread_mutex_lock(&n->lock);
	if (!id || id > n->queues || !n->s.cq[id].size)
		status = NVME_BAD_QID;
	for (unsigned i = 1; i <= n->queues && status == NVME_OK; i++)
		if (n->s.sq[i].size && n->s.sq[i].cq == id)
			status = NVME_BAD_DELETION;
	if (status == NVME_OK)
		n->s.cq[id] = (struct nvme_cq_state){ 0 };
	pthread_mutex_unlock(&n->lock);
	nvme_update_pin(n);
	return status;
}

/* Features, 5.21.1. Those that we keep, and the values that they begin with. */

enum {
	FEATURE_ARBITRATION = 0x01,
	FEATURE_POWER = 0x02,
	FEATURE_TEMPERATURE = 0x04,
	FEATURE_ERRORS = 0x05,
	FEATURE_CACHE = 0x06,
	FEATURE_QUEUES = 0x07,
	FEATURE_COALESCING = 0x08,
	FEATURE_VECTOR = 0x09,
	FEATURE_ATOMICITY = 0x0a,
	FEATURE_EVENTS = 0x0b,
};

static const struct {
	bool known;
	uint32_t initial, mask; /* of bits that can be set */
} features[NVME_FEATURES] = {
	[FEATURE_ARBITRATION] = { true, 0x07, 0xffffff07 }, /* no limit to a burst */
	[FEATURE_POWER] = { true, 0, 0 },                   /* one state */
	[FEATURE_TEMPERATURE] = { true, 343, 0xffff },
	[FEATURE_ERRORS] = { true, 0, 0xffff },
	[FEATURE_CACHE] = { true, 1, 1 },
	[FEATURE_QUEUES] = { true, 0, 0 },
	[FEATURE_COALESCING] = { true, 0, 0xffff },
	[FEATURE_VECTOR] = { true, 0, 0x1ffff },
	[FEATURE_ATOMICITY] = { true, 0, 1 },
	[FEATURE_EVENTS] = { true, 0, 0xff },
};

void nvme_init_features(struct nvme *n)
{
	for (unsigned i = 0; i < NVME_FEATURES; i++)
		n->s.feature[i] = features[i].initial;
}

static uint32_t queue_count(const struct nvme *n)
{
	return (n->queues - 1) | (n->queues - 1) << 16;
}

#define SELECT_CURRENT     0
#define SELECT_SUPPORTED   3
#define FEATURE_CHANGEABLE BIT(2)

static enum nvme_status get_feature(struct nvme_request *r, const struct nvme_command *c)
{
	struct nvme *n = r->n;
	unsigned id = c->dw10 & 0xff, select = c->dw10 >> 8 & 7;

	if (id >= NVME_FEATURES || !features[id].known || select > SELECT_SUPPORTED)
		return NVME_BAD_FIELD;
	pthread_mutex_lock(&n->lock);
	if (select == SELECT_SUPPORTED)
		r->result = FEATURE_CHANGEABLE;
	else if (id == FEATURE_QUEUES)
		r->result = queue_count(n);
	else if (id == FEATURE_TEMPERATURE && c->dw11 & 0xf0000) /* a sensor that there is not */
		r->result = c->dw11 & BIT(20) ? 0 : 0xffff;
	else
		r->result = select == SELECT_CURRENT ? n->s.feature[id] : features[id].initial;
	pthread_mutex_unlock(&n->lock);
	return NVME_OK;
}

static enum nvme_status set_feature(struct nvme_request *r, const struct nvme_command *c)
{
	struct nvme *n = r->n;
	unsigned id = c->dw10 & 0xff;

	if (c->dw10 & BIT(31))
		return NVME_NOT_SAVEABLE;
	if (id >= NVME_FEATURES || !features[id].known)
		return NVME_BAD_FIELD;
	/* As many as there are, whatever was asked for; 65535 is reserved. */
	if (id == FEATURE_QUEUES && ((c->dw11 & 0xffff) == 0xffff || c->dw11 >> 16 == 0xffff))
		return NVME_BAD_FIELD;
	pthread_mutex_lock(&n->lock);
	n->s.feature[id] = c->dw11 & features[id].mask;
	if (id == FEATURE_QUEUES)
		r->result = queue_count(n);
	pthread_mutex_unlock(&n->lock);
	return NVME_OK;
}

/* Events: commands that wait for something to be told, 5.2. */

#define EVENT_BAD_DOORBELL (0x01u << 8) /* of the type "error"; its log is the error log */
#define LOG_ERRORS         0x01u

/* It does not count as under way, or a short queue would be full of such. */
static enum nvme_status hold_event(struct nvme_request *r)
{
	struct nvme *n = r->n;
	bool held;

	pthread_mutex_lock(&n->lock);
	held = n->s.nr_events < NVME_MAX_EVENTS;
	if (held) {
		n->event[n->s.nr_events] = r;
		n->s.event[n->s.nr_events++] = r->cid;
		n->out[0]--;
	}
	pthread_mutex_unlock(&n->lock);
	return held ? NVME_HELD : NVME_EVENT_LIMIT;
}

static struct nvme_request *take_event(struct nvme *n)
{
	struct nvme_request *r = NULL;

	pthread_mutex_lock(&n->lock);
	if (n->s.nr_events) {
		r = n->event[--n->s.nr_events];
		n->out[0]++;
	}
	pthread_mutex_unlock(&n->lock);
	return r;
}

void nvme_report_doorbell(struct nvme *n)
{
	struct nvme_request *r = take_event(n);

	if (!r)
		return;
	r->result = EVENT_BAD_DOORBELL | LOG_ERRORS << 16;
	nvme_complete(r, NVME_OK);
}

void nvme_drop_events(struct nvme *n)
{
	struct nvme_request *r;

	while ((r = take_event(n)))
		nvme_complete(r, NVME_SQ_DELETED);
}

/* Nothing that is under way can be called back (bit 0). */
static enum nvme_status abort_command(struct nvme_request *r)
{
	r->result = 1;
	return NVME_OK;
}

enum nvme_status nvme_admin(struct nvme_request *r, const struct nvme_command *c)
{
	if (c->flags & 0xc3) /* fused, or lists that only I/O may have */
		return NVME_BAD_FIELD;
	switch (c->opcode) {
	case ADMIN_DELETE_SQ:
		return delete_sq(r->n, c);
	case ADMIN_CREATE_SQ:
		return create_sq(r->n, c);
	case ADMIN_GET_LOG:
		return nvme_get_log(r, c);
	case ADMIN_DELETE_CQ:
		return delete_cq(r->n, c);
	case ADMIN_CREATE_CQ:
		return create_cq(r->n, c);
	case ADMIN_IDENTIFY:
		return nvme_identify(r, c);
	case ADMIN_ABORT:
		return abort_command(r);
	case ADMIN_SET_FEATURES:
		return set_feature(r, c);
	case ADMIN_GET_FEATURES:
		return get_feature(r, c);
	case ADMIN_EVENT:
		return hold_event(r);
	}
	return NVME_BAD_OPCODE;
}

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/net_private.h"

/* Frames keep an alignment of 8; a length of SKIP says that the next is at the start again. */
#define SKIP UINT64_MAX

static size_t footprint(size_t n)
{
	return sizeof(uint64_t) + ((n + 7) & ~(size_t)7);
}

static void put_length(struct net_queue *q, size_t at, uint64_t n)
{
	memcpy(q->data + at, &n, sizeof(n));
}

static uint64_t get_length(const struct net_queue *q, size_t at)
{
	uint64_t n;

	memcpy(&n, q->data + at, sizeof(n));
	return n;
}

int net_queue_init(struct net_queue *q)
{
	*q = (struct net_queue){ .cap = NET_QUEUE_BYTES, .data = malloc(NET_QUEUE_BYTES) };
	return q->data ? 0 : -ENOMEM;
}

void net_queue_fini(struct net_queue *q)
{
	free(q->data);
	*q = (struct net_queue){ 0 };
}

bool net_queue_put(struct net_queue *q, const uint8_t *buf, size_t n)
{
	size_t need = footprint(n), tail = q->head + q->used;

	if (need + q->used > q->cap)
		return false;
	if (tail < q->cap && need > q->cap - tail) {
		/* Does not fit behind; before, only if the gap and it are free. */
		if (q->used + (q->cap - tail) + need > q->cap)
			return false;
		put_length(q, tail, SKIP);
		q->used += q->cap - tail;
		tail = q->cap;
	}
	tail %= q->cap;
	put_length(q, tail, n);
	memcpy(q->data + tail + sizeof(uint64_t), buf, n);
	q->used += need;
	return true;
}

const uint8_t *net_queue_peek(struct net_queue *q, size_t *n)
{
	uint64_t len;

	if (!q->used)
		return NULL;
	len = get_length(q, q->head);
	if (len == SKIP) {
		q->used -= q->cap - q->head;
		q->head = 0;
		len = get_length(q, 0);
	}
	*n = (size_t)len;
	return q->data + q->head + sizeof(uint64_t);
}

void net_queue_drop(struct net_queue *q)
{
	size_t n;

	if (!net_queue_peek(q, &n))
		return;
	n = footprint(n);
	q->used -= n;
	q->head = q->used ? (q->head + n) % q->cap : 0;
}

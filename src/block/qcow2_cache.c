/* Tables of one cluster each, by their place in the file; the least recently used one goes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

int qcow2_cache_init(struct qcow2_cache *c, unsigned nr_slots,
                     int (*evict)(struct qcow2 *q, struct qcow2_table *t))
{
	c->slots = calloc(nr_slots, sizeof(*c->slots));
	c->hash = calloc(nr_slots, sizeof(struct qcow2_table *));
	c->nr_slots = nr_slots;
	c->evict = evict;
	return c->slots && c->hash ? 0 : -ENOMEM;
}

void qcow2_cache_fini(struct qcow2_cache *c)
{
	for (unsigned i = 0; c->slots && i < c->nr_slots; i++)
		free(c->slots[i].data);
	free(c->slots);
	free(c->hash);
	*c = (struct qcow2_cache){ 0 };
}

/* Offsets are multiples of 512 at least. */
static struct qcow2_table **bucket(const struct qcow2_cache *c, uint64_t offset)
{
	return &c->hash[(offset >> 9) * 0x9e3779b97f4a7c15ull % c->nr_slots];
}

struct qcow2_table *qcow2_cache_find(const struct qcow2_cache *c, uint64_t offset)
{
	struct qcow2_table *t = *bucket(c, offset);

	while (t && t->offset != offset)
		t = t->hash_next;
	return t;
}

void qcow2_cache_soil(struct qcow2_cache *c, struct qcow2_table *t, uint32_t from, uint32_t to)
{
	if (t->dirty_from == t->dirty_to) {
		c->nr_dirty++;
		t->dirty_from = from;
		t->dirty_to = to;
		return;
	}
	if (from < t->dirty_from)
		t->dirty_from = from;
	if (to > t->dirty_to)
		t->dirty_to = to;
}

static void clean(struct qcow2_cache *c, struct qcow2_table *t)
{
	c->nr_dirty -= t->dirty_from != t->dirty_to;
	t->dirty_from = t->dirty_to = 0;
}

int qcow2_cache_write(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_table *t)
{
	int rc = 0;

	if (t->dirty_from != t->dirty_to)
		rc = file_write(&q->node->file, t->offset + t->dirty_from, t->data + t->dirty_from,
		                t->dirty_to - t->dirty_from);
	if (!rc)
		clean(c, t);
	return rc;
}

int qcow2_cache_write_all(struct qcow2 *q, struct qcow2_cache *c, bool fresh)
{
	int rc = 0;

	for (unsigned i = 0; c->nr_dirty && i < c->nr_slots && !rc; i++)
		if (c->slots[i].offset && (c->slots[i].fresh || !fresh))
			rc = qcow2_cache_write(q, c, &c->slots[i]);
	return rc;
}

static void drop(struct qcow2_cache *c, struct qcow2_table *t)
{
	struct qcow2_table **link = bucket(c, t->offset);

	while (*link != t)
		link = &(*link)->hash_next;
	*link = t->hash_next;
	clean(c, t);
	t->offset = 0;
	t->used = 0;
	t->fresh = false;
}

void qcow2_cache_forget(struct qcow2_cache *c, uint64_t offset)
{
	struct qcow2_table *t = qcow2_cache_find(c, offset);

	if (t)
		drop(c, t);
}

/* An empty slot: the least recently used clean table goes, else the least recently used. */
static struct qcow2_table *choose_victim(struct qcow2_cache *c)
{
	struct qcow2_table *oldest = NULL, *oldest_clean = NULL;

	for (unsigned i = 0; i < c->nr_slots; i++) {
		struct qcow2_table *t = &c->slots[i];

		if (!oldest || t->used < oldest->used)
			oldest = t;
		if (t->dirty_from == t->dirty_to && (!oldest_clean || t->used < oldest_clean->used))
			oldest_clean = t;
	}
	return oldest_clean ? oldest_clean : oldest;
}

static int empty_slot(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_table **out)
{
	struct qcow2_table *t = choose_victim(c);
	int rc = 0;

	if (t->dirty_from != t->dirty_to)
		rc = c->evict(q, t);
	if (rc)
		return rc;
	if (t->offset)
		drop(c, t);
	if (!t->data)
		t->data = malloc(q->cluster_size);
	*out = t;
	return t->data ? 0 : -ENOMEM;
}

static void insert(struct qcow2_cache *c, struct qcow2_table *t, uint64_t offset)
{
	struct qcow2_table **head = bucket(c, offset);

	t->offset = offset;
	t->used = ++c->clock;
	t->hash_next = *head;
	*head = t;
}

int qcow2_cache_get(struct qcow2 *q, struct qcow2_cache *c, uint64_t offset,
                    struct qcow2_table **out)
{
	struct qcow2_table *t = qcow2_cache_find(c, offset);
	int rc;

	if (t) {
		t->used = ++c->clock;
		*out = t;
		return 0;
	}
	rc = empty_slot(q, c, &t);
	if (!rc)
		rc = file_read(&q->node->file, offset, t->data, q->cluster_size);
	if (rc)
		return rc;
	insert(c, t, offset);
	*out = t;
	return 0;
}

int qcow2_cache_get_new(struct qcow2 *q, struct qcow2_cache *c, uint64_t offset,
                        struct qcow2_table **out)
{
	struct qcow2_table *t;
	int rc;

	qcow2_cache_forget(c, offset); /* of a former life of the cluster */
	rc = empty_slot(q, c, &t);
	if (rc)
		return rc;
	memset(t->data, 0, q->cluster_size);
	insert(c, t, offset);
	qcow2_cache_soil(c, t, 0, (uint32_t)q->cluster_size);
	*out = t;
	return 0;
}

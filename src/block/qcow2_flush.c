/*
 * Flush rounds. qcow2.h says which order they have to keep, and why. A round:
 *
 *     begin --freeze, write refcount blocks and fresh L2 tables, sync-->
 *     reftable --only if it changed: write it, sync-->
 *     tables --write L2 tables and L1, thaw, sync-->
 *     done --give up what nothing points to any more; the flushes that asked are answered
 *
 * Without changed tables, it is a sync and nothing else. Flushes that come in the course of a round
 * are the next one's: their writes may have ended too late for this one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

#define MANY_FREED 4096u /* extents, before a round begins by itself */

int qcow2_sync(struct qcow2 *q)
{
	int rc = q->sync_error ? q->sync_error : file_sync(&q->node->file);

	q->sync_error = rc;
	return rc;
}

static bool tables_are_dirty(const struct qcow2 *q)
{
	return q->l2.nr_dirty || q->refblocks.nr_dirty || qcow2_root_is_dirty(&q->l1) ||
	       qcow2_root_is_dirty(&q->reftable);
}

/* Lists of extents: what is given up one after the other is often in sequence. */
static int add_extent(struct qcow2_extents *x, const struct qcow2 *q, uint64_t offset,
                      uint64_t clusters)
{
	struct qcow2_extent *last = x->nr ? &x->at[x->nr - 1] : NULL;

	if (last && last->offset + (last->clusters << q->cluster_bits) == offset) {
		last->clusters += clusters;
		return 0;
	}
	if (x->nr == x->room) {
		size_t room = x->room ? 2 * x->room : 64;
		struct qcow2_extent *at = realloc(x->at, room * sizeof(*at));

		if (!at)
			return -ENOMEM;
		x->at = at;
		x->room = room;
	}
	x->at[x->nr++] = (struct qcow2_extent){ offset, clusters };
	return 0;
}

int qcow2_give_up_later(struct qcow2 *q, uint64_t offset, uint64_t clusters)
{
	return add_extent(&q->freed, q, offset, clusters);
}

/* An extent whose space goes back to the host; it is not free before. */
struct punch {
	struct aio_request aio;
	struct qcow2 *q;
	struct qcow2_extent extent;
};

static void end_punch(struct aio_request *a, int rc)
{
	struct punch *p = container_of(a, struct punch, aio);

	if (rc == -EOPNOTSUPP || rc == -ENOSYS)
		p->q->cannot_punch = true;
	qcow2_unref(p->q, p->extent.offset, p->extent.clusters);
	free(p);
}

/* Whether all of the extent is used once: then it becomes free. */
static bool is_last_use(struct qcow2 *q, const struct qcow2_extent *x)
{
	for (uint64_t i = 0; i < x->clusters; i++) {
		uint64_t value;

		if (qcow2_get_refcount(q, (x->offset >> q->cluster_bits) + i, &value) || value != 1)
			return false;
	}
	return true;
}

static void give_up(struct qcow2 *q, const struct qcow2_extent *x)
{
	struct punch *p = NULL;

	if (!q->cannot_punch && is_last_use(q, x))
		p = malloc(sizeof(*p));
	if (!p) {
		qcow2_unref(q, x->offset, x->clusters);
		return;
	}
	p->q = q;
	p->extent = *x;
	p->aio = (struct aio_request){ .op = AIO_PUNCH,
		                       .fd = q->node->file.fd,
		                       .offset = x->offset,
		                       .len = x->clusters << q->cluster_bits,
		                       .done = end_punch };
	aio_submit(q->node->aio, &p->aio);
}

static void give_up_all(struct qcow2 *q)
{
	for (size_t i = 0; i < q->giving_up.nr; i++)
		give_up(q, &q->giving_up.at[i]);
	q->giving_up.nr = 0;
}

/* What the next step would have made free is for the next round. */
static void keep_for_later(struct qcow2 *q)
{
	for (size_t i = 0; i < q->giving_up.nr; i++)
		add_extent(&q->freed, q, q->giving_up.at[i].offset, q->giving_up.at[i].clusters);
	q->giving_up.nr = 0;
}

static void take_freed(struct qcow2 *q)
{
	struct qcow2_extents empty = q->giving_up;

	q->giving_up = q->freed;
	q->freed = empty;
}

static int write_refcounts(struct qcow2 *q)
{
	int rc = qcow2_cache_write_all(q, &q->refblocks, false);

	return rc ? rc : qcow2_cache_write_all(q, &q->l2, true);
}

static int write_tables(struct qcow2 *q)
{
	int rc = qcow2_cache_write_all(q, &q->l2, false);

	if (!rc)
		rc = qcow2_root_write(q, &q->l1);
	if (!rc)
		for (unsigned i = 0; i < q->l2.nr_slots; i++)
			q->l2.slots[i].fresh = false;
	return rc;
}

static void thaw(struct qcow2 *q)
{
	if (!q->frozen)
		return;
	q->frozen = false;
	qcow2_run_links(q);
	qcow2_retry_waiting(q);
}

static void start_round(struct qcow2 *q);

static void end_round(struct qcow2 *q, int rc)
{
	struct node_request *r = q->flushing, *next;

	q->flushing = NULL;
	q->in_round = false;
	thaw(q);
	if (rc)
		keep_for_later(q);
	else
		give_up_all(q);
	for (; r; r = next) {
		next = r->next;
		r->done(r, rc);
	}
	if (q->to_flush && !q->in_round)
		start_round(q);
}

static void sync_then(struct qcow2 *q, void (*step)(struct aio_request *a, int rc))
{
	q->sync = (struct aio_request){ .op = AIO_SYNC, .fd = q->node->file.fd, .done = step };
	aio_submit(q->node->aio, &q->sync);
}

static struct qcow2 *from_sync(struct aio_request *a, int *rc)
{
	struct qcow2 *q = container_of(a, struct qcow2, sync);

	if (*rc)
		q->sync_error = *rc;
	*rc = q->sync_error;
	return q;
}

static void step_done(struct aio_request *a, int rc)
{
	struct qcow2 *q = from_sync(a, &rc);

	end_round(q, rc);
}

static void step_tables(struct aio_request *a, int rc)
{
	struct qcow2 *q = from_sync(a, &rc);

	if (!rc) {
		take_freed(q);
		rc = write_tables(q);
	}
	if (rc) {
		end_round(q, rc);
		return;
	}
	sync_then(q, step_done); /* before the thaw: what follows it is not of this round */
	thaw(q);
}

static void step_reftable(struct aio_request *a, int rc)
{
	struct qcow2 *q = from_sync(a, &rc);

	if (!rc)
		rc = qcow2_root_write(q, &q->reftable);
	if (rc)
		end_round(q, rc);
	else
		sync_then(q, step_tables);
}

static void start_round(struct qcow2 *q)
{
	int rc = q->sync_error;

	q->in_round = true;
	q->flushing = q->to_flush;
	q->to_flush = NULL;
	if (!rc && !tables_are_dirty(q)) {
		take_freed(q);
		sync_then(q, step_done);
		return;
	}
	q->frozen = true;
	if (!rc)
		rc = write_refcounts(q);
	if (rc)
		end_round(q, rc);
	else if (qcow2_root_is_dirty(&q->reftable))
		sync_then(q, step_reftable);
	else
		sync_then(q, step_tables);
}

void qcow2_flush(struct qcow2 *q, struct node_request *r)
{
	if (q->node->readonly) {
		r->done(r, 0);
		return;
	}
	r->next = q->to_flush;
	q->to_flush = r;
	if (!q->in_round)
		start_round(q);
}

void qcow2_tidy(struct qcow2 *q)
{
	if (!q->in_round && !q->sync_error &&
	    (q->l2.nr_dirty > q->l2.nr_slots / 2 || q->freed.nr > MANY_FREED))
		start_round(q);
}

/* One way without waits in between, for closing and resizing. */
int qcow2_flush_now(struct qcow2 *q)
{
	int rc = write_refcounts(q);

	if (!rc)
		rc = qcow2_sync(q);
	if (!rc)
		rc = qcow2_root_write(q, &q->reftable);
	if (!rc)
		rc = qcow2_sync(q);
	if (!rc)
		rc = write_tables(q);
	if (!rc)
		rc = qcow2_sync(q);
	if (rc)
		return rc;
	for (size_t i = 0; i < q->freed.nr; i++)
		qcow2_unref(q, q->freed.at[i].offset, q->freed.at[i].clusters);
	q->freed.nr = 0;
	rc = write_refcounts(q);
	return rc ? rc : qcow2_sync(q);
}

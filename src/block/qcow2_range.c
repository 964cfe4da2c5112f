/*
 * Who may touch which guest clusters when.
 *
 *     waiting --start()--> shared or exclusive --end_range()--> gone, and others may start
 *
 * Reads, and writes to clusters that are there, share; what changes entries of L2 tables has its
 * clusters alone, so that a cluster is neither given up while somebody reads or writes it nor made
 * twice. All are in one list, oldest first; one waits for those before it that overlap, unless both
 * share. Who waits counts as exclusive, so that nobody waits forever.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

enum range_state { RANGE_WAITING, RANGE_SHARED, RANGE_EXCLUSIVE };

struct qcow2_range {
	struct node_request inner; /* done() is end_range() */
	struct node_request *outer;
	struct qcow2 *q;
	struct qcow2_range *older, *newer;
	enum range_state state;
	uint64_t first, last; /* guest clusters */
};

static void link_range(struct qcow2 *q, struct qcow2_range *g)
{
	g->older = q->newest;
	g->newer = NULL;
	*(q->newest ? &q->newest->newer : &q->oldest) = g;
	q->newest = g;
}

static void unlink_range(struct qcow2 *q, struct qcow2_range *g)
{
	*(g->older ? &g->older->newer : &q->oldest) = g->newer;
	*(g->newer ? &g->newer->older : &q->newest) = g->older;
}

static bool conflicts(const struct qcow2_range *g, enum range_state state)
{
	for (const struct qcow2_range *other = g->older; other; other = other->older)
		if (other->first <= g->last && g->first <= other->last &&
		    (state != RANGE_SHARED || other->state != RANGE_SHARED))
			return true;
	return false;
}

/* Shared, exclusive, or -errno. Only true while no older range that overlaps is exclusive. */
static int needed_state(struct qcow2_range *g)
{
	bool in_place;
	int rc;

	if (g->inner.op == BLOCK_READ)
		return RANGE_SHARED;
	if (g->inner.op != BLOCK_WRITE)
		return RANGE_EXCLUSIVE;
	rc = qcow2_write_is_in_place(g->q, &g->inner, &in_place);
	if (rc)
		return rc;
	return in_place ? RANGE_SHARED : RANGE_EXCLUSIVE;
}

static void perform(struct qcow2_range *g)
{
	switch (g->inner.op) {
	case BLOCK_READ:
		qcow2_read(g->q, &g->inner);
		break;
	case BLOCK_WRITE:
		qcow2_write(g->q, &g->inner);
		break;
	default:
		qcow2_zero(g->q, &g->inner);
		break;
	}
}

/* True unless it has to wait; it may be gone then. */
static bool start(struct qcow2_range *g)
{
	int state;

	if (conflicts(g, RANGE_SHARED))
		return false;
	state = needed_state(g);
	if (state == RANGE_EXCLUSIVE && (g->q->frozen || conflicts(g, RANGE_EXCLUSIVE)))
		return false;
	g->q->waiting--;
	g->state = state < 0 ? RANGE_SHARED : (enum range_state)state;
	if (state < 0)
		g->inner.done(&g->inner, state);
	else
		perform(g);
	return true;
}

/* The list may change with everything that starts: begin anew after each. */
static bool start_one(struct qcow2 *q)
{
	for (struct qcow2_range *g = q->oldest; g; g = g->newer)
		if (g->state == RANGE_WAITING && start(g))
			return true;
	return false;
}

void qcow2_retry_waiting(struct qcow2 *q)
{
	if (q->retrying) { /* further out on the stack: it goes on until nothing starts */
		q->retry_again = true;
		return;
	}
	q->retrying = true;
	do {
		q->retry_again = false;
		while (q->waiting && start_one(q))
			;
	} while (q->retry_again);
	q->retrying = false;
}

static void end_range(struct node_request *inner, int rc)
{
	struct qcow2_range *g = container_of(inner, struct qcow2_range, inner);
	struct node_request *outer = g->outer;
	struct qcow2 *q = g->q;

	unlink_range(q, g);
	free(g);
	if (q->waiting)
		qcow2_retry_waiting(q);
	qcow2_tidy(q);
	outer->done(outer, rc);
}

static void submit_range(struct qcow2 *q, struct node_request *r)
{
	struct qcow2_range *g = malloc(sizeof(*g));

	if (!g) {
		r->done(r, -ENOMEM);
		return;
	}
	g->inner = *r;
	g->inner.done = end_range;
	g->outer = r;
	g->q = q;
	g->state = RANGE_WAITING;
	g->first = r->offset >> q->cluster_bits;
	g->last = (r->offset + r->len - 1) >> q->cluster_bits;
	link_range(q, g);
	q->waiting++;
	start(g);
}

/* Whether zeroes are for whole clusters, of which the last one may be cut by the disk's end. */
static bool is_whole(const struct qcow2 *q, const struct node_request *r)
{
	uint64_t end = r->offset + r->len;

	return !(r->offset & (q->cluster_size - 1)) &&
	       (!(end & (q->cluster_size - 1)) || end == q->node->size);
}

void qcow2_submit(struct node *n, struct node_request *r)
{
	struct qcow2 *q = n->state;

	if (r->op == BLOCK_FLUSH)
		qcow2_flush(q, r);
	else if (r->op <= BLOCK_WRITE || (is_whole(q, r) && (q->version > 2 || !n->backing)))
		submit_range(q, r);
	else
		qcow2_submit_zeroes(q, r);
}

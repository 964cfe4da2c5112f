/*
 * Discards and writes of zeroes: entries for whole clusters, written zeroes for what is left of
 * others, and for all of them where version 2 has no other way to hide a backing file's data.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define ZEROES_BYTES 65536u

static const uint8_t zeroes[ZEROES_BYTES];

struct zero_piece {
	struct node_request inner;
	struct qcow2_job *job;
	struct iovec iov[];
};

/* The entry that reads as zeroes in the place of a run's first one. */
static uint64_t zero_entry(const struct qcow2 *q, const struct qcow2_run *run, bool unmap)
{
	if (!unmap && run->host && run->copied && q->version > 2)
		return run->host | QCOW2_COPIED | QCOW2_ZERO;
	return q->node->backing && q->version > 2 ? QCOW2_ZERO : 0;
}

static bool reads_as_zero(const struct qcow2 *q, const struct qcow2_run *run)
{
	return run->kind == QCOW2_KIND_ZERO || (run->kind == QCOW2_KIND_HOLE && !q->node->backing);
}

static int zero_run(struct qcow2 *q, uint64_t first, struct qcow2_run run, bool unmap)
{
	uint64_t left = run.clusters;
	int rc = 0;

	if (reads_as_zero(q, &run) && !(unmap && run.host))
		return 0;
	for (; left && !rc; left--, first++) {
		rc = qcow2_set_entry(q, first, zero_entry(q, &run, unmap));
		run.host += run.host ? q->cluster_size : 0;
	}
	return rc;
}

void qcow2_zero(struct qcow2 *q, struct node_request *r)
{
	uint64_t first = r->offset >> q->cluster_bits;
	uint64_t end = first + qcow2_clusters_of(q, r->len);
	bool unmap = r->unmap || r->op == BLOCK_DISCARD;
	struct qcow2_run run;
	int rc = 0;

	for (; first < end && !rc; first += run.clusters) {
		rc = qcow2_map(q, first, end - first, &run);
		if (!rc)
			rc = zero_run(q, first, run, unmap);
	}
	r->done(r, rc);
}

static void end_piece(struct node_request *inner, int rc)
{
	struct zero_piece *p = container_of(inner, struct zero_piece, inner);
	struct qcow2_job *job = p->job;

	free(p);
	qcow2_job_end_part(job, rc);
}

static void submit_piece(struct qcow2_job *job, enum block_op op, uint64_t offset, uint64_t len)
{
	unsigned nr = op == BLOCK_WRITE ? (unsigned)((len + ZEROES_BYTES - 1) / ZEROES_BYTES) : 0;
	struct zero_piece *p = malloc(sizeof(*p) + nr * sizeof(p->iov[0]));

	if (!p) {
		job->rc = -ENOMEM;
		return;
	}
	for (unsigned i = 0; i < nr; i++)
		p->iov[i] = (struct iovec){ (void *)zeroes, ZEROES_BYTES };
	if (nr && len % ZEROES_BYTES)
		p->iov[nr - 1].iov_len = len % ZEROES_BYTES;
	p->job = job;
	p->inner = (struct node_request){ .op = op,
		                          .unmap = job->request->unmap,
		                          .offset = offset,
		                          .len = len,
		                          .iov = p->iov,
		                          .nr_iov = nr,
		                          .done = end_piece };
	job->pending++;
	qcow2_submit(job->q->node, &p->inner);
}

/* What is less than a cluster; nothing is to be done where there are zeroes already. */
static void submit_edge(struct qcow2_job *job, uint64_t offset, uint64_t len)
{
	struct qcow2_run run;
	int rc = len ? qcow2_map(job->q, offset >> job->q->cluster_bits, 1, &run) : 0;

	if (rc)
		job->rc = rc;
	else if (len && !reads_as_zero(job->q, &run))
		submit_piece(job, BLOCK_WRITE, offset, len);
}

static void split(struct qcow2_job *job)
{
	const struct node_request *r = job->request;
	const struct qcow2 *q = job->q;
	uint64_t mask = q->cluster_size - 1, end = r->offset + r->len;
	uint64_t from = (r->offset + mask) & ~mask;
	uint64_t to = end == q->node->size ? end : end & ~mask;

	if (from >= to) { /* no whole cluster */
		uint64_t middle = from > end ? end : from;

		submit_edge(job, r->offset, middle - r->offset);
		submit_edge(job, middle, end - middle);
		return;
	}
	submit_edge(job, r->offset, from - r->offset);
	submit_piece(job, r->op, from, to - from);
	submit_edge(job, to, end - to);
}

void qcow2_submit_zeroes(struct qcow2 *q, struct node_request *r)
{
	struct qcow2_job *job = qcow2_job_new(q, r);

	if (!job)
		return;
	if (q->version > 2 || !q->node->backing)
		split(job);
	else
		submit_piece(job, BLOCK_WRITE, r->offset, r->len);
	qcow2_job_end_part(job, 0);
}

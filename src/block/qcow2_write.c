/*
 * Writes: to clusters that are the image's own and hold data, in place; else to new ones, in four
 * steps:
 *
 *     make() -> copy(): what the request leaves of the first and last cluster is read
 *            -> store(): that and the request's data are written
 *            -> link(): L2 entries point there, at once or after the thaw
 *
 * An error before link() gives the new clusters back, and the old ones are still in force.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/iov.h"
#include "block/qcow2.h"

/* What a request leaves of a cluster. */
struct edge {
	struct node_request read;
	struct iovec iov; /* no base: nothing to be written */
};

struct qcow2_link {
	struct qcow2_link *next;
	struct qcow2_job *job;
	struct aio_request aio;
	uint64_t at, len;         /* within the request */
	uint64_t first, clusters; /* the guest's; 0 clusters: in place */
	uint64_t host;
	bool owned; /* the host clusters were there before */
	struct edge head, tail;
	unsigned reading; /* edges, and one for who begins them */
	int rc;
	struct iovec iov[];
};

static void end_part(struct qcow2_link *p, int rc)
{
	struct qcow2_job *job = p->job;

	free(p->head.iov.iov_base);
	free(p->tail.iov.iov_base);
	free(p);
	qcow2_job_end_part(job, rc);
}

static struct qcow2_link *new_part(struct qcow2_job *job, uint64_t at, uint64_t len)
{
	struct qcow2_link *p = malloc(sizeof(*p) + (job->request->nr_iov + 2) * sizeof(p->iov[0]));

	if (!p)
		return NULL;
	memset(p, 0, sizeof(*p));
	p->job = job;
	p->at = at;
	p->len = len;
	job->pending++;
	return p;
}

static void give_back(struct qcow2_link *p, uint64_t done)
{
	if (!p->owned)
		qcow2_unref(p->job->q, p->host + (done << p->job->q->cluster_bits),
		            p->clusters - done);
}

static void link_part(struct qcow2_link *p)
{
	struct qcow2 *q = p->job->q;
	uint64_t i;
	int rc = 0;

	for (i = 0; i < p->clusters && !rc; i++)
		rc = qcow2_set_entry(q, p->first + i,
		                     (p->host + (i << q->cluster_bits)) | QCOW2_COPIED);
	if (rc)
		give_back(p, i - 1);
	end_part(p, rc);
}

void qcow2_run_links(struct qcow2 *q)
{
	struct qcow2_link *p;

	while (!q->frozen && (p = q->links)) {
		q->links = p->next;
		link_part(p);
	}
}

static void end_store(struct aio_request *a, int rc)
{
	struct qcow2_link *p = container_of(a, struct qcow2_link, aio);
	struct qcow2 *q = p->job->q;

	if (rc && p->clusters)
		give_back(p, 0);
	if (rc || !p->clusters) {
		end_part(p, rc);
	} else if (q->frozen) {
		p->next = q->links;
		q->links = p;
	} else {
		link_part(p);
	}
}

static void store(struct qcow2_link *p, uint64_t offset)
{
	const struct node_request *r = p->job->request;
	struct node *n = p->job->q->node;
	unsigned nr = 0;

	if (p->head.iov.iov_base)
		p->iov[nr++] = p->head.iov;
	nr += iov_slice(p->iov + nr, r->iov, r->nr_iov, p->at, p->len);
	if (p->tail.iov.iov_base)
		p->iov[nr++] = p->tail.iov;
	p->aio = (struct aio_request){ .op = AIO_WRITE,
		                       .fd = n->file.fd,
		                       .offset = offset - p->head.iov.iov_len,
		                       .len = p->len + p->head.iov.iov_len + p->tail.iov.iov_len,
		                       .iov = p->iov,
		                       .nr_iov = nr,
		                       .done = end_store };
	aio_submit(n->aio, &p->aio);
}

/* Where the request's first byte of the part goes. */
static uint64_t place_in(const struct qcow2_link *p)
{
	uint64_t offset = p->job->request->offset + p->at;

	return p->host + (offset - (p->first << p->job->q->cluster_bits));
}

static void end_copy(struct qcow2_link *p, int rc)
{
	if (rc)
		p->rc = rc;
	if (--p->reading)
		return;
	if (p->rc) {
		give_back(p, 0);
		end_part(p, p->rc);
	} else {
		store(p, place_in(p));
	}
}

static void end_head(struct node_request *r, int rc)
{
	end_copy(container_of(r, struct qcow2_link, head.read), rc);
}

static void end_tail(struct node_request *r, int rc)
{
	end_copy(container_of(r, struct qcow2_link, tail.read), rc);
}

/* len bytes of the disk at offset, all in one cluster, which on a virgin place need no zeroes. */
static void copy_edge(struct qcow2_link *p, struct edge *edge, uint64_t offset, uint64_t len,
                      bool virgin, void (*done)(struct node_request *r, int rc))
{
	struct qcow2 *q = p->job->q;
	struct qcow2_run run;
	bool zero;
	int rc = len ? qcow2_map(q, offset >> q->cluster_bits, 1, &run) : 0;

	if (rc)
		p->rc = rc;
	if (!len || rc)
		return;
	zero = run.kind == QCOW2_KIND_ZERO ||
	       (run.kind == QCOW2_KIND_HOLE &&
	        (!q->node->backing || offset >= q->node->backing->size));
	if (zero && virgin)
		return;
	edge->iov = (struct iovec){ calloc(1, len), len };
	if (!edge->iov.iov_base) {
		edge->iov.iov_len = 0;
		p->rc = -ENOMEM;
		return;
	}
	if (zero)
		return;
	edge->read = (struct node_request){ .op = BLOCK_READ,
		                            .offset = offset,
		                            .len = len,
		                            .iov = &edge->iov,
		                            .nr_iov = 1,
		                            .done = done };
	p->reading++;
	qcow2_read(q, &edge->read);
}

/* virgin_from: host clusters from there on have never been written. */
static void copy(struct qcow2_link *p, uint64_t virgin_from)
{
	struct qcow2 *q = p->job->q;
	uint64_t start = p->job->request->offset + p->at, end = start + p->len;
	uint64_t start_of_first = p->first << q->cluster_bits;
	uint64_t end_of_last = (p->first + p->clusters) << q->cluster_bits;
	uint64_t last_host = p->host + ((p->clusters - 1) << q->cluster_bits);

	p->reading = 1;
	copy_edge(p, &p->head, start_of_first, start - start_of_first, p->host >= virgin_from,
	          end_head);
	copy_edge(p, &p->tail, end, end_of_last - end, last_host >= virgin_from, end_tail);
	end_copy(p, 0);
}

static bool is_in_place(const struct qcow2_run *run)
{
	return run->kind == QCOW2_KIND_DATA && run->copied;
}

/* Room was set aside for zeroes: the clusters are there, and only their entries change. */
static bool is_set_aside(const struct qcow2_run *run)
{
	return run->kind == QCOW2_KIND_ZERO && run->host && run->copied;
}

/* How many clusters from `first` on want new ones, and are in one L2 table. */
static int count_new(struct qcow2 *q, uint64_t first, uint64_t most, uint64_t *out)
{
	uint64_t in_table = BIT(q->l2_bits) - (first & (BIT(q->l2_bits) - 1)), n = 0;

	if (most > in_table)
		most = in_table;
	while (n < most) {
		struct qcow2_run run;
		int rc = qcow2_map(q, first + n, most - n, &run);

		if (rc)
			return rc;
		if (is_in_place(&run) || is_set_aside(&run))
			break;
		n += run.clusters;
	}
	*out = n;
	return 0;
}

/* Host clusters for a part that begins in guest cluster `first`: how many, and where. */
static int make(struct qcow2 *q, uint64_t first, uint64_t most, uint64_t *host, uint64_t *clusters)
{
	struct qcow2_table *l2;
	uint64_t wanted;
	int rc = count_new(q, first, most, &wanted);

	if (!rc)
		rc = qcow2_get_l2(q, first, &l2);
	return rc ? rc : qcow2_alloc(q, wanted, host, clusters);
}

static uint64_t bytes_from(const struct qcow2 *q, uint64_t skip, uint64_t clusters, uint64_t most)
{
	uint64_t n = (clusters << q->cluster_bits) - skip;

	return n < most ? n : most;
}

/* A part that changes entries. How many bytes of the request it has, or 0 and *rc. */
static uint64_t write_new(struct qcow2_job *job, uint64_t at, const struct qcow2_run *run, int *rc)
{
	struct qcow2 *q = job->q;
	uint64_t offset = job->request->offset + at, left = job->request->len - at;
	uint64_t skip = offset & (q->cluster_size - 1), first = offset >> q->cluster_bits;
	uint64_t virgin_from = q->end_is_zero ? q->file_end : UINT64_MAX;
	uint64_t host = run->host, clusters = run->clusters;
	struct qcow2_link *p;
	bool owned = is_set_aside(run);

	if (!owned)
		*rc = make(q, first, qcow2_clusters_of(q, skip + left), &host, &clusters);
	if (*rc)
		return 0;
	p = new_part(job, at, bytes_from(q, skip, clusters, left));
	if (!p) {
		if (!owned)
			qcow2_unref(q, host, clusters);
		*rc = -ENOMEM;
		return 0;
	}
	p->first = first;
	p->clusters = clusters;
	p->host = host;
	p->owned = owned;
	left = p->len;
	copy(p, virgin_from);
	return left;
}

static uint64_t write_in_place(struct qcow2_job *job, uint64_t at, const struct qcow2_run *run,
                               int *rc)
{
	struct qcow2 *q = job->q;
	uint64_t skip = (job->request->offset + at) & (q->cluster_size - 1);
	uint64_t len = bytes_from(q, skip, run->clusters, job->request->len - at);
	struct qcow2_link *p = new_part(job, at, len);

	if (!p) {
		*rc = -ENOMEM;
		return 0;
	}
	store(p, run->host + skip);
	return len;
}

/* The next part. How many bytes it has, 0 after an error. */
static uint64_t write_next(struct qcow2_job *job, uint64_t at)
{
	struct qcow2 *q = job->q;
	uint64_t offset = job->request->offset + at, left = job->request->len - at, len = 0;
	uint64_t skip = offset & (q->cluster_size - 1);
	struct qcow2_run run;
	int rc = qcow2_map(q, offset >> q->cluster_bits, qcow2_clusters_of(q, skip + left), &run);

	if (!rc)
		len = is_in_place(&run) ? write_in_place(job, at, &run, &rc)
		                        : write_new(job, at, &run, &rc);
	if (rc && !job->rc)
		job->rc = rc;
	return len;
}

int qcow2_write_is_in_place(struct qcow2 *q, const struct node_request *r, bool *in_place)
{
	uint64_t first = r->offset >> q->cluster_bits;
	uint64_t end = ((r->offset + r->len - 1) >> q->cluster_bits) + 1;
	struct qcow2_run run;
	int rc = 0;

	*in_place = true;
	for (; first < end && *in_place && !rc; first += run.clusters) {
		rc = qcow2_map(q, first, end - first, &run);
		*in_place = !rc && is_in_place(&run);
	}
	return rc;
}

void qcow2_write(struct qcow2 *q, struct node_request *r)
{
	struct qcow2_job *job = qcow2_job_new(q, r);
	uint64_t at = 0, len = 1;

	if (!job)
		return;
	for (; at < r->len && len; at += len)
		len = write_next(job, at);
	qcow2_job_end_part(job, 0);
}

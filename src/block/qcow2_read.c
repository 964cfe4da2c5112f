/* Reads: cut into parts that are alike, which run side by side. */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "block/iov.h"
#include "block/qcow2.h"

struct read_part {
	struct qcow2_job *job;
	struct aio_request aio;
	struct node_request backing;
	uint64_t at, len; /* within the request */
	uint64_t entry;   /* of a compressed cluster */
	uint64_t skip;    /* bytes of that before the part */
	uint8_t *packed;
	struct iovec iov[];
};

static void end_part(struct read_part *p, int rc)
{
	struct qcow2_job *job = p->job;

	free(p->packed);
	free(p);
	qcow2_job_end_part(job, rc);
}

static struct read_part *new_part(struct qcow2_job *job, uint64_t at, uint64_t len, unsigned nr_iov)
{
	struct read_part *p = malloc(sizeof(*p) + nr_iov * sizeof(struct iovec));

	if (!p) {
		if (!job->rc)
			job->rc = -ENOMEM;
		return NULL;
	}
	p->job = job;
	p->at = at;
	p->len = len;
	p->packed = NULL;
	job->pending++;
	return p;
}

/* The request's own list where the part is all of it. */
static const struct iovec *part_iov(struct read_part *p, unsigned *nr)
{
	const struct node_request *r = p->job->request;

	*nr = r->nr_iov;
	if (p->len == r->len)
		return r->iov;
	*nr = iov_slice(p->iov, r->iov, r->nr_iov, p->at, p->len);
	return p->iov;
}

static void end_data(struct aio_request *a, int rc)
{
	end_part(container_of(a, struct read_part, aio), rc);
}

static void read_data(struct qcow2_job *job, uint64_t at, uint64_t len, uint64_t place)
{
	struct read_part *p = new_part(job, at, len, job->request->nr_iov);

	if (!p)
		return;
	p->aio = (struct aio_request){ .op = AIO_READ,
		                       .fd = job->q->node->file.fd,
		                       .offset = place,
		                       .len = len,
		                       .done = end_data };
	p->aio.iov = part_iov(p, &p->aio.nr_iov);
	aio_submit(job->q->node->aio, &p->aio);
}

static void end_backing(struct node_request *r, int rc)
{
	end_part(container_of(r, struct read_part, backing), rc);
}

static void read_backing(struct qcow2_job *job, uint64_t at, uint64_t len)
{
	struct read_part *p = new_part(job, at, len, job->request->nr_iov);

	if (!p)
		return;
	p->backing = (struct node_request){ .op = BLOCK_READ,
		                            .offset = job->request->offset + at,
		                            .len = len,
		                            .done = end_backing };
	p->backing.iov = part_iov(p, &p->backing.nr_iov);
	node_read(job->q->node->backing, &p->backing);
}

/* Raw deflate; what follows its end in the last sector belongs to somebody else. */
static int inflate_cluster(void *to, size_t size, const void *from, size_t len)
{
	z_stream z = { .next_in = (Bytef *)from,
		       .avail_in = (uInt)len,
		       .next_out = to,
		       .avail_out = (uInt)size };
	int rc = inflateInit2(&z, -MAX_WBITS);

	if (rc != Z_OK)
		return -ENOMEM;
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (rc == Z_STREAM_END || rc == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static int unzstd_cluster(void *to, size_t size, const void *from, size_t len)
{
	ZSTD_inBuffer in = { from, len, 0 };
	ZSTD_outBuffer out = { to, size, 0 };
	ZSTD_DStream *z = ZSTD_createDStream();
	size_t rc = 1;

	if (!z)
		return -ENOMEM;
	while (out.pos < out.size && in.pos < in.size && !ZSTD_isError(rc)) {
		rc = ZSTD_decompressStream(z, &out, &in);
		if (!rc)
			break; /* the end of the frame */
	}
	ZSTD_freeDStream(z);
	return !ZSTD_isError(rc) && out.pos == out.size ? 0 : -EIO;
}

int qcow2_unpack(struct qcow2 *q, uint64_t entry, const void *packed, size_t len)
{
	int rc;

	if (!q->unpacked)
		q->unpacked = malloc(q->cluster_size);
	if (!q->unpacked)
		return -ENOMEM;
	q->unpacked_entry = 0;
	rc = q->compression ? unzstd_cluster(q->unpacked, q->cluster_size, packed, len)
	                    : inflate_cluster(q->unpacked, q->cluster_size, packed, len);
	if (!rc)
		q->unpacked_entry = entry;
	return rc == -EIO ? qcow2_complain(q, "compressed data, L2 entry", entry) : rc;
}

static void end_packed(struct aio_request *a, int rc)
{
	struct read_part *p = container_of(a, struct read_part, aio);
	const struct node_request *r = p->job->request;
	struct qcow2 *q = p->job->q;

	if (!rc && q->unpacked_entry != p->entry)
		rc = qcow2_unpack(q, p->entry, p->packed, p->aio.len);
	if (!rc)
		iov_copy_to(r->iov, r->nr_iov, p->at, q->unpacked + p->skip, p->len);
	end_part(p, rc);
}

static void read_packed(struct qcow2_job *job, uint64_t at, uint64_t len, uint64_t entry,
                        uint64_t skip)
{
	const struct node_request *r = job->request;
	struct qcow2 *q = job->q;
	struct read_part *p;
	uint64_t packed_len, place = qcow2_packed_place(q, entry, &packed_len);

	if (q->unpacked_entry == entry) {
		iov_copy_to(r->iov, r->nr_iov, at, q->unpacked + skip, len);
		return;
	}
	p = new_part(job, at, len, 1);
	if (!p)
		return;
	p->entry = entry;
	p->skip = skip;
	p->packed = malloc(packed_len);
	if (!p->packed) {
		end_part(p, -ENOMEM);
		return;
	}
	p->iov[0] = (struct iovec){ p->packed, packed_len };
	p->aio = (struct aio_request){ .op = AIO_READ,
		                       .fd = q->node->file.fd,
		                       .offset = place,
		                       .len = packed_len,
		                       .iov = p->iov,
		                       .nr_iov = 1,
		                       .done = end_packed };
	aio_submit(q->node->aio, &p->aio);
}

static void read_hole(struct qcow2_job *job, uint64_t at, uint64_t len)
{
	if (job->q->node->backing)
		read_backing(job, at, len);
	else
		iov_zero(job->request->iov, job->request->nr_iov, at, len);
}

static void read_run(struct qcow2_job *job, uint64_t at, uint64_t len, uint64_t skip,
                     const struct qcow2_run *run)
{
	const struct node_request *r = job->request;

	switch (run->kind) {
	case QCOW2_KIND_DATA:
		read_data(job, at, len, run->host + skip);
		break;
	case QCOW2_KIND_PACKED:
		read_packed(job, at, len, run->entry, skip);
		break;
	case QCOW2_KIND_HOLE:
		read_hole(job, at, len);
		break;
	default:
		iov_zero(r->iov, r->nr_iov, at, len);
		break;
	}
}

/* The next part, of at most left bytes. How many it has, 0 after an error. */
static uint64_t read_next(struct qcow2_job *job, uint64_t at)
{
	const struct node_request *r = job->request;
	struct qcow2 *q = job->q;
	uint64_t offset = r->offset + at, left = r->len - at, len;
	uint64_t skip = offset & (q->cluster_size - 1);
	struct qcow2_run run;
	int rc = qcow2_map(q, offset >> q->cluster_bits, qcow2_clusters_of(q, skip + left), &run);

	if (rc) {
		job->rc = rc;
		return 0;
	}
	len = (run.clusters << q->cluster_bits) - skip;
	if (len > left)
		len = left;
	read_run(job, at, len, skip, &run);
	return len;
}

void qcow2_read(struct qcow2 *q, struct node_request *r)
{
	struct qcow2_job *job = qcow2_job_new(q, r);
	uint64_t at = 0, len = 1;

	if (!job)
		return;
	for (; at < r->len && len && !job->rc; at += len)
		len = read_next(job, at);
	qcow2_job_end_part(job, 0);
}

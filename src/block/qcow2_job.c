#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

struct qcow2_job *qcow2_job_new(struct qcow2 *q, struct node_request *r)
{
	struct qcow2_job *job = malloc(sizeof(*job));

	if (job)
		*job = (struct qcow2_job){ .q = q, .request = r, .pending = 1 };
	else
		r->done(r, -ENOMEM);
	return job;
}

void qcow2_job_end_part(struct qcow2_job *job, int rc)
{
	struct node_request *r = job->request;

	if (rc && !job->rc)
		job->rc = rc;
	if (--job->pending)
		return;
	rc = job->rc;
	free(job);
	r->done(r, rc);
}

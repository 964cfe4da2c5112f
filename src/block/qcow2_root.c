/* The first of two levels of tables: in memory as a whole, and in host order. */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

int qcow2_root_load(struct qcow2 *q, struct qcow2_root *r)
{
	int rc;

	r->entry = calloc(r->size ? r->size : 1, sizeof(*r->entry));
	if (!r->entry)
		return -ENOMEM;
	rc = file_read(&q->node->file, r->offset, r->entry, r->size * sizeof(*r->entry));
	for (uint32_t i = 0; i < r->size; i++)
		r->entry[i] = be64toh(r->entry[i]);
	return rc;
}

void qcow2_root_set(struct qcow2_root *r, uint32_t i, uint64_t entry)
{
	bool clean = !qcow2_root_is_dirty(r);

	r->entry[i] = entry;
	if (clean || i < r->dirty_from)
		r->dirty_from = i;
	if (clean || i >= r->dirty_to)
		r->dirty_to = i + 1;
}

int qcow2_root_write_to(struct qcow2 *q, uint64_t offset, const uint64_t *entry, uint32_t n)
{
	uint64_t *entries = malloc(n * sizeof(*entries));
	int rc;

	if (!entries)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		entries[i] = htobe64(entry[i]);
	rc = file_write(&q->node->file, offset, entries, n * sizeof(*entries));
	free(entries);
	return rc;
}

int qcow2_root_write(struct qcow2 *q, struct qcow2_root *r)
{
	int rc = 0;

	if (qcow2_root_is_dirty(r))
		rc = qcow2_root_write_to(q, r->offset + r->dirty_from * sizeof(*r->entry),
		                         r->entry + r->dirty_from, r->dirty_to - r->dirty_from);
	if (!rc)
		r->dirty_from = r->dirty_to = 0;
	return rc;
}

void qcow2_root_replace(struct qcow2_root *r, uint64_t offset, uint64_t *entry, uint32_t size)
{
	free(r->entry);
	*r = (struct qcow2_root){ .entry = entry, .offset = offset, .size = size };
}

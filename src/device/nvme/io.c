/*
 * Commands of the NVM command set.
 */
#include <errno.h>
#include <stdlib.h>

#include "device/nvme/private.h"

enum { IO_FLUSH = 0x00, IO_WRITE = 0x01, IO_READ = 0x02, IO_WRITE_ZEROES = 0x08, IO_DSM = 0x09 };

#define DW12_FUA        BIT(30)
#define DW12_DEALLOCATE BIT(25)
#define DSM_DEALLOCATE  BIT(2) /* of dword 11 */
#define FEATURE_CACHE   0x06

static uint64_t start_block(const struct nvme_command *c)
{
	return c->dw10 | (uint64_t)c->dw11 << 32;
}

static bool is_within(const struct nvme *n, uint64_t start, uint64_t blocks)
{
	return start <= n->blocks && blocks <= n->blocks - start;
}

static enum nvme_status status_of(const struct nvme_request *r, int rc)
{
	if (!rc)
		return NVME_OK;
	if (rc == -ENOSPC)
		return NVME_FULL;
	return r->r.op == BLOCK_READ ? NVME_READ_ERROR : NVME_WRITE_FAULT;
}

/* True when the machine is to pause, and the request is kept until it goes on. */
static bool hold(struct nvme_request *r, int rc)
{
	struct nvme *n = r->n;

	if (rc != -ENOSPC || !n->full.pause)
		return false;
	pthread_mutex_lock(&n->lock);
	r->next = n->held;
	n->held = r;
	pthread_cond_broadcast(&n->idle); /* a reset may wait for it */
	pthread_mutex_unlock(&n->lock);
	n->full.pause(n->full.opaque, n->full.disk);
	return true;
}

static struct nvme_request *take_held(struct nvme *n)
{
	struct nvme_request *r;

	pthread_mutex_lock(&n->lock);
	r = n->held;
	n->held = NULL;
	pthread_mutex_unlock(&n->lock);
	return r;
}

void nvme_retry_held(struct nvme *n)
{
	for (struct nvme_request *r = take_held(n), *next; r; r = next) {
		next = r->next;
		block_submit(n->block, &r->r);
	}
}

void nvme_fail_held(struct nvme *n)
{
	for (struct nvme_request *r = take_held(n), *next; r; r = next) {
		next = r->next;
		nvme_complete(r, NVME_FULL);
	}
}

static void io_done(struct block_request *br, int rc)
{
	struct nvme_request *r = (struct nvme_request *)br;

	if (hold(r, rc))
		return;
	if (br->op == BLOCK_READ && !rc)
		dma_wrote(&r->data, r->n->mem, r->data.len);
	nvme_complete(r, status_of(r, rc));
}

static void count(struct nvme *n, bool write, uint64_t bytes)
{
	pthread_mutex_lock(&n->lock);
	n->bytes[write] += bytes;
	n->commands[write]++;
	pthread_mutex_unlock(&n->lock);
}

/* Without the volatile cache every write is to be stored when it has ended (5.21.1.6). */
static unsigned write_flags(struct nvme *n, const struct nvme_command *c)
{
	bool cache;

	pthread_mutex_lock(&n->lock);
	cache = n->s.feature[FEATURE_CACHE] & 1;
	pthread_mutex_unlock(&n->lock);
	return c->dw12 & DW12_FUA || !cache ? BLOCK_FUA : 0;
}

static enum nvme_status transfer(struct nvme_request *r, const struct nvme_command *c, bool write)
{
	struct nvme *n = r->n;
	uint64_t start = start_block(c), blocks = (c->dw12 & 0xffff) + 1ull;
	uint64_t len = blocks * n->info.sector;
	enum nvme_status status;

	if (!is_within(n, start, blocks))
		return NVME_LBA_RANGE;
	if (write && n->info.readonly)
		return NVME_READ_ONLY;
	status = nvme_map(r, c, len, !write);
	if (status != NVME_OK)
		return status;
	count(n, write, len);
	r->r = (struct block_request){ .op = write ? BLOCK_WRITE : BLOCK_READ,
		                       .flags = write ? write_flags(n, c) : 0,
		                       .offset = start * n->info.sector,
		                       .len = len,
		                       .iov = r->data.iov,
		                       .nr_iov = r->data.nr,
		                       .done = io_done };
	block_submit(n->block, &r->r);
	return NVME_HELD;
}

static enum nvme_status flush(struct nvme_request *r)
{
	r->r = (struct block_request){ .op = BLOCK_FLUSH, .done = io_done };
	block_submit(r->n->block, &r->r);
	return NVME_HELD;
}

/* Ranges, each in pieces that the block layer takes, one after the other. */

static bool submit_piece(struct nvme_request *r)
{
	uint32_t sector = r->n->info.sector, most = (uint32_t)(BLOCK_MAX_LEN / sector), blocks;

	while (r->nr_ranges && !r->range->blocks) {
		r->range++;
		r->nr_ranges--;
	}
	if (!r->nr_ranges)
		return false;
	blocks = r->range->blocks < most ? r->range->blocks : most;
	r->r.offset = r->range->start * sector;
	r->r.len = (uint64_t)blocks * sector;
	r->range->start += blocks;
	r->range->blocks -= blocks;
	block_submit(r->n->block, &r->r);
	return true;
}

static void piece_done(struct block_request *br, int rc)
{
	struct nvme_request *r = (struct nvme_request *)br;

	if (hold(r, rc))
		return;
	if (rc || !submit_piece(r))
		nvme_complete(r, status_of(r, rc));
}

static enum nvme_status write_zeroes(struct nvme_request *r, const struct nvme_command *c)
{
	struct nvme *n = r->n;

	r->one = (struct nvme_range){ .start = start_block(c), .blocks = (c->dw12 & 0xffff) + 1 };
	if (!is_within(n, r->one.start, r->one.blocks))
		return NVME_LBA_RANGE;
	if (n->info.readonly)
		return NVME_READ_ONLY;
	r->range = &r->one;
	r->nr_ranges = 1;
	r->r = (struct block_request){ .op = BLOCK_WRITE_ZEROES,
		                       .flags = write_flags(n, c),
		                       .done = piece_done };
	if (c->dw12 & DW12_DEALLOCATE)
		r->r.flags |= BLOCK_UNMAP;
	submit_piece(r);
	return NVME_HELD;
}

/* Copies the ranges and checks all before the first is touched. */
static enum nvme_status take_ranges(struct nvme_request *r, const struct nvme_command *c)
{
	unsigned nr = (c->dw10 & 0xff) + 1;
	uint64_t len = nr * sizeof(*r->ranges);
	enum nvme_status status = nvme_map(r, c, len, false);

	if (status != NVME_OK)
		return status;
	r->ranges = malloc(len);
	if (!r->ranges)
		return NVME_INTERNAL;
	dma_read(&r->data, 0, r->ranges, len);
	for (unsigned i = 0; i < nr; i++)
		if (!is_within(r->n, r->ranges[i].start, r->ranges[i].blocks))
			return NVME_LBA_RANGE;
	r->range = r->ranges;
	r->nr_ranges = nr;
	return NVME_OK;
}

static enum nvme_status manage_dataset(struct nvme_request *r, const struct nvme_command *c)
{
	enum nvme_status status;

	if (!(c->dw11 & DSM_DEALLOCATE))
		return NVME_OK; /* the other attributes are hints */
	if (r->n->info.readonly)
		return NVME_READ_ONLY;
	status = take_ranges(r, c);
	if (status != NVME_OK)
		return status;
	r->r = (struct block_request){ .op = BLOCK_DISCARD, .done = piece_done };
	return submit_piece(r) ? NVME_HELD : NVME_OK;
}

enum nvme_status nvme_io(struct nvme_request *r, const struct nvme_command *c)
{
	if (c->nsid != NVME_NSID && !(c->opcode == IO_FLUSH && c->nsid == NVME_ALL))
		return NVME_BAD_NAMESPACE;
	if (c->flags & 3) /* fused */
		return NVME_BAD_FIELD;
	switch (c->opcode) {
	case IO_FLUSH:
		return flush(r);
	case IO_WRITE:
		return transfer(r, c, true);
	case IO_READ:
		return transfer(r, c, false);
	case IO_WRITE_ZEROES:
		return write_zeroes(r, c);
	case IO_DSM:
		return manage_dataset(r, c);
	}
	return NVME_BAD_OPCODE;
}

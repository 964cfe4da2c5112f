#include "device/virtio/blk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ID_BLOCK          2
#define PCI_CLASS_STORAGE 0x0100 /* SCSI, which is what others say for want of a better one */

/* Feature bits, 5.2.3 */
#define F_SIZE_MAX     BIT(1)
#define F_SEG_MAX      BIT(2)
#define F_RO           BIT(5)
#define F_BLK_SIZE     BIT(6)
#define F_FLUSH        BIT(9)
#define F_TOPOLOGY     BIT(10)
#define F_CONFIG_WCE   BIT(11)
#define F_MQ           BIT(12)
#define F_DISCARD      BIT(13)
#define F_WRITE_ZEROES BIT(14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK, S_IOERR, S_UNSUPP };

/* A request that keeps to these fits into one of the block layer. */
#define SEG_MAX        254u
#define SIZE_MAX_BYTES (256 * KiB)
_Static_assert(SEG_MAX *SIZE_MAX_BYTES <= BLOCK_MAX_LEN, "one request is enough");
#define MAX_IOV           (SEG_MAX + 2 + 8) /* header, status, and buffers that span banks */
#define MAX_RANGES        16u               /* of one discard */
#define MAX_RANGE_SECTORS ((uint32_t)(BLOCK_MAX_LEN / BLOCK_SECTOR))
_Static_assert(MAX_IOV <= BLOCK_MAX_IOV, "the block layer takes them all");

struct request_header {
	uint32_t type, reserved;
	uint64_t sector;
};

struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};
#define RANGE_UNMAP 1u

/* 5.2.4 */
struct config {
	uint64_t capacity; /* in units of 512 bytes */
	uint32_t size_max, seg_max;
	uint16_t cylinders;
	uint8_t heads, sectors;
	uint32_t block_size;
	uint8_t physical_exp, alignment_offset;
	uint16_t min_io;
	uint32_t opt_io;
	uint8_t writeback, unused;
	uint16_t queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_alignment;
	uint32_t max_zeroes_sectors, max_zeroes_seg;
	uint8_t zeroes_may_unmap, unused2[3];
};
_Static_assert(offsetof(struct config, writeback) == 32 && offsetof(struct config, queues) == 34 &&
                       sizeof(struct config) == 64,
               "5.2.4, with padding at its end");
#define CONFIG_LEN 60u

struct request {
	struct block_request r; /* first: what done() gets */
	struct blk *blk;
	struct vq *q;
	struct vq_chain c;
	uint8_t *status; /* in guest memory */
	struct range range[MAX_RANGES];
	unsigned nr_ranges, at; /* the next one */
	struct request *next;
	struct iovec iov[MAX_IOV];
};

struct blk {
	struct virtio_pci card;
	struct block *block;
	struct block_info info;
	struct config config; /* without `writeback` */
	_Atomic bool writeback;
	char serial[VIRTIO_BLK_SERIAL];
	struct disk_full full;
	pthread_mutex_t lock; /* spare, held; a leaf */
	struct request *spare;
	struct request *held; /* for room on the host */
};

/* Requests come from a list that grows to as many as have been under way at once. */

static struct request *get_request(struct blk *b)
{
	struct request *r;

	pthread_mutex_lock(&b->lock);
	r = b->spare;
	if (r)
		b->spare = r->next;
	pthread_mutex_unlock(&b->lock);
	return r ? r : malloc(sizeof(*r));
}

static void put_request(struct blk *b, struct request *r)
{
	pthread_mutex_lock(&b->lock);
	r->next = b->spare;
	b->spare = r;
	pthread_mutex_unlock(&b->lock);
}

static void finish(struct request *r, uint8_t status, uint64_t written)
{
	struct blk *b = r->blk;

	*r->status = status;
	mem_wrote_range(b->card.v.mem, r->status, 1);
	vq_push(r->q, &r->c, (uint32_t)written + 1);
	put_request(b, r);
}

/* Lists without the header and the status byte, whatever pieces the driver cut them into (2.6.4).
 */

static void trim_front(struct dma *d, uint64_t n)
{
	d->len -= n;
	while (n && d->iov->iov_len <= n) {
		n -= d->iov->iov_len;
		d->iov++;
		d->nr--;
	}
	if (n) {
		d->iov->iov_base = (uint8_t *)d->iov->iov_base + n;
		d->iov->iov_len -= n;
	}
}

static uint8_t *trim_last_byte(struct dma *d)
{
	struct iovec *last = &d->iov[d->nr - 1];

	d->len--;
	if (--last->iov_len == 0)
		d->nr--;
	return (uint8_t *)last->iov_base + last->iov_len;
}

/* Reads and writes. */

static bool is_within(const struct blk *b, uint64_t sector, uint64_t sectors)
{
	return sector <= b->config.capacity && sectors <= b->config.capacity - sector;
}

static bool takes_range(const struct blk *b, uint64_t sector, uint64_t len)
{
	uint64_t unit = b->info.sector / BLOCK_SECTOR;

	return len && len % b->info.sector == 0 && len <= BLOCK_MAX_LEN && sector % unit == 0 &&
	       is_within(b, sector, len / BLOCK_SECTOR);
}

/* True when the machine is to pause, and the request is kept until it goes on. */
static bool hold(struct request *r, int rc)
{
	struct blk *b = r->blk;

	if (rc != -ENOSPC || !b->full.pause)
		return false;
	pthread_mutex_lock(&b->lock);
	r->next = b->held;
	b->held = r;
	pthread_mutex_unlock(&b->lock);
	b->full.pause(b->full.opaque, b->full.disk);
	return true;
}

static struct request *take_held(struct blk *b)
{
	struct request *r;

	pthread_mutex_lock(&b->lock);
	r = b->held;
	b->held = NULL;
	pthread_mutex_unlock(&b->lock);
	return r;
}

static void resume(void *dev)
{
	struct blk *b = dev;

	for (struct request *r = take_held(b), *next; r; r = next) {
		next = r->next;
		block_submit(b->block, &r->r);
	}
}

static void io_done(struct block_request *br, int rc)
{
	struct request *r = (struct request *)br;
	bool read = br->op == BLOCK_READ && !rc;

	if (hold(r, rc))
		return;
	if (read)
		dma_wrote(&r->c.in, r->blk->card.v.mem, r->c.in.len);
	finish(r, rc ? S_IOERR : S_OK, read ? r->c.in.len : 0);
}

/* Without a flush command, or told so, the driver takes a write for stored when it has ended
 * (5.2.6.2). */
static unsigned write_flags(const struct blk *b)
{
	return virtio_has(&b->card.v, F_FLUSH) && b->writeback ? 0 : BLOCK_FUA;
}

static void submit_io(struct request *r, bool write, uint64_t sector)
{
	const struct dma *data = write ? &r->c.out : &r->c.in;

	if (!takes_range(r->blk, sector, data->len) || (write && r->blk->info.readonly)) {
		finish(r, S_IOERR, 0);
		return;
	}
	r->r = (struct block_request){ .op = write ? BLOCK_WRITE : BLOCK_READ,
		                       .flags = write ? write_flags(r->blk) : 0,
		                       .offset = sector * BLOCK_SECTOR,
		                       .len = data->len,
		                       .iov = data->iov,
		                       .nr_iov = data->nr,
		                       .done = io_done };
	block_submit(r->blk->block, &r->r);
}

static void submit_flush(struct request *r)
{
	r->r = (struct block_request){ .op = BLOCK_FLUSH, .done = io_done };
	block_submit(r->blk->block, &r->r);
}

/* Discards and zeroes: one range after the other. */

static void submit_range(struct request *r);

static void range_done(struct block_request *br, int rc)
{
	struct request *r = (struct request *)br;

	if (hold(r, rc))
		return;
	if (!rc && ++r->at < r->nr_ranges)
		submit_range(r);
	else
		finish(r, rc ? S_IOERR : S_OK, 0);
}

static void submit_range(struct request *r)
{
	const struct range *range = &r->range[r->at];

	r->r.offset = range->sector * BLOCK_SECTOR;
	r->r.len = (uint64_t)range->sectors * BLOCK_SECTOR;
	if (r->r.op == BLOCK_WRITE_ZEROES)
		r->r.flags = write_flags(r->blk) | (range->flags & RANGE_UNMAP ? BLOCK_UNMAP : 0);
	block_submit(r->blk->block, &r->r);
}

static bool takes_ranges(const struct request *r, uint8_t *status)
{
	uint32_t known = r->r.op == BLOCK_WRITE_ZEROES ? RANGE_UNMAP : 0;
	uint64_t unit = r->blk->info.sector / BLOCK_SECTOR;

	for (unsigned i = 0; i < r->nr_ranges; i++) {
		const struct range *range = &r->range[i];

		*status = range->flags & ~known ? S_UNSUPP : S_IOERR;
		if (range->flags & ~known || !range->sectors ||
		    range->sectors > MAX_RANGE_SECTORS || range->sectors % unit ||
		    range->sector % unit || !is_within(r->blk, range->sector, range->sectors))
			return false;
	}
	return true;
}

static void submit_ranges(struct request *r, enum block_op op)
{
	uint64_t len = r->c.out.len;
	uint8_t status = S_IOERR;

	r->r = (struct block_request){ .op = op, .done = range_done };
	r->at = 0;
	r->nr_ranges = (unsigned)(len / sizeof(struct range));
	if (!len || len % sizeof(struct range) || len > sizeof(r->range) || r->blk->info.readonly) {
		finish(r, S_IOERR, 0);
		return;
	}
	dma_read(&r->c.out, 0, r->range, len);
	if (takes_ranges(r, &status))
		submit_range(r);
	else
		finish(r, status, 0);
}

static void give_serial(struct request *r)
{
	uint64_t n =
	        dma_write(&r->c.in, r->blk->card.v.mem, 0, r->blk->serial, sizeof(r->blk->serial));

	finish(r, S_OK, n);
}

static void serve(struct request *r)
{
	struct request_header h;

	if (dma_read(&r->c.out, 0, &h, sizeof(h)) < sizeof(h) || !r->c.in.len) {
		virtio_fail(&r->blk->card.v, "queue %u: a request without header or status",
		            r->q->index);
		vq_push(r->q, &r->c, 0);
		put_request(r->blk, r);
		return;
	}
	trim_front(&r->c.out, sizeof(h));
	r->status = trim_last_byte(&r->c.in);
	switch (h.type) {
	case T_IN:
		submit_io(r, false, h.sector);
		break;
	case T_OUT:
		submit_io(r, true, h.sector);
		break;
	case T_FLUSH:
		submit_flush(r);
		break;
	case T_GET_ID:
		give_serial(r);
		break;
	case T_DISCARD:
		submit_ranges(r, BLOCK_DISCARD);
		break;
	case T_WRITE_ZEROES:
		submit_ranges(r, BLOCK_WRITE_ZEROES);
		break;
	default:
		finish(r, S_UNSUPP, 0);
	}
}

/* False when the queue is empty, or the host has no memory: then later kicks try again. */
static bool serve_next(struct blk *b, struct vq *q)
{
	struct request *r = get_request(b);

	if (!r)
		return false;
	r->blk = b;
	r->q = q;
	r->c.iov = r->iov;
	r->c.max = MAX_IOV;
	if (!vq_pop(q, &r->c)) {
		put_request(b, r);
		return false;
	}
	serve(r);
	return true;
}

static void kick(void *dev, unsigned n)
{
	struct blk *b = dev;
	struct vq *q = &b->card.v.vq[n];

	do {
		vq_want_kicks(q, false);
		while (serve_next(b, q))
			;
	} while (vq_want_kicks(q, true));
}

/* Configuration. */

static void read_config(void *dev, uint32_t off, void *buf, unsigned size)
{
	const struct blk *b = dev;
	struct config c = b->config;

	c.writeback = b->writeback;
	memcpy(buf, (const uint8_t *)&c + off, size);
}

static void write_config(void *dev, uint32_t off, const void *buf, unsigned size)
{
	struct blk *b = dev;

	if (off == offsetof(struct config, writeback) && size == 1 &&
	    virtio_has(&b->card.v, F_CONFIG_WCE))
		b->writeback = *(const uint8_t *)buf & 1;
}

static void stop(void *dev)
{
	struct blk *b = dev;

	for (struct request *r = take_held(b), *next; r; r = next) {
		next = r->next;
		finish(r, S_IOERR, 0);
	}
	b->writeback = true;
}

static void free_blk(void *dev)
{
	struct blk *b = dev;

	for (struct request *r = b->spare, *next; r; r = next) {
		next = r->next;
		free(r);
	}
	pthread_mutex_destroy(&b->lock);
	free(b);
}

static const struct virtio_ops blk_ops = {
	.name = "blk",
	.id = ID_BLOCK,
	.pci_class = PCI_CLASS_STORAGE,
	.config_len = CONFIG_LEN,
	.config_read = read_config,
	.config_write = write_config,
	.kick = kick,
	.stop = stop,
	.resume = resume,
	.free = free_blk,
};

static uint8_t log2_of(uint32_t n)
{
	return (uint8_t)(31 - __builtin_clz(n));
}

static void fill_config(struct config *c, const struct block_info *info, unsigned queues)
{
	uint32_t unit = info->sector / BLOCK_SECTOR;
	uint32_t physical = info->sector > 4096 ? info->sector : 4096; /* the host's page cache */

	*c = (struct config){ .capacity = info->size / BLOCK_SECTOR / unit * unit,
		              .size_max = SIZE_MAX_BYTES,
		              .seg_max = SEG_MAX,
		              .block_size = info->sector,
		              .physical_exp = log2_of(physical / info->sector),
		              .min_io = (uint16_t)(physical / info->sector),
		              .opt_io = info->cluster / info->sector,
		              .queues = (uint16_t)queues,
		              .max_discard_sectors = MAX_RANGE_SECTORS,
		              .max_discard_seg = MAX_RANGES,
		              .discard_alignment =
		                      (info->cluster ? info->cluster : 4096) / BLOCK_SECTOR,
		              .max_zeroes_sectors = MAX_RANGE_SECTORS,
		              .max_zeroes_seg = MAX_RANGES,
		              .zeroes_may_unmap = info->discards };
}

static uint64_t features(const struct block_info *info)
{
	uint64_t f = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE |
	             F_MQ | VIRTIO_F_RING_RESET;

	if (info->readonly)
		return f | F_RO;
	return f | F_WRITE_ZEROES | (info->discards ? F_DISCARD : 0);
}

int virtio_blk_add(struct pci_host *host, struct bus *bus, struct mem *mem,
                   const struct virtio_blk_config *config)
{
	struct virtio_config v = { .ops = &blk_ops,
		                   .mem = mem,
		                   .bus = bus,
		                   .nr_queues = config->queues,
		                   .queue_size = VIRTIO_QUEUE_SIZE };
	struct blk *b = calloc(1, sizeof(*b));
	int rc;

	if (!b)
		return -ENOMEM;
	pthread_mutex_init(&b->lock, NULL);
	b->block = config->block;
	b->writeback = true;
	b->full = config->full;
	block_get_info(b->block, &b->info);
	fill_config(&b->config, &b->info, config->queues);
	if (config->serial) {
		assert(strlen(config->serial) <= sizeof(b->serial));
		memcpy(b->serial, config->serial, strlen(config->serial));
	}
	v.dev = b;
	v.features = features(&b->info);
	rc = virtio_pci_init(&b->card, host, &v);
	if (rc)
		free_blk(b);
	return rc;
}

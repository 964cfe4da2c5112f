#include "device/virtio/balloon.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/loop.h"

#define ID_BALLOON      5
#define PCI_CLASS_OTHER 0x00ff

/* 5.5.3. Pages of the balloon may be used again without a word, and are when memory runs out. */
#define F_STATS          BIT(1)
#define F_DEFLATE_ON_OOM BIT(2)
#define F_REPORTING      BIT(5)

/* The first two queues are always there; the others follow in the order of their features. */
enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_MORE };
#define QUEUES      4
#define NO_QUEUE    UINT32_MAX
#define MAX_BUFFERS 64
#define PFN_BYTES   sizeof(uint32_t)
#define MAX_PFNS    1024u /* looked at a time */
#define STATS_NS    2000000000ull

struct config {
	uint32_t target, actual; /* pages of 4 KiB */
};

/* 5.5.6.3; packed, of ten bytes each */
struct stat_entry {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

struct virtio_balloon {
	struct virtio_pci card;
	struct config config; /* bus.lock */
	struct timer timer;   /* for statistics, while a driver is there to give them */
	pthread_mutex_t lock; /* a leaf: reported, stat, stats_wanted */
	uint64_t reported;
	uint64_t stat[BALLOON_STATS];
	bool stats_wanted;
	/* The worker's. */
	unsigned stats_queue, report_queue;
	struct vq_chain stats; /* the driver's buffer, kept until new numbers are wanted */
	struct iovec stats_iov[MAX_BUFFERS];
	bool has_stats;
};

/* Inflating. */

/* Gives a run of pages back, each of them once it is known to be RAM. */
static void give_back(struct mem *m, uint64_t pfn, uint64_t pages)
{
	void *host = mem_host(m, pfn * PAGE_SIZE, pages * PAGE_SIZE, true);

	if (host)
		mem_discard(m, host, pages * PAGE_SIZE);
}

/* Linux hands out pages from high to low as often as the other way. */
static void give_back_all(struct mem *m, const uint32_t *pfn, size_t n)
{
	size_t i = 0;

	while (i < n) {
		size_t run = 1, down = 1;

		while (i + run < n && pfn[i + run] == pfn[i] + run)
			run++;
		while (i + down < n && pfn[i + down] == pfn[i] - down)
			down++;
		if (run >= down) {
			give_back(m, pfn[i], run);
			i += run;
		} else {
			give_back(m, pfn[i + down - 1], down);
			i += down;
		}
	}
}

/* A list of pages; a reset does not wait for the end of a long one. */
static void take_list(struct virtio_balloon *b, const struct vq_chain *c)
{
	struct mem *m = b->card.v.mem;
	uint32_t pfn[MAX_PFNS];
	uint64_t at = 0, n;

	if (c->out.len / PFN_BYTES > m->ram_bytes / PAGE_SIZE) {
		virtio_fail(&b->card.v, "%llu pages at once, of %llu",
		            (unsigned long long)(c->out.len / PFN_BYTES),
		            (unsigned long long)(m->ram_bytes / PAGE_SIZE));
		return;
	}
	while (!b->card.v.resetting && (n = dma_read(&c->out, at, pfn, sizeof(pfn))) >= PFN_BYTES) {
		give_back_all(m, pfn, n / PFN_BYTES);
		at += n;
	}
}

static void inflate(struct virtio_balloon *b, struct vq *q)
{
	struct iovec iov[MAX_BUFFERS];
	struct vq_chain c = { .iov = iov, .max = MAX_BUFFERS };

	while (vq_pop_or_ask(q, &c)) {
		take_list(b, &c);
		vq_push(q, &c, 0);
	}
}

/* The pages come back by themselves when they are touched. */
static void deflate(struct virtio_balloon *b, struct vq *q)
{
	struct iovec iov[MAX_BUFFERS];
	struct vq_chain c = { .iov = iov, .max = MAX_BUFFERS };

	while (vq_pop_or_ask(q, &c))
		vq_push(q, &c, 0);
}

/* Free pages: the buffers themselves are what is free (5.5.6.7). */
static void take_report(struct virtio_balloon *b, struct vq *q)
{
	struct iovec iov[MAX_BUFFERS];
	struct vq_chain c = { .iov = iov, .max = MAX_BUFFERS };

	while (vq_pop_or_ask(q, &c)) {
		uint64_t bytes = 0;

		for (unsigned i = 0; i < c.in.nr; i++)
			bytes += mem_discard(b->card.v.mem, c.in.iov[i].iov_base,
			                     c.in.iov[i].iov_len);
		pthread_mutex_lock(&b->lock);
		b->reported += bytes;
		pthread_mutex_unlock(&b->lock);
		vq_push(q, &c, 0);
	}
}

/* Statistics: the driver gives a buffer full of them, and a new one when it gets that back. */

static void read_stats(struct virtio_balloon *b)
{
	struct stat_entry e;

	pthread_mutex_lock(&b->lock);
	for (uint64_t at = 0; dma_read(&b->stats.out, at, &e, sizeof(e)) == sizeof(e);
	     at += sizeof(e))
		if (e.tag < BALLOON_STATS)
			b->stat[e.tag] = e.value;
	pthread_mutex_unlock(&b->lock);
}

static void take_stats(struct virtio_balloon *b, struct vq *q)
{
	if (b->has_stats)
		return;
	b->stats.iov = b->stats_iov;
	b->stats.max = MAX_BUFFERS;
	b->has_stats = vq_pop_or_ask(q, &b->stats);
	if (!b->has_stats)
		return;
	read_stats(b);
	timer_arm(&b->timer, clock_ns() + STATS_NS);
}

static void return_stats(struct virtio_balloon *b)
{
	if (!b->has_stats)
		return;
	b->has_stats = false;
	vq_push(&b->card.v.vq[b->stats_queue], &b->stats, 0);
}

static void on_timer(void *opaque)
{
	struct virtio_balloon *b = opaque;

	pthread_mutex_lock(&b->lock);
	b->stats_wanted = true;
	pthread_mutex_unlock(&b->lock);
	virtio_wake(&b->card.v);
}

/* The worker. */

static void start(void *dev)
{
	struct virtio_balloon *b = dev;
	unsigned next = QUEUE_MORE;

	b->stats_queue = virtio_has(&b->card.v, F_STATS) ? next++ : NO_QUEUE;
	b->report_queue = virtio_has(&b->card.v, F_REPORTING) ? next++ : NO_QUEUE;
}

static void kick(void *dev, unsigned n)
{
	struct virtio_balloon *b = dev;
	struct vq *q = &b->card.v.vq[n];

	if (n == QUEUE_INFLATE)
		inflate(b, q);
	else if (n == QUEUE_DEFLATE)
		deflate(b, q);
	else if (n == b->stats_queue)
		take_stats(b, q);
	else if (n == b->report_queue)
		take_report(b, q);
}

static void work(void *dev)
{
	struct virtio_balloon *b = dev;
	bool wanted;

	pthread_mutex_lock(&b->lock);
	wanted = b->stats_wanted;
	b->stats_wanted = false;
	pthread_mutex_unlock(&b->lock);
	if (wanted)
		return_stats(b);
}

static void stop(void *dev)
{
	struct virtio_balloon *b = dev;

	timer_cancel(&b->timer);
	return_stats(b);
	b->stats_queue = b->report_queue = NO_QUEUE;
	virtio_lock(&b->card.v);
	b->config.actual = 0;
	virtio_unlock(&b->card.v);
}

/* Configuration. */

static void read_config(void *dev, uint32_t off, void *buf, unsigned size)
{
	memcpy(buf, (const uint8_t *)&((struct virtio_balloon *)dev)->config + off, size);
}

static void write_config(void *dev, uint32_t off, const void *buf, unsigned size)
{
	struct virtio_balloon *b = dev;

	if (off == offsetof(struct config, actual) && size == sizeof(b->config.actual))
		memcpy(&b->config.actual, buf, size);
}

static void free_balloon(void *dev)
{
	struct virtio_balloon *b = dev;

	timer_fini(&b->timer);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

static const struct virtio_ops balloon_ops = {
	.name = "balloon",
	.id = ID_BALLOON,
	.pci_class = PCI_CLASS_OTHER,
	.config_len = sizeof(struct config),
	.config_read = read_config,
	.config_write = write_config,
	.start = start,
	.kick = kick,
	.work = work,
	.stop = stop,
	.free = free_balloon,
};

int virtio_balloon_add(struct virtio_balloon **out, struct pci_host *host, struct bus *bus,
                       struct mem *mem, struct loop *loop)
{
	struct virtio_config config = {
		.ops = &balloon_ops,
		.mem = mem,
		.bus = bus,
		.features = F_STATS | F_DEFLATE_ON_OOM | F_REPORTING,
		.nr_queues = QUEUES,
		.queue_size = 128,
	};
	struct virtio_balloon *b = calloc(1, sizeof(*b));
	int rc;

	if (!b)
		return -ENOMEM;
	pthread_mutex_init(&b->lock, NULL);
	timer_init(&b->timer, loop, on_timer, b);
	memset(b->stat, 0xff, sizeof(b->stat));
	b->stats_queue = b->report_queue = NO_QUEUE;
	config.dev = b;
	rc = virtio_pci_init(&b->card, host, &config);
	if (rc) {
		free_balloon(b);
		return rc;
	}
	*out = b;
	return 0;
}

void virtio_balloon_set_target(struct virtio_balloon *b, uint64_t bytes)
{
	virtio_lock(&b->card.v);
	b->config.target = (uint32_t)(bytes / PAGE_SIZE);
	virtio_config_changed_locked(&b->card.v);
	virtio_unlock(&b->card.v);
}

void virtio_balloon_get_info(struct virtio_balloon *b, struct virtio_balloon_info *info)
{
	virtio_lock(&b->card.v);
	info->target = b->config.target * PAGE_SIZE;
	info->actual = b->config.actual * PAGE_SIZE;
	virtio_unlock(&b->card.v);
	pthread_mutex_lock(&b->lock);
	info->reported = b->reported;
	memcpy(info->stat, b->stat, sizeof(info->stat));
	pthread_mutex_unlock(&b->lock);
}

/*
 * A disk and its thread.
 *
 * A request goes from the queue, which any thread fills, to the list `waiting`, where the throttle
 * holds it back, and from there as a task to the top node. What a node submits in turn (to the
 * files behind it, to aio) stays on this thread.
 *
 * Lock: block.lock protects the queue, the list of all requests that have not ended, `sleeping` and
 * `stopping`. It is a leaf, and never held across done().
 */
#include "block/block.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "block/disk.h"

#define FOREVER    UINT64_MAX
#define NOBODY     UINT64_MAX
#define BLOCK_CALL BLOCK_OPS /* an operation of ours: struct call */

/* A request that is being done. */
struct task {
	struct node_request node;
	struct block *block;
	struct block_request *request;
	struct task *next; /* spare ones */
};

struct call {
	struct block_request request;
	int (*fn)(struct node *top, void *arg);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool has_ended;
	int rc;
};

static void link_locked(struct block *b, struct block_request *r)
{
	r->sequence = ++b->sequence;
	r->older = b->newest;
	r->newer = NULL;
	*(b->newest ? &b->newest->newer : &b->oldest) = r;
	b->newest = r;
}

static void unlink_locked(struct block *b, struct block_request *r)
{
	*(r->older ? &r->older->newer : &b->oldest) = r->newer;
	*(r->newer ? &r->newer->older : &b->newest) = r->older;
}

void block_submit(struct block *b, struct block_request *r)
{
	bool wake;

	r->next = NULL;
	pthread_mutex_lock(&b->lock);
	link_locked(b, r);
	*b->queue_end = r;
	b->queue_end = &r->next;
	wake = b->sleeping;
	b->sleeping = false;
	pthread_mutex_unlock(&b->lock);
	if (wake)
		aio_wake(b->aio);
}

/* From here on the request is its owner's, who may free it in done(). */
static void end_request(struct block *b, struct block_request *r, int rc)
{
	pthread_mutex_lock(&b->lock);
	unlink_locked(b, r);
	b->ending = r->sequence;
	pthread_mutex_unlock(&b->lock);
	r->done(r, rc);
	pthread_mutex_lock(&b->lock);
	b->ending = NOBODY;
	pthread_cond_broadcast(&b->ended);
	pthread_mutex_unlock(&b->lock);
}

void block_drain(struct block *b)
{
	uint64_t last;

	pthread_mutex_lock(&b->lock);
	last = b->sequence;
	while ((b->oldest && b->oldest->sequence <= last) || b->ending <= last)
		pthread_cond_wait(&b->ended, &b->lock);
	pthread_mutex_unlock(&b->lock);
}

static struct task *take_task(struct block *b)
{
	struct task *t = b->spare;

	if (t)
		b->spare = t->next;
	else
		t = malloc(sizeof(*t));
	return t;
}

static void end_task(struct node_request *n, int rc)
{
	struct task *t = container_of(n, struct task, node);
	struct block *b = t->block;
	struct block_request *r = t->request;

	if (!rc && r->flags & BLOCK_FUA && n->op != BLOCK_FLUSH && n->op != BLOCK_READ) {
		n->op = BLOCK_FLUSH;
		b->top->ops->submit(b->top, n);
		return;
	}
	t->next = b->spare;
	b->spare = t;
	b->running--;
	end_request(b, r, rc);
}

/* What no device lets through; those with an iovec carry len bytes. */
static int check_request(const struct block *b, const struct block_request *r)
{
	bool carries = r->op == BLOCK_READ || r->op == BLOCK_WRITE;
	uint64_t bytes = 0;

	if (r->op == BLOCK_FLUSH)
		return 0;
	if (r->op >= BLOCK_OPS || r->len > BLOCK_MAX_LEN || r->offset > b->top->size ||
	    r->len > b->top->size - r->offset || (r->offset | r->len) % BLOCK_SECTOR)
		return -EINVAL;
	if (r->op != BLOCK_READ && b->top->readonly)
		return -EROFS;
	if (carries && r->nr_iov > BLOCK_MAX_IOV)
		return -EINVAL;
	for (unsigned i = 0; carries && i < r->nr_iov; i++)
		bytes += r->iov[i].iov_len;
	return carries && bytes != r->len ? -EINVAL : 0;
}

static void start_request(struct block *b, struct block_request *r)
{
	int rc = check_request(b, r);
	struct task *t = rc ? NULL : take_task(b);

	if (!t || (!r->len && r->op != BLOCK_FLUSH)) {
		if (t) {
			t->next = b->spare;
			b->spare = t;
		}
		end_request(b, r, rc ? rc : t ? 0 : -ENOMEM);
		return;
	}
	t->block = b;
	t->request = r;
	t->node = (struct node_request){ .op = r->op,
		                         .unmap = r->flags & BLOCK_UNMAP,
		                         .offset = r->offset,
		                         .len = r->len,
		                         .iov = r->iov,
		                         .nr_iov = r->nr_iov,
		                         .done = end_task };
	b->running++;
	b->top->ops->submit(b->top, &t->node);
}

static void run_call(struct block *b, struct block_request *r)
{
	struct call *c = container_of(r, struct call, request);

	while (aio_pending(b->aio)) /* what nodes do by themselves */
		aio_wait(b->aio, FOREVER);
	c->rc = c->fn(b->top, c->arg);
	end_request(b, r, 0);
}

/* Whether the request may start; else after how long to ask again. */
static bool may_start(struct block *b, const struct block_request *r, uint64_t *wait_ns)
{
	uint64_t wait;

	if (r->op == BLOCK_CALL) {
		*wait_ns = FOREVER;
		return !b->running;
	}
	if (r->op == BLOCK_FLUSH || (!b->throttle.iops && !b->throttle.bytes_per_s))
		return true;
	wait = throttle_take(&b->throttle, clock_ns(), r->op <= BLOCK_WRITE ? r->len : 0);
	if (wait)
		*wait_ns = wait;
	return !wait;
}

/* Starts what may start, in order; a flush does not wait for what the throttle holds back. How long
 * until there may be more. */
static uint64_t start_waiting(struct block *b)
{
	struct block_request **link = &b->waiting, *r;
	uint64_t wait_ns = FOREVER;
	bool held = false, barrier = false;

	while ((r = *link) && !barrier) {
		if (held ? r->op != BLOCK_FLUSH : !may_start(b, r, &wait_ns)) {
			held = true;
			barrier = r->op == BLOCK_CALL;
			link = &r->next;
			continue;
		}
		*link = r->next;
		if (!*link)
			b->waiting_end = link;
		if (r->op == BLOCK_CALL)
			run_call(b, r);
		else
			start_request(b, r);
	}
	return wait_ns;
}

/* Moves the queue to the thread's own list; false when the disk closes and nothing is left. */
static bool take_queue(struct block *b)
{
	bool goes_on;

	pthread_mutex_lock(&b->lock);
	if (b->queue) {
		*b->waiting_end = b->queue;
		b->waiting_end = b->queue_end;
		b->queue = NULL;
		b->queue_end = &b->queue;
	}
	goes_on = !b->stopping || b->oldest;
	pthread_mutex_unlock(&b->lock);
	return goes_on;
}

/* Nothing came while we looked the other way: the next block_submit() has to wake us. */
static bool fall_asleep(struct block *b)
{
	bool idle;

	pthread_mutex_lock(&b->lock);
	idle = !b->queue && !(b->stopping && !b->oldest);
	b->sleeping = idle;
	pthread_mutex_unlock(&b->lock);
	return idle;
}

static void *run_disk(void *opaque)
{
	struct block *b = opaque;

	while (take_queue(b)) {
		uint64_t wait_ns = start_waiting(b);

		if (!fall_asleep(b))
			wait_ns = 0;
		aio_wait(b->aio, wait_ns);
	}
	while (aio_pending(b->aio))
		aio_wait(b->aio, FOREVER);
	b->close_rc = node_close(b->top);
	b->top = NULL;
	return NULL;
}

static int start_thread(struct block *b)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
	rc = pthread_create(&b->thread, NULL, run_disk, b);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return -rc;
	pthread_setname_np(b->thread, "disk");
	b->started = true;
	return 0;
}

static struct block *new_block(const struct block_options *o)
{
	struct block *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->ended, NULL);
	b->queue_end = &b->queue;
	b->waiting_end = &b->waiting;
	b->ending = NOBODY;
	b->throttle.iops = o->iops;
	b->throttle.bytes_per_s = o->bytes_per_s;
	return b;
}

int block_open(struct block **out, const char *path, const struct block_options *options, char *err,
               size_t errlen)
{
	struct node_mode mode = { .format = options->format,
		                  .readonly = options->readonly,
		                  .unlocked = options->unlocked };
	struct errbuf e = { err, errlen };
	struct block *b = new_block(options);
	int rc = b ? aio_new(&b->aio, options->no_io_uring) : -ENOMEM;

	if (rc) {
		block_fail(&e, rc, "%s: asynchronous I/O: %s", path, strerror(-rc));
	} else {
		rc = node_open(&b->top, path, &mode, b->aio, &e);
		if (!rc) {
			rc = start_thread(b);
			if (rc)
				block_fail(&e, rc, "%s: thread: %s", path, strerror(-rc));
		}
	}
	if (rc)
		block_close(b);
	else
		*out = b;
	return rc;
}

static void stop_thread(struct block *b)
{
	pthread_mutex_lock(&b->lock);
	b->stopping = true;
	b->sleeping = false;
	pthread_mutex_unlock(&b->lock);
	aio_wake(b->aio);
	pthread_join(b->thread, NULL);
}

int block_close(struct block *b)
{
	int rc;

	if (!b)
		return 0;
	if (b->started)
		stop_thread(b);
	else
		node_close(b->top);
	aio_free(b->aio);
	while (b->spare) {
		struct task *t = b->spare;

		b->spare = t->next;
		free(t);
	}
	pthread_cond_destroy(&b->ended);
	pthread_mutex_destroy(&b->lock);
	rc = b->close_rc;
	free(b);
	return rc;
}

void block_get_info(const struct block *b, struct block_info *info)
{
	const struct node *n = b->top;

	*info = (struct block_info){ .format = n->ops->format,
		                     .size = n->size,
		                     .used = file_used(&n->file),
		                     .sector = BLOCK_SECTOR,
		                     .cluster = n->cluster,
		                     .readonly = n->readonly,
		                     .discards = n->discards,
		                     .device = n->file.device,
		                     .backing = n->backing_name };
}

static void end_call(struct block_request *r, int rc)
{
	struct call *c = container_of(r, struct call, request);

	pthread_mutex_lock(&c->lock);
	if (r->op != BLOCK_CALL)
		c->rc = rc;
	c->has_ended = true;
	pthread_cond_signal(&c->ended);
	pthread_mutex_unlock(&c->lock);
}

/* Submits c's request, and waits for its end. */
static int wait_for(struct block *b, struct call *c)
{
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->ended, NULL);
	c->request.done = end_call;
	block_submit(b, &c->request);
	pthread_mutex_lock(&c->lock);
	while (!c->has_ended)
		pthread_cond_wait(&c->ended, &c->lock);
	pthread_mutex_unlock(&c->lock);
	pthread_cond_destroy(&c->ended);
	pthread_mutex_destroy(&c->lock);
	return c->rc;
}

int block_call(struct block *b, int (*fn)(struct node *top, void *arg), void *arg)
{
	struct call c = { .request = { .op = BLOCK_CALL }, .fn = fn, .arg = arg };

	return wait_for(b, &c);
}

/* Any length, in pieces that a request may have. */
static int transfer(struct block *b, enum block_op op, uint64_t offset, char *buf, uint64_t len)
{
	int rc = 0;

	while (len && !rc) {
		struct iovec iov = { buf, len < BLOCK_MAX_LEN ? len : BLOCK_MAX_LEN };
		struct call c = { .request = { .op = op,
			                       .flags = BLOCK_UNMAP,
			                       .offset = offset,
			                       .len = iov.iov_len,
			                       .iov = &iov,
			                       .nr_iov = 1 } };

		rc = wait_for(b, &c);
		buf = buf ? buf + iov.iov_len : NULL;
		offset += iov.iov_len;
		len -= iov.iov_len;
	}
	return rc;
}

int block_read(struct block *b, uint64_t offset, void *buf, uint64_t len)
{
	return transfer(b, BLOCK_READ, offset, buf, len);
}

int block_write(struct block *b, uint64_t offset, const void *buf, uint64_t len)
{
	return transfer(b, BLOCK_WRITE, offset, (char *)buf, len);
}

int block_write_zeroes(struct block *b, uint64_t offset, uint64_t len)
{
	return transfer(b, BLOCK_WRITE_ZEROES, offset, NULL, len);
}

int block_flush(struct block *b)
{
	struct call c = { .request = { .op = BLOCK_FLUSH } };

	return wait_for(b, &c);
}

struct map_args {
	uint64_t offset, *len;
	enum block_content *content;
};

static int call_map(struct node *top, void *arg)
{
	const struct map_args *m = arg;

	return node_map(top, m->offset, m->len, m->content);
}

int block_map(struct block *b, uint64_t offset, uint64_t *len, enum block_content *content)
{
	return block_call(b, call_map, &(struct map_args){ offset, len, content });
}

struct resize_args {
	uint64_t size;
	struct errbuf e;
};

static int call_resize(struct node *top, void *arg)
{
	const struct resize_args *r = arg;

	if (top->readonly)
		return block_fail(&r->e, -EROFS, "%s: read-only", top->file.path);
	return top->ops->resize(top, r->size, &r->e);
}

int block_resize(struct block *b, uint64_t size, char *err, size_t errlen)
{
	return block_call(b, call_resize, &(struct resize_args){ size, { err, errlen } });
}

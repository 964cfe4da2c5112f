/*
 * trapeze image convert: a pipeline of pieces, each of which is read, looked through for zeroes,
 * and written without them. What the source stores no data for is not even read.
 *
 * Threads: a piece's reads end on the source's thread, its writes on the target's, one at a time;
 * copy.lock protects the list of idle pieces and the first error.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block.h"
#include "cli/image.h"
#include "cli/progress.h"

#define PIECES      8u
#define PIECE_BYTES MiB
#define GRAIN       (64 * KiB) /* zeroes are looked for in units of this */
#define LOOK_AHEAD  (1 * GiB)

struct copy;

struct piece {
	struct copy *copy;
	struct block_request request;
	struct iovec iov;
	uint8_t *buf;
	uint64_t offset, len, at; /* at: bytes that are dealt with */
	struct piece *next;
};

struct copy {
	struct block *from, *to;
	struct piece piece[PIECES];
	pthread_mutex_t lock;
	pthread_cond_t idle_changed;
	struct piece *idle;
	unsigned nr_idle;
	int rc;
};

static void end_piece(struct piece *p, int rc)
{
	struct copy *c = p->copy;

	pthread_mutex_lock(&c->lock);
	if (rc && !c->rc)
		c->rc = rc;
	p->next = c->idle;
	c->idle = p;
	c->nr_idle++;
	pthread_cond_signal(&c->idle_changed);
	pthread_mutex_unlock(&c->lock);
}

static bool is_zero(const uint8_t *buf, uint64_t len)
{
	return !buf[0] && !memcmp(buf, buf + 1, len - 1);
}

static uint64_t grain_at(const struct piece *p, uint64_t at)
{
	return p->len - at < GRAIN ? p->len - at : GRAIN;
}

static void write_rest(struct piece *p);

static void end_write(struct block_request *r, int rc)
{
	struct piece *p = r->opaque;

	if (rc)
		end_piece(p, rc);
	else
		write_rest(p);
}

/* The next grains that are not zero. */
static void write_rest(struct piece *p)
{
	uint64_t start, end;

	while (p->at < p->len && is_zero(p->buf + p->at, grain_at(p, p->at)))
		p->at += grain_at(p, p->at);
	start = end = p->at;
	while (end < p->len && !is_zero(p->buf + end, grain_at(p, end)))
		end += grain_at(p, end);
	if (start == end) {
		end_piece(p, 0);
		return;
	}
	p->at = end;
	p->iov = (struct iovec){ p->buf + start, end - start };
	p->request = (struct block_request){ .op = BLOCK_WRITE,
		                             .offset = p->offset + start,
		                             .len = end - start,
		                             .iov = &p->iov,
		                             .nr_iov = 1,
		                             .done = end_write,
		                             .opaque = p };
	block_submit(p->copy->to, &p->request);
}

static void end_read(struct block_request *r, int rc)
{
	end_write(r, rc);
}

static void start_piece(struct copy *c, struct piece *p, uint64_t offset, uint64_t len)
{
	p->offset = offset;
	p->len = len;
	p->at = 0;
	p->iov = (struct iovec){ p->buf, len };
	p->request = (struct block_request){ .op = BLOCK_READ,
		                             .offset = offset,
		                             .len = len,
		                             .iov = &p->iov,
		                             .nr_iov = 1,
		                             .done = end_read,
		                             .opaque = p };
	block_submit(c->from, &p->request);
}

/* An idle piece, or NULL after an error. */
static struct piece *take_piece(struct copy *c)
{
	struct piece *p = NULL;

	pthread_mutex_lock(&c->lock);
	while (!c->idle && !c->rc)
		pthread_cond_wait(&c->idle_changed, &c->lock);
	if (!c->rc) {
		p = c->idle;
		c->idle = p->next;
		c->nr_idle--;
	}
	pthread_mutex_unlock(&c->lock);
	return p;
}

static int wait_for_all(struct copy *c)
{
	pthread_mutex_lock(&c->lock);
	while (c->nr_idle < PIECES)
		pthread_cond_wait(&c->idle_changed, &c->lock);
	pthread_mutex_unlock(&c->lock);
	return c->rc;
}

static int copy_extent(struct copy *c, uint64_t offset, uint64_t len, uint64_t size,
                       struct progress *bar)
{
	while (len) {
		uint64_t n = len < PIECE_BYTES ? len : PIECE_BYTES;
		struct piece *p = take_piece(c);

		if (!p)
			return -EIO; /* the first error is kept */
		start_piece(c, p, offset, n);
		offset += n;
		len -= n;
		progress_update(bar, offset, size);
	}
	return 0;
}

static int copy_extents(struct copy *c, uint64_t size, struct progress *bar)
{
	uint64_t offset = 0, len;
	int rc = 0;

	for (; offset < size && !rc; offset += len) {
		enum block_content content;

		len = size - offset < LOOK_AHEAD ? size - offset : LOOK_AHEAD;
		rc = block_map(c->from, offset, &len, &content);
		if (!rc && content == BLOCK_DATA)
			rc = copy_extent(c, offset, len, size, bar);
	}
	return rc;
}

static int copy_disk(struct copy *c, uint64_t size)
{
	struct progress bar;
	int rc = 0, wait_rc;

	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->idle_changed, NULL);
	for (unsigned i = 0; i < PIECES; i++) {
		c->piece[i].copy = c;
		c->piece[i].buf = malloc(PIECE_BYTES);
		if (!c->piece[i].buf)
			rc = -ENOMEM;
		end_piece(&c->piece[i], 0);
	}
	progress_init(&bar, "convert");
	if (!rc)
		rc = copy_extents(c, size, &bar);
	wait_rc = wait_for_all(c);
	progress_fini(&bar);
	for (unsigned i = 0; i < PIECES; i++)
		free(c->piece[i].buf);
	pthread_cond_destroy(&c->idle_changed);
	pthread_mutex_destroy(&c->lock);
	return wait_rc ? wait_rc : rc;
}

/* A device has its size, and may have any content: zeroes are not written otherwise. */
static int prepare_device(struct copy *c, uint64_t size)
{
	struct block_info info;

	block_get_info(c->to, &info);
	if (!info.device || strcmp(info.format, "raw"))
		return 0;
	return info.size < size ? -ENOSPC : block_write_zeroes(c->to, 0, size);
}

static void remove_file(const char *path)
{
	struct stat st;

	if (!stat(path, &st) && S_ISREG(st.st_mode))
		unlink(path);
}

static int copy_to_new(struct copy *c, const struct image_options *o, uint64_t size)
{
	struct image_create_options create = o->create;
	struct block_options options;
	char err[IMAGE_ERR];
	int rc, close_rc;

	create.format = o->out_format ? o->out_format : "qcow2";
	create.size = size;
	options = (struct block_options){ .format = create.format };
	if (image_create(o->second, &create, err, sizeof(err)) ||
	    block_open(&c->to, o->second, &options, err, sizeof(err))) {
		log_error("%s", err);
		return -EINVAL;
	}
	rc = prepare_device(c, size);
	if (!rc)
		rc = copy_disk(c, size);
	close_rc = block_close(c->to); /* which flushes */
	if (!rc)
		rc = close_rc;
	if (!rc)
		return 0;
	log_error("%s to %s: %s", o->file, o->second, strerror(-rc));
	remove_file(o->second);
	return rc;
}

int image_convert_verb(const struct image_options *o)
{
	struct block_options options = { .format = o->format, .readonly = true };
	struct copy c = { 0 };
	struct block_info info;
	char err[IMAGE_ERR];
	int rc;

	if (!o->second) {
		log_error("image convert: no target given (--help)");
		return CLI_ERROR;
	}
	if (block_open(&c.from, o->file, &options, err, sizeof(err))) {
		log_error("%s", err);
		return CLI_ERROR;
	}
	block_get_info(c.from, &info);
	rc = copy_to_new(&c, o, info.size);
	block_close(c.from);
	return rc ? CLI_ERROR : CLI_OK;
}

#include "mem/dma.h"

#include <errno.h>
#include <string.h>

int dma_add(struct dma *d, const struct mem *m, gpa_t gpa, uint64_t len, bool writable)
{
	unsigned nr = d->nr;

	for (uint64_t left = len, run; left; gpa += run, left -= run) {
		const struct mem_bank *b = mem_find(m, gpa);

		if (!b || (writable && b->readonly))
			return -EFAULT;
		if (nr == d->max)
			return -E2BIG;
		run = b->size - (gpa - b->base);
		if (run > left)
			run = left;
		d->iov[nr++] = (struct iovec){ b->host + (gpa - b->base), run };
	}
	d->nr = nr;
	d->len += len;
	return 0;
}

typedef void (*piece_fn)(uint8_t *host, uint64_t done, uint64_t n, void *opaque);

/* Calls fn for every piece of [at, at+len); returns the bytes that there were. */
static uint64_t for_each_piece(const struct dma *d, uint64_t at, uint64_t len, piece_fn fn,
                               void *opaque)
{
	uint64_t done = 0;

	for (unsigned i = 0; i < d->nr && done < len; i++) {
		uint64_t n = d->iov[i].iov_len;

		if (at >= n) {
			at -= n;
			continue;
		}
		n = n - at < len - done ? n - at : len - done;
		fn((uint8_t *)d->iov[i].iov_base + at, done, n, opaque);
		done += n;
		at = 0;
	}
	return done;
}

static void copy_out(uint8_t *host, uint64_t done, uint64_t n, void *opaque)
{
	memcpy((uint8_t *)opaque + done, host, n);
}

uint64_t dma_read(const struct dma *d, uint64_t at, void *buf, uint64_t len)
{
	return for_each_piece(d, at, len, copy_out, buf);
}

struct source {
	struct mem *mem;
	const uint8_t *buf;
};

static void copy_in(uint8_t *host, uint64_t done, uint64_t n, void *opaque)
{
	const struct source *s = opaque;

	memcpy(host, s->buf + done, n);
	mem_wrote_range(s->mem, host, n);
}

uint64_t dma_write(const struct dma *d, struct mem *m, uint64_t at, const void *buf, uint64_t len)
{
	struct source s = { .mem = m, .buf = buf };

	return for_each_piece(d, at, len, copy_in, &s);
}

static void note(uint8_t *host, uint64_t done, uint64_t n, void *opaque)
{
	mem_wrote_range(opaque, host, n);
}

void dma_wrote(const struct dma *d, struct mem *m, uint64_t len)
{
	if (m->code)
		for_each_piece(d, 0, len, note, m);
}

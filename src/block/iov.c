#include "block/iov.h"

#include <string.h>

struct cursor {
	const struct iovec *iov, *end;
	uint64_t skip, len;
};

/* The next piece of the range that lies in one entry; false at the end. */
static bool next_piece(struct cursor *c, struct iovec *piece)
{
	for (; c->iov < c->end && c->len; c->iov++) {
		uint64_t n;

		if (c->skip >= c->iov->iov_len) {
			c->skip -= c->iov->iov_len;
			continue;
		}
		n = c->iov->iov_len - c->skip;
		if (n > c->len)
			n = c->len;
		*piece = (struct iovec){ (char *)c->iov->iov_base + c->skip, n };
		c->len -= n;
		c->skip = 0;
		c->iov++;
		return true;
	}
	return false;
}

static struct cursor range_of(const struct iovec *iov, unsigned nr, uint64_t skip, uint64_t len)
{
	return (struct cursor){ iov, iov + nr, skip, len };
}

unsigned iov_slice(struct iovec *dst, const struct iovec *src, unsigned nr, uint64_t skip,
                   uint64_t len)
{
	struct cursor c = range_of(src, nr, skip, len);
	unsigned n = 0;

	while (n < nr && next_piece(&c, &dst[n]))
		n++;
	return n;
}

void iov_zero(const struct iovec *iov, unsigned nr, uint64_t skip, uint64_t len)
{
	struct cursor c = range_of(iov, nr, skip, len);
	struct iovec piece;

	while (next_piece(&c, &piece))
		memset(piece.iov_base, 0, piece.iov_len);
}

void iov_copy_to(const struct iovec *iov, unsigned nr, uint64_t skip, const void *buf, size_t len)
{
	struct cursor c = range_of(iov, nr, skip, len);
	const char *p = buf;
	struct iovec piece;

	for (; next_piece(&c, &piece); p += piece.iov_len)
		memcpy(piece.iov_base, p, piece.iov_len);
}

void iov_copy_from(const struct iovec *iov, unsigned nr, uint64_t skip, void *buf, size_t len)
{
	struct cursor c = range_of(iov, nr, skip, len);
	struct iovec piece;
	char *p = buf;

	for (; next_piece(&c, &piece); p += piece.iov_len)
		memcpy(p, piece.iov_base, piece.iov_len);
}

/*
 * Chains of images: which format a file has, and which file is behind it.
 */
#include "block/node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/iov.h"
#include "block/qcow2_format.h"

#define MAX_CHAIN 128u /* files */

static const struct node_ops *const formats[] = { &raw_node_ops, &qcow2_node_ops };

/* One chain as it is opened: who is in it already. */
struct chain {
	const struct node_mode *mode;
	struct aio *aio;
	const struct errbuf *e;
	struct node *top;
	unsigned length;
};

static int probe(struct node *n, const struct errbuf *e)
{
	uint8_t start[BLOCK_SECTOR];
	int rc = file_read(&n->file, 0, start, sizeof(start));

	if (rc)
		return block_fail(e, rc, "%s: cannot read: %s", n->file.path, strerror(-rc));
	n->probed = true;
	n->ops = qcow2_has_magic(start) ? &qcow2_node_ops : &raw_node_ops;
	return 0;
}

static int choose_format(struct node *n, const char *format, const struct errbuf *e)
{
	if (!format)
		return probe(n, e);
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(format, formats[i]->format))
			n->ops = formats[i];
	if (!n->ops)
		return block_fail(e, -EINVAL, "%s: format %s is not one of raw, qcow2",
		                  n->file.path, format);
	return 0;
}

static int refuse_loop(const struct chain *c, const struct node *n)
{
	if (c->length >= MAX_CHAIN)
		return block_fail(c->e, -ELOOP, "%s: more than %u files in the backing chain",
		                  n->file.path, MAX_CHAIN);
	for (const struct node *other = c->top; other && other != n; other = other->backing)
		if (other->file.dev == n->file.dev && other->file.ino == n->file.ino)
			return block_fail(c->e, -ELOOP, "%s: the backing chain is a loop",
			                  n->file.path);
	return 0;
}

static int open_one(const struct chain *c, struct node *n, const char *path, const char *format)
{
	bool readonly = c->mode->readonly || n != c->top;
	struct file_mode mode = { .readonly = readonly, .unlocked = c->mode->unlocked };
	int rc = file_open(&n->file, path, &mode, c->e);

	if (rc)
		return rc;
	n->aio = c->aio;
	n->readonly = readonly;
	n->checking = c->mode->checking;
	rc = refuse_loop(c, n);
	if (!rc)
		rc = file_claim(&n->file, &mode, c->e);
	if (!rc)
		rc = choose_format(n, format, c->e);
	return rc ? rc : n->ops->open(n, c->e);
}

char *node_backing_path(const char *path, const char *name)
{
	const char *slash = strrchr(path, '/');
	size_t folder = slash ? (size_t)(slash - path) + 1 : 0;
	char *out;

	if (!strncmp(name, "file:", 5))
		name += 5;
	if (name[0] == '/')
		return strdup(name);
	out = malloc(folder + strlen(name) + 1);
	if (out) {
		memcpy(out, path, folder);
		strcpy(out + folder, name);
	}
	return out;
}

/* "nbd:...", "json:{...}", "http://...": QEMU takes a word before a colon as a protocol. */
static bool names_protocol(const char *name)
{
	size_t word = strcspn(name, ":/");

	return name[word] == ':' && strncmp(name, "file:", 5);
}

static int open_backing(struct chain *c, struct node *overlay)
{
	char line[256];
	struct chain inner = *c;
	struct errbuf e = { line, sizeof(line) };
	char *path;
	int rc;

	if (names_protocol(overlay->backing_name))
		return block_fail(c->e, -ENOTSUP, "%s: its backing file '%.100s' is not a file",
		                  overlay->file.path, overlay->backing_name);
	path = node_backing_path(overlay->file.path, overlay->backing_name);
	overlay->backing = calloc(1, sizeof(*overlay->backing));
	if (!path || !overlay->backing) {
		free(path);
		return block_fail(c->e, -ENOMEM, "%s: out of memory", overlay->file.path);
	}
	overlay->backing->file.fd = -1;
	inner.e = &e;
	rc = open_one(&inner, overlay->backing, path, overlay->backing_format);
	free(path);
	if (rc)
		return block_fail(c->e, rc, "%s: backing file %s", overlay->file.path, line);
	return 0;
}

int node_open(struct node **out, const char *path, const struct node_mode *mode, struct aio *aio,
              const struct errbuf *e)
{
	struct node *n = calloc(1, sizeof(*n));
	struct chain c = { mode, aio, e, n, 0 };
	int rc;

	if (!n)
		return block_fail(e, -ENOMEM, "%s: out of memory", path);
	n->file.fd = -1;
	rc = open_one(&c, n, path, mode->format);
	for (; !rc && !mode->no_backing && n->backing_name; n = n->backing) {
		c.length++;
		rc = open_backing(&c, n);
	}
	if (rc)
		node_close(c.top);
	else
		*out = c.top;
	return rc;
}

int node_close(struct node *n)
{
	int first = 0;

	while (n) {
		struct node *backing = n->backing;
		int rc = n->ops ? n->ops->close(n) : 0;

		if (!first)
			first = rc;
		file_close(&n->file);
		free(n->backing_name);
		free(n->backing_format);
		free(n);
		n = backing;
	}
	return first;
}

/* A read that the node's end cuts short. */
struct short_read {
	struct node_request inner;
	struct node_request *outer;
	struct iovec iov[];
};

static void end_short(struct node_request *r, int rc)
{
	struct short_read *s = container_of(r, struct short_read, inner);
	struct node_request *outer = s->outer;

	free(s);
	outer->done(outer, rc);
}

static void read_short(struct node *n, struct node_request *r, uint64_t len)
{
	struct short_read *s = malloc(sizeof(*s) + r->nr_iov * sizeof(struct iovec));

	if (!s) {
		r->done(r, -ENOMEM);
		return;
	}
	iov_zero(r->iov, r->nr_iov, len, r->len - len);
	s->outer = r;
	s->inner = (struct node_request){
		.op = BLOCK_READ, .offset = r->offset, .len = len, .iov = s->iov, .done = end_short
	};
	s->inner.nr_iov = iov_slice(s->iov, r->iov, r->nr_iov, 0, len);
	n->ops->submit(n, &s->inner);
}

void node_read(struct node *n, struct node_request *r)
{
	if (!n || r->offset >= n->size) {
		iov_zero(r->iov, r->nr_iov, 0, r->len);
		r->done(r, 0);
	} else if (r->len > n->size - r->offset) {
		read_short(n, r, n->size - r->offset);
	} else {
		n->ops->submit(n, r);
	}
}

int node_map(struct node *n, uint64_t offset, uint64_t *len, enum block_content *content)
{
	if (!n || offset >= n->size) {
		*content = BLOCK_HOLE;
		return 0;
	}
	if (*len > n->size - offset)
		*len = n->size - offset;
	return n->ops->map(n, offset, len, content);
}

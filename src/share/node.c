/*
 * What the guest knows of: nodes by number and by (device, inode), and open files by number.
 *
 * Invariant: a node is in its bucket and has an open descriptor as long as lookups > 0; the others
 * are on the free list. The directory itself is never forgotten.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "share/share_private.h"

#define FIRST_BUCKETS 1024
#define MAX_NODES     (1u << 22)
#define MAX_HANDLES   65536u

static uint64_t *bucket_of(const struct share *s, uint64_t dev, uint64_t ino)
{
	uint64_t h = (ino ^ dev << 32) * 0x9e3779b97f4a7c15ull;

	return &s->bucket[(h >> 32) & (s->nr_buckets - 1)];
}

/* Every node is a descriptor: asks for as many as we may have, of which a quarter is left to the
 * rest of the process. */
static uint64_t raise_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l))
		return 0;
	if (l.rlim_cur < l.rlim_max) {
		struct rlimit more = { l.rlim_max, l.rlim_max };

		if (!setrlimit(RLIMIT_NOFILE, &more))
			l = more;
	}
	return l.rlim_cur;
}

int share_nodes_init(struct share *s)
{
	uint64_t limit = raise_limit();

	s->max_nodes = limit / 2 < MAX_NODES ? limit / 2 : MAX_NODES;
	s->max_handles = (unsigned)(limit / 4 < MAX_HANDLES ? limit / 4 : MAX_HANDLES);
	s->nr_buckets = FIRST_BUCKETS;
	s->bucket = calloc(s->nr_buckets, sizeof(*s->bucket));
	s->cap_nodes = FIRST_BUCKETS;
	s->node = calloc(s->cap_nodes, sizeof(*s->node));
	s->nr_nodes = FUSE_ROOT_ID;
	return s->bucket && s->node ? 0 : -ENOMEM;
}

static void close_nodes(struct share *s)
{
	for (uint64_t i = FUSE_ROOT_ID + 1; i < s->nr_nodes; i++)
		if (s->node[i].lookups)
			share_node_forget(s, i, UINT64_MAX);
	for (unsigned i = 0; i < s->cap_handles; i++)
		if (s->handle[i].fd >= 0)
			share_handle_drop(s, i);
}

void share_reset(struct share *s)
{
	close_nodes(s);
}

void share_nodes_fini(struct share *s)
{
	if (s->node)
		close_nodes(s);
	free(s->node);
	free(s->bucket);
	free(s->handle);
}

struct node *share_node(struct share *s, uint64_t id)
{
	return id < s->nr_nodes && s->node[id].lookups ? &s->node[id] : NULL;
}

static void rehash(struct share *s)
{
	uint64_t nr = 2 * s->nr_buckets, *bucket = calloc(nr, sizeof(*bucket)), *old = s->bucket;

	if (!bucket)
		return; /* longer chains, then */
	s->bucket = bucket;
	s->nr_buckets = nr;
	for (uint64_t i = FUSE_ROOT_ID; i < s->nr_nodes; i++) {
		struct node *n = &s->node[i];
		uint64_t *to;

		if (!n->lookups)
			continue;
		to = bucket_of(s, n->dev, n->ino);
		n->next = *to;
		*to = i;
	}
	free(old);
}

/* A free number, or 0. */
static uint64_t take_number(struct share *s)
{
	uint64_t id = s->free_node;

	if (id) {
		s->free_node = s->node[id].next;
		return id;
	}
	if (s->nr_nodes == s->cap_nodes) {
		uint64_t cap = 2 * s->cap_nodes;
		struct node *more = reallocarray(s->node, cap, sizeof(*more));

		if (!more)
			return 0;
		memset(more + s->cap_nodes, 0, (cap - s->cap_nodes) * sizeof(*more));
		s->node = more;
		s->cap_nodes = cap;
	}
	return s->nr_nodes++;
}

static uint64_t find(const struct share *s, const struct stat *st)
{
	uint64_t id = *bucket_of(s, st->st_dev, st->st_ino);

	while (id && (s->node[id].dev != st->st_dev || s->node[id].ino != st->st_ino))
		id = s->node[id].next;
	return id;
}

uint64_t share_node_add(struct share *s, int fd, const struct stat *st, int *rc)
{
	uint64_t id = find(s, st), *bucket;

	*rc = 0;
	if (id) {
		close(fd);
		s->node[id].lookups++;
		return id;
	}
	if (s->known >= s->max_nodes) {
		*rc = -ENFILE;
	} else {
		id = take_number(s);
		*rc = id ? 0 : -ENOMEM;
	}
	if (*rc) {
		close(fd);
		return 0;
	}
	if (++s->known > 2 * s->nr_buckets)
		rehash(s);
	bucket = bucket_of(s, st->st_dev, st->st_ino);
	s->node[id] = (struct node){ .fd = fd,
		                     .dev = st->st_dev,
		                     .ino = st->st_ino,
		                     .lookups = 1,
		                     .generation = ++s->generation,
		                     .type = st->st_mode & S_IFMT,
		                     .next = *bucket };
	*bucket = id;
	return id;
}

void share_node_forget(struct share *s, uint64_t id, uint64_t lookups)
{
	struct node *n = share_node(s, id);
	uint64_t *at;

	if (!n || id == FUSE_ROOT_ID)
		return;
	n->lookups -= lookups < n->lookups ? lookups : n->lookups;
	if (n->lookups)
		return;
	for (at = bucket_of(s, n->dev, n->ino); *at != id; at = &s->node[*at].next)
		assert(*at);
	*at = n->next;
	close(n->fd);
	s->known--;
	n->next = s->free_node;
	s->free_node = id;
}

/* Handles. */

static int grow_handles(struct share *s)
{
	unsigned cap = s->cap_handles ? 2 * s->cap_handles : 64;
	struct handle *more;

	more = reallocarray(s->handle, cap, sizeof(*more));
	if (!more)
		return -ENOMEM;
	for (unsigned i = s->cap_handles; i < cap; i++)
		more[i] = (struct handle){ .fd = -1 };
	s->handle = more;
	s->cap_handles = cap;
	return 0;
}

int64_t share_handle_add(struct share *s, int fd, bool directory)
{
	unsigned i = 0;
	int rc = 0;

	if (s->open_handles == s->max_handles)
		rc = -EMFILE;
	else if (s->open_handles == s->cap_handles)
		rc = grow_handles(s);
	if (rc) {
		close(fd);
		return rc;
	}
	while (s->handle[i].fd >= 0)
		i++;
	s->handle[i] = (struct handle){ fd, directory };
	s->open_handles++;
	return i;
}

struct handle *share_handle(struct share *s, uint64_t id, bool directory)
{
	if (id >= s->cap_handles || s->handle[id].fd < 0 || s->handle[id].directory != directory)
		return NULL;
	return &s->handle[id];
}

void share_handle_drop(struct share *s, uint64_t id)
{
	close(s->handle[id].fd);
	s->handle[id].fd = -1;
	s->open_handles--;
}

void share_get_counts(const struct share *s, struct share_counts *c)
{
	*c = (struct share_counts){ (unsigned)s->known, s->open_handles };
}

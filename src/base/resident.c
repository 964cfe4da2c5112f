#include "base/resident.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/base.h"

#define MAX_SHARED 256 /* a vCPU has two; what is beyond counts as often as it is mapped */

/* A piece of memory that is mapped MAP_SHARED: which one, and the most that one mapping has. */
struct piece {
	uint64_t inode, offset, kib;
};

struct count {
	struct piece piece[MAX_SHARED];
	unsigned nr;
	struct piece *current; /* of the mapping whose lines are read; NULL: of none but itself */
	uint64_t kib;
};

static struct piece *find_piece(struct count *c, uint64_t inode, uint64_t offset)
{
	for (unsigned n = 0; n < c->nr; n++)
		if (c->piece[n].inode == inode && c->piece[n].offset == offset)
			return &c->piece[n];
	if (c->nr == MAX_SHARED)
		return NULL;
	c->piece[c->nr] = (struct piece){ .inode = inode, .offset = offset };
	return &c->piece[c->nr++];
}

/* address-address rwxs offset major:minor inode path; what has no path shares an inode with others.
 */
static bool read_mapping(struct count *c, const char *line)
{
	uint64_t offset, inode;
	char share, path = 0;

	if (sscanf(line, "%*x-%*x %*c%*c%*c%c %" SCNx64 " %*x:%*x %" SCNu64 " %c", &share, &offset,
	           &inode, &path) < 3)
		return false;
	c->current = share == 's' && path == '/' ? find_piece(c, inode, offset) : NULL;
	return true;
}

static void read_rss(struct count *c, const char *line)
{
	uint64_t kib, had;

	if (sscanf(line, "Rss: %" SCNu64, &kib) != 1)
		return;
	had = c->current ? c->current->kib : 0;
	if (kib <= had)
		return;
	c->kib += kib - had;
	if (c->current)
		c->current->kib = kib;
}

uint64_t resident_bytes(void)
{
	struct count c = { 0 };
	char line[512];
	FILE *f = fopen("/proc/self/smaps", "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (!read_mapping(&c, line))
			read_rss(&c, line);
	fclose(f);
	return c.kib * KiB;
}

/*
 * Banks of guest memory.
 *
 * The memfd holds RAM contiguously, so that the file offset of a byte is its distance from the
 * first byte of RAM: the bank above the hole follows the bank below it. Every mapping has a guard
 * page on both sides, so that a stray access of the host faults instead of reaching a neighbour.
 *
 * A ROM is a mapping of its own, outside the memfd. The RAM bank under it is cut into what lies
 * below and above; the banks that result still point into one mapping, whose guards they share. The
 * pages of RAM that the ROM hides are never populated.
 */
#include "mem/mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGE_PAGE (2 * MiB)

/* Address space for size bytes and a guard page on either side, so that the bytes begin on a large
 * page: guest and host addresses are then alike in their low bits, without which the host cannot
 * map one large page by another. Gives the first guard's address, or NULL. */
static uint8_t *reserve_aligned(uint64_t size)
{
	uint64_t span = size + 2 * PAGE_SIZE;
	uint8_t *all = mmap(NULL, span + LARGE_PAGE, PROT_NONE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t skip;

	if (all == MAP_FAILED)
		return NULL;
	skip = -((uintptr_t)all + PAGE_SIZE) & (LARGE_PAGE - 1);
	if (skip)
		munmap(all, skip);
	munmap(all + skip + span, LARGE_PAGE - skip);
	return all + skip;
}

/* Maps size bytes of fd (or anonymous memory when fd is -1) between two guard pages; NULL on
 * failure. */
static uint8_t *map_guarded(int fd, uint64_t offset, uint64_t size)
{
	int flags = MAP_FIXED | MAP_NORESERVE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
	uint64_t span = size + 2 * PAGE_SIZE;
	uint8_t *area = reserve_aligned(size);

	if (!area)
		return NULL;
	if (mmap(area + PAGE_SIZE, size, PROT_READ | PROT_WRITE, flags, fd, (off_t)offset) ==
	    MAP_FAILED) {
		munmap(area, span);
		return NULL;
	}
	return area + PAGE_SIZE;
}

static void unmap_guarded(uint8_t *host, uint64_t size)
{
	munmap(host - PAGE_SIZE, size + 2 * PAGE_SIZE);
}

/* The two RAM mappings, found again from the amount of RAM: banks may have been cut since. */
static uint64_t low_bytes(uint64_t ram_bytes)
{
	return ram_bytes < MEM_HOLE_BASE ? ram_bytes : MEM_HOLE_BASE;
}

static int add_ram(struct mem *m, gpa_t base, uint64_t offset, uint64_t size)
{
	uint8_t *host = map_guarded(m->fd, offset, size);

	if (!host)
		return -ENOMEM;
	/* A guest's pages are of no interest in a core dump of ours. */
	madvise(host, size, MADV_DONTDUMP);
	m->bank[m->nr_banks++] = (struct mem_bank){ .base = base, .size = size, .host = host };
	return 0;
}

int mem_new(struct mem **out, uint64_t bytes)
{
	uint64_t low = low_bytes(bytes);
	struct mem *m;
	int rc;

	if (bytes % PAGE_SIZE || bytes < MEM_MIN_BYTES || bytes > MEM_MAX_BYTES)
		return -EINVAL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->ram_bytes = bytes;
	m->fd = memfd_create("guest-ram", MFD_CLOEXEC);
	rc = -errno;
	if (m->fd < 0)
		goto out;
	rc = -ENOMEM; /* whatever the reason, the host has no room for that much */
	if (ftruncate(m->fd, (off_t)bytes) < 0)
		goto out;
	rc = add_ram(m, 0, 0, low);
	if (!rc && bytes > low)
		rc = add_ram(m, MEM_HIGH_BASE, low, bytes - low);
	if (rc)
		goto out;
	m->ram_low = low;
	m->ram[0] = m->bank[0].host;
	m->ram[1] = bytes > low ? m->bank[1].host : NULL;
out:
	if (rc) {
		mem_free(m);
		return rc;
	}
	*out = m;
	return 0;
}

/* A table with an entry for every RAM page, of which few are ever touched. */
static void *map_table(uint64_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void unmap_table(void *p, uint64_t size)
{
	if (p)
		munmap(p, size);
}

int mem_watch(struct mem *m, const struct mem_watch_ops *ops, void *opaque)
{
	uint64_t pages = m->ram_bytes / PAGE_SIZE;

	m->watch = ops;
	m->watch_opaque = opaque;
	if (!m->granted)
		m->granted = map_table(pages * sizeof(*m->granted));
	if (!m->code && m->granted)
		m->code = map_table(pages * sizeof(*m->code));
	return m->code ? 0 : -ENOMEM;
}

void mem_unwatch(struct mem *m)
{
	unmap_table(m->code, m->ram_bytes / PAGE_SIZE * sizeof(*m->code));
	unmap_table(m->granted, m->ram_bytes / PAGE_SIZE * sizeof(*m->granted));
	m->code = NULL;
	m->granted = NULL;
	m->watch = NULL;
}

void mem_wrote_code(struct mem *m, uint64_t page, uint64_t granules)
{
	granules &= atomic_fetch_and(&m->code[page], ~granules);
	if (granules)
		m->watch->written(m->watch_opaque, page, granules);
}

int mem_dirty_start(struct mem *m)
{
	m->dirty = map_table(mem_dirty_words(m) * sizeof(*m->dirty));
	return m->dirty ? 0 : -ENOMEM;
}

void mem_dirty_stop(struct mem *m)
{
	unmap_table(m->dirty, mem_dirty_words(m) * sizeof(*m->dirty));
	m->dirty = NULL;
}

void mem_dirty_take(struct mem *m, uint64_t *bitmap)
{
	for (uint64_t n = 0; m->dirty && n < mem_dirty_words(m); n++)
		if (atomic_load_explicit(&m->dirty[n], memory_order_relaxed))
			bitmap[n] |= atomic_exchange(&m->dirty[n], 0);
}

void mem_mark_dirty(struct mem *m, const void *host)
{
	uint64_t page = mem_page(m, host);

	if (page != MEM_NO_PAGE)
		atomic_fetch_or(&m->dirty[page / 64], BIT(page % 64));
}

void mem_free(struct mem *m)
{
	uint64_t low;

	if (!m)
		return;
	low = low_bytes(m->ram_bytes);
	for (unsigned i = 0; i < m->nr_banks; i++) {
		struct mem_bank *b = &m->bank[i];

		if (b->readonly)
			unmap_guarded(b->host, b->size);
		else if (b->base == 0)
			unmap_guarded(b->host, low);
		else if (b->base == MEM_HIGH_BASE)
			unmap_guarded(b->host, m->ram_bytes - low);
	}
	if (m->fd >= 0)
		close(m->fd);
	mem_unwatch(m);
	mem_dirty_stop(m);
	free(m);
}

int mem_clear(struct mem *m)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	return fallocate(m->fd, mode, 0, (off_t)m->ram_bytes) < 0 ? -errno : 0;
}

uint64_t mem_discard(struct mem *m, void *host, uint64_t len)
{
	uintptr_t first = ((uintptr_t)host + PAGE_SIZE - 1) & PAGE_MASK;
	uintptr_t end = ((uintptr_t)host + len) & PAGE_MASK;
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	uint64_t page;

	if (first >= end)
		return 0;
	page = mem_page(m, (void *)first); /* which is the memfd's, too */
	if (page == MEM_NO_PAGE ||
	    fallocate(m->fd, mode, (off_t)(page * PAGE_SIZE), (off_t)(end - first)) < 0)
		return 0;
	mem_wrote_range(m, (void *)first, end - first);
	return end - first;
}

static void insert_bank(struct mem *m, const struct mem_bank *bank)
{
	unsigned i = m->nr_banks;

	assert(m->nr_banks < MEM_MAX_BANKS);
	for (; i > 0 && m->bank[i - 1].base > bank->base; i--)
		m->bank[i] = m->bank[i - 1];
	m->bank[i] = *bank;
	m->nr_banks++;
}

/* Takes [base, base+size) out of the RAM bank that holds it, keeping what lies around it. */
static void cut_bank(struct mem *m, struct mem_bank *b, gpa_t base, uint64_t size)
{
	struct mem_bank above = *b;
	uint64_t below = base - b->base;

	above.base = base + size;
	above.size = b->size - below - size;
	above.host = b->host + below + size;
	b->size = below;
	if (above.size)
		insert_bank(m, &above);
}

/*
 * The first page of a RAM mapping stays RAM: mem_free() knows the mapping by it, and no board
 * wants a ROM at 0 or at 4 GiB.
 */
static int check_rom(struct mem *m, gpa_t base, uint64_t size, struct mem_bank **under)
{
	*under = NULL;
	if (!size || base % PAGE_SIZE || size % PAGE_SIZE || base + size < base)
		return -EINVAL;
	for (unsigned i = 0; i < m->nr_banks; i++) {
		const struct mem_bank *b = &m->bank[i];

		if (base >= b->base + b->size || b->base >= base + size)
			continue;
		if (b->readonly || base <= b->base || base + size > b->base + b->size)
			return -EEXIST;
		*under = &m->bank[i];
	}
	return m->nr_banks + (*under ? 2 : 1) > MEM_MAX_BANKS ? -ENOSPC : 0;
}

int mem_add_rom(struct mem *m, gpa_t base, const void *data, uint64_t size)
{
	struct mem_bank rom = { .base = base, .size = size, .readonly = true };
	struct mem_bank *under;
	int rc = check_rom(m, base, size, &under);

	if (rc)
		return rc;
	rom.host = map_guarded(-1, 0, size);
	if (!rom.host)
		return -ENOMEM;
	memcpy(rom.host, data, size);
	mprotect(rom.host, size, PROT_READ);
	if (under)
		cut_bank(m, under, base, size);
	insert_bank(m, &rom);
	return 0;
}

const struct mem_bank *mem_find(const struct mem *m, gpa_t gpa)
{
	for (unsigned i = 0; i < m->nr_banks; i++)
		if (gpa - m->bank[i].base < m->bank[i].size)
			return &m->bank[i];
	return NULL;
}

void *mem_host(const struct mem *m, gpa_t gpa, uint64_t len, bool writable)
{
	const struct mem_bank *b = mem_find(m, gpa);

	if (!b || (writable && b->readonly) || len > b->size - (gpa - b->base))
		return NULL;
	return b->host + (gpa - b->base);
}

/* True when every byte of [gpa, gpa+len) is memory. */
static bool is_memory(const struct mem *m, gpa_t gpa, uint64_t len)
{
	while (len) {
		const struct mem_bank *b = mem_find(m, gpa);
		uint64_t run;

		if (!b)
			return false;
		run = b->size - (gpa - b->base);
		if (run >= len)
			return true;
		gpa += run;
		len -= run;
	}
	return true;
}

int mem_read(const struct mem *m, gpa_t gpa, void *buf, uint64_t len)
{
	uint8_t *p = buf;

	if (!is_memory(m, gpa, len))
		return -EFAULT;
	while (len) {
		const struct mem_bank *b = mem_find(m, gpa);
		uint64_t off = gpa - b->base;
		uint64_t run = b->size - off < len ? b->size - off : len;

		memcpy(p, b->host + off, run);
		p += run;
		gpa += run;
		len -= run;
	}
	return 0;
}

void mem_wrote_range(struct mem *m, const uint8_t *host, uint64_t len)
{
	while ((m->code || m->dirty) && len) {
		uint64_t run = PAGE_SIZE - ((uintptr_t)host & ~PAGE_MASK);

		run = run < len ? run : len;
		mem_wrote(m, host, (unsigned)run);
		host += run;
		len -= run;
	}
}

int mem_write(const struct mem *m, gpa_t gpa, const void *buf, uint64_t len)
{
	const uint8_t *p = buf;

	if (!is_memory(m, gpa, len))
		return -EFAULT;
	while (len) {
		const struct mem_bank *b = mem_find(m, gpa);
		uint64_t off = gpa - b->base;
		uint64_t run = b->size - off < len ? b->size - off : len;

		if (!b->readonly) {
			memcpy(b->host + off, p, run);
			mem_wrote_range((struct mem *)m, b->host + off, run);
		}
		p += run;
		gpa += run;
		len -= run;
	}
	return 0;
}

uint64_t mem_resident(const struct mem *m)
{
	struct stat st;

	/* tmpfs counts the pages it has allocated, in units of 512 bytes. */
	return fstat(m->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

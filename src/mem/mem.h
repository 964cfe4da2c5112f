/*
 * Guest physical memory: the only way to touch guest RAM.
 *
 * RAM is one memfd, mapped shared and filled lazily by the host kernel. It appears in the guest in
 * two banks: [0, low) and, above the hole that the chipset needs, [4 GiB, ...). Read-only banks
 * (ROM) may be laid over it. Guests are hostile: every lookup is bounded, nothing returned spans
 * banks.
 */
#pragma once

#include <stdatomic.h>
#include "base/base.h"

#define MEM_HOLE_BASE 0xc0000000ull /* RAM ends here below 4 GiB; devices live above */
#define MEM_HIGH_BASE 0x100000000ull
#define MEM_MIN_BYTES (32 * MiB)
#define MEM_MAX_BYTES (1024 * GiB)
#define MEM_MAX_BANKS 8

struct mem_bank {
	gpa_t base;
	uint64_t size; /* bytes, a multiple of PAGE_SIZE */
	uint8_t *host;
	bool readonly; /* guest writes are dropped */
};

/*
 * Watching code. An engine that keeps translations of guest code has to hear of writes to it. RAM
 * is watched in granules of 64 bytes: a word a page says which of them hold code. Whoever writes
 * guest RAM by a host address reports it after the write; whoever caches the right to write a page
 * must not do so while the page has a granule. `granted` remembers which pages may be in such a
 * cache.
 */
#define MEM_GRANULE_SHIFT 6
/* granted: 0 nowhere; else one more than the low bits of the number of the linear page that it is
 * cached for, or MEM_GRANTED_MANY; and MEM_PASSING when a store may be under way that was allowed
 * once.
 */
#define MEM_GRANTED_BITS 12
#define MEM_GRANTED_MANY 0x7fffu
#define MEM_PASSING      0x8000u
struct mem_watch_ops {
	/* Code in these granules of a RAM page has been written. On the writer's thread. */
	void (*written)(void *opaque, uint64_t page, uint64_t granules);
};

struct mem {
	int fd;
	uint64_t ram_bytes;
	uint8_t *ram[2];        /* the mappings of RAM: below the hole, and above 4 GiB or NULL */
	uint64_t ram_low;       /* bytes in the first */
	_Atomic uint64_t *code; /* by RAM page, or NULL: nobody watches */
	_Atomic uint16_t *granted;
	_Atomic uint64_t *dirty; /* a bit for each RAM page that the host wrote, or NULL */
	const struct mem_watch_ops *watch;
	void *watch_opaque;
	unsigned nr_banks;
	struct mem_bank bank[MEM_MAX_BANKS]; /* sorted by base, disjoint */
};

/* bytes: multiple of PAGE_SIZE, MEM_MIN_BYTES..MEM_MAX_BYTES, else -EINVAL; -ENOMEM when the host
 * has no room. */
int mem_new(struct mem **out, uint64_t bytes);
void mem_free(struct mem *m);

/* Gives all RAM back to the host; it reads as zeros again. ROM stays. Only while no vCPU runs. */
int mem_clear(struct mem *m);

/*
 * Gives the whole pages of RAM within [host, host+len) back to the host; they read as zeroes until
 * they are written again. Returns how many bytes that are: none when the host does not take them.
 */
uint64_t mem_discard(struct mem *m, void *host, uint64_t len);

/* A read-only bank at [base, base+size), splitting the RAM below it. data is copied. */
int mem_add_rom(struct mem *m, gpa_t base, const void *data, uint64_t size);

/* The bank that holds gpa, or NULL. */
const struct mem_bank *mem_find(const struct mem *m, gpa_t gpa);
/* Host address of [gpa, gpa+len) when it lies within one bank (writable asks for RAM), else NULL.
 */
void *mem_host(const struct mem *m, gpa_t gpa, uint64_t len, bool writable);
/* Copies that may cross banks; -EFAULT (and nothing copied) when any byte is not memory. */
int mem_read(const struct mem *m, gpa_t gpa, void *buf, uint64_t len);
int mem_write(const struct mem *m, gpa_t gpa, const void *buf, uint64_t len);
/* Bytes of guest RAM that the host has populated. */
uint64_t mem_resident(const struct mem *m);

/* Starts to watch RAM for ops, which must outlive the memory's use; 0 or -ENOMEM. */
int mem_watch(struct mem *m, const struct mem_watch_ops *ops, void *opaque);
/* Ends that; only while no vCPU runs. */
void mem_unwatch(struct mem *m);

#define MEM_NO_PAGE UINT64_MAX
/* Number of the RAM page at a host address, or MEM_NO_PAGE (ROM). */
static inline uint64_t mem_page(const struct mem *m, const void *host)
{
	uint64_t off = (uint64_t)((const uint8_t *)host - m->ram[0]);

	if (off < m->ram_low)
		return off / PAGE_SIZE;
	off = (uint64_t)((const uint8_t *)host - m->ram[1]);
	return m->ram[1] && off < m->ram_bytes - m->ram_low ? (m->ram_low + off) / PAGE_SIZE
	                                                    : MEM_NO_PAGE;
}

/* The granules that [host, host+len) touches, within one page. */
static inline uint64_t mem_granules(const void *host, unsigned len)
{
	unsigned first = ((uintptr_t)host & ~PAGE_MASK) >> MEM_GRANULE_SHIFT;
	unsigned last = (((uintptr_t)host & ~PAGE_MASK) + len - 1) >> MEM_GRANULE_SHIFT;

	return (~0ull >> (63 - (last > 63 ? 63 : last))) & (~0ull << first);
}

static inline bool mem_has_code(const struct mem *m, const void *host)
{
	uint64_t page;

	if (!m->code)
		return false;
	page = mem_page(m, host);
	return page != MEM_NO_PAGE && atomic_load_explicit(&m->code[page], memory_order_relaxed);
}

/* Notes that the right to write a page is about to be cached for a linear page. */
static inline void mem_grant(struct mem *m, uint64_t page, uint64_t linear_page)
{
	uint16_t here = (uint16_t)((linear_page & (BIT(MEM_GRANTED_BITS) - 1)) + 1), before = 0;

	if (atomic_compare_exchange_strong(&m->granted[page], &before, here) || before == here)
		return;
	atomic_fetch_or(&m->granted[page], MEM_GRANTED_MANY);
}

void mem_wrote_code(struct mem *m, uint64_t page, uint64_t granules);

/*
 * The dirty log of what the host writes, for an engine whose guest's own writes are logged
 * elsewhere: whoever reports a write by mem_wrote() is in it. 0 or -ENOMEM; stop and start only
 * while nobody writes.
 */
int mem_dirty_start(struct mem *m);
void mem_dirty_stop(struct mem *m);
/* Adds the pages written since the start or the last take to a bitmap by RAM page, 64 bits a word,
 * of mem_dirty_words() words. */
void mem_dirty_take(struct mem *m, uint64_t *bitmap);
static inline uint64_t mem_dirty_words(const struct mem *m)
{
	return (m->ram_bytes / PAGE_SIZE + 63) / 64;
}
/* The page of a host address; nothing for ROM. */
void mem_mark_dirty(struct mem *m, const void *host);

/* To be called after every write to guest RAM through its host address, at most a page long. */
static inline void mem_wrote(struct mem *m, const void *host, unsigned len)
{
	uint64_t page, granules;

	if (unlikely(m->dirty))
		mem_mark_dirty(m, host);
	if (likely(!m->code))
		return;
	page = mem_page(m, host);
	if (page == MEM_NO_PAGE)
		return;
	atomic_thread_fence(memory_order_seq_cst);
	granules = atomic_load_explicit(&m->code[page], memory_order_relaxed) &
	           mem_granules(host, len);
	if (unlikely(granules))
		mem_wrote_code(m, page, granules);
}
/* The same for any length within a bank. */
void mem_wrote_range(struct mem *m, const uint8_t *host, uint64_t len);

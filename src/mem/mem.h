/*
 * Guest physical memory: the only way to touch guest RAM.
 *
 * RAM is one memfd, mapped shared and filled lazily by the host kernel. It appears in the guest in
 * two banks: [0, low) and, above the hole that the chipset needs, [4 GiB, ...). Read-only banks
 * (ROM) may be laid over it. Guests are hostile: every lookup is bounded, nothing returned spans
 * banks.
 */
#pragma once

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

struct mem {
	int fd;
	uint64_t ram_bytes;
	unsigned nr_banks;
	struct mem_bank bank[MEM_MAX_BANKS]; /* sorted by base, disjoint */
};

/* bytes: multiple of PAGE_SIZE, MEM_MIN_BYTES..MEM_MAX_BYTES, else -EINVAL; -ENOMEM when the host
 * has no room. */
int mem_new(struct mem **out, uint64_t bytes);
void mem_free(struct mem *m);

/* Gives all RAM back to the host; it reads as zeros again. ROM stays. Only while no vCPU runs. */
int mem_clear(struct mem *m);

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

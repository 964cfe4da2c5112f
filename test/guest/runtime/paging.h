/* 4-level page tables for 64-bit guests that test paging: see cpu/paging.c. */
#pragma once

#include "guest.h"

#define PTE_P       0x1ul
#define PTE_W       0x2ul
#define PTE_U       0x4ul
#define PTE_A       0x20ul
#define PTE_D       0x40ul
#define PTE_PS      0x80ul
#define PTE_G       0x100ul
#define PTE_NX      (1ul << 63)
#define PTE_KEY(n)  ((uint64_t)(n) << 59)
#define PTE_ADDRESS 0x000ffffffffff000ul

/* An area that boot_pml4 leaves empty. */
#define TEST_AREA 0x8000000000ul

/* The entry that translates va at a level (1: 4 KiB), with the tables above it made on the way. */
static inline uint64_t *page_entry(uint64_t *root, uint64_t va, int level)
{
	uint64_t *table = root;

	for (int l = 4; l > level; l--) {
		uint64_t *e = &table[va >> (12 + 9 * (l - 1)) & 511];

		if (!(*e & PTE_P))
			*e = (uintptr_t)page_alloc() | PTE_P | PTE_W | PTE_U;
		table = (uint64_t *)(*e & PTE_ADDRESS);
	}
	return &table[va >> (12 + 9 * (level - 1)) & 511];
}

static inline void flush_page(uint64_t va)
{
	__asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

static inline void flush_all(void)
{
	write_cr4(read_cr4() ^ CR4_PGE);
	write_cr4(read_cr4() ^ CR4_PGE);
}

static inline void map_page(uint64_t va, uint64_t entry)
{
	*page_entry(boot_pml4, va, 1) = entry;
	flush_page(va);
}

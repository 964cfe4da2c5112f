/*
 * The memory map that the guest is told of, in the form of INT 15h E820 (ACPI 6.4, 15).
 */
#pragma once

#include "mem/mem.h"

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };

struct e820_entry {
	uint64_t base;
	uint64_t size; /* bytes */
	enum e820_type type;
};

#define E820_MAX (4 + MEM_MAX_BANKS)

/* Fills e[], sorted and disjoint; returns the number of entries, at most E820_MAX. */
unsigned e820_build(const struct mem *m, struct e820_entry *e);

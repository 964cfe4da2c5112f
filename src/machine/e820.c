#include "machine/e820.h"

#include "machine/layout.h"

/* The first megabyte looks as it does on every PC, whatever banks lie there. */
static const struct e820_entry low_megabyte[] = {
	{ 0, GPA_EBDA, E820_RAM },
	{ GPA_EBDA, 0xa0000 - GPA_EBDA, E820_RESERVED },
	{ GPA_BIOS_AREA, GPA_HIGH_LOAD - GPA_BIOS_AREA, E820_RESERVED },
};

/* Linux uses the MCFG table early only when the map reserves what it names. */
static const struct e820_entry pci_config = { GPA_PCI_CONFIG, PCI_CONFIG_WINDOW, E820_RESERVED };

/* The last of n entries goes to its place. */
static void sort_in(struct e820_entry *e, unsigned n)
{
	struct e820_entry last = e[--n];

	for (; n && e[n - 1].base > last.base; n--)
		e[n] = e[n - 1];
	e[n] = last;
}

unsigned e820_build(const struct mem *m, struct e820_entry *e)
{
	unsigned n = 0;

	_Static_assert(ARRAY_SIZE(low_megabyte) + 1 + MEM_MAX_BANKS <= E820_MAX,
	               "e820 table too small");
	for (; n < ARRAY_SIZE(low_megabyte); n++)
		e[n] = low_megabyte[n];
	for (unsigned i = 0; i < m->nr_banks; i++) {
		const struct mem_bank *b = &m->bank[i];
		uint64_t base = b->base < GPA_HIGH_LOAD ? GPA_HIGH_LOAD : b->base;
		uint64_t end = b->base + b->size;

		if (base >= end)
			continue;
		e[n++] = (struct e820_entry){ base, end - base,
			                      b->readonly ? E820_RESERVED : E820_RAM };
	}
	e[n++] = pci_config;
	sort_in(e, n);
	return n;
}

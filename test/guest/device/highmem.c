/* Memory above 4 GiB, by the loader's map: all of it answers, and nowhere twice. */
#include "device.h"

struct map_entry {
	uint32_t size;
	uint64_t base, length;
	uint32_t type;
} __attribute__((packed));

#define GIB       (1ul << 30)
#define LARGE     (1ul << 21)
#define PAGE_FLAG 0x83ul /* present, writable, 2 MiB */

static uint64_t usable_low, high_base, high_length;

static void read_map(void)
{
	uintptr_t at = *(uint32_t *)(uintptr_t)(multiboot_info + 48);
	uintptr_t end = at + *(uint32_t *)(uintptr_t)(multiboot_info + 44);

	while (at < end) {
		const struct map_entry *e = (const void *)at;

		if (e->type == 1 && e->base < 4 * GIB)
			usable_low += e->length;
		if (e->type == 1 && e->base >= 4 * GIB) {
			high_base = e->base;
			high_length = e->length;
		}
		at += e->size + 4;
	}
}

/* Identity-maps one more GiB. */
static void map_gib(unsigned n)
{
	uint64_t *pointers = (void *)(boot_pml4[0] & ~0xffful);
	uint64_t *directory = page_alloc();

	for (unsigned i = 0; i < 512; i++)
		directory[i] = (n * GIB + i * LARGE) | PAGE_FLAG;
	pointers[n] = (uintptr_t)directory | 3;
}

static bool keeps_marks(void)
{
	volatile uint64_t *p;
	bool same = true;

	for (uint64_t at = high_base; at < high_base + high_length; at += 64 * LARGE)
		*(volatile uint64_t *)at = at ^ 0x5a5a5a5a;
	for (uint64_t at = high_base; at < high_base + high_length; at += 64 * LARGE) {
		p = (volatile uint64_t *)at;
		same = same && *p == (at ^ 0x5a5a5a5a);
	}
	return same;
}

void guest_run(void)
{
	uint64_t *last;

	read_map();
	ok_equal("memory goes on at 4 GiB", high_base, 4 * GIB);
	ok("6 GiB in all", is_near(usable_low + high_length, 6 * GIB, 1));
	for (unsigned n = 4; n < 8; n++)
		map_gib(n);
	ok("it keeps what is written", keeps_marks());
	last = (uint64_t *)(high_base + high_length - 8);
	*last = 0x1a57;
	ok_equal("to its last word", *(volatile uint64_t *)last, 0x1a57);
	ok_equal("nothing lies behind", *(volatile uint64_t *)(last + 1), UINT64_MAX);
	*(volatile uint32_t *)(4 * GIB) = 0x4444;
	ok("and not where its low half would be", *(volatile uint32_t *)memory_at(0) != 0x4444);
	memcpy((void *)(4 * GIB + 0xffd), "across", 6);
	ok("across pages", !memcmp((void *)(4 * GIB + 0xffd), "across", 6));
	memcpy((void *)(4 * GIB + 0x5000), "\xb8\x2a\x00\x00\x00\xc3", 6);
	ok_equal("code runs there", ((uint32_t(*)(void))(4 * GIB + 0x5000))(), 42);
}

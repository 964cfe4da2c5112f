/*
 * Two programs at the same addresses, in more address spaces than a monitor has numbers for: what
 * has been found out about one space must not be taken for another's when a number is used again.
 *
 * Both share the pages of `jmp target`; the page of the target is each one's own, and raises
 * another exception. Each switch is a new space to whoever gives out numbers, for CR3 is written
 * without PCID.
 */
#include "paging.h"

#define JUMPS    TEST_AREA
#define TARGET   (TEST_AREA + 0x200000)
#define PAGES    8
#define STRIDE   16
#define NR_JUMPS (PAGES * 4096 / STRIDE)
#define SWITCHES 60000
#define CYCLES   8000000000ul /* enough: under some a new space is dear */

static uint64_t *root[2];
static const int vector[2] = { EXC_UD, EXC_GP };

/* page_entry() in the space's own tables: its slot of the root was empty. */
static void map_in(uint64_t *space, uint64_t va, uint64_t page)
{
	*page_entry(space, va, 1) = page | PTE_P | PTE_U;
}

static void make_spaces(void)
{
	static const uint8_t end[2][2] = { { 0x0f, 0x0b }, { 0xf4 } }; /* UD2, HLT */

	for (unsigned n = 0; n < 2; n++) {
		uint8_t *page = page_alloc();

		root[n] = page_alloc();
		memcpy(root[n], boot_pml4, 4096);
		memcpy(page, end[n], sizeof(end[n]));
		map_in(root[n], TARGET, (uintptr_t)page);
	}
}

static void make_jumps(void)
{
	for (unsigned p = 0; p < PAGES; p++) {
		uint8_t *page = page_alloc();

		for (unsigned at = 0; at < 4096; at += STRIDE) {
			uint32_t distance = (uint32_t)(TARGET - (JUMPS + p * 4096 + at + 5));

			page[at] = 0xe9;
			memcpy(page + at + 1, &distance, 4);
		}
		for (unsigned n = 0; n < 2; n++)
			map_in(root[n], JUMPS + p * 4096ul, (uintptr_t)page);
	}
}

static int jump(unsigned n)
{
	return TRY("push %0; push %%rsp; push $2; push %1; push %2; iretq",
	           :
	           : "r"((word)SEL_UDATA), "r"((word)SEL_UCODE), "r"(JUMPS + n * STRIDE)
	           : "memory");
}

void guest_run(void)
{
	uint32_t random = 1, wrong = 0;
	uint64_t before = read_cr3(), start = __builtin_ia32_rdtsc();

	make_spaces();
	make_jumps();
	for (unsigned n = 0; n < SWITCHES && __builtin_ia32_rdtsc() - start < CYCLES; n++) {
		random = random * 1664525 + 1013904223;
		write_cr3((uintptr_t)root[random >> 31]);
		wrong += jump(random >> 8 & (NR_JUMPS - 1)) != vector[random >> 31];
	}
	write_cr3(before);
	ok_equal("jumps that ended in another space", wrong, 0);
}

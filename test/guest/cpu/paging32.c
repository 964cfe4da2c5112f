/*
 * Paging outside long mode: 2-level with 4 KiB and 4 MiB pages, PAE with 4 KiB and 2 MiB pages and
 * its PDPTE registers (SDM 3A 4.3, 4.4).
 */
#include "guest.h"

#define PTE_P   0x1u
#define PTE_W   0x2u
#define PTE_U   0x4u
#define PTE_A   0x20u
#define PTE_D   0x40u
#define PTE_PS  0x80u
#define PTE_G   0x100u
#define RIGHTS  (PTE_P | PTE_W | PTE_U)
#define TEST_VA 0x40000000u
#define PHYS    0x2000000u

static volatile uint32_t *const plain = (uint32_t *)PHYS;

static uint32_t read32(uint32_t va)
{
	return *(volatile uint32_t *)va;
}

static void flush_page(uint32_t va)
{
	__asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

static void ok_fault(const char *name, uint32_t va, word error)
{
	TRAPS(name, EXC_PF, error, "movb (%0), %%al", : : "r"(va) : "eax");
	ok_equal("at its address", this_cpu()->trap.cr2, va);
}

static void test_two_level(void)
{
	uint32_t *directory = page_alloc(), *table = page_alloc();

	for (unsigned n = 0; n < 16; n++)
		directory[n] = n << 22 | RIGHTS | PTE_PS;
	directory[TEST_VA >> 22] = (uint32_t)table | RIGHTS;
	table[0] = PHYS | RIGHTS;
	table[1] = (PHYS + 0x1000) | PTE_P | PTE_U;
	table[2] = (PHYS + 0x2000) | PTE_P | PTE_W;
	plain[0] = 0x11111111;
	plain[0x400] = 0x22222222;
	write_cr4((read_cr4() | CR4_PSE) & ~CR4_PAE);
	write_cr3((uint32_t)directory);
	write_cr0(read_cr0() | CR0_PG);
	ok_equal("4 KiB page", read32(TEST_VA), 0x11111111);
	ok_equal("accessed", table[0] & (PTE_A | PTE_D), PTE_A);
	*(volatile uint32_t *)TEST_VA = 3;
	ok_equal("dirty", table[0] & (PTE_A | PTE_D), PTE_A | PTE_D);
	ok_equal("written", plain[0], 3);
	ok_equal("4 MiB page: read only", directory[PHYS >> 22] & (PTE_A | PTE_D), PTE_A);
	plain[1] = 4;
	ok_equal("4 MiB page: dirty", directory[PHYS >> 22] & (PTE_A | PTE_D), PTE_A | PTE_D);
	USER_TRAPS("user write of a read-only page", EXC_PF, PF_P | PF_WRITE | PF_USER,
	           "movl $0, (%0)",
	           :
	           : "r"(TEST_VA + 0x1000)
	           : "memory");
	USER_TRAPS("user read of a supervisor page", EXC_PF, PF_P | PF_USER, "movl (%0), %%eax",
	           :
	           : "r"(TEST_VA + 0x2000)
	           : "eax");
	TRAPS("supervisor write without WP", NO_TRAP, 0, "movl $0, (%0)",
	      :
	      : "r"(TEST_VA + 0x1000)
	      : "memory");
	write_cr0(read_cr0() | CR0_WP);
	TRAPS("supervisor write with WP", EXC_PF, PF_P | PF_WRITE, "movl $0, (%0)",
	      :
	      : "r"(TEST_VA + 0x1000)
	      : "memory");
	write_cr0(read_cr0() & ~CR0_WP);
	TRAPS("fetch has no I/D bit", EXC_PF, 0, "jmp *%0", : : "r"(TEST_VA + 0x3000));
	directory[(TEST_VA >> 22) + 1] = PHYS | RIGHTS | PTE_PS;
	ok_equal("another 4 MiB page", read32(TEST_VA + 0x400000), 3);
	directory[(TEST_VA >> 22) + 2] = PHYS | RIGHTS | PTE_PS | 1u << 21;
	ok_fault("4 MiB PDE with bit 21", TEST_VA + 0x800000, PF_P | PF_RSVD);
	write_cr0(read_cr0() & ~CR0_PG);
}

static uint64_t pointers[4] __attribute__((aligned(32)));

static void test_pae(void)
{
	uint64_t *directory = page_alloc(), *test = page_alloc(), *table = page_alloc(), value;

	for (unsigned n = 0; n < 64; n++)
		directory[n] = n << 21 | RIGHTS | PTE_PS;
	pointers[0] = (uint32_t)directory | PTE_P;
	pointers[1] = (uint32_t)test | PTE_P;
	test[0] = (uint32_t)table | RIGHTS;
	test[1] = PHYS | RIGHTS | PTE_PS;
	table[0] = PHYS | RIGHTS;
	write_cr4(read_cr4() | CR4_PAE);
	write_cr3((uint32_t)pointers);
	write_cr0(read_cr0() | CR0_PG);
	ok_equal("PAE: 4 KiB page", read32(TEST_VA), 3);
	ok_equal("accessed", table[0] & (PTE_A | PTE_D), PTE_A);
	ok_equal("PAE: 2 MiB page", read32(TEST_VA + 0x200000), 3);
	test[2] = PHYS | RIGHTS | PTE_PS | 1u << 13;
	ok_fault("2 MiB PDE with bit 13", TEST_VA + 0x400000, PF_P | PF_RSVD);
	table[1] = PHYS | RIGHTS | 1ull << 62;
	ok_fault("PTE with bit 62", TEST_VA + 0x1000, PF_P | PF_RSVD);
	table[2] = PHYS | RIGHTS | 1ull << 63;
	ok_fault("NX without EFER.NXE", TEST_VA + 0x2000, PF_P | PF_RSVD);
	write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
	flush_page(TEST_VA + 0x2000);
	ok_equal("with EFER.NXE", read32(TEST_VA + 0x2000), 3);
	TRAPS("fetch from it", EXC_PF, PF_P | PF_FETCH, "jmp *%0", : : "r"(TEST_VA + 0x2000));
	pointers[1] = 0;
	flush_page(TEST_VA);
	TRAPS("PDPTEs stay as they were loaded", NO_TRAP, 0, "movb (%0), %%al",
	      :
	      : "r"(TEST_VA)
	      : "eax");
	write_cr3((uint32_t)pointers);
	ok_fault("until CR3 is", TEST_VA, 0);
	value = pointers[0];
	pointers[0] |= PTE_W;
	TRAPS("a reserved bit in a PDPTE raises #GP", EXC_GP, 0, "mov %0, %%cr3",
	      :
	      : "r"(pointers));
	pointers[0] = value;
	pointers[1] = (1ull << 63) | (uint32_t)test;
	TRAPS("not where it is not present", NO_TRAP, 0, "mov %0, %%cr3", : : "r"(pointers));
	write_cr0(read_cr0() & ~CR0_PG);
	write_cr4(read_cr4() & ~CR4_PAE);
	write_msr(MSR_EFER, read_msr(MSR_EFER) & ~EFER_NXE);
}

void guest_run(void)
{
	test_two_level();
	test_pae();
}

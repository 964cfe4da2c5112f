/* 5-level paging: on the way out of long mode and back with CR4.LA57 (SDM 3A 4.5). */
#include "paging.h"

#define FAR_AWAY (1ul << 50) /* canonical with 57 bits only */

static uint64_t pml5[512] __attribute__((aligned(4096)));

/* To 32-bit code, paging off, CR4.LA57 as in ECX, CR3 from EBX, and back. */
void switch_levels(word cr3, word cr4);
__asm__("switch_levels:\n"
        "push %rbx\n mov %rdi, %rbx\n mov %rsi, %rcx\n"
        "mov $1f, %eax\n push $0x08\n push %rax\n lretq\n"
        ".code32\n"
        "1: mov %cr0, %eax\n and $0x7fffffff, %eax\n mov %eax, %cr0\n"
        "mov %ecx, %cr4\n mov %ebx, %cr3\n"
        "mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n"
        "ljmp $0x10, $2f\n"
        ".code64\n"
        "2: pop %rbx\n ret");

void guest_run(void)
{
	uint64_t *pml4 = page_alloc(), value = 0x1122334455667788;

	if (!(cpuid(7, 0).c & 1 << 16)) {
		note("no LA57");
		ok("without it CR4.LA57 is reserved", TRY("mov %0, %%cr4",
		                                          :
		                                          : "r"(read_cr4() | CR4_LA57)) == EXC_GP);
		return;
	}
	TRAPS("4 levels: 2^50 is not canonical", EXC_GP, 0, "mov (%0), %0", : : "a"(FAR_AWAY));
	pml5[0] = (uintptr_t)boot_pml4 | PTE_P | PTE_W | PTE_U;
	pml5[FAR_AWAY >> 48] = (uintptr_t)pml4 | PTE_P | PTE_W | PTE_U;
	*page_entry(pml4, FAR_AWAY, 1) = 0x2000000 | PTE_P | PTE_W | PTE_U;
	switch_levels((uintptr_t)pml5, read_cr4() | CR4_LA57);
	ok("LA57 is on", read_cr4() & CR4_LA57);
	*(volatile uint64_t *)0x2000000 = value;
	ok_equal("a page at 2^50", *(volatile uint64_t *)FAR_AWAY, value);
	ok("PML5E is marked accessed", pml5[FAR_AWAY >> 48] & PTE_A);
	TRAPS("2^56 is not canonical", EXC_GP, 0, "mov (%0), %0", : : "a"(1ul << 56));
	TRAPS("2^55 is, and unmapped", EXC_PF, 0, "mov (%0), %0", : : "a"(1ul << 55));
	ok_equal("CR2", this_cpu()->trap.cr2, 1ul << 55);
	ok("LSTAR takes 57 bits", try_write_msr(0xc0000082, FAR_AWAY) == NO_TRAP);
	ok("not 58", try_write_msr(0xc0000082, 1ul << 56) == EXC_GP);
	pml5[2] = (uintptr_t)pml4 | PTE_P | PTE_PS;
	TRAPS("PML5E with PS", EXC_PF, PF_P | PF_RSVD, "mov (%0), %0", : : "a"(2ul << 48));
	switch_levels((uintptr_t)boot_pml4, read_cr4() & ~CR4_LA57);
	TRAPS("back to 4 levels", EXC_GP, 0, "mov (%0), %0", : : "a"(FAR_AWAY));
}

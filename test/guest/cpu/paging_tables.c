/*
 * 4-level page tables: page sizes, reserved bits, NX without EFER.NXE, accesses and instructions
 * across pages, invalidation (INVLPG, CR3, global pages, PCID, INVPCID).
 */
#include "paging.h"

#define VA       (TEST_AREA + 0x200000)
#define RIGHTS   (PTE_P | PTE_W | PTE_U)
#define RESERVED (PF_P | PF_RSVD)
#define PHYS     0x2000000ul /* 32 MiB: plain memory, identity mapped */

static uint64_t read64(uint64_t va)
{
	return *(volatile uint64_t *)va;
}

static void write64(uint64_t va, uint64_t v)
{
	*(volatile uint64_t *)va = v;
}

static void test_sizes(void)
{
	uint64_t *pdpte = page_entry(boot_pml4, TEST_AREA + (4ul << 30), 3);
	uint64_t *pde = page_entry(boot_pml4, TEST_AREA + (5ul << 30), 2);

	write64(PHYS + 0x345678, 0x1122334455667788);
	map_page(VA, (PHYS + 0x345000) | RIGHTS);
	ok_equal("4 KiB page", read64(VA + 0x678), 0x1122334455667788);
	*pde = (PHYS + 0x200000) | RIGHTS | PTE_PS;
	ok_equal("2 MiB page", read64(TEST_AREA + (5ul << 30) + 0x145678), 0x1122334455667788);
	ok_equal("its entry is marked accessed", *pde & (PTE_A | PTE_D), PTE_A);
	write64(TEST_AREA + (5ul << 30) + 0x145678, 1);
	ok_equal("and dirty", *pde & (PTE_A | PTE_D), PTE_A | PTE_D);
	ok_equal("the write arrived", read64(PHYS + 0x345678), 1);
	if (!(cpuid(0x80000001, 0).d & 1 << 26))
		return;
	*pdpte = RIGHTS | PTE_PS;
	ok_equal("1 GiB page", read64(TEST_AREA + (4ul << 30) + PHYS + 0x345678), 1);
	ok_equal("its entry is marked accessed", *pdpte & (PTE_A | PTE_D), PTE_A);
}

static void ok_fault(const char *name, uint64_t va, word error)
{
	TRAPS(name, EXC_PF, error, "movb (%0), %%al", : : "r"(va) : "rax");
	ok_equal("at its address", this_cpu()->trap.cr2, va);
}

static void test_reserved(void)
{
	unsigned bits = cpuid(0x80000008, 0).a & 0xff;
	uint64_t beyond = 1ul << bits, *pdpte, *pml4e;

	map_page(VA, PHYS | RIGHTS | beyond);
	ok_fault("PTE beyond MAXPHYADDR", VA, RESERVED);
	map_page(VA, PHYS | RIGHTS);
	*page_entry(boot_pml4, VA, 2) |= beyond;
	flush_page(VA);
	ok_fault("PDE beyond MAXPHYADDR", VA, RESERVED);
	*page_entry(boot_pml4, VA, 2) &= ~beyond;
	pdpte = page_entry(boot_pml4, TEST_AREA + (6ul << 30), 3);
	*page_entry(boot_pml4, TEST_AREA + (6ul << 30), 2) = PHYS | RIGHTS | PTE_PS | 0x2000;
	ok_fault("2 MiB PDE with bit 13", TEST_AREA + (6ul << 30), RESERVED);
	*page_entry(boot_pml4, TEST_AREA + (6ul << 30), 2) = PHYS | RIGHTS | PTE_PS | 0x1000;
	flush_all();
	TRAPS("bit 12 is PAT", NO_TRAP, 0, "movb (%0), %%al",
	      :
	      : "r"(TEST_AREA + (6ul << 30))
	      : "rax");
	*pdpte = RIGHTS | PTE_PS | 0x2000;
	flush_all();
	ok_fault("1 GiB PDPTE with bit 13", TEST_AREA + (6ul << 30), RESERVED);
	*pdpte = 0;
	flush_all();
	ok_fault("PDPTE not present", TEST_AREA + (6ul << 30), 0);
	pml4e = &boot_pml4[2];
	*pml4e = (uintptr_t)page_alloc() | RIGHTS | PTE_PS;
	ok_fault("PML4E with PS", 2 * TEST_AREA, RESERVED);
	*pml4e = 0;
	*page_entry(boot_pml4, VA, 1) = PHYS | RIGHTS | PTE_NX;
	write_msr(MSR_EFER, read_msr(MSR_EFER) & ~EFER_NXE);
	flush_page(VA);
	ok_fault("NX without EFER.NXE", VA, RESERVED);
	map_page(VA, PTE_NX | beyond);
	ok_fault("reserved bits do not matter when not present", VA, 0);
	map_page(VA, 0);
	TRAPS("fetch without NXE and SMEP has no I/D bit", EXC_PF, 0, "jmp *%0", : : "r"(VA));
	write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
	TRAPS("fetch with NXE has", EXC_PF, PF_FETCH, "jmp *%0", : : "r"(VA));
}

static void test_crossing(void)
{
	uint64_t first = VA + 0x1000, second = VA + 0x2000;

	map_page(first, PHYS | RIGHTS);
	map_page(second, (PHYS + 0x5000) | RIGHTS);
	write64(PHYS + 0xff8, 0x1111111122222222);
	write64(PHYS + 0x5000, 0x3333333344444444);
	ok_equal("read across two pages", read64(second - 4), 0x4444444411111111);
	write64(second - 4, 0xaaaaaaaabbbbbbbb);
	ok_equal("write across: first page", read64(PHYS + 0xff8), 0xbbbbbbbb22222222);
	ok_equal("write across: second page", read64(PHYS + 0x5000), 0x33333333aaaaaaaa);
	__asm__ volatile("lock addq %1, (%0)" : : "r"(second - 4), "r"(1ul) : "memory");
	ok_equal("locked add across", read64(second - 4), 0xaaaaaaaabbbbbbbc);
	map_page(second, 0);
	TRAPS("write into an unmapped second page", EXC_PF, PF_WRITE, "movq %1, (%0)",
	      :
	      : "r"(second - 4), "r"(0ul)
	      : "memory");
	ok_equal("CR2 is the second page", this_cpu()->trap.cr2, second);
	ok_equal("the first is as it was", read64(PHYS + 0xff8), 0xbbbbbbbc22222222);
	TRAPS("read into an unmapped second page", EXC_PF, 0, "movq (%0), %0", : : "r"(second - 1));
	ok_equal("CR2 is the second page", this_cpu()->trap.cr2, second);
	map_page(second, (PHYS + 0x5000) | PTE_P);
	write_cr0(read_cr0() | CR0_WP);
	TRAPS("write into a read-only second page", EXC_PF, PF_P | PF_WRITE, "movq %1, (%0)",
	      :
	      : "r"(second - 4), "r"(0ul)
	      : "memory");
	ok_equal("CR2 is the second page", this_cpu()->trap.cr2, second);
	ok_equal("the first is as it was", read64(PHYS + 0xff8), 0xbbbbbbbc22222222);
	write_cr0(read_cr0() & ~CR0_WP);
	map_page(second, (PHYS + 0x5000) | RIGHTS);
	__asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp; push $0x55; pop %%rax; mov %%rbx, %%rsp"
	                 :
	                 : "r"(second + 4)
	                 : "rax", "rbx", "memory");
	ok_equal("push across", read64(second - 4), 0x55);
}

static void test_code_crossing(void)
{
	static const uint8_t code[] = { 0xb8, 0x44, 0x33, 0x22, 0x11, 0xcd, VECTOR_DONE };
	uint64_t second = VA + 0x2000;
	word ax;

	memcpy((void *)(PHYS + 0xffd), code, 3);
	memcpy((void *)(PHYS + 0x5000), code + 3, sizeof(code) - 3);
	TRAPS("instruction across two pages", NO_TRAP, 0, "jmp *%1", : "=a"(ax) : "r"(second - 3));
	ok_equal("its immediate", this_cpu()->trap.regs.ax, 0x11223344);
	*(volatile uint8_t *)(PHYS + 0x5001) = 0x99;
	TRAPS("again with the second page rewritten", NO_TRAP, 0, "jmp *%1",
	      : "=a"(ax)
	      : "r"(second - 3));
	ok_equal("its immediate", this_cpu()->trap.regs.ax, 0x99223344);
	map_page(second, (PHYS + 0x6000) | RIGHTS);
	memcpy((void *)(PHYS + 0x6000), (uint8_t[]){ 0x66, 0x77, 0xcd, VECTOR_DONE }, 4);
	TRAPS("again with the second page remapped", NO_TRAP, 0, "jmp *%1",
	      : "=a"(ax)
	      : "r"(second - 3));
	ok_equal("its immediate", this_cpu()->trap.regs.ax, 0x77663344);
	map_page(second, 0);
	TRAPS("with the second page unmapped", EXC_PF, PF_FETCH, "jmp *%0", : : "r"(second - 3));
	ok_equal("CR2 is the second page", this_cpu()->trap.cr2, second);
	ok_equal("RIP is the instruction", this_cpu()->trap.regs.ip, second - 3);
	map_page(second, (PHYS + 0x6000) | RIGHTS | PTE_NX);
	TRAPS("with the second page NX", EXC_PF, PF_FETCH | PF_P, "jmp *%0", : : "r"(second - 3));
	ok_equal("CR2 is the second page", this_cpu()->trap.cr2, second);
}

static void test_invalidation(void)
{
	uint64_t *pte = page_entry(boot_pml4, VA, 1);

	write64(PHYS, 1);
	write64(PHYS + 0x1000, 2);
	map_page(VA, PHYS | RIGHTS);
	ok_equal("before", read64(VA), 1);
	*pte = (PHYS + 0x1000) | RIGHTS;
	flush_page(VA + 0xfff);
	ok_equal("INVLPG of any byte", read64(VA), 2);
	*pte = PHYS | RIGHTS;
	write_cr3(read_cr3());
	ok_equal("MOV to CR3", read64(VA), 1);
	write_cr4(read_cr4() | CR4_PGE);
	*pte = PHYS | RIGHTS | PTE_G;
	flush_page(VA);
	ok_equal("global page", read64(VA), 1);
	*pte = (PHYS + 0x1000) | RIGHTS | PTE_G;
	flush_page(VA);
	ok_equal("INVLPG of a global page", read64(VA), 2);
	*pte = PHYS | RIGHTS | PTE_G;
	write_cr4(read_cr4() & ~CR4_PGE);
	ok_equal("clearing CR4.PGE drops global pages", read64(VA), 1);
	*pte = (PHYS + 0x1000) | RIGHTS;
	write_cr0(read_cr0() ^ CR0_WP);
	write_cr0(read_cr0() ^ CR0_WP);
	flush_page(VA);
	*pte = 0;
	flush_page(VA);
	ok_fault("a page taken away", VA, 0);
	*pte = PHYS | RIGHTS;
	TRAPS("a page given needs no invalidation", NO_TRAP, 0, "movb (%0), %%al",
	      :
	      : "r"(VA)
	      : "rax");
	*pte = PHYS | PTE_P;
	flush_page(VA);
	read64(VA);
	*pte = PHYS | RIGHTS;
	write_cr0(read_cr0() | CR0_WP);
	TRAPS("rights given: at most one stale fault", NO_TRAP, 0, "invlpg (%0); movb %%al, (%0)",
	      :
	      : "r"(VA)
	      : "memory");
	write_cr0(read_cr0() & ~CR0_WP);
}

static int invpcid(uint64_t type, uint64_t pcid, uint64_t va)
{
	struct {
		uint64_t pcid, va;
	} d = { pcid, va };

	return TRY("invpcid %0, %1", : : "m"(d), "r"(type) : "memory");
}

static uint64_t *copy_root(uint64_t value_page)
{
	uint64_t *root = page_alloc();

	root[0] = boot_pml4[0];
	*page_entry(root, VA, 1) = value_page | RIGHTS;
	return root;
}

static void test_pcid(void)
{
	uint64_t old = read_cr3(), *a = copy_root(PHYS), *b = copy_root(PHYS + 0x1000);
	uint64_t keep = 1ul << 63;

	write64(PHYS, 1);
	if (!(cpuid(1, 0).c & 1 << 17)) {
		note("no PCID");
		return;
	}
	TRAPS("MOV to CR3 with bit 63 and no PCIDE", EXC_GP, 0, "mov %0, %%cr3",
	      :
	      : "r"(old | keep));
	write_cr3(old | 8);
	TRAPS("CR4.PCIDE needs CR3[11:0] = 0", EXC_GP, 0, "mov %0, %%cr4",
	      :
	      : "r"(read_cr4() | CR4_PCIDE));
	write_cr3(old);
	write_cr4(read_cr4() | CR4_PCIDE);
	TRAPS("CR0.PG cannot go with PCIDE", EXC_GP, 0, "mov %0, %%cr0",
	      :
	      : "r"(read_cr0() & ~CR0_PG));
	write_cr3((uintptr_t)a | 1);
	ok_equal("PCID 1", read64(VA), 1);
	ok_equal("CR3 reads without bit 63", read_cr3(), (uintptr_t)a | 1);
	write_cr3((uintptr_t)b | 2 | keep);
	ok_equal("PCID 2 has its own", read64(VA), 2);
	write_cr3((uintptr_t)a | 1 | keep);
	ok_equal("back in PCID 1, kept", read64(VA), 1);
	ok_equal("CR3 has no bit 63", read_cr3() >> 63, 0);
	*page_entry(b, VA, 1) = (PHYS + 0x2000) | RIGHTS;
	write64(PHYS + 0x2000, 3);
	if (cpuid(7, 0).b & 1 << 10) {
		ok("INVPCID of an address", invpcid(0, 2, VA) == NO_TRAP);
		write_cr3((uintptr_t)b | 2 | keep);
		ok_equal("acts on another PCID", read64(VA), 3);
		*page_entry(a, VA, 1) = (PHYS + 0x2000) | RIGHTS;
		ok("INVPCID of a context", invpcid(1, 1, 0) == NO_TRAP);
		write_cr3((uintptr_t)a | 1 | keep);
		ok_equal("acts on all of it", read64(VA), 3);
		*page_entry(a, VA, 1) = PHYS | RIGHTS | PTE_G;
		ok("INVPCID of everything", invpcid(2, 0, 0) == NO_TRAP && read64(VA) == 1);
		*page_entry(a, VA, 1) = (PHYS + 0x1000) | RIGHTS;
		ok("INVPCID of everything but global pages", invpcid(3, 0, 0) == NO_TRAP);
		ok("a reserved type raises #GP", invpcid(4, 0, 0) == EXC_GP);
		ok("a PCID above 12 bits raises #GP", invpcid(0, 0x1000, VA) == EXC_GP);
		ok("a non-canonical address raises #GP", invpcid(0, 1, 1ul << 47) == EXC_GP);
	}
	write_cr3((uintptr_t)a | 1);
	write_cr3(old);
	write_cr4(read_cr4() & ~CR4_PCIDE);
	write_cr3(old);
}

void guest_run(void)
{
	write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
	write_cr0(read_cr0() & ~(CR0_CD | CR0_NW | CR0_WP));
	test_sizes();
	test_reserved();
	test_crossing();
	test_code_crossing();
	test_invalidation();
	test_pcid();
}

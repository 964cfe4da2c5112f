/*
 * Translations that are cached and controls that change: CR0.WP, CR4.SMEP, SMAP and PKE, EFLAGS.AC,
 * PKRU and CPL act at once, without invalidation (SDM 3A 4.6, 4.10.4). And code whose own page
 * changes under its feet: the next instruction comes from the new translation.
 */
#include "paging.h"

#define VA       TEST_AREA
#define CODE     (TEST_AREA + 0x200000)
#define STUB     (TEST_AREA + 0x400000)
#define PHYS     0x2000000ul
#define RIGHTS   (PTE_P | PTE_W | PTE_U)
#define INT_DONE 0xcd, VECTOR_DONE

static int kernel_read(void)
{
	return TRY("movb (%0), %%al", : : "r"(VA) : "rax");
}

static int kernel_write(void)
{
	return TRY("movb $0, 16(%0)", : : "r"(VA) : "memory");
}

static int kernel_fetch(void)
{
	return TRY("jmp *%0", : : "r"(VA));
}

/* The stub reads or writes at RDI; it is the only code that CPL 3 can reach. */
static int user(unsigned entry)
{
	return TRY("push %1; push %%rsp; push $2; push %2; push %3; iretq",
	           :
	           : "D"(VA), "r"((word)SEL_UDATA), "r"((word)SEL_UCODE), "r"(STUB + entry)
	           : "rax", "memory");
}

static int user_read(void)
{
	return user(0);
}

static int user_write(void)
{
	return user(16);
}

static void ok_once(const char *name, int (*access)(void), int vector)
{
	int got = access();

	if (got != vector)
		ok_trap(name, vector, 0);
	else
		ok(name, true);
}

static void prepare(void)
{
	static const uint8_t stub_read[] = { 0x8a, 0x07, INT_DONE },
	                     stub_write[] = { 0x88, 0x47, 0x10, INT_DONE };
	uint64_t *directories = (uint64_t *)(*page_entry(boot_pml4, 0, 3) & PTE_ADDRESS);
	uint8_t *stub = page_alloc();

	for (unsigned n = 0; n < 2048; n++)
		directories[n] &= ~PTE_U;
	memcpy(stub, stub_read, sizeof(stub_read));
	memcpy(stub + 16, stub_write, sizeof(stub_write));
	map_page(STUB, (uintptr_t)stub | PTE_P | PTE_U);
	memcpy((void *)PHYS, (uint8_t[]){ INT_DONE }, 2);
	flush_all();
}

static void test_controls(void)
{
	struct cpuid seven = cpuid(7, 0);

	map_page(VA, PHYS | PTE_P);
	ok_once("write of a read-only page without WP", kernel_write, NO_TRAP);
	write_cr0(read_cr0() | CR0_WP);
	ok_once("with WP", kernel_write, EXC_PF);
	write_cr0(read_cr0() & ~CR0_WP);
	ok_once("without again", kernel_write, NO_TRAP);
	ok_once("a supervisor page at CPL 3", user_read, EXC_PF);
	map_page(VA, PHYS | RIGHTS);
	ok_once("fetch of a user page", kernel_fetch, NO_TRAP);
	if (seven.b & 1 << 7) {
		write_cr4(read_cr4() | CR4_SMEP);
		ok_once("with SMEP", kernel_fetch, EXC_PF);
		write_cr4(read_cr4() & ~CR4_SMEP);
		ok_once("without again", kernel_fetch, NO_TRAP);
	}
	if (seven.b & 1 << 20) {
		ok_once("read of a user page", kernel_read, NO_TRAP);
		write_cr4(read_cr4() | CR4_SMAP);
		ok_once("with SMAP", kernel_read, EXC_PF);
		__asm__ volatile("stac");
		ok_once("with AC", kernel_read, NO_TRAP);
		__asm__ volatile("clac");
		ok_once("without AC", kernel_read, EXC_PF);
		write_flags(2 | FLAG_AC);
		ok_once("with AC by POPF", kernel_write, NO_TRAP);
		write_flags(2);
		ok_once("without AC", kernel_write, EXC_PF);
		ok_once("CPL 3 does not mind", user_read, NO_TRAP);
		write_cr4(read_cr4() & ~CR4_SMAP);
		ok_once("without SMAP", kernel_read, NO_TRAP);
	}
	write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
	map_page(VA, PHYS | RIGHTS | PTE_NX);
	ok_once("NX page: read", kernel_read, NO_TRAP);
	ok_once("NX page: fetch", kernel_fetch, EXC_PF);
}

static void set_pkru(uint32_t v)
{
	__asm__ volatile("wrpkru" : : "a"(v), "c"(0), "d"(0) : "memory");
}

static void test_keys(void)
{
	if (!(cpuid(7, 0).c & 1 << 3))
		return;
	TRAPS("WRPKRU without PKE raises #UD", EXC_UD, 0, "wrpkru", : : "a"(0), "c"(0), "d"(0));
	write_cr4(read_cr4() | CR4_PKE);
	ok("OSPKE", cpuid(7, 0).c & 1 << 4);
	map_page(VA, PHYS | RIGHTS | PTE_KEY(3));
	set_pkru(0);
	ok_once("key open: read", user_read, NO_TRAP);
	ok_once("key open: write", user_write, NO_TRAP);
	set_pkru(2 << 6);
	ok_once("WD: read", user_read, NO_TRAP);
	ok_once("WD: write", user_write, EXC_PF);
	ok_once("WD: kernel write without WP", kernel_write, NO_TRAP);
	set_pkru(1 << 6);
	ok_once("AD: read", user_read, EXC_PF);
	ok_once("AD: kernel read", kernel_read, EXC_PF);
	ok_once("AD: fetch", kernel_fetch, NO_TRAP);
	set_pkru(0);
	ok_once("open again", user_write, NO_TRAP);
	TRAPS("WRPKRU with ECX raises #GP", EXC_GP, 0, "wrpkru", : : "a"(0), "c"(1), "d"(0));
	write_cr4(read_cr4() & ~CR4_PKE);
}

/* A write after a read of the same page still has to set D; a table's change needs its store. */
static void test_dirty(void)
{
	uint64_t *pte = page_entry(boot_pml4, VA, 1);

	map_page(VA, PHYS | RIGHTS);
	kernel_read();
	ok_equal("read: A", *pte & (PTE_A | PTE_D), PTE_A);
	kernel_write();
	ok_equal("then write: D", *pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	*pte &= ~(PTE_A | PTE_D);
	flush_page(VA);
	kernel_write();
	ok_equal("both again after INVLPG", *pte & (PTE_A | PTE_D), PTE_A | PTE_D);
}

/* Two pages with different code behind the same instruction, which exchanges them. */
static void put_code(uint64_t phys, const uint8_t *change, unsigned n, uint32_t result)
{
	uint8_t *p = (uint8_t *)phys;

	memset(p, 0x90, 64);
	memcpy(p, change, n);
	p[32] = 0xb8; /* mov $result, %eax */
	memcpy(p + 33, &result, 4);
	memcpy(p + 37, (uint8_t[]){ INT_DONE }, 2);
}

static void test_own_page(void)
{
	static const uint8_t set_cr3[] = { 0x0f, 0x22, 0xd9 }; /* mov %rcx, %cr3 */
	static const uint8_t invlpg[] = {
		0x48, 0x89, 0x0a, 0x0f, 0x01, 0x3b
	}; /* mov %rcx, (%rdx); invlpg (%rbx) */
	uint64_t *root = page_alloc(), *pte = page_entry(boot_pml4, CODE, 1), old = read_cr3();

	put_code(PHYS + 0x1000, set_cr3, sizeof(set_cr3), 1);
	put_code(PHYS + 0x2000, set_cr3, sizeof(set_cr3), 2);
	root[0] = boot_pml4[0];
	*page_entry(root, CODE, 1) = (PHYS + 0x2000) | RIGHTS;
	map_page(CODE, (PHYS + 0x1000) | RIGHTS);
	TRAPS("code that changes CR3", NO_TRAP, 0, "jmp *%0",
	      :
	      : "r"(CODE), "c"(root)
	      : "rax", "memory");
	write_cr3(old);
	ok_equal("goes on in the new page", this_cpu()->trap.regs.ax, 2);
	TRAPS("to the same CR3", NO_TRAP, 0, "jmp *%0", : : "r"(CODE), "c"(old) : "rax", "memory");
	ok_equal("goes on in the old page", this_cpu()->trap.regs.ax, 1);
	put_code(PHYS + 0x1000, invlpg, sizeof(invlpg), 3);
	put_code(PHYS + 0x2000, invlpg, sizeof(invlpg), 4);
	TRAPS("code that remaps itself", NO_TRAP, 0, "jmp *%%rbx",
	      :
	      : "b"(CODE), "c"((PHYS + 0x2000) | RIGHTS), "d"(pte)
	      : "rax", "memory");
	ok_equal("goes on in the new page", this_cpu()->trap.regs.ax, 4);
	TRAPS("code that unmaps itself", EXC_PF, PF_FETCH, "jmp *%%rbx",
	      :
	      : "b"(CODE), "c"(0), "d"(pte)
	      : "rax", "memory");
	ok_equal("faults behind INVLPG", this_cpu()->trap.cr2, CODE + sizeof(invlpg));
	map_page(CODE, (PHYS + 0x1000) | RIGHTS);
	TRAPS("code that takes its right to execute", EXC_PF, PF_FETCH | PF_P, "jmp *%%rbx",
	      :
	      : "b"(CODE), "c"((PHYS + 0x1000) | RIGHTS | PTE_NX), "d"(pte)
	      : "rax", "memory");
	ok_equal("faults behind INVLPG", this_cpu()->trap.cr2, CODE + sizeof(invlpg));
	if (!(cpuid(7, 0).b & 1 << 7))
		return;
	memcpy((void *)(PHYS + 0x1000), (uint8_t[]){ 0x0f, 0x22, 0xe1 }, 3); /* mov %rcx, %cr4 */
	map_page(CODE, (PHYS + 0x1000) | RIGHTS);
	old = read_cr4();
	TRAPS("code in a user page that sets SMEP", EXC_PF, PF_FETCH | PF_P, "jmp *%0",
	      :
	      : "r"(CODE), "c"(old | CR4_SMEP)
	      : "rax", "memory");
	write_cr4(old);
	ok_equal("faults behind MOV CR4", this_cpu()->trap.cr2, CODE + 3);
}

/* Page tables are memory like any other, even where code lies beside them. */
static void test_table_beside_code(void)
{
	uint64_t *table = page_alloc();
	static const uint8_t ret[] = { 0xb8, 7, 0, 0, 0, 0xc3 };
	uint32_t a;

	memcpy(table + 256, ret, sizeof(ret));
	*page_entry(boot_pml4, TEST_AREA + 0x600000, 2) = (uintptr_t)table | RIGHTS;
	table[1] = PHYS | RIGHTS;
	for (unsigned n = 0; n < 4; n++) {
		__asm__ volatile("call *%1" : "=a"(a) : "r"(table + 256) : "memory");
		table[1] = PHYS | RIGHTS;
		flush_page(TEST_AREA + 0x601000);
		*(volatile uint8_t *)(TEST_AREA + 0x601100) = 1;
	}
	ok_equal("code in a page table's page", a, 7);
	ok_equal("its entry is dirty", table[1] & PTE_D, PTE_D);
}

void guest_run(void)
{
	prepare();
	test_controls();
	test_keys();
	test_dirty();
	test_own_page();
	test_table_beside_code();
}

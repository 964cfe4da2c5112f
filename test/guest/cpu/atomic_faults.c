/*
 * An instruction that faults has done nothing (SDM 3A 6.5): stack pointers, registers and memory
 * are as before. And the accesses that the CPU itself makes, to descriptors and stacks: their
 * privilege is the supervisor's at any CPL, and EFLAGS.AC does not help them past SMAP (SDM
 * 3A 4.6).
 */
#include "paging.h"

#define VA      (TEST_AREA + 0x100000) /* a page */
#define BEYOND  (VA + 0x1000)          /* none */
#define PHYS    0x2000000ul
#define PATTERN 0x1234567890abcdeful

static uint64_t *const plain = (uint64_t *)PHYS;

static const struct regs *regs(void)
{
	return &this_cpu()->trap.regs;
}

static void ok_stack(const char *name, word error, word sp)
{
	ok_trap(name, EXC_PF, error);
	ok_equal("  RSP is as it was", regs()->sp, sp);
}

/* Runs insn with RSP = sp, the exception on IST 2. */
#define ON_STACK(stack, insn)                                \
	TRY("mov %0, %%rsp; " insn,                          \
	    :                                                \
	    : "r"(stack), "a"(PATTERN), "b"(BEYOND), "c"(VA) \
	    : "rdx", "memory", "cc")

static void test_stack(void)
{
	static uint8_t ist[STACK_BYTES] __attribute__((aligned(16)));
	struct {
		uint16_t limit;
		word base;
	} __attribute__((packed)) table;

	__asm__ volatile("sgdt %0" : "=m"(table));
	this_cpu()->tss.ist[1] = (word)ist + sizeof(ist);
	gate_set_ist(EXC_PF, 2);
	ON_STACK(VA, "push %%rax");
	ok_stack("PUSH", PF_WRITE, VA);
	ON_STACK(VA + 4, "push %%rax");
	ok_stack("PUSH across", PF_WRITE, VA + 4);
	ON_STACK(BEYOND, "pop %%rax");
	ok_stack("POP", 0, BEYOND);
	ok_equal("  RAX is as it was", regs()->ax, PATTERN);
	plain[0] = 1;
	ON_STACK(VA, "pop (%%rbx)");
	ok_stack("POP to unmapped memory", PF_WRITE, VA);
	ON_STACK(VA, "push (%%rcx)");
	ok_stack("PUSH of memory", PF_WRITE, VA);
	ON_STACK(VA, "call 1f; 1:");
	ok_stack("CALL", PF_WRITE, VA);
	ON_STACK(BEYOND, "ret");
	ok_stack("RET", 0, BEYOND);
	ON_STACK(BEYOND, "lretq");
	ok_stack("far RET", 0, BEYOND);
	ON_STACK(BEYOND, "iretq");
	ok_stack("IRET", 0, BEYOND);
	ON_STACK(VA, "pushf");
	ok_stack("PUSHF", PF_WRITE, VA);
	ON_STACK(BEYOND, "popf");
	ok_stack("POPF", 0, BEYOND);
	ON_STACK(VA, "enter $16, $0");
	ok_stack("ENTER", PF_WRITE, VA);
	TRY("mov %%rsp, %%rdx; mov %0, %%rbp; leave", : : "r"(BEYOND) : "rbp", "rdx", "memory");
	ok_trap("LEAVE", EXC_PF, 0);
	ok_equal("  RSP is as it was", regs()->sp, regs()->dx);
	gate_default(EXC_PF);
}

static void test_read_modify_write(void)
{
	map_page(VA, PHYS | PTE_P);
	write_cr0(read_cr0() | CR0_WP);
	plain[0] = PATTERN;
	TRAPS("XADD of read-only memory", EXC_PF, PF_P | PF_WRITE, "lock xadd %%rax, (%0)",
	      :
	      : "r"(VA), "a"(1ul)
	      : "memory", "cc");
	ok_equal("  RAX is as it was", regs()->ax, 1);
	TRAPS("XCHG", EXC_PF, PF_P | PF_WRITE, "xchg %%rax, (%0)",
	      :
	      : "r"(VA), "a"(1ul)
	      : "memory");
	ok_equal("  RAX is as it was", regs()->ax, 1);
	TRAPS("CMPXCHG that does not match", EXC_PF, PF_P | PF_WRITE, "lock cmpxchg %%rbx, (%0)",
	      :
	      : "r"(VA), "a"(1ul), "b"(2ul)
	      : "memory", "cc");
	ok_equal("  RAX is as it was", regs()->ax, 1);
	TRAPS("CMPXCHG16B that does not match", EXC_PF, PF_P | PF_WRITE, "lock cmpxchg16b (%0)",
	      :
	      : "r"(VA), "a"(1ul), "b"(2ul), "c"(3ul), "d"(4ul)
	      : "memory", "cc");
	TRAPS("BTS of a bit that is set", EXC_PF, PF_P | PF_WRITE, "bts $0, (%0)",
	      :
	      : "r"(VA)
	      : "memory", "cc");
	TRAPS("BT reads only", NO_TRAP, 0, "bt $0, (%0)", : : "r"(VA) : "cc");
	TRAPS("BT with a negative bit offset reads below", EXC_PF, 0, "bt %1, (%0)",
	      :
	      : "r"(VA), "r"(-1l)
	      : "cc");
	ok_equal("  there", this_cpu()->trap.cr2, VA - 8);
	TRAPS("SETcc", EXC_PF, PF_P | PF_WRITE, "setc (%0)", : : "r"(VA) : "memory");
	TRAPS("CMOV reads even when it does not move", EXC_PF, 0,
	      "test %%esp, %%esp; cmovz (%0), %%rax",
	      :
	      : "r"(BEYOND)
	      : "rax", "cc");
	TRAPS("a prefetch never faults", NO_TRAP, 0, "prefetcht0 (%0)", : : "r"(BEYOND));
	TRAPS("DIV by unmapped memory", EXC_PF, 0, "divq (%0)",
	      :
	      : "r"(BEYOND), "a"(1), "d"(0)
	      : "cc");
	ok_equal("memory is as it was", plain[0], PATTERN);
	write_cr0(read_cr0() & ~CR0_WP);
	map_page(VA, PHYS | PTE_P | PTE_W);
}

/* A GDT in a page of its own, so that its rights can be changed. */
static void test_descriptor_accesses(void)
{
	struct {
		uint16_t limit;
		word base;
	} __attribute__((packed)) there = { 511, TEST_AREA + 0x300000 };
	uint64_t *copy = page_alloc();
	unsigned sel = SEL_FREE;

	gdt[sel / 8] = descriptor(0, 0xfffff, 0xf2, 0xc); /* DPL 3 data, not accessed */
	memcpy(copy, gdt, sizeof(gdt));
	map_page(there.base, (uintptr_t)copy | PTE_P | PTE_W);
	__asm__ volatile("lgdt %0" : : "m"(there));
	USER_TRAPS("CPL 3 loads from a supervisor's GDT", NO_TRAP, 0, "mov %0, %%fs",
	           :
	           : "r"(sel | 3));
	ok("the accessed bit is set", copy[sel / 8] >> 40 & 1);
	copy[sel / 8] = gdt[sel / 8];
	map_page(there.base, (uintptr_t)copy | PTE_P);
	write_cr0(read_cr0() | CR0_WP);
	USER_TRAPS("setting it in a read-only page", EXC_PF, PF_P | PF_WRITE, "mov %0, %%fs",
	           :
	           : "r"(sel | 3));
	copy[sel / 8] |= 1ul << 40;
	USER_TRAPS("not when it is set already", NO_TRAP, 0, "mov %0, %%fs", : : "r"(sel | 3));
	write_cr0(read_cr0() & ~CR0_WP);
	/* Not mapped: the error code has no U either. */
	copy[sel / 8] = gdt[sel / 8];
	there.limit = 0x1fff;
	__asm__ volatile("lgdt %0" : : "m"(there));
	USER_TRAPS("a descriptor in an unmapped page", EXC_PF, 0, "mov %0, %%fs", : : "r"(0x1003));
	ok_equal("  at its address", this_cpu()->trap.cr2, there.base + 0x1000);
	gdt_load();
}

void guest_run(void)
{
	map_page(VA, PHYS | PTE_P | PTE_W);
	test_stack();
	test_read_modify_write();
	test_descriptor_accesses();
}

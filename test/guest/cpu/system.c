/*
 * System registers and who may touch them: CR0-CR8, MSRs, descriptor-table registers, XCR0, I/O
 * permissions, UMIP, TSD, PCE; what CPUID promises.
 */
#include "guest.h"

#define NONCANONICAL (1ul << 47)
static void test_control(void)
{
	word cr4 = read_cr4();

	TRAPS("clearing PAE in long mode raises #GP", EXC_GP, 0, "mov %0, %%cr4",
	      :
	      : "r"(cr4 & ~CR4_PAE));
	TRAPS("switching LA57 in long mode raises #GP", EXC_GP, 0, "mov %0, %%cr4",
	      :
	      : "r"(cr4 ^ CR4_LA57));
	TRAPS("a reserved bit of CR4 raises #GP", EXC_GP, 0, "mov %0, %%cr4",
	      :
	      : "r"(cr4 | 1ul << 31));
	TRAPS("CR3 beyond MAXPHYADDR raises #GP", EXC_GP, 0, "mov %0, %%cr3",
	      :
	      : "r"(read_cr3() | 1ul << 52));
	TRAPS("CR0 with PG and no PE raises #GP", EXC_GP, 0, "mov %0, %%cr0",
	      :
	      : "r"(read_cr0() & ~1ul));
	TRAPS("CR0 with NW and no CD raises #GP", EXC_GP, 0, "mov %0, %%cr0",
	      :
	      : "r"((read_cr0() | CR0_NW) & ~CR0_CD));
	TRAPS("CR0 above 32 bits raises #GP", EXC_GP, 0, "mov %0, %%cr0",
	      :
	      : "r"(read_cr0() | 1ul << 32));
	TRAPS("MOV to CR8 above 15 raises #GP", EXC_GP, 0, "mov %0, %%cr8", : : "r"(16ul));
	USER_TRAPS("MOV from CR3 at CPL 3 raises #GP", EXC_GP, 0, "mov %%cr3, %%rax", : : : "rax");
	USER_TRAPS("INVLPG at CPL 3 raises #GP", EXC_GP, 0, "invlpg (%%rax)", : :);
	ok("INVLPG of a non-canonical address does nothing", TRY("invlpg (%0)",
	                                                         :
	                                                         : "r"(1ul << 47)) == NO_TRAP);
}

#define MSR_PAT 0x277

static void test_msrs(void)
{
	static const struct {
		const char *name;
		uint32_t msr;
	} canonical[] = {
		{ "LSTAR", 0xc0000082 },          { "CSTAR", 0xc0000083 },
		{ "FS_BASE", 0xc0000100 },        { "GS_BASE", 0xc0000101 },
		{ "KERNEL_GS_BASE", 0xc0000102 }, { "SYSENTER_ESP", 0x175 },
		{ "SYSENTER_EIP", 0x176 },
	};
	uint64_t v, efer = read_msr(MSR_EFER);

	for (unsigned n = 0; n < sizeof(canonical) / sizeof(*canonical); n++) {
		note(canonical[n].name);
		ok("takes a canonical address",
		   try_write_msr(canonical[n].msr, ~0ul << 47) == NO_TRAP);
		ok_equal("reads back", read_msr(canonical[n].msr), ~0ul << 47);
		ok("refuses another", try_write_msr(canonical[n].msr, NONCANONICAL) == EXC_GP);
		ok_equal("keeps its value", read_msr(canonical[n].msr), ~0ul << 47);
		write_msr(canonical[n].msr, 0);
	}
	ok("EFER refuses reserved bits", try_write_msr(MSR_EFER, efer | 1 << 9) == EXC_GP);
	ok("EFER.LME is fixed under paging", try_write_msr(MSR_EFER, efer & ~EFER_LME) == EXC_GP);
	ok("EFER.LMA is not written", try_write_msr(MSR_EFER, efer & ~EFER_LMA) == NO_TRAP);
	ok_equal("EFER", read_msr(MSR_EFER), efer);
	ok("PAT refuses type 2", try_write_msr(MSR_PAT, 2) == EXC_GP);
	ok("PAT takes all valid types", try_write_msr(MSR_PAT, 0x0001040506070406) == NO_TRAP);
	ok("no MSR 0xdead0000", try_read_msr(0xdead0000, &v) == EXC_GP);
	ok("no MSR 0x3fff", try_write_msr(0x3fff, 0) == EXC_GP);
	USER_TRAPS("RDMSR at CPL 3 raises #GP", EXC_GP, 0, "rdmsr", : : "c"(0x10) : "rax", "rdx");
	USER_TRAPS("WRMSR at CPL 3 raises #GP", EXC_GP, 0, "wrmsr", : : "c"(0x10), "a"(0), "d"(0));
	write_msr(0x10, 0x1000000000);
	ok("the TSC can be set", read_msr(0x10) >= 0x1000000000 && read_msr(0x10) < 0x4000000000);
	ok("APIC_BASE refuses reserved bits", try_write_msr(0x1b, read_msr(0x1b) | 1) == EXC_GP);
	ok("TSC_AUX refuses more than 32 bits", try_write_msr(0xc0000103, 1ul << 32) == EXC_GP);
}

struct table {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

static void test_tables(void)
{
	struct table bad = { 0xff, NONCANONICAL }, old;

	__asm__ volatile("sgdt %0" : "=m"(old));
	ok_equal("SGDT", old.base, (word)gdt);
	TRAPS("LGDT of a non-canonical base raises #GP", EXC_GP, 0, "lgdt %0", : : "m"(bad));
	TRAPS("LIDT of a non-canonical base raises #GP", EXC_GP, 0, "lidt %0", : : "m"(bad));
	TRAPS("LTR of a busy TSS raises #GP(sel)", EXC_GP, SEL_TSS, "ltr %w0", : : "r"(SEL_TSS));
	TRAPS("LTR of null raises #GP(0)", EXC_GP, 0, "ltr %w0", : : "r"(0));
	TRAPS("LTR of data raises #GP(sel)", EXC_GP, SEL_DATA, "ltr %w0", : : "r"(SEL_DATA));
	TRAPS("LLDT of data raises #GP(sel)", EXC_GP, SEL_DATA, "lldt %w0", : : "r"(SEL_DATA));
	gdt[SEL_FREE / 8] = descriptor(0, 0xff, 0x02, 0);
	TRAPS("LLDT of an LDT not present raises #NP(sel)", EXC_NP, SEL_FREE, "lldt %w0",
	      :
	      : "r"(SEL_FREE));
	gdt[SEL_FREE / 8] = descriptor(0, 0xff, 0x82, 0);
	gdt[SEL_FREE / 8 + 1] = NONCANONICAL >> 32;
	TRAPS("LLDT of a non-canonical base raises #GP(sel)", EXC_GP, SEL_FREE, "lldt %w0",
	      :
	      : "r"(SEL_FREE));
	gdt[SEL_FREE / 8 + 1] = 0;
	TRAPS("LLDT", NO_TRAP, 0, "lldt %w0; lldt %w1", : : "r"(SEL_FREE), "r"(0));
	USER_TRAPS("LGDT at CPL 3 raises #GP", EXC_GP, 0, "lgdt %0", : : "m"(old));
	USER_TRAPS("LTR at CPL 3 raises #GP", EXC_GP, 0, "ltr %w0", : : "r"(SEL_TSS));
	USER_TRAPS("LMSW at CPL 3 raises #GP", EXC_GP, 0, "lmsw %w0", : : "r"(0));
	USER_TRAPS("CLTS at CPL 3 raises #GP", EXC_GP, 0, "clts");
	TRAPS("LMSW cannot clear PE", NO_TRAP, 0, "lmsw %w0", : : "r"(0));
	ok("PE", read_cr0() & 1);
}

static void test_umip(void)
{
	word cr4 = read_cr4();
	uint8_t m[10];

	USER_TRAPS("SGDT at CPL 3", NO_TRAP, 0, "sgdt %0", : "=m"(m));
	USER_TRAPS("SMSW at CPL 3", NO_TRAP, 0, "smsw %%eax", : : : "rax");
	if (!(cpuid(7, 0).c & 1 << 2))
		return;
	write_cr4(cr4 | CR4_UMIP);
	USER_TRAPS("SGDT with UMIP raises #GP", EXC_GP, 0, "sgdt %0", : "=m"(m));
	USER_TRAPS("SIDT with UMIP raises #GP", EXC_GP, 0, "sidt %0", : "=m"(m));
	USER_TRAPS("SLDT with UMIP raises #GP", EXC_GP, 0, "sldt %%eax", : : : "rax");
	USER_TRAPS("STR with UMIP raises #GP", EXC_GP, 0, "str %%eax", : : : "rax");
	USER_TRAPS("SMSW with UMIP raises #GP", EXC_GP, 0, "smsw %%eax", : : : "rax");
	TRAPS("none at CPL 0", NO_TRAP, 0, "sgdt %0; str %%eax", : "=m"(m) : : "rax");
	write_cr4(cr4);
}

static void test_counters(void)
{
	word cr4 = read_cr4(), a = 0;

	USER_TRAPS("RDTSC at CPL 3", NO_TRAP, 0, "rdtsc", : : : "rax", "rdx");
	write_cr4(cr4 | CR4_TSD);
	USER_TRAPS("RDTSC with TSD raises #GP", EXC_GP, 0, "rdtsc", : : : "rax", "rdx");
	if (cpuid(0x80000001, 0).d & 1 << 27)
		USER_TRAPS("RDTSCP with TSD raises #GP", EXC_GP, 0, "rdtscp",
		           :
		           :
		           : "rax", "rdx", "rcx");
	TRAPS("RDTSC with TSD at CPL 0", NO_TRAP, 0, "rdtsc", : "+a"(a) : : "rdx");
	write_cr4(cr4 & ~CR4_PCE);
	USER_TRAPS("RDPMC without PCE raises #GP", EXC_GP, 0, "rdpmc", : : "c"(0) : "rax", "rdx");
	write_cr4(cr4);
	if (cpuid(7, 0).b & 1) {
		write_cr4(cr4 & ~CR4_FSGSBASE);
		TRAPS("WRFSBASE without FSGSBASE raises #UD", EXC_UD, 0, "wrfsbase %0",
		      :
		      : "r"(0ul));
		write_cr4(cr4 | CR4_FSGSBASE);
		TRAPS("WRFSBASE non-canonical raises #GP", EXC_GP, 0, "wrfsbase %0",
		      :
		      : "r"(NONCANONICAL));
		USER_TRAPS("WRGSBASE, RDGSBASE at CPL 3", NO_TRAP, 0, "wrgsbase %1; rdgsbase %0",
		           : "=&r"(a)
		           : "r"(0x123456789abul));
		ok_equal("GS base", read_msr(0xc0000101), 0x123456789ab);
		write_msr(0xc0000102, 0x55);
		__asm__ volatile("swapgs");
		ok_equal("SWAPGS", read_msr(0xc0000101), 0x55);
		ok_equal("and back", read_msr(0xc0000102), 0x123456789ab);
		write_cr4(cr4);
	}
	USER_TRAPS("SWAPGS at CPL 3 raises #GP", EXC_GP, 0, "swapgs");
}

static void test_io_rights(void)
{
	struct tss *tss = &this_cpu()->tss;

	USER_TRAPS("a port that the bitmap allows", NO_TRAP, 0, "inb $0x80, %%al", : : : "rax");
	USER_TRAPS("one beyond the TSS raises #GP", EXC_GP, 0, "inb %%dx, %%al",
	           :
	           : "d"(0x100)
	           : "rax");
	USER_TRAPS("a word half beyond raises #GP", EXC_GP, 0, "inw %%dx, %%ax",
	           :
	           : "d"(0xff)
	           : "rax");
	tss->iomap[0x80 / 8] = 2;
	USER_TRAPS("a dword with one port forbidden raises #GP", EXC_GP, 0, "inl $0x80, %%eax",
	           :
	           :
	           : "rax");
	USER_TRAPS("the byte beside it", NO_TRAP, 0, "inb $0x80, %%al", : : : "rax");
	USER_TRAPS("OUTS of a forbidden port raises #GP", EXC_GP, 0, "outsb",
	           :
	           : "d"(0x81), "S"(tss));
	tss->iomap[0x80 / 8] = 0;
	USER_TRAPS("CLI raises #GP", EXC_GP, 0, "cli");
	USER_TRAPS("STI raises #GP", EXC_GP, 0, "sti");
	TRY("push %0; push %%rsp; push $0x3002; push %1; push $1f; iretq; 1: cli; inb $0x80, %%al; "
	    "ud2",
	    :
	    : "r"((word)SEL_UDATA), "r"((word)SEL_UCODE)
	    : "rax", "memory");
	ok_trap("IOPL 3 allows CLI and IN", EXC_UD, 0);
}

static void test_xcr(void)
{
	word cr4 = read_cr4();
	uint32_t lo, hi;

	if (!(cpuid(1, 0).c & 1 << 26))
		return;
	write_cr4(cr4 & ~CR4_OSXSAVE);
	ok("CPUID.OSXSAVE follows CR4", !(cpuid(1, 0).c & 1 << 27));
	TRAPS("XSETBV without OSXSAVE raises #UD", EXC_UD, 0, "xsetbv", : : "a"(3), "c"(0), "d"(0));
	write_cr4(cr4 | CR4_OSXSAVE | CR4_OSFXSR);
	ok("CPUID.OSXSAVE follows CR4", cpuid(1, 0).c & 1 << 27);
	TRAPS("XSETBV", NO_TRAP, 0, "xsetbv", : : "a"(3), "c"(0), "d"(0));
	TRAPS("XCR0 needs x87", EXC_GP, 0, "xsetbv", : : "a"(2), "c"(0), "d"(0));
	TRAPS("AVX needs SSE", EXC_GP, 0, "xsetbv", : : "a"(5), "c"(0), "d"(0));
	TRAPS("reserved components raise #GP", EXC_GP, 0, "xsetbv",
	      :
	      : "a"(3), "c"(0), "d"(1u << 31));
	TRAPS("XCR1 does not take writes", EXC_GP, 0, "xsetbv", : : "a"(3), "c"(1), "d"(0));
	USER_TRAPS("XSETBV at CPL 3 raises #GP", EXC_GP, 0, "xsetbv", : : "a"(3), "c"(0), "d"(0));
	USER_TRAPS("XGETBV at CPL 3", NO_TRAP, 0, "xgetbv", : "=a"(lo), "=d"(hi) : "c"(0));
	ok_equal("XCR0", lo, 3);
	ok_equal("size by CPUID", cpuid(0xd, 0).b, 576);
	if (cpuid(0xd, 0).a & 4) {
		TRAPS("AVX", NO_TRAP, 0, "xsetbv", : : "a"(7), "c"(0), "d"(0));
		ok_equal("size by CPUID", cpuid(0xd, 0).b, 832);
		TRAPS("VMOVUPS with it", NO_TRAP, 0, "vzeroupper");
		TRAPS("XSETBV", NO_TRAP, 0, "xsetbv", : : "a"(3), "c"(0), "d"(0));
		TRAPS("AVX without its component raises #UD", EXC_UD, 0, "vzeroupper");
	}
	write_cr4(cr4);
}

/* What POPF loads is what the next instruction sees. */
static void test_popf(void)
{
	uint8_t zero, carry;

	__asm__ volatile(
	        "xor %%ecx, %%ecx; pushfq; andl $~0x40, (%%rsp); orl $1, (%%rsp); popfq\n\t"
	        "sete %0; setc %1"
	        : "=r"(zero), "=r"(carry)
	        :
	        : "rcx", "cc", "memory");
	ok("POPFQ clears ZF and sets CF", !zero && carry);
	__asm__ volatile("or $1, %%ecx; pushfq; orl $0x40, (%%rsp); popfq; sete %0"
	                 : "=r"(zero)
	                 :
	                 : "rcx", "cc", "memory");
	ok("POPFQ sets ZF", zero);
}

static void test_cpuid(void)
{
	ok("highest leaf", cpuid(0, 0).a >= 0xd);
	ok("highest extended leaf", cpuid(0x80000000, 0).a >= 0x80000008);
	ok("long mode", cpuid(0x80000001, 0).d & 1 << 29);
	ok("FPU, TSC, MSR, PAE, CX8, APIC",
	   (cpuid(1, 0).d & 0x371) == 0x371 || (cpuid(1, 0).d & 0x171) == 0x171);
	ok("physical address bits",
	   (cpuid(0x80000008, 0).a & 0xff) >= 36 && (cpuid(0x80000008, 0).a & 0xff) <= 52);
	ok_equal("linear address bits", cpuid(0x80000008, 0).a >> 8 & 0xff,
	         cpuid(7, 0).c & 1 << 16 ? 57 : 48);
	ok_equal("APIC id", cpuid(1, 0).b >> 24, 0);
}

static void test_wide_exchange(void)
{
	static struct {
		uint64_t lo, hi, next;
	} m __attribute__((aligned(16))) = { 1, 2, 3 };
	uint64_t lo = 1, hi = 2;
	bool zf;

	__asm__ volatile("lock cmpxchg16b %1"
	                 : "=@ccz"(zf), "+m"(m), "+a"(lo), "+d"(hi)
	                 : "b"(5ul), "c"(6ul));
	ok("CMPXCHG16B that matches", zf && m.lo == 5 && m.hi == 6);
	__asm__ volatile("lock cmpxchg16b %1"
	                 : "=@ccz"(zf), "+m"(m), "+a"(lo), "+d"(hi)
	                 : "b"(7ul), "c"(8ul));
	ok("CMPXCHG16B that does not", !zf && m.lo == 5 && m.hi == 6 && lo == 5 && hi == 6);
	TRAPS("CMPXCHG16B misaligned raises #GP", EXC_GP, 0, "cmpxchg16b %0",
	      :
	      : "m"(m.hi)
	      : "cc", "memory");
	lo = 5, hi = 0;
	__asm__ volatile("lock cmpxchg8b %1"
	                 : "=@ccz"(zf), "+m"(m), "+a"(lo), "+d"(hi)
	                 : "b"(9ul), "c"(1ul));
	ok("CMPXCHG8B", zf && m.lo == 0x100000009 && m.hi == 6);
	TRAPS("CMPXCHG8B of a register raises #UD", EXC_UD, 0, ".byte 0x0f, 0xc7, 0xc8");
}

void guest_run(void)
{
	test_msrs();
	test_tables();
	test_umip();
	test_counters();
	test_io_rights();
	test_xcr();
	test_popf();
	test_cpuid();
	test_wide_exchange();
	test_control();
}

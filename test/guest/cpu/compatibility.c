/*
 * 32-bit and 16-bit code under a 64-bit kernel: segments count there as in protected mode, but not
 * in 64-bit mode (SDM 3A 3.4.4, 5.2.1); an LDT; operand and stack sizes.
 */
#include "guest.h"

enum { SEL_SMALL = SEL_FREE, SEL_CODE16 = SEL_FREE + 8, SEL_LDT = SEL_FREE + 32 };

static uint8_t buffer[0x10000] __attribute__((aligned(4096)));
static uint64_t ldt[2] __attribute__((aligned(16)));

/* 32-bit code at CPL 0 with EAX, ECX and EDX as given; it ends with a trap. */
#define TRY32(code, ax, cx, dx)                                                \
	({                                                                     \
		word a_ = (word)(ax), c_ = (word)(cx), d_ = (word)(dx);        \
		TRY("push %3; push $1f; lretq; .code32; 1: " code "; .code64", \
		    : "+a"(a_), "+c"(c_), "+d"(d_)                             \
		    : "i"(SEL_CODE32)                                          \
		    : "rbx", "memory", "cc");                                  \
	})

static const struct regs *regs(void)
{
	return &this_cpu()->trap.regs;
}

static void reload(void)
{
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss" : : "r"(SEL_DATA));
}

static void test_limits(void)
{
	gdt[SEL_SMALL / 8] = descriptor((uint32_t)(word)buffer, 0xff, 0x93, 4);
	buffer[0xff] = 0x66;
	TRY32("mov %%edx, %%es; xor %%eax, %%eax; movb %%es:0xff, %%al; ud2", 0, 0, SEL_SMALL);
	ok_trap("within the limit", EXC_UD, 0);
	ok_equal("base counts", regs()->ax, 0x66);
	TRY32("mov %%edx, %%es; movb %%es:0x100, %%al; ud2", 0, 0, SEL_SMALL);
	ok_trap("behind the limit", EXC_GP, 0);
	TRY("mov %0, %%es; movb %%es:(%1), %%al", : : "r"(SEL_SMALL), "r"(buffer + 0x100) : "rax");
	ok_trap("64-bit code does not look at it", NO_TRAP, 0);
	TRY32("mov %%edx, %%es; movb %%es:(%%ecx), %%al; ud2", 0, buffer, 0);
	ok_trap("a null segment", EXC_GP, 0);
	TRY("mov %0, %%es; movb %%es:(%1), %%al", : : "r"(0), "r"(buffer) : "rax");
	ok_trap("64-bit code uses it", NO_TRAP, 0);
	reload();
	gdt[SEL_SMALL / 8] = descriptor(0, 0xfffff, 0x91, 0xc);
	TRY32("mov %%edx, %%es; movb $0, %%es:(%%ecx); ud2", 0, buffer, SEL_SMALL);
	ok_trap("write to read-only data", EXC_GP, 0);
	TRY("mov %0, %%es; movb $0, %%es:(%1)", : : "r"(SEL_SMALL), "r"(buffer) : "memory");
	ok_trap("64-bit code may", NO_TRAP, 0);
	reload();
}

static void test_fs_gs(void)
{
	gdt[SEL_SMALL / 8] = descriptor((uint32_t)(word)buffer, 0xff, 0x93, 4);
	buffer[4] = 0x44;
	TRY("mov %0, %%fs; xor %%eax, %%eax; movb %%fs:4, %%al; ud2", : : "r"(SEL_SMALL) : "rax");
	ok_equal("FS takes the base of its descriptor", regs()->ax, 0x44);
	ok_equal("and shows it in FS_BASE", read_msr(0xc0000100), (word)buffer);
	write_msr(0xc0000100, (word)buffer + 1);
	TRY("xor %%eax, %%eax; movb %%fs:3, %%al; ud2", : : : "rax");
	ok_equal("FS_BASE replaces it", regs()->ax, 0x44);
	TRY("xor %%eax, %%eax; movb %%fs:0x1000, %%al", : : : "rax");
	ok_trap("without a limit", NO_TRAP, 0);
	__asm__ volatile("mov %0, %%fs" : : "r"(0));
}

static void test_16bit(void)
{
	static const uint8_t code[] = { 0xb8, 0x34, 0x12, 0x66, 0xbb, 0x78,
		                        0x56, 0x34, 0x12, 0x0f, 0x0b };

	gdt[SEL_CODE16 / 8] = descriptor((uint32_t)(word)buffer, 0xffff, 0x9b, 0);
	memcpy(buffer, code, sizeof(code));
	TRY("push %0; push $0; lretq", : : "i"(SEL_CODE16) : "rax", "rbx", "memory");
	ok_trap("16-bit code", EXC_UD, 0);
	ok_equal("16-bit operands", regs()->ax & 0xffff, 0x1234);
	ok_equal("32-bit ones with a prefix", regs()->bx, 0x12345678);
	ok_equal("IP", regs()->ip, 9);
	ok_equal("CS", regs()->cs, SEL_CODE16);
	memcpy(buffer, (uint8_t[]){ 0xeb, 0xfd }, 2); /* jmp to -1 */
	TRY("push %0; push $0; lretq", : : "i"(SEL_CODE16) : "memory");
	ok("a jump below 0 wraps to 64 KiB",
	   regs()->ip >= 0xffff || this_cpu()->trap.vector == EXC_GP);
}

static void test_ldt(void)
{
	ldt[1] = descriptor((uint32_t)(word)buffer, 0xff, 0x93, 4);
	gdt[SEL_LDT / 8] = descriptor((uint32_t)(word)ldt, sizeof(ldt) - 1, 0x82, 0);
	gdt[SEL_LDT / 8 + 1] = 0;
	buffer[7] = 0x77;
	__asm__ volatile("lldt %w0" : : "r"(SEL_LDT));
	TRY32("mov %%edx, %%es; xor %%eax, %%eax; movb %%es:7, %%al; ud2", 0, 0, 8 | 4);
	ok_trap("a segment from the LDT", EXC_UD, 0);
	ok_equal("its base", regs()->ax, 0x77);
	reload();
	TRAPS("behind the LDT", EXC_GP, 0x14, "mov %0, %%es", : : "r"(0x14));
	__asm__ volatile("lldt %w0" : : "r"(0));
}

static void test_sizes(void)
{
	word stack = (word)buffer + 0x8000;

	TRY32("mov %%ecx, %%esp; push %%eax; mov %%esp, %%ebx; pop %%edx; ud2", 0x11223344, stack,
	      0);
	ok_equal("PUSH takes 4 bytes", regs()->bx, stack - 4);
	ok_equal("POP gives them back", regs()->dx, 0x11223344);
	TRY32("mov %%ecx, %%esp; call 2f; 2: pop %%edx; mov %%esp, %%ebx; ud2", 0, stack, 0);
	ok_equal("CALL takes 4 bytes", regs()->bx, stack);
	TRY32("mov $-1, %%eax; inc %%eax; .byte 0x40; ud2", 0, 0, 0);
	ok_equal("upper halves are 0", regs()->ax, 1);
	TRY32("syscall; ud2", 0, 0, 0);
	ok("SYSCALL without EFER.SCE", this_cpu()->trap.vector == EXC_UD);
	TRY32("mov %%cr3, %%eax; mov %%eax, %%cr3; int $0x20", 0, 0, 0);
	ok_trap("MOV CR3", NO_TRAP, 0);
}

void guest_run(void)
{
	test_limits();
	test_fs_gs();
	test_16bit();
	test_ldt();
	test_sizes();
}

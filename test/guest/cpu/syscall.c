/*
 * Ways between privilege levels and modes in long mode: SYSCALL, SYSRET, SYSENTER, SYSEXIT, IRET
 * and its refusals, 32-bit code under a 64-bit kernel, interrupt shadows.
 */
#include "guest.h"

#define MSR_STAR         0xc0000081
#define MSR_LSTAR        0xc0000082
#define MSR_CSTAR        0xc0000083
#define MSR_FMASK        0xc0000084
#define MSR_SYSENTER_CS  0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define NONCANONICAL     (1ul << 47)

/* What SYSCALL and SYSENTER lead to: note the state, then leave by VECTOR_DONE. */
extern char syscall_entry[], sysenter_entry[];
__asm__("syscall_entry: sysenter_entry:\n"
        "mov %rcx, seen_rcx(%rip)\n mov %r11, seen_r11(%rip)\n mov %rsp, seen_rsp(%rip)\n"
        "mov $main_stacks + 0x2000, %rsp\n"
        "pushf; pop %rcx; mov %rcx, seen_flags(%rip)\n"
        "mov %cs, %rcx; mov %rcx, seen_cs(%rip)\n mov %ss, %rcx; mov %rcx, seen_ss(%rip)\n"
        "int $0x20\n");
extern word seen_cs, seen_ss, seen_flags, seen_rcx, seen_r11, seen_rsp;
word seen_cs, seen_ss, seen_flags, seen_rcx, seen_r11, seen_rsp;

static void test_syscall(void)
{
	word after;

	write_msr(MSR_EFER, read_msr(MSR_EFER) & ~EFER_SCE);
	USER_TRAPS("SYSCALL without EFER.SCE raises #UD", EXC_UD, 0, "syscall", : : : "rcx", "r11");
	TRAPS("SYSRET without EFER.SCE raises #UD", EXC_UD, 0, "sysretq");
	write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_SCE);
	write_msr(MSR_STAR, (uint64_t)SEL_CODE64 << 32 | (uint64_t)SEL_UCODE32 << 48);
	write_msr(MSR_LSTAR, (word)syscall_entry);
	write_msr(MSR_FMASK, FLAG_CF | FLAG_DF | FLAG_IF | FLAG_TF);
	TRY_USER("lea 1f(%%rip), %0; std; stc; syscall; 1:",
	         : "=r"(after)
	         :
	         : "rcx", "r11", "memory", "cc");
	ok_trap("SYSCALL arrives", NO_TRAP, 0);
	ok_equal("CS", seen_cs, SEL_CODE64);
	ok_equal("SS", seen_ss, SEL_DATA);
	ok_equal("RCX is the return address", seen_rcx, after);
	ok("R11 is RFLAGS", (seen_r11 & (FLAG_CF | FLAG_DF)) == (FLAG_CF | FLAG_DF));
	ok_equal("FMASK has cleared", seen_flags & (FLAG_CF | FLAG_DF), 0);
	__asm__ volatile("cld");
}

static void test_sysret(void)
{
	static const char name64[] = "SYSRET to 64-bit code";

	TRY("mov %%rsp, %%rbx; lea 1f(%%rip), %%rcx; mov $0xc3, %%r11d; sysretq; 1: mov %%cs, "
	    "%%eax; "
	    "mov %%ss, %%edx; pushf; pop %%rcx; ud2",
	    :
	    :
	    : "rax", "rbx", "rcx", "rdx", "r11", "memory", "cc");
	ok_trap(name64, EXC_UD, 0);
	ok_equal("CS", this_cpu()->trap.regs.ax, SEL_UCODE64);
	ok_equal("SS", this_cpu()->trap.regs.dx, SEL_UDATA);
	ok_equal("RFLAGS from R11", this_cpu()->trap.regs.cx & 0xfd7, 0xc3);
	TRY("lea 1f(%%rip), %%ecx; mov $2, %%r11d; sysretl; .code32; 1: mov %%cs, %%eax; mov %%ss, "
	    "%%edx; "
	    "mov $1, %%ecx; .byte 0x41; ud2; .code64",
	    :
	    :
	    : "rax", "rcx", "rdx", "r11", "memory", "cc");
	ok_trap("SYSRET to 32-bit code", EXC_UD, 0);
	ok_equal("CS", this_cpu()->trap.regs.ax, SEL_UCODE32);
	ok_equal("SS", this_cpu()->trap.regs.dx, SEL_UDATA);
	ok_equal("opcode 0x41 is INC ECX", this_cpu()->trap.regs.cx, 2);
	TRAPS("SYSRET to a non-canonical address raises #GP", EXC_GP, 0,
	      "mov %0, %%rcx; mov $2, %%r11d; sysretq",
	      :
	      : "r"(NONCANONICAL)
	      : "rcx", "r11");
	USER_TRAPS("SYSRET at CPL 3 raises #GP", EXC_GP, 0, "sysretq");
}

/* AMD: SYSENTER and SYSEXIT are undefined in long mode (APM 3, SYSENTER). */
static bool is_amd(void)
{
	return cpuid(0, 0).b == 0x68747541;
}

static void test_sysenter(void)
{
	int missing = is_amd() ? EXC_UD : EXC_GP;

	write_msr(MSR_SYSENTER_CS, 0);
	USER_TRAPS("SYSENTER with a null CS", missing, 0, "sysenter");
	TRAPS("SYSEXIT with a null CS", missing, 0, "sysexit");
	write_msr(MSR_SYSENTER_CS, SEL_CODE64);
	write_msr(MSR_SYSENTER_ESP, (word)main_stacks + 0x2000);
	write_msr(MSR_SYSENTER_EIP, (word)sysenter_entry);
	if (is_amd()) {
		USER_TRAPS("SYSENTER in long mode raises #UD on AMD", EXC_UD, 0, "sysenter");
		return;
	}
	seen_cs = 0;
	USER_TRAPS("SYSENTER", NO_TRAP, 0, "sysenter");
	ok_equal("CS", seen_cs, SEL_CODE64);
	ok_equal("SS", seen_ss, SEL_DATA);
	ok_equal("RSP", seen_rsp, (word)main_stacks + 0x2000);
	TRY("mov %%rsp, %%rcx; lea 1f(%%rip), %%rdx; .byte 0x48; sysexit; 1: mov %%cs, %%eax; ud2",
	    :
	    :
	    : "rax", "rcx", "rdx", "memory");
	ok_trap("SYSEXIT to 64-bit code", EXC_UD, 0);
	ok_equal("CS", this_cpu()->trap.regs.ax, SEL_UCODE64);
}

#define PUSH_FRAME(ss, sp, flags, cs, ip) \
	"push " ss "; push " sp "; push " flags "; push " cs "; push " ip "; "

static void test_iret(void)
{
	word sp;

	TRY("mov %%rsp, %%rbx; " PUSH_FRAME("$0", "%%rbx", "$2", "%0",
	                                    "$1f") "iretq; 1: mov %%ss, %%eax; ud2",
	    :
	    : "r"((word)SEL_CODE64)
	    : "rax", "rbx", "memory");
	ok_trap("IRET to CPL 0 with a null SS", EXC_UD, 0);
	ok_equal("SS is null", this_cpu()->trap.regs.ax, 0);
	TRAPS("IRET to CPL 3 with a null SS raises #GP(0)", EXC_GP, 0,
	      PUSH_FRAME("$3", "$0", "$2", "%0", "$0") "iretq",
	      :
	      : "r"((word)SEL_UCODE64));
	TRAPS("IRET to a non-canonical RIP raises #GP(0)", EXC_GP, 0,
	      PUSH_FRAME("%1", "$0", "$2", "%0", "%2") "iretq",
	      :
	      : "r"((word)SEL_CODE64), "r"((word)SEL_DATA), "r"(NONCANONICAL));
	TRAPS("IRET with SS of the wrong RPL raises #GP(sel)", EXC_GP, SEL_DATA,
	      PUSH_FRAME("%1", "$0", "$2", "%0", "$0") "iretq",
	      :
	      : "r"((word)SEL_UCODE64), "r"((word)SEL_DATA));
	TRAPS("IRET with NT raises #GP(0) in long mode", EXC_GP, 0,
	      PUSH_FRAME("%1", "$0", "$2", "%0", "$1f") "push $0x4002; popf; iretq; 1: nop",
	      :
	      : "r"((word)SEL_CODE64), "r"((word)SEL_DATA));
	USER_TRAPS("IRET to a lower CPL raises #GP(sel)", EXC_GP, SEL_CODE64 & ~3,
	           PUSH_FRAME("%1", "$0", "$2", "%0", "$0") "iretq",
	           :
	           : "r"((word)SEL_CODE64), "r"((word)SEL_DATA));
	TRY("mov %%rsp, %0; sub $64, %%rsp; mov %%rsp, %%rbx; " PUSH_FRAME(
	            "%1", "%%rbx", "$2", "%2",
	            "$1f") "iretq; 1: cmp %%rsp, %%rbx; mov %0, %%rsp; jne 2f; ud2; 2: int3",
	    : "=&r"(sp)
	    : "r"((word)SEL_DATA), "r"((word)SEL_CODE64)
	    : "rbx", "memory", "cc");
	ok_trap("IRET to the same CPL takes RSP", EXC_UD, 0);
	TRY("mov %%rsp, %%rbx; sub $12, %%rsp; movl $1f, (%%rsp); movl %0, 4(%%rsp); movl $2, "
	    "8(%%rsp); "
	    "sub $0, %%rsp; iretl; 1: .byte 0x90; ud2",
	    :
	    : "r"(SEL_CODE32)
	    : "rbx", "memory");
	ok("IRETD takes SS and ESP, too, in 64-bit mode", this_cpu()->trap.vector != NO_TRAP);
	USER_TRAPS("IRET at CPL 3 keeps IOPL and IF", NO_TRAP, 0,
	           "mov %%rsp, %%rbx; " PUSH_FRAME(
	                   "%0", "%%rbx", "$0x3202", "%1",
	                   "$1f") "iretq; 1: pushf; pop %%rax; test $0x3200, %%eax; jz 2f; ud2; 2:",
	           :
	           : "r"((word)SEL_UDATA), "r"((word)SEL_UCODE64)
	           : "rax", "rbx", "memory", "cc");
	USER_TRAPS("so does POPF", NO_TRAP, 0,
	           "push $0x3202; popf; pushf; pop %%rax; test $0x3200, %%eax; jz 2f; ud2; 2:",
	           :
	           :
	           : "rax", "memory", "cc");
}

static void test_compatibility(void)
{
	word stack = (word)main_stacks + STACK_BYTES * 2;

	TRY("push %0; push $1f; lretq; .code32; 1: mov $1, %%eax; .byte 0x40; mov %%cs, %%edx; "
	    "ud2; .code64",
	    :
	    : "r"((word)SEL_CODE32)
	    : "rax", "rdx", "memory");
	ok_trap("far return to 32-bit code at CPL 0", EXC_UD, 0);
	ok_equal("opcode 0x40 is INC EAX", this_cpu()->trap.regs.ax, 2);
	ok_equal("CS", this_cpu()->trap.regs.cs, SEL_CODE32);
	TRY(PUSH_FRAME("%0", "%1", "$2", "%2",
	               "$1f") "iretq; .code32; 1: mov $-1, %%eax; push %%eax; "
	                      "pop %%edx; mov %%esp, %%ecx; int $0x44; .code64",
	    :
	    : "r"((word)SEL_UDATA), "r"(stack), "r"((word)SEL_UCODE32)
	    : "rax", "rcx", "rdx", "memory");
	ok_trap("INT from 32-bit code without DPL", EXC_GP, 0x44 * 8 + 2);
	ok_equal("PUSH takes 4 bytes", this_cpu()->trap.regs.dx, 0xffffffff);
	ok_equal("ESP", this_cpu()->trap.regs.cx, stack);
	TRY(PUSH_FRAME("%0", "%1", "$2", "%2",
	               "$1f") "iretq; .code32; 1: ljmp %3, $2f; .code64; 2: "
	                      "mov $-1, %%rax; inc %%rax; mov %%cs, %%edx; ud2",
	    :
	    : "r"((word)SEL_UDATA), "r"(stack), "r"((word)SEL_UCODE32), "i"(SEL_UCODE64)
	    : "rax", "rcx", "rdx", "memory", "cc");
	ok_trap("far jump from 32-bit to 64-bit code", EXC_UD, 0);
	ok_equal("CS", this_cpu()->trap.regs.dx, SEL_UCODE64);
	TRY(PUSH_FRAME("%0", "%1", "$2", "%2",
	               "$1f") "mov %0, %%ds; iretq; .code32; 1: mov (%%eax), %%eax; ud2; .code64",
	    :
	    : "r"((word)SEL_UDATA), "r"(stack), "r"((word)SEL_UCODE32), "a"(0x123456789a000000ul)
	    : "memory");
	ok_trap("addresses are 32 bits wide", EXC_UD, 0);
	__asm__ volatile("mov %0, %%ds" : : "r"(SEL_DATA));
}

#define MSR_APIC_BASE 0x1b
#define APIC(reg)     (*(volatile uint32_t *)(0xfee00000ul + (reg)))
#define SELF_FIXED(v) (0x40000u | (v))

static unsigned interrupts;
static word interrupted_at;

static bool take_interrupt(struct regs *r)
{
	if (r->vector != 0x50)
		return false;
	interrupts++;
	interrupted_at = r->ip;
	APIC(0xb0) = 0;
	return true;
}

#define WITH_PENDING(insn, ...)                     \
	do {                                        \
		interrupts = 0;                     \
		APIC(0x310) = 0;                    \
		APIC(0x300) = SELF_FIXED(0x50);     \
		__asm__ volatile(insn __VA_ARGS__); \
	} while (0)

static void test_shadow(void)
{
	word at;

	trap_hook = take_interrupt;
	APIC(0xf0) = 0x1ff;
	APIC(0x80) = 0;
	WITH_PENDING("lea 1f(%%rip), %0; sti; nop; 1: nop; nop; cli",
	             : "=r"(at)
	             :
	             : "memory", "cc");
	ok_equal("STI: interrupted", interrupts, 1);
	ok_equal("behind the next instruction", interrupted_at, at);
	WITH_PENDING("sti; cli; nop", : : : "memory", "cc");
	ok_equal("STI, CLI: not interrupted", interrupts, 0);
	WITH_PENDING("lea 1f(%%rip), %0; mov %%ss, %%eax; sti; mov %%eax, %%ss; 1: nop; cli",
	             : "=r"(at)
	             :
	             : "rax", "memory", "cc");
	ok_equal("STI, MOV SS: interrupted", interrupts, 1);
	WITH_PENDING("lea 1f(%%rip), %0; sti; hlt; 1: cli", : "=r"(at) : : "memory", "cc");
	ok_equal("STI, HLT: woken", interrupts, 1);
	ok_equal("behind HLT", interrupted_at, at);
	WITH_PENDING("lea 1f(%%rip), %0; pushf; orl $0x200, (%%rsp); popf; 1: nop; cli",
	             : "=r"(at)
	             :
	             : "memory", "cc");
	ok_equal("POPF: interrupted", interrupts, 1);
	ok_equal("at once", interrupted_at, at);
	trap_hook = NULL;
}

void guest_run(void)
{
	/* The firmware's PICs stay silent. */
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
	test_syscall();
	test_sysret();
	test_sysenter();
	test_iret();
	test_compatibility();
	test_shadow();
}

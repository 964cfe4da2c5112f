/*
 * Single step and debug registers (SDM 3B chapter 18): where the trap comes, what DR6 says, what
 * MOV SS holds back, RF, general detect.
 */
#include "guest.h"

#define DR6_BD    (1ul << 13)
#define DR6_BS    (1ul << 14)
#define DR6_RESET 0xffff0ff0ul
#define DR6_EVENT 0xe00ful
#define DR7_RESET 0x400ul
#define DR7_GD    (1ul << 13)

enum { ON_EXEC, ON_WRITE, ON_IO, ON_ACCESS };
#define DR7_ENABLE(n, type, len) \
	(3ul << (2 * (n)) | (uint64_t)(type) << (16 + 4 * (n)) | (uint64_t)(len) << (18 + 4 * (n)))
enum { LEN_1, LEN_2, LEN_8, LEN_4 };

#define MAX_EVENTS 16
static struct event {
	word ip, dr6, flags, cx;
} events[MAX_EVENTS];
static unsigned nr_events;
static bool keep_stepping;

static bool take_event(struct regs *r)
{
	if (r->vector != EXC_DB)
		return false;
	if (nr_events < MAX_EVENTS)
		events[nr_events++] = (struct event){ r->ip, read_dr6(), r->flags, r->cx };
	write_dr6(DR6_RESET);
	if (!keep_stepping || nr_events == MAX_EVENTS)
		r->flags &= ~FLAG_TF;
	r->flags |= FLAG_RF;
	return true;
}

static void start(void)
{
	nr_events = 0;
	keep_stepping = false;
	write_dr6(DR6_RESET);
}

static void ok_event(const char *name, unsigned n, word ip, word dr6)
{
	ok(name, nr_events > n);
	ok_equal("  at", events[n].ip, ip);
	ok_equal("  DR6", events[n].dr6 & DR6_EVENT, dr6);
}

#define STEP "pushf; orl $0x100, (%%rsp); popf\n"

static void test_step(void)
{
	word first, second, i;
	static uint8_t from[8], to[8];

	start();
	__asm__ volatile("lea 1f(%%rip), %0; " STEP "nop; 1: nop" : "=r"(first) : : "memory", "cc");
	ok_event("one step after POPF", 0, first, DR6_BS);
	ok_equal("one event", nr_events, 1);
	ok("TF is in the pushed flags", events[0].flags & FLAG_TF);
	start();
	__asm__ volatile("mov %%ss, %%ecx; lea 1f(%%rip), %0; " STEP "mov %%ecx, %%ss; nop; 1: nop"
	                 : "=r"(first)
	                 :
	                 : "memory", "cc", "rcx");
	ok_event("MOV SS holds the step back by one", 0, first, DR6_BS);
	start();
	__asm__ volatile("lea 1f(%%rip), %0; " STEP "jmp 1f; nop; 1: nop"
	                 : "=r"(first)
	                 :
	                 : "memory", "cc");
	ok_event("step over a jump", 0, first, DR6_BS);
	start();
	keep_stepping = true;
	__asm__ volatile("lea 1f(%%rip), %0; lea 2f(%%rip), %1; " STEP
	                 "1: rep movsb; 2: pushf; andl $~0x100, (%%rsp); popf"
	                 : "=&r"(first), "=&r"(second)
	                 : "c"(3), "S"(from), "D"(to)
	                 : "memory", "cc");
	ok_event("step in REP MOVS: first iteration", 0, first, DR6_BS);
	ok_equal("  RCX", events[0].cx, 2);
	ok_event("second", 1, first, DR6_BS);
	ok_event("last", 2, second, DR6_BS);
	ok_equal("  RCX", events[2].cx, 0);
	start();
	__asm__ volatile(
	        "lea 1f(%%rip), %0; lea 2f(%%rip), %1; mov %%rsp, %2; push %3; push %2; pushf; "
	        "orl $0x100, (%%rsp); push %4; push %0; iretq; 1: nop; 2: nop"
	        : "=&r"(first), "=&r"(second), "=&r"(i)
	        : "i"(SEL_DATA), "i"(SEL_CODE64)
	        : "memory", "cc");
	ok_event("IRET that sets TF: after the next instruction", 0, second, DR6_BS);
	start();
	__asm__ volatile("lea 1f(%%rip), %0; " STEP "cpuid; 1: nop"
	                 : "=&r"(first)
	                 : "a"(0)
	                 : "rbx", "rcx", "rdx", "memory", "cc");
	ok_event("step over CPUID", 0, first, DR6_BS);
	start();
	__asm__ volatile("lea 1f(%%rip), %0; " STEP "outb %%al, $0x80; 1: nop"
	                 : "=&r"(first)
	                 :
	                 : "memory", "cc");
	ok_event("step over OUT", 0, first, DR6_BS);
}

static void test_step_faults(void)
{
	word at;

	start();
	TRY("lea 1f(%%rip), %0; " STEP "1: ud2", : "=r"(at) : : "memory", "cc");
	ok_trap("a fault takes the place of the step", EXC_UD, 0);
	ok_equal("no event", nr_events, 0);
	ok("TF is in the flags of the fault", this_cpu()->trap.regs.flags & FLAG_TF);
	ok("so is RF", this_cpu()->trap.regs.flags & FLAG_RF);
	start();
	TRY(STEP "int $0x44", : : : "memory", "cc");
	ok_trap("INT n clears TF", 0x44, 0);
	ok_equal("without an event", nr_events, 0);
	start();
	write_dr6(0);
	ok_equal("bits of DR6 that are always 1", read_dr6() & 0xffffffff, DR6_RESET);
	write_dr6(DR6_RESET);
	ok_equal("bit 10 of DR7 is always 1", (write_dr7(0), read_dr7()), DR7_RESET);
}

static void test_exec(void)
{
	word at, ran = 0;

	start();
	__asm__ volatile("lea 1f(%%rip), %0"
	                 "\n mov %0, %%dr0; mov %2, %%dr7; nop; 1: inc %1; nop"
	                 : "=&r"(at), "+r"(ran)
	                 : "r"(DR7_RESET | DR7_ENABLE(0, ON_EXEC, LEN_1))
	                 : "cc");
	write_dr7(0);
	ok_event("instruction breakpoint", 0, at, 1);
	ok_equal("once, thanks to RF", nr_events, 1);
	ok_equal("the instruction ran once", ran, 1);
	ok("the CPU itself pushed no RF", !(events[0].flags & FLAG_RF));
	start();
	ran = 0;
	__asm__ volatile(
	        "lea 1f(%%rip), %0; mov %0, %%dr3; mov %2, %%dr7; mov $3, %%ecx; 1: inc %1; loop 1b"
	        : "=&r"(at), "+r"(ran)
	        : "r"(DR7_RESET | DR7_ENABLE(3, ON_EXEC, LEN_1))
	        : "rcx", "cc");
	write_dr7(0);
	ok_equal("each time round a loop", nr_events, 3);
	ok_equal("  DR6", events[2].dr6 & DR6_EVENT, 8);
	ok_equal("  the loop is not disturbed", ran, 3);
}

#define WATCHED(insn, ...)                                                  \
	({                                                                  \
		word after_;                                                \
		start();                                                    \
		__asm__ volatile("lea 1f(%%rip), %0; " insn "; 1: nop; nop" \
		                 : "=&r"(after_)__VA_ARGS__);               \
		after_;                                                     \
	})

static void test_data(void)
{
	static uint64_t watched[4] __attribute__((aligned(64)));
	static uint64_t source = 7;
	word after;

	write_dr1((word)&watched[1]);
	write_dr7(DR7_RESET | DR7_ENABLE(1, ON_WRITE, LEN_4));
	after = WATCHED("movl $1, %1", : "m"(watched[1]) : "memory");
	ok_event("write breakpoint", 0, after, 2);
	WATCHED("movl %1, %%eax", : "m"(watched[1]) : "rax");
	ok_equal("not on a read", nr_events, 0);
	after = WATCHED("movl $1, -2(%1)", : "r"(&watched[1]) : "memory");
	ok_event("a write that overlaps", 0, after, 2);
	WATCHED("movl $1, 4(%1)", : "r"(&watched[1]) : "memory");
	ok_equal("not behind its length", nr_events, 0);
	after = WATCHED("lock incb 3(%1)", : "r"(&watched[1]) : "memory");
	ok_event("a locked write", 0, after, 2);
	after = WATCHED("push %2; pop (%1)", : "r"(&watched[1]), "r"(0ul) : "memory");
	ok_event("POP to memory", 0, after, 2);
	write_dr7(DR7_RESET | DR7_ENABLE(1, ON_WRITE, LEN_8));
	after = WATCHED("movb $1, 7(%1)", : "r"(&watched[1]) : "memory");
	ok_event("8 bytes long", 0, after, 2);
	write_dr7(DR7_RESET | DR7_ENABLE(1, ON_ACCESS, LEN_4));
	after = WATCHED("movl %1, %%eax", : "m"(watched[1]) : "rax");
	ok_event("access breakpoint on a read", 0, after, 2);
	after = WATCHED("cmpl $0, %1", : "m"(watched[1]) : "cc");
	ok_event("on CMP", 0, after, 2);
	source = (word)SEL_DATA;
	watched[1] = source;
	after = WATCHED("movw %1, %%ss; nop", : "m"(watched[1]) : "memory");
	ok_event("MOV SS holds a data breakpoint back", 0, after, 2);
	write_dr7(DR7_RESET | DR7_ENABLE(1, ON_WRITE, LEN_1));
	after = WATCHED("rep stosb", : "D"(&watched[0]), "c"(16), "a"(0) : "memory");
	ok("REP STOS over it", nr_events == 1 && (events[0].dr6 & 15) == 2);
	write_dr7(0);
	WATCHED("movl $1, %1", : "m"(watched[1]) : "memory");
	ok_equal("not when disabled", nr_events, 0);
}

static void test_io(void)
{
	word after, cr4 = read_cr4();

	write_cr4(cr4 | CR4_DE);
	write_dr2(0x80);
	write_dr7(DR7_RESET | DR7_ENABLE(2, ON_IO, LEN_1));
	after = WATCHED("outb %%al, $0x80", : : "memory");
	ok_event("I/O breakpoint on OUT", 0, after, 4);
	after = WATCHED("inb $0x80, %%al", : : "rax");
	ok_event("on IN", 0, after, 4);
	WATCHED("outb %%al, $0x84", : : "memory");
	ok_equal("not on another port", nr_events, 0);
	write_dr7(0);
	TRAPS("DR4 with CR4.DE raises #UD", EXC_UD, 0, "mov %%dr4, %%rax", : : : "rax");
	write_cr4(cr4 & ~CR4_DE);
	__asm__ volatile("mov %%dr5, %0" : "=r"(after));
	ok_equal("DR5 is DR7 without", after, DR7_RESET);
	write_cr4(cr4);
}

static void test_registers(void)
{
	start();
	write_dr7(DR7_RESET | DR7_GD);
	read_dr0();
	ok_equal("general detect", events[0].dr6 & DR6_EVENT, DR6_BD);
	ok_equal("once: GD is cleared", nr_events, 1);
	ok_equal("DR7 after it", read_dr7(), DR7_RESET);
	trap_hook = NULL;
	TRAPS("DR6 above 32 bits raises #GP", EXC_GP, 0, "mov %0, %%dr6", : : "r"(1ul << 32));
	TRAPS("DR7 above 32 bits raises #GP", EXC_GP, 0, "mov %0, %%dr7", : : "r"(1ul << 32));
	USER_TRAPS("MOV DR at CPL 3 raises #GP", EXC_GP, 0, "mov %%dr0, %%rax", : : : "rax");
	TRY_USER("pushf; orl $0x100, (%%rsp); popf; nop; nop", : : : "memory");
	ok_trap("single step at CPL 3", EXC_DB, 0);
	write_dr6(DR6_RESET);
	write_dr0(~0ul << 47);
	ok_equal("DR0 takes any address", read_dr0(), ~0ul << 47);
}

void guest_run(void)
{
	trap_hook = take_event;
	test_step();
	test_step_faults();
	test_exec();
	test_data();
	test_io();
	test_registers();
}

/*
 * Hardware tasks (SDM 3A chapter 7): switches by JMP, CALL, IRET and task gates; busy bits, links,
 * NT, CR0.TS; what is refused and in which task.
 */
#include "guest.h"

enum { SEL_TASK = SEL_FREE, SEL_TASK_GATE = SEL_FREE + 8, SEL_SHORT = SEL_FREE + 16 };
#define TSS_FREE 0x89
#define TSS_BUSY 0x8b

static struct tss task;
static uint8_t task_stack[4096] __attribute__((aligned(16)));

/* What the task saw. */
static struct {
	uint32_t runs, flags, esp, top, eax, tr, cr0, link;
} seen;

/* The task: notes its state, then leaves as `leave` says, and starts over when entered again. */
void task_body(uint32_t top);

void task_body(uint32_t top)
{
	word tr;

	seen.runs++;
	seen.flags = read_flags();
	seen.top = top;
	seen.cr0 = read_cr0();
	__asm__ volatile("str %0" : "=r"(tr));
	seen.tr = tr;
	seen.link = task.link & 0xffff;
}

extern void task_entry(void);
__asm__("task_entry:\n"
        "mov %eax, seen_eax; mov %esp, seen_esp\n"
        "push (%esp)\n call task_body\n add $4, %esp\n"
        "cmpl $0, leave_by\n jne 1f\n iretl\n jmp task_entry\n"
        "1: ljmp $0x100, $0\n jmp task_entry");
uint32_t seen_eax, seen_esp, leave_by;

static uint8_t *access_byte(unsigned sel)
{
	return (uint8_t *)&gdt[sel / 8] + 5;
}

static void reset_task(void)
{
	memset(&task, 0, sizeof(task));
	memset(&seen, 0, sizeof(seen));
	task.eip = (word)task_entry;
	task.eflags = 2;
	task.eax = 0x12345678;
	task.esp = (word)task_stack + sizeof(task_stack) - 64;
	task.cs = SEL_CODE32;
	task.ds = task.es = task.ss = SEL_DATA;
	task.iomap_base = sizeof(task);
	gdt[SEL_TASK / 8] = descriptor((word)&task, sizeof(task) - 1, TSS_FREE, 0);
	gdt[SEL_TASK_GATE / 8] = (uint64_t)SEL_TASK << 16 | 0x85ull << 40;
	leave_by = 0;
	__asm__ volatile("clts");
}

static void ok_visit(const char *name, bool nested)
{
	ok(name, seen.runs == 1);
	ok_equal("  TR", seen.tr & 0xffff, SEL_TASK);
	ok_equal("  EAX from the TSS", seen_eax, 0x12345678);
	ok_equal("  NT", !!(seen.flags & FLAG_NT), nested);
	ok("  CR0.TS is set", seen.cr0 & CR0_TS);
	if (nested)
		ok_equal("  link", seen.link, SEL_TSS);
}

static void test_switches(void)
{
	word tr, flags;

	reset_task();
	TRAPS("CALL of a TSS returns", NO_TRAP, 0, "lcall %0, $0",
	      :
	      : "i"(SEL_TASK)
	      : "memory", "cc");
	ok_visit("the task ran", true);
	ok_equal("it is free again", *access_byte(SEL_TASK), TSS_FREE);
	ok_equal("we are busy", *access_byte(SEL_TSS), TSS_BUSY);
	__asm__ volatile("str %0" : "=r"(tr));
	ok_equal("TR", tr & 0xffff, SEL_TSS);
	ok_equal("its NT was cleared in the TSS", task.eflags & FLAG_NT, 0);
	ok_equal("its EIP is behind IRET", *(uint8_t *)(task.eip - 1), 0xcf);
	flags = read_flags();
	ok_equal("our NT", flags & FLAG_NT, 0);
	reset_task();
	leave_by = 1;
	TRAPS("JMP to a TSS and back", NO_TRAP, 0, "ljmp %0, $0",
	      :
	      : "i"(SEL_TASK)
	      : "memory", "cc");
	ok_visit("the task ran", false);
	ok_equal("it is free again", *access_byte(SEL_TASK), TSS_FREE);
	reset_task();
	TRAPS("CALL of a task gate", NO_TRAP, 0, "lcall %0, $0",
	      :
	      : "i"(SEL_TASK_GATE)
	      : "memory", "cc");
	ok_visit("the task ran", true);
	reset_task();
	gate_raw(0x60)[0] = gdt[SEL_TASK_GATE / 8] | 3ull << 45;
	TRAPS("INT through a task gate", NO_TRAP, 0, "int $0x60", : : : "memory", "cc");
	ok_visit("the task ran", true);
	reset_task();
	USER_TRAPS("INT through a task gate at CPL 3", NO_TRAP, 0, "int $0x60",
	           :
	           :
	           : "memory", "cc");
	ok_visit("the task ran", true);
	gate_default(0x60);
}

/* The handler's task skips the error code; it must also repair the cause, or the fault comes again.
 */
extern void fault_task_entry(void);
uint32_t fault_error, fault_ip;
__asm__("fault_task_entry:\n"
        "pop fault_error\n"
        "mov cpus_tss, %eax; mov 0x20(%eax), %ecx; mov %ecx, fault_ip\n"
        "addl $2, 0x20(%eax)\n" /* over the two bytes that faulted */
        "iretl");
uint32_t cpus_tss;

static void test_fault_gate(void)
{
	word at;

	reset_task();
	cpus_tss = (word)&this_cpu()->tss;
	task.eip = (word)fault_task_entry;
	gate_raw(EXC_GP)[0] = gdt[SEL_TASK_GATE / 8];
	TRAPS("#GP through a task gate", NO_TRAP, 0,
	      "lea 1f, %0; mov $0x1000, %%ecx; 1: mov %%ecx, %%es",
	      : "=&r"(at)
	      :
	      : "ecx", "memory");
	ok_equal("error code on its stack", fault_error, 0x1000);
	ok_equal("EIP of the fault in our TSS", fault_ip, at);
	gate_default(EXC_GP);
}

static void test_refused(void)
{
	reset_task();
	*access_byte(SEL_TASK) = TSS_BUSY;
	TRAPS("CALL of a busy TSS raises #GP(sel)", EXC_GP, SEL_TASK, "lcall %0, $0",
	      :
	      : "i"(SEL_TASK));
	*access_byte(SEL_TASK) = TSS_FREE & 0x7f;
	TRAPS("a TSS not present raises #NP(sel)", EXC_NP, SEL_TASK, "lcall %0, $0",
	      :
	      : "i"(SEL_TASK));
	*access_byte(SEL_TASK) = TSS_FREE;
	USER_TRAPS("a TSS of DPL 0 at CPL 3 raises #GP(sel)", EXC_GP, SEL_TASK, "lcall %0, $0",
	           :
	           : "i"(SEL_TASK | 3));
	gdt[SEL_SHORT / 8] = descriptor((word)&task, 0x66, TSS_FREE, 0);
	TRAPS("a TSS too short raises #TS(sel)", EXC_TS, SEL_SHORT, "lcall %0, $0",
	      :
	      : "i"(SEL_SHORT));
	this_cpu()->tss.link = SEL_TASK;
	TRAPS("IRET with NT and a free link raises #TS(sel)", EXC_TS, SEL_TASK,
	      "push $0x4002; popf; iretl",
	      :
	      :
	      : "memory", "cc");
	ok_equal("nothing ran", seen.runs, 0);
}

static bool take_debug(struct regs *r)
{
	if (r->vector != EXC_DB)
		return false;
	seen.link = read_dr6();
	write_dr6(0xffff0ff0);
	return true;
}

static void test_debug_flag(void)
{
	reset_task();
	task.trap = 1;
	leave_by = 1;
	trap_hook = take_debug;
	write_dr6(0xffff0ff0);
	TRAPS("a task with the T flag", NO_TRAP, 0, "ljmp %0, $0",
	      :
	      : "i"(SEL_TASK)
	      : "memory", "cc");
	trap_hook = NULL;
	ok_equal("ran", seen.runs, 1);
}

void guest_run(void)
{
	test_switches();
	test_fault_gate();
	test_refused();
	test_debug_flag();
}

/* Where an interrupt that waits gets in: after STI, POPF, MOV SS, IRET and HLT. */
#include "device.h"

#define VECTOR 0x60

static volatile word taken_at;
static volatile unsigned taken;

/* The code under test counts in BX, so its value says where the interrupt came. */
static bool on_interrupt(struct regs *r)
{
	if (r->vector != VECTOR)
		return false;
	taken++;
	taken_at = r->bx;
	apic_end(VECTOR);
	return true;
}

static void request(void)
{
	taken = 0;
	taken_at = 99;
	apic_send(0, ICR_SELF | ICR_ASSERT | VECTOR);
}

#define INC "inc %%ebx\n\t"
#define WINDOW(code)                                                           \
	do {                                                                   \
		request();                                                     \
		__asm__ volatile("xor %%ebx, %%ebx\n\t" code INC INC INC "cli" \
		                 :                                             \
		                 : "r"((uint64_t)SEL_DATA)                     \
		                 : "rbx", "rax", "memory", "cc");              \
	} while (0)

static void test_sti(void)
{
	WINDOW("sti\n\t");
	ok_equal("STI: after the next instruction", taken_at, 1);
	request();
	__asm__ volatile("sti; cli" : : : "memory");
	ok_equal("STI, CLI: no window", taken, 0);
	irq_window();
	ok_equal("STI, NOP: one", taken, 1);
	request();
	__asm__ volatile("sti; hlt; cli" : : : "memory");
	ok_equal("STI, HLT: does not sleep through it", taken, 1);
	/* Only the first STI of a row delays. */
	request();
	__asm__ volatile("xor %%ebx, %%ebx; sti; sti; inc %%ebx; inc %%ebx; cli"
	                 :
	                 :
	                 : "rbx", "memory", "cc");
	ok_equal("STI, STI: the second delays nothing", taken_at, 0);
}

static void test_mov_ss(void)
{
	WINDOW("sti\n\tmov %w0, %%ss\n\t");
	ok("MOV SS after STI", taken_at == 0 || taken_at == 1);
	WINDOW("push %q0\n\tpushfq\n\torq $0x200, (%%rsp)\n\tpopfq\n\tinc %%ebx\n\tpop %%rax\n\t");
	ok_equal("POPF: at once", taken_at, 0);
}

static void test_iret(void)
{
	WINDOW("mov %%rsp, %%rax\n\tpush %q0\n\tpush %%rax\n\tpushfq\n\torq $0x200, (%%rsp)\n\t"
	       "push $0x10\n\tpush $1f\n\tiretq\n1:\t");
	ok_equal("IRET: at once", taken_at, 0);
}

/* A trap in the shadow of STI ends it. */
static void test_trap(void)
{
	request();
	__asm__ volatile("xor %%ebx, %%ebx; sti; int $0x61; inc %%ebx; cli" : : : "rbx", "memory");
	ok("INT after STI", taken == 1 && taken_at == 0);
}

static bool on_any(struct regs *r)
{
	return on_interrupt(r) || r->vector == 0x61;
}

void guest_run(void)
{
	pic_disable();
	apic_enable();
	trap_hook = on_any;
	test_sti();
	test_mov_ss();
	test_iret();
	test_trap();
}

/* Every exception that code can raise in long mode: vector, error code, return address, priority.
 */
#include "guest.h"

static void ok_simple(const char *name, int vector)
{
	ok_trap(name, vector, 0);
}

static void test_faults(void)
{
	TRY("ud2");
	ok_simple("UD2 raises #UD", EXC_UD);
	TRY("xor %ecx, %ecx; div %ecx");
	ok_simple("DIV by zero raises #DE", EXC_DE);
}

static void test_user(void)
{
	TRY_USER("nop");
	ok_trap("user code runs to its end", NO_TRAP, 0);
	TRY_USER("hlt");
	ok_trap("HLT at CPL 3 raises #GP(0)", EXC_GP, 0);
	ok_equal("pushed CS has RPL 3", this_cpu()->trap.regs.cs, SEL_UCODE);
}

void guest_run(void)
{
	test_faults();
	test_user();
}

/* NMIs, which the CPU holds back from the start of the handler to its IRET. */
#include "device.h"

static struct {
	volatile unsigned count, depth, deepest;
	volatile bool nested_masked;
} seen;

static void send_nmi(void)
{
	apic_send(0, ICR_NMI | ICR_ASSERT);
}

/* A nested trap whose IRET ends the masking early (SDM 3A 6.7.1). */
static void nested_trap(void)
{
	__asm__ volatile("int $0x50" : : : "memory");
}

static bool on_trap(struct regs *r)
{
	if (r->vector == 0x50)
		return true;
	if (r->vector != EXC_NMI)
		return false;
	seen.count++;
	seen.depth++;
	if (seen.depth > seen.deepest)
		seen.deepest = seen.depth;
	if (seen.count == 1) {
		send_nmi();
		delay_us(1000);
		seen.nested_masked = seen.count == 1;
	} else if (seen.count == 3) {
		send_nmi();
		delay_us(1000);
		seen.nested_masked = seen.count == 3;
		nested_trap();
		WAIT_FOR(seen.count == 4, 1000);
	}
	seen.depth--;
	return true;
}

void guest_run(void)
{
	pic_disable();
	apic_enable();
	trap_hook = on_trap;
	send_nmi();
	ok("an NMI from the ICR comes with interrupts off", WAIT_FOR(seen.count, 1000));
	ok("another is held back in its handler", seen.nested_masked);
	ok("and comes after the IRET", WAIT_FOR(seen.count == 2, 1000));
	ok_equal("not nested", seen.deepest, 1);
	seen.nested_masked = false;
	send_nmi();
	ok("the IRET of a nested trap unmasks", WAIT_FOR(seen.count == 4, 1000));
	ok("held back until then", seen.nested_masked);
	ok_equal("nested", seen.deepest, 2);
	ok("no more", !WAIT_FOR(seen.count > 4, 10));
}

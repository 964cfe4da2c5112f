/*
 * Delivery of events in long mode: interrupt and trap gates, NMI and its mask until IRET,
 * priorities between an interrupt, an NMI and a single step (SDM 3A 6.7, 6.9), and SMAP against the
 * accesses that the CPU makes itself.
 */
#include "paging.h"

#define APIC(reg)     (*(volatile uint32_t *)(0xfee00000ul + (reg)))
#define APIC_EOI      0xb0
#define APIC_SVR      0xf0
#define APIC_ICR      0x300
#define APIC_ICR_HIGH 0x310
#define ICR_SELF      0x40000u
#define ICR_NMI       0x400u

static struct {
	word vector, ip, flags;
} log[8];
static unsigned nr_log, depth, deepest;
static bool nmi_again;

static void send_self(uint32_t what)
{
	APIC(APIC_ICR) = ICR_SELF | what;
	/* Give it a few instructions to arrive. */
	for (unsigned n = 0; n < 100; n++)
		__asm__ volatile("pause");
}

static bool take(struct regs *r)
{
	if (r->vector != EXC_NMI && r->vector < 0x50 && r->vector != EXC_DB)
		return false;
	if (nr_log < 8) {
		log[nr_log].vector = r->vector;
		log[nr_log].ip = r->ip;
		log[nr_log++].flags = r->flags;
	}
	depth++;
	deepest = depth > deepest ? depth : deepest;
	if (r->vector == EXC_NMI && nmi_again) {
		nmi_again = false;
		send_self(ICR_NMI);
	}
	if (r->vector >= 0x50)
		APIC(APIC_EOI) = 0;
	if (r->vector == EXC_DB)
		r->flags &= ~FLAG_TF;
	depth--;
	return true;
}

static void start(void)
{
	nr_log = deepest = 0;
}

static void test_gates(void)
{
	TRY("sti; int $0x44");
	ok("INT pushes IF", this_cpu()->trap.regs.flags & FLAG_IF);
	start();
	send_self(0x51);
	ok_equal("nothing while IF is clear", nr_log, 0);
	__asm__ volatile("sti; nop; nop; cli");
	ok_equal("then it comes", nr_log, 1);
	ok_equal("  vector", log[0].vector, 0x51);
	start();
	send_self(0x61);
	send_self(0x71);
	__asm__ volatile("sti; nop; nop; nop; cli");
	ok_equal("two at once", nr_log, 2);
	ok_equal("  the higher first", log[0].vector, 0x71);
	ok_equal("  the lower after it", log[1].vector, 0x61);
}

static void test_nmi(void)
{
	start();
	send_self(ICR_NMI);
	ok_equal("NMI comes with IF clear", nr_log, 1);
	ok_equal("  vector", log[0].vector, EXC_NMI);
	start();
	nmi_again = true;
	send_self(ICR_NMI);
	ok_equal("NMI during NMI: both come", nr_log, 2);
	ok_equal("  not one in the other", deepest, 1);
	ok_equal("  the second behind the first's IRET", log[1].ip, log[0].ip);
	start();
	send_self(0x51);
	__asm__ volatile("sti; nop; nop; cli");
	send_self(ICR_NMI);
	ok_equal("interrupt, then NMI", nr_log, 2);
}

static void test_step_and_interrupt(void)
{
	word at;

	start();
	write_dr6(0xffff0ff0);
	send_self(0x51);
	/* After the instruction behind STI both are due: the trap goes first, its handler is
	 * interrupted. */
	__asm__ volatile("lea 1f(%%rip), %0; pushf; orl $0x300, (%%rsp); popf; 1: nop; nop; cli"
	                 : "=&r"(at)
	                 :
	                 : "memory", "cc");
	ok("single step and interrupt both come", nr_log >= 2);
	write_flags(2);
}

static void test_smap(void)
{
	uint64_t *directories = (uint64_t *)(*page_entry(boot_pml4, 0, 3) & PTE_ADDRESS);
	uint64_t *copy = page_alloc();
	struct {
		uint16_t limit;
		word base;
	} __attribute__((packed)) there = { 0x1fff, TEST_AREA };

	if (!(cpuid(7, 0).b & 1 << 20))
		return;
	for (unsigned n = 0; n < 2048; n++)
		directories[n] &= ~PTE_U;
	/* A GDT of two pages, the second a user's. */
	memcpy(copy, gdt, sizeof(gdt));
	map_page(TEST_AREA, (uintptr_t)copy | PTE_P | PTE_W);
	copy = page_alloc();
	*copy = gdt[SEL_DATA / 8];
	map_page(TEST_AREA + 0x1000, (uintptr_t)copy | PTE_P | PTE_W | PTE_U);
	flush_all();
	write_cr4(read_cr4() | CR4_SMAP);
	TRAPS("SMAP: explicit access", EXC_PF, PF_P, "movb (%0), %%al",
	      :
	      : "r"(TEST_AREA + 0x1000)
	      : "rax");
	TRAPS("with AC", NO_TRAP, 0, "stac; movb (%0), %%al; clac",
	      :
	      : "r"(TEST_AREA + 0x1000)
	      : "rax");
	__asm__ volatile("lgdt %0" : : "m"(there));
	TRY("stac; mov %0, %%fs; clac", : : "r"(0x1000));
	gdt_load();
	ok_trap("an implicit one, whatever AC", EXC_PF, PF_P);
	USER_TRAPS("STAC at CPL 3 cannot even be fetched here", EXC_PF, PF_P | PF_USER, "stac");
	write_cr4(read_cr4() & ~CR4_SMAP);
}

void guest_run(void)
{
	/* The firmware's PICs stay silent. */
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
	APIC(APIC_SVR) = 0x1ff;
	APIC(0x80) = 0;
	APIC(APIC_ICR_HIGH) = 0;
	trap_hook = take;
	test_gates();
	test_nmi();
	test_step_and_interrupt();
	trap_hook = NULL;
	test_smap();
}

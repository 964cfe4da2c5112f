/*
 * Virtual-8086 mode (SDM 3A chapter 20): addresses, IOPL-sensitive instructions, I/O permission,
 * interrupts to the monitor, and CR4.VME: virtual IF and redirected INT n.
 */
#include "guest.h"

#define CODE ((uint8_t *)0x20000) /* segment 0x2000 */
#define DATA ((uint8_t *)0x30000)
#define IVT  ((volatile uint32_t *)0)

/* Runs n bytes of 16-bit code; it ends with any trap. */
static int run(const void *code, unsigned n, word flags)
{
	memcpy(CODE, code, n);
	memcpy(CODE + n, (uint8_t[]){ 0x0f, 0x0b }, 2);
	return TRY("push $0x5000; push $0x4000; push $0x3000; push $0x3000; push $0x3000; push "
	           "$0x1000\n"
	           "push %0; push $0x2000; push $0; iretl",
	           :
	           : "r"(flags | FLAG_VM | 2), "a"(0x11112222), "b"(0), "c"(0), "d"(0)
	           : "memory");
}

#define RUN(flags, ...) run((uint8_t[]){ __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }), flags)
#define IOPL3           FLAG_IOPL

static const struct trap *last(void)
{
	return &this_cpu()->trap;
}

static void test_basics(void)
{
	DATA[5] = 0x77;
	RUN(0, 0xa0, 5, 0); /* mov al, [5] */
	ok_trap("16-bit code runs to UD2", EXC_UD, 0);
	ok_equal("DS is a paragraph", last()->regs.ax & 0xff, 0x77);
	ok("VM is in the pushed flags", last()->regs.flags & FLAG_VM);
	ok_equal("CS", last()->regs.cs & 0xffff, 0x2000);
	ok_equal("IP", last()->regs.ip, 3);
	ok_equal("DS was saved and is null now", last()->regs.ds & 0xffff, 0);
	RUN(0, 0x8c, 0xd8); /* mov ax, ds */
	ok_equal("DS reads as it is", last()->regs.ax & 0xffff, 0x3000);
	RUN(0, 0xb8, 0x34, 0x12, 0x50, 0x58, 0x89, 0xe3); /* mov ax, 1234; push; pop; mov bx, sp */
	ok_equal("stack", last()->regs.bx & 0xffff, 0x1000);
	RUN(0, 0x67, 0xa1, 0, 0, 1, 0); /* mov ax, [0x10000] */
	ok_trap("beyond 64 KiB raises #GP(0)", EXC_GP, 0);
	RUN(0, 0xa1, 0xff, 0xff); /* mov ax, [0xffff] */
	ok_trap("a word across 64 KiB raises #GP(0)", EXC_GP, 0);
	RUN(0, 0xf4);
	ok_trap("HLT raises #GP(0)", EXC_GP, 0);
	RUN(IOPL3, 0x0f, 0x00, 0xd0);
	ok_trap("LLDT raises #UD", EXC_UD, 0);
	ok_equal("at LLDT", last()->regs.ip, 0);
	RUN(0, 0x0f, 0x01, 0xe0, 0x0f, 0x20, 0xc0); /* smsw ax; mov eax, cr0 */
	ok_trap("MOV from CR0 raises #GP(0)", EXC_GP, 0);
	ok_equal("SMSW does not", last()->regs.ip, 3);
	RUN(0, 0xb8, 0, 0x30, 0x8e, 0xc0, 0x26, 0xa0, 5, 0); /* mov es, 0x3000; mov al, es:[5] */
	ok_equal("loading ES", last()->regs.ax & 0xff, 0x77);
}

static void test_iopl(void)
{
	static const struct {
		const char *name;
		uint8_t code[3];
	} sensitive[] = {
		{ "CLI", { 0xfa, 0x90, 0x90 } },   { "STI", { 0xfb, 0x90, 0x90 } },
		{ "PUSHF", { 0x9c, 0x58, 0x90 } }, { "POPF", { 0x50, 0x9d, 0x90 } },
		{ "IRET", { 0x90, 0x90, 0xcf } },
	};

	for (unsigned n = 0; n < sizeof(sensitive) / sizeof(*sensitive); n++) {
		note(sensitive[n].name);
		run(sensitive[n].code, 3, 0);
		ok_trap("raises #GP(0) with IOPL 0", EXC_GP, 0);
		if (n == 4)
			continue;
		run(sensitive[n].code, 3, IOPL3);
		ok_trap("runs with IOPL 3", EXC_UD, 0);
	}
	RUN(0, 0xcd, 0x44);
	ok_trap("INT n with IOPL 0 raises #GP(0)", EXC_GP, 0);
	gate_set_dpl(0x44, 3);
	RUN(IOPL3, 0xcd, 0x44);
	ok_trap("INT n with IOPL 3 goes to the monitor", 0x44, 0);
	gate_default(0x44);
	RUN(IOPL3, 0xcd, 0x44);
	ok_trap("if its gate has DPL 3", EXC_GP, 0x44 * 8 + 2);
	RUN(0, 0xcc);
	ok_trap("INT3 goes with any IOPL", EXC_BP, 0);
	RUN(0, 0xe4, 0x80);
	ok_trap("IN of an allowed port", EXC_UD, 0);
	this_cpu()->tss.iomap[0x80 / 8] = 1;
	RUN(IOPL3, 0xe4, 0x80);
	ok_trap("IN of a forbidden port, whatever IOPL", EXC_GP, 0);
	this_cpu()->tss.iomap[0x80 / 8] = 0;
}

/* With VME the 32 bytes before the I/O bitmap say which INT n stay in virtual-8086 mode. */
static struct {
	struct tss tss;
	uint8_t more[64];
} vme;

static void use_vme_tss(void)
{
	struct cpu *c = this_cpu();

	vme.tss = c->tss;
	vme.tss.iomap_base = sizeof(struct tss) + 32;
	memset(vme.more, 0, sizeof(vme.more));
	memset((uint8_t *)&vme + sizeof(struct tss), 0, 32);
	vme.more[63] = 0xff;
	gdt[(SEL_TSS + 16) / 8] = descriptor((word)&vme, sizeof(vme) - 1, 0x89, 0);
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS + 16));
}

static void test_vme(void)
{
	/* IVT 0x44: 2000:0100, pushf; pop bx; mov cx, 0x55; iret */
	static const uint8_t handler[] = { 0x9c, 0x5b, 0xb9, 0x55, 0, 0xcf };

	if (!(cpuid(1, 0).d & 2)) {
		note("no VME");
		return;
	}
	use_vme_tss();
	write_cr4(read_cr4() | CR4_VME);
	IVT[0x44] = 0x20000100;
	memcpy(CODE + 0x100, handler, sizeof(handler));
	RUN(FLAG_VIF, 0xcd, 0x44, 0x89, 0xe2); /* int 44; mov dx, sp */
	ok_trap("INT n stays inside", EXC_UD, 0);
	ok_equal("its handler ran", last()->regs.cx & 0xffff, 0x55);
	ok_equal("it returned", last()->regs.ip, 4);
	ok_equal("the stack is even", last()->regs.dx & 0xffff, 0x1000);
	ok_equal("VIF was clear in it", last()->regs.bx & FLAG_IF, 0);
	ok("and is set again", last()->regs.flags & FLAG_VIF);
	ok("IF itself was never touched", !(last()->regs.flags & FLAG_IF));
	RUN(FLAG_VIF, 0xfa);
	ok("CLI clears VIF", last()->vector == EXC_UD && !(last()->regs.flags & FLAG_VIF));
	RUN(0, 0xfb);
	ok("STI sets VIF", last()->vector == EXC_UD && last()->regs.flags & FLAG_VIF);
	RUN(FLAG_VIP, 0xfb);
	ok_trap("STI with VIP raises #GP(0)", EXC_GP, 0);
	RUN(FLAG_VIF, 0x9c, 0x58); /* pushf; pop ax */
	ok_equal("PUSHF shows VIF as IF and IOPL 3", last()->regs.ax & (FLAG_IF | FLAG_IOPL),
	         FLAG_IF | FLAG_IOPL);
	RUN(0, 0xb8, 2, 2, 0x50, 0x9d); /* mov ax, 0202; push ax; popf */
	ok("POPF sets VIF", last()->vector == EXC_UD && last()->regs.flags & FLAG_VIF);
	RUN(FLAG_VIP, 0xb8, 2, 2, 0x50, 0x9d);
	ok_trap("POPF with VIP raises #GP(0)", EXC_GP, 0);
	RUN(0, 0xb8, 2, 1, 0x50, 0x9d);
	ok_trap("POPF with TF raises #GP(0)", EXC_GP, 0);
	RUN(0, 0x66, 0x9c);
	ok_trap("PUSHFD raises #GP(0)", EXC_GP, 0);
	*((uint8_t *)&vme + vme.tss.iomap_base - 32 + 0x44 / 8) = 1 << (0x44 % 8);
	RUN(0, 0xcd, 0x44);
	ok_trap("INT n with its redirection bit raises #GP(0)", EXC_GP, 0);
	write_cr4(read_cr4() & ~CR4_VME);
}

void guest_run(void)
{
	/* The firmware's PICs stay silent when IF is set. */
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
	test_basics();
	test_iopl();
	test_vme();
}

/*
 * Segmentation in 32-bit protected mode (SDM 3A chapters 3 and 5): limits, types, privileges, call
 * gates, conforming code, 16-bit segments; and the exceptions that only 32-bit code can raise.
 */
#include "guest.h"

enum { SEL_A = SEL_FREE, SEL_B = SEL_FREE + 8, SEL_GATE = SEL_FREE + 16 };

/* Access bytes, present, DPL 0. */
#define RO_DATA    0x91
#define RW_DATA    0x93
#define RW_DOWN    0x97
#define EXEC_ONLY  0x99
#define EXEC_READ  0x9b
#define CONFORMING 0x9f
#define DPL(n)     ((n) << 5)
#define FLAG_B     4
#define FLAG_G     8

static uint8_t buffer[0x10000] __attribute__((aligned(4096)));

static void set(unsigned sel, uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	gdt[sel / 8] = descriptor(base, limit, access, flags);
}

static int load_es(unsigned sel)
{
	return TRY("mov %0, %%es", : : "r"(sel));
}

static int read_es(uint32_t off)
{
	return TRY("movb %%es:(%0), %%al", : : "r"(off) : "eax");
}

static int read_es_dword(uint32_t off)
{
	return TRY("movl %%es:(%0), %%eax", : : "r"(off) : "eax");
}

static int write_es(uint32_t off)
{
	return TRY("movb $0, %%es:(%0)", : : "r"(off) : "memory");
}

/* After a TRY that faulted ES is the kernel's again. */
#define WITH_ES(sel, access) (load_es(sel) == NO_TRAP ? (access) : -2)

static void test_limits(void)
{
	set(SEL_A, (word)buffer, 0xff, RW_DATA, FLAG_B);
	buffer[0xff] = 0x5a;
	ok("last byte", WITH_ES(SEL_A, read_es(0xff)) == NO_TRAP);
	ok("behind the limit", WITH_ES(SEL_A, read_es(0x100)) == EXC_GP);
	ok_equal("error code 0", this_cpu()->trap.regs.error, 0);
	ok("dword that ends at the limit", WITH_ES(SEL_A, read_es_dword(0xfc)) == NO_TRAP);
	ok("dword that crosses it", WITH_ES(SEL_A, read_es_dword(0xfd)) == EXC_GP);
	ok("dword that wraps", WITH_ES(SEL_A, read_es_dword(0xfffffffe)) == EXC_GP);
	set(SEL_A, (word)buffer, 1, RW_DATA, FLAG_B | FLAG_G);
	ok("pages: last byte", WITH_ES(SEL_A, read_es(0x1fff)) == NO_TRAP);
	ok("pages: behind", WITH_ES(SEL_A, read_es(0x2000)) == EXC_GP);
	set(SEL_A, (word)buffer, 0xff, RW_DOWN, FLAG_B);
	ok("expand-down: at the limit", WITH_ES(SEL_A, read_es(0xff)) == EXC_GP);
	ok("expand-down: above", WITH_ES(SEL_A, read_es(0x100)) == NO_TRAP);
	ok("expand-down: above 64 KiB", WITH_ES(SEL_A, read_es(0x10000)) == NO_TRAP);
	set(SEL_A, (word)buffer, 0xff, RW_DOWN, 0);
	ok("16-bit expand-down: at 64 KiB", WITH_ES(SEL_A, read_es(0x10000)) == EXC_GP);
	ok("16-bit expand-down: last byte", WITH_ES(SEL_A, read_es(0xffff)) == NO_TRAP);
	ok("16-bit expand-down: dword across", WITH_ES(SEL_A, read_es_dword(0xfffd)) == EXC_GP);
	set(SEL_A, 0xfffff000, 0xfffff, RW_DATA, FLAG_B | FLAG_G);
	ok("base plus offset wraps at 4 GiB",
	   WITH_ES(SEL_A, read_es((word)buffer + 0x1000)) == NO_TRAP);
	set(SEL_A, (word)buffer, 0xff, RW_DATA, FLAG_B);
	/* At CPL 3, so that the exception has a stack to go to. */
	set(SEL_A, (word)buffer, 0xff, RW_DATA | DPL(3), FLAG_B);
	USER_TRAPS("behind the limit of SS", EXC_SS, 0, "mov %0, %%ss; movb %%ss:0x100, %%al",
	           :
	           : "r"(SEL_A | 3)
	           : "eax");
	USER_TRAPS("PUSH below the limit of SS", EXC_SS, 0,
	           "mov %0, %%ss; mov $2, %%esp; push %%eax",
	           :
	           : "r"(SEL_A | 3));
}

static void test_types(void)
{
	set(SEL_A, (word)buffer, 0xfff, RO_DATA & ~1, FLAG_B);
	ok("read-only data: read", WITH_ES(SEL_A, read_es(0)) == NO_TRAP);
	ok("the accessed bit is set", gdt[SEL_A / 8] >> 40 & 1);
	ok("read-only data: write", WITH_ES(SEL_A, write_es(0)) == EXC_GP);
	set(SEL_A, (word)buffer, 0xfff, EXEC_READ, FLAG_B);
	ok("readable code: read", WITH_ES(SEL_A, read_es(0)) == NO_TRAP);
	ok("readable code: write", WITH_ES(SEL_A, write_es(0)) == EXC_GP);
	set(SEL_A, (word)buffer, 0xfff, EXEC_ONLY, FLAG_B);
	TRAPS("execute-only code in ES", EXC_GP, SEL_A, "mov %0, %%es", : : "r"(SEL_A));
	TRAPS("a TSS in ES", EXC_GP, SEL_TSS, "mov %0, %%es", : : "r"(SEL_TSS));
	TRAPS("write through CS", EXC_GP, 0, "movb $0, %%cs:(%0)", : : "r"(buffer) : "memory");
	ok("null in ES", load_es(3) == NO_TRAP);
	TRAPS("and use of it", EXC_GP, 0, "mov %0, %%es; movb %%es:0, %%al", : : "r"(0) : "eax");
	TRAPS("null in SS", EXC_GP, 0, "mov %0, %%ss", : : "r"(0));
	set(SEL_A, (word)buffer, 0xfff, RO_DATA, FLAG_B);
	TRAPS("read-only data in SS", EXC_GP, SEL_A, "mov %0, %%ss", : : "r"(SEL_A));
	TRAPS("SS of another DPL", EXC_GP, SEL_UDATA & ~3, "mov %0, %%ss", : : "r"(SEL_UDATA & ~3));
	TRAPS("DPL 0 with RPL 3", EXC_GP, SEL_DATA, "mov %0, %%es", : : "r"(SEL_DATA | 3));
	set(SEL_A, (word)buffer, 0xfff, CONFORMING, FLAG_B);
	ok("conforming readable code at RPL 3", load_es(SEL_A | 3) == NO_TRAP);
	USER_TRAPS("DPL 0 data at CPL 3", EXC_GP, SEL_DATA, "mov %0, %%es", : : "r"(SEL_DATA));
	__asm__ volatile("mov %0, %%es" : : "r"(SEL_DATA));
}

static void test_verify(void)
{
	word v;
	bool zf;

	set(SEL_A, 0x12345, 0x6789a, RO_DATA | DPL(3), FLAG_B | FLAG_G);
	__asm__("lar %2, %0" : "=r"(v), "=@ccz"(zf) : "r"(SEL_A), "0"(0));
	ok("LAR of data", zf && (v & 0xf0ff00) == 0xc0f100);
	__asm__("lsl %2, %0" : "=r"(v), "=@ccz"(zf) : "r"(SEL_A), "0"(0));
	ok("LSL in pages", zf && v == 0x6789afff);
	__asm__("verr %w1" : "=@ccz"(zf) : "r"(SEL_A));
	ok("VERR", zf);
	__asm__("verw %w1" : "=@ccz"(zf) : "r"(SEL_A));
	ok("VERW of read-only data", !zf);
	__asm__("lar %2, %0" : "=r"(v), "=@ccz"(zf) : "r"(SEL_TSS), "0"(0));
	ok("LAR of a busy TSS", zf && (v & 0xff00) == 0x8b00);
	set(SEL_B, 0, 0, 0x8e, 0);
	__asm__("lar %2, %0" : "=r"(v), "=@ccz"(zf) : "r"(SEL_B), "0"(7));
	ok("LAR of an interrupt gate", !zf && v == 7);
	set(SEL_B, 0, 0, 0x8c, 0);
	__asm__("lsl %2, %0" : "=r"(v), "=@ccz"(zf) : "r"(SEL_B), "0"(7));
	ok("LSL of a call gate", !zf && v == 7);
	__asm__("lar %2, %0" : "=r"(v), "=@ccz"(zf) : "r"(SEL_B), "0"(0));
	ok("LAR of a call gate", zf && v == 0x8c00);
	__asm__("lar %2, %0" : "=r"(v), "=@ccz"(zf) : "r"(0), "0"(7));
	ok("LAR of null", !zf);
	__asm__("lar %2, %0" : "=r"(v), "=@ccz"(zf) : "r"(0x1000), "0"(7));
	ok("LAR beyond the GDT", !zf);
	__asm__("lar %2, %0" : "=r"(v), "=@ccz"(zf) : "r"(SEL_DATA | 3), "0"(7));
	ok("LAR of DPL 0 with RPL 3", !zf);
	set(SEL_A, 0, 0, CONFORMING, FLAG_B);
	__asm__("verr %w1" : "=@ccz"(zf) : "r"(SEL_A | 3));
	ok("VERR of conforming code with RPL 3", zf);
	v = SEL_DATA;
	__asm__("arpl %w2, %w0" : "+r"(v), "=@ccz"(zf) : "r"(3));
	ok("ARPL raises RPL", zf && v == (SEL_DATA | 3));
	__asm__("arpl %w2, %w0" : "+r"(v), "=@ccz"(zf) : "r"(1));
	ok("ARPL does not lower it", !zf && v == (SEL_DATA | 3));
}

static void set_gate(void (*to)(void), unsigned sel, unsigned dpl, unsigned params, bool present)
{
	gdt[SEL_GATE / 8] = ((word)to & 0xffff) | sel << 16 | (uint64_t)params << 32 |
	                    (uint64_t)(0x0c | dpl << 5 | (present ? 0x80 : 0)) << 40 |
	                    (uint64_t)((word)to >> 16) << 48;
}

extern void gate_entry(void);
uint32_t gate_cs, gate_ss, gate_esp, gate_param[2], gate_caller_cs;
__asm__("gate_entry:\n"
        "mov %cs, %ss:gate_cs\n mov %ss, %ss:gate_ss\n mov %esp, %ss:gate_esp\n"
        "mov 4(%esp), %eax; mov %eax, %ss:gate_caller_cs\n"
        "mov 8(%esp), %eax; mov %eax, %ss:gate_param\n"
        "mov 12(%esp), %eax; mov %eax, %ss:gate_param + 4\n"
        "lret $8");

static void test_call_gate(void)
{
	uint32_t before, after;

	set_gate(gate_entry, SEL_CODE32, 3, 2, true);
	TRY_USER("mov %%esp, %0; push $0x1111; push $0x2222; lcall %2, $0; mov %%esp, %1; mov "
	         "%%cs, %%ecx; "
	         "test $3, %%cl; jnz 1f; ud2; 1:",
	         : "=&r"(before), "=&r"(after)
	         : "i"(SEL_GATE | 3)
	         : "eax", "ecx", "memory", "cc");
	ok_trap("call gate from CPL 3 and back", NO_TRAP, 0);
	ok_equal("entered at CPL 0", gate_cs & 0xffff, SEL_CODE32);
	ok_equal("on SS0", gate_ss & 0xffff, SEL_DATA);
	ok_equal("at ESP0", gate_esp, this_cpu()->tss.esp0 - 24);
	ok_equal("last parameter first", gate_param[0], 0x2222);
	ok_equal("then the other", gate_param[1], 0x1111);
	ok_equal("CS of the caller", gate_caller_cs & 0xffff, SEL_UCODE32);
	ok_equal("RETF n takes the parameters from both stacks", after, before);
	set_gate(gate_entry, SEL_CODE32, 0, 0, true);
	TRY("mov %%esp, %0; push $0x3333; push $0x4444; lcall %2, $0; mov %%esp, %1",
	    : "=&r"(before), "=&r"(after)
	    : "i"(SEL_GATE)
	    : "eax", "memory");
	ok_trap("call gate at the same CPL", NO_TRAP, 0);
	ok_equal("stays on its stack", after, before);
	ok_equal("with the parameters there", gate_param[0], 0x4444);
	USER_TRAPS("gate of DPL 0 at CPL 3", EXC_GP, SEL_GATE, "lcall %0, $0",
	           :
	           : "i"(SEL_GATE | 3));
	USER_TRAPS("jump through a gate to inner code", EXC_GP, SEL_GATE, "ljmp %0, $0",
	           :
	           : "i"(SEL_GATE | 3));
	set_gate(gate_entry, SEL_CODE32, 3, 0, false);
	TRAPS("gate not present", EXC_NP, SEL_GATE, "lcall %0, $0", : : "i"(SEL_GATE));
	set_gate(gate_entry, SEL_DATA, 3, 0, true);
	TRAPS("gate to data", EXC_GP, SEL_DATA, "lcall %0, $0", : : "i"(SEL_GATE));
	set_gate(gate_entry, 0, 3, 0, true);
	TRAPS("gate to null", EXC_GP, 0, "lcall %0, $0", : : "i"(SEL_GATE));
	set(SEL_B, 0, 0xfffff, EXEC_READ | DPL(1), FLAG_B | FLAG_G);
	set_gate(gate_entry, SEL_B, 3, 0, true);
	this_cpu()->tss.ss1 = SEL_DATA;
	this_cpu()->tss.esp1 = (word)buffer + sizeof(buffer);
	USER_TRAPS("SS1 of the wrong DPL raises #TS(sel)", EXC_TS, SEL_DATA, "lcall %0, $0",
	           :
	           : "i"(SEL_GATE | 3));
}

static void test_transfers(void)
{
	TRAPS("far jump to data", EXC_GP, SEL_DATA, "ljmp %0, $0", : : "i"(SEL_DATA));
	TRAPS("far jump to null", EXC_GP, 0, "ljmp $3, $0");
	USER_TRAPS("far jump to inner code", EXC_GP, SEL_CODE32, "ljmp %0, $1f; 1:",
	           :
	           : "i"(SEL_CODE32));
	set(SEL_A, 0, 0xfffff, CONFORMING, FLAG_B | FLAG_G);
	TRY_USER("ljmp %0, $1f; 1: mov %%cs, %%eax; cmp $(%c0 + 3), %%ax; je 2f; ud2; 2:",
	         :
	         : "i"(SEL_A)
	         : "eax", "cc");
	ok_trap("conforming code runs at CPL 3", NO_TRAP, 0);
	set(SEL_A, 0, 0x10, EXEC_READ, FLAG_B);
	TRAPS("target behind the limit of CS", EXC_GP, 0, "ljmp %0, $0x11", : : "i"(SEL_A));
	set(SEL_A, (word)buffer, 0xffff, EXEC_READ, 0);
	memcpy(buffer, (uint8_t[]){ 0xb8, 0x34, 0x12, 0x05, 0x01, 0x00, 0xcd, VECTOR_DONE }, 8);
	TRAPS("16-bit code", NO_TRAP, 0, "xor %%eax, %%eax; ljmp %0, $0", : : "i"(SEL_A) : "eax");
	ok_equal("has 16-bit operands", this_cpu()->trap.regs.ax, 0x1235);
	memcpy(buffer + 4, (uint8_t[]){ 0x0f, 0x0b }, 2);
	set(SEL_A, (word)buffer, 0x5, EXEC_READ, FLAG_B);
	memcpy(buffer, (uint8_t[]){ 0x90, 0x90, 0x90, 0xb8, 0, 0, 0, 0 }, 8);
	TRAPS("instruction across the limit of CS", EXC_GP, 0, "ljmp %0, $0", : : "i"(SEL_A));
	ok_equal("at its start", this_cpu()->trap.regs.ip, 3);
	set(SEL_B, (word)buffer, 0xffff, RW_DATA | DPL(3), 0);
	USER_TRAPS("16-bit stack", NO_TRAP, 0,
	           "mov %0, %%ss; mov $0x12340000, %%esp; push %%eax; mov %%esp, %%ebx",
	           :
	           : "r"(SEL_B | 3)
	           : "ebx", "memory");
	ok_equal("wraps in SP", this_cpu()->trap.regs.bx, 0x1234fffc);
}

static void test_exceptions(void)
{
	static const int32_t bounds[2] = { 10, 20 };

	TRAPS("INTO with OF raises #OF", EXC_OF, 0, "mov $0x7f, %%al; inc %%al; into",
	      :
	      :
	      : "eax", "cc");
	TRAPS("INTO without", NO_TRAP, 0, "xor %%eax, %%eax; into", : : : "eax", "cc");
	TRAPS("BOUND above raises #BR", EXC_BR, 0, "bound %0, %1", : : "r"(21), "m"(bounds));
	TRAPS("BOUND below raises #BR", EXC_BR, 0, "bound %0, %1", : : "r"(9), "m"(bounds));
	TRAPS("BOUND within", NO_TRAP, 0, "bound %0, %1", : : "r"(20), "m"(bounds));
	TRAPS("AAM 0 raises #DE", EXC_DE, 0, "aam $0", : : : "eax");
	gate_set(0x41, 0, GATE_INTERRUPT, 0, 0);
	gate_raw(0x41)[0] = (gate_raw(0x41)[0] & ~0xffff0000ull) | SEL_DATA << 16;
	TRAPS("gate to data", EXC_GP, SEL_DATA, "int $0x41");
	USER_TRAPS("INT to a gate of DPL 0", EXC_GP, 0x42 * 8 + 2, "int $0x42");
	TRAPS("SYSCALL raises #UD", EXC_UD, 0, ".byte 0x0f, 0x05");
}

void guest_run(void)
{
	test_limits();
	test_types();
	test_verify();
	test_call_gate();
	test_transfers();
	test_exceptions();
}

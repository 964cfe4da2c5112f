/*
 * Every exception that code can raise in long mode: vector, error code, return address; errors
 * while an exception is delivered (SDM 3A 6.13: EXT, double faults); interrupt stacks; gate
 * privileges.
 */
#include "guest.h"

#define NONCANONICAL 0x800000000000ul
#define IDT_ERROR(v) ((v) << 3 | 2) /* error code that names a gate, SDM 3A 6.13 */
#define EXT          1

#define SEL_NOT_PRESENT (SEL_FREE)
#define SEL_CODE_NP     (SEL_FREE + 8)

static struct trap *last(void)
{
	return &this_cpu()->trap;
}

/* The frame's RIP, relative to the instruction: TRY's first byte is found by its label. */
static void test_return_addresses(void)
{
	word start;

	TRY("lea 1f(%%rip), %0\n1: ud2", : "=r"(start));
	ok_trap("UD2 raises #UD", EXC_UD, 0);
	ok_equal("#UD is a fault", last()->regs.ip, start);
	TRY("lea 1f(%%rip), %0\n1: int3", : "=r"(start));
	ok_trap("INT3 raises #BP", EXC_BP, 0);
	ok_equal("#BP is a trap", last()->regs.ip, start + 1);
	TRY("lea 1f(%%rip), %0\n1: .byte 0xf1", : "=r"(start));
	ok_trap("INT1 raises #DB", EXC_DB, 0);
	ok_equal("INT1 is a trap", last()->regs.ip, start + 1);
	TRY("lea 1f(%%rip), %0\n1: int $0x44", : "=r"(start));
	ok_trap("INT n raises its vector", 0x44, 0);
	ok_equal("INT n returns behind itself", last()->regs.ip, start + 2);
	TRY("lea 1f(%%rip), %0; xor %%ecx, %%ecx\n1: div %%ecx",
	    : "=r"(start)
	    :
	    : "rax", "rcx", "rdx");
	ok_trap("DIV by zero raises #DE", EXC_DE, 0);
	ok_equal("#DE is a fault", last()->regs.ip, start);
	TRAPS("quotient overflow raises #DE", EXC_DE, 0, "div %%ecx",
	      :
	      : "a"(0), "d"(2), "c"(2)
	      : "memory");
	TRAPS("IDIV of INT_MIN by -1 raises #DE", EXC_DE, 0, "idiv %%ecx",
	      :
	      : "a"(0x80000000), "d"(-1), "c"(-1)
	      : "memory");
}

static void test_undefined(void)
{
	TRAPS("UD0 raises #UD", EXC_UD, 0, "ud0 %eax, %eax");
	TRAPS("UD1 raises #UD", EXC_UD, 0, "ud1 %eax, %eax");
	TRAPS("INTO raises #UD in 64-bit mode", EXC_UD, 0, ".byte 0xce");
	TRAPS("PUSH ES raises #UD in 64-bit mode", EXC_UD, 0, ".byte 0x06");
	TRAPS("AAA raises #UD in 64-bit mode", EXC_UD, 0, ".byte 0x37");
	TRAPS("far CALL ptr raises #UD in 64-bit mode", EXC_UD, 0, ".byte 0x9a,0,0,0,0,8,0");
	TRAPS("LOCK MOV raises #UD", EXC_UD, 0, ".byte 0xf0,0x89,0x00");
	TRAPS("LOCK ADD to a register raises #UD", EXC_UD, 0, ".byte 0xf0,0x01,0xc0");
	TRAPS("LEA of a register raises #UD", EXC_UD, 0, ".byte 0x8d,0xc0");
	TRAPS("MOV to CS raises #UD", EXC_UD, 0, ".byte 0x8e,0xc8");
	TRAPS("MOV from CR1 raises #UD", EXC_UD, 0, ".byte 0x0f,0x20,0xc8");
	TRAPS("16 bytes raise #GP(0)", EXC_GP, 0,
	      ".byte "
	      "0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
}

/* All of the 15 bytes that an instruction may have, most of them the same prefix. */
static void test_prefixes(void)
{
	uint32_t number = 40;

	asm volatile(".fill 13, 1, 0xf2; addl %1, (%0)" : : "b"(&number), "a"(2) : "memory");
	ok_equal("thirteen REPNE count as one", number, 42);
	asm volatile("mov %0, %%r13; .fill 6, 1, 0xf2; .fill 5, 1, 0xf3; addl %1, (%%r13)"
	             :
	             : "r"(&number), "a"(2)
	             : "r13", "memory");
	ok_equal("REPNE and REP by turns, too", number, 44);
	asm volatile(".fill 12, 1, 0x66; addw %w1, (%0)" : : "b"(&number), "a"(0x1ffff) : "memory");
	ok_equal("an operand size said twelve times", number, 43);
}

static void test_segments(void)
{
	gdt[SEL_NOT_PRESENT / 8] = descriptor(0, 0xfffff, 0x13, 0xc);
	gdt[SEL_CODE_NP / 8] = descriptor(0, 0xfffff, 0x1b, 0xa);
	TRAPS("loading DS not present raises #NP(sel)", EXC_NP, SEL_NOT_PRESENT, "mov %0, %%ds",
	      :
	      : "r"(SEL_NOT_PRESENT));
	TRAPS("loading SS not present raises #SS(sel)", EXC_SS, SEL_NOT_PRESENT, "mov %0, %%ss",
	      :
	      : "r"(SEL_NOT_PRESENT));
	TRAPS("loading DS beyond the GDT raises #GP(sel)", EXC_GP, 0x1000, "mov %0, %%ds",
	      :
	      : "r"(0x1003));
	TRAPS("loading DS from no LDT raises #GP(sel|TI)", EXC_GP, 0xc, "mov %0, %%ds",
	      :
	      : "r"(0xc));
	TRAPS("loading SS with a null selector and RPL 0 is allowed", NO_TRAP, 0, "mov %0, %%ss",
	      :
	      : "r"(0));
	TRAPS("and with RPL 3 raises #GP(0)", EXC_GP, 0, "mov %0, %%ss", : : "r"(3));
	TRAPS("loading SS with code raises #GP(sel)", EXC_GP, SEL_CODE64, "mov %0, %%ss",
	      :
	      : "r"(SEL_CODE64));
	TRAPS("far return to code not present raises #NP(sel)", EXC_NP, SEL_CODE_NP,
	      "push %0; push $0; lretq",
	      :
	      : "r"((word)SEL_CODE_NP));
	TRAPS("far return to a null selector raises #GP(0)", EXC_GP, 0, "push $0; push $0; lretq");
	TRAPS("far return to data raises #GP(sel)", EXC_GP, SEL_DATA, "push %0; push $0; lretq",
	      :
	      : "r"((word)SEL_DATA));
	__asm__ volatile("mov %0, %%ss; mov %0, %%ds" : : "r"(SEL_DATA));
}

static void test_memory(void)
{
	word t;

	TRAPS("non-canonical read raises #GP(0)", EXC_GP, 0, "mov (%0), %0", : : "r"(NONCANONICAL));
	gate_set_ist(EXC_SS, 1);
	TRAPS("non-canonical stack raises #SS(0)", EXC_SS, 0, "mov %0, %%rsp; push %%rax",
	      :
	      : "r"(NONCANONICAL + 256));
	gate_default(EXC_SS);
	TRAPS("RBP address non-canonical raises #SS(0)", EXC_SS, 0,
	      "mov %1, %%rbp; mov 8(%%rbp), %0",
	      : "=r"(t)
	      : "r"(NONCANONICAL)
	      : "rbp");
	TRAPS("last canonical byte crossed raises #GP(0)", EXC_GP, 0, "mov (%0), %0",
	      :
	      : "r"(NONCANONICAL - 4));
	TRAPS("unmapped read raises #PF(0)", EXC_PF, 0, "movl (%0), %%eax",
	      :
	      : "r"(0x7000000000ul)
	      : "rax");
	ok_equal("CR2 is its address", last()->cr2, 0x7000000000ul);
	TRAPS("unmapped write raises #PF(W)", EXC_PF, PF_WRITE, "lock incl (%0)",
	      :
	      : "r"(0x7000000008ul));
	USER_TRAPS("unmapped read at CPL 3 raises #PF(U)", EXC_PF, PF_USER, "movl (%0), %%eax",
	           :
	           : "r"(0x7000000010ul)
	           : "rax");
	TRAPS("jump to unmapped code raises #PF", EXC_PF, 0, "jmp *%0", : : "r"(0x7000000018ul));
	ok_equal("RIP is the target", last()->regs.ip, 0x7000000018ul);
	TRAPS("jump to a non-canonical address raises #GP(0)", EXC_GP, 0, "jmp *%0",
	      :
	      : "r"(NONCANONICAL));
	TRAPS("return to a non-canonical address raises #GP(0)", EXC_GP, 0, "push %0; ret",
	      :
	      : "r"(NONCANONICAL));
}

static void test_fpu(void)
{
	static const uint32_t mxcsr_default = 0x1f80, mxcsr_divide = 0x1f80 & ~0x200;
	static const uint16_t fcw_divide = 0x37b;
	word cr4 = read_cr4();

	write_cr0((read_cr0() | CR0_MP | CR0_NE) & ~(CR0_EM | CR0_TS));
	write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
	TRAPS("an unmasked x87 error waits", NO_TRAP, 0,
	      "fninit; fldcw %0; fld1; fldz; fdivrp; fnop",
	      :
	      : "m"(*&(uint16_t){ 0x37f }));
	TRY("fninit; fldcw %0; fld1; fldz; fdivrp %%st, %%st(1)", : : "m"(fcw_divide));
	ok_trap("dividing alone raises nothing", NO_TRAP, 0);
	TRAPS("FNSTSW does not look", NO_TRAP, 0, "fnstsw %%ax", : : : "rax");
	TRAPS("FWAIT raises #MF", EXC_MF, 0, "fwait");
	__asm__ volatile("fninit");
	TRAPS("unmasked SSE error raises #XM", EXC_XM, 0,
	      "ldmxcsr %0; xorps %%xmm0, %%xmm0; mov $1, %%eax; cvtsi2ss %%eax, %%xmm1; divss "
	      "%%xmm0, "
	      "%%xmm1",
	      :
	      : "m"(mxcsr_divide)
	      : "rax");
	write_cr4((cr4 | CR4_OSFXSR) & ~CR4_OSXMMEXCPT);
	TRAPS("or #UD without CR4.OSXMMEXCPT", EXC_UD, 0, "divss %xmm0, %xmm1");
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr_default));
	write_cr0(read_cr0() | CR0_TS);
	TRAPS("x87 with CR0.TS raises #NM", EXC_NM, 0, "fnop");
	TRAPS("SSE with CR0.TS raises #NM", EXC_NM, 0, "addps %xmm0, %xmm0");
	TRAPS("FWAIT with CR0.TS and MP raises #NM", EXC_NM, 0, "fwait");
	write_cr0(read_cr0() & ~CR0_MP);
	TRAPS("FWAIT with CR0.TS alone does not", NO_TRAP, 0, "fwait");
	write_cr0((read_cr0() & ~CR0_TS) | CR0_EM | CR0_MP);
	TRAPS("x87 with CR0.EM raises #NM", EXC_NM, 0, "fnop");
	TRAPS("SSE with CR0.EM raises #UD", EXC_UD, 0, "addps %xmm0, %xmm0");
	write_cr0(read_cr0() & ~CR0_EM);
	write_cr4(cr4 & ~CR4_OSFXSR);
	TRAPS("SSE without CR4.OSFXSR raises #UD", EXC_UD, 0, "addps %xmm0, %xmm0");
	write_cr4(cr4);
}

static void test_alignment(void)
{
	static uint32_t words[4] __attribute__((aligned(16)));
	uint8_t *odd = (uint8_t *)words + 1;

	write_cr0(read_cr0() | CR0_AM);
	USER_TRAPS("misaligned dword at CPL 3 with AC raises #AC(0)", EXC_AC, 0,
	           "pushf; orl $0x40000, (%%rsp); popf; movl (%0), %%eax",
	           :
	           : "r"(odd)
	           : "rax");
	USER_TRAPS("a byte never does", NO_TRAP, 0,
	           "pushf; orl $0x40000, (%%rsp); popf; movb (%0), %%al",
	           :
	           : "r"(odd)
	           : "rax");
	USER_TRAPS("nothing without AC", NO_TRAP, 0, "movl (%0), %%eax", : : "r"(odd) : "rax");
	TRAPS("nothing at CPL 0", NO_TRAP, 0,
	      "pushf; orl $0x40000, (%%rsp); popf; movl (%0), %%eax",
	      :
	      : "r"(odd)
	      : "rax");
	write_flags(2);
	write_cr0(read_cr0() & ~CR0_AM);
	USER_TRAPS("nothing without CR0.AM", NO_TRAP, 0,
	           "pushf; orl $0x40000, (%%rsp); popf; movl (%0), %%eax",
	           :
	           : "r"(odd)
	           : "rax");
}

static void test_gates(void)
{
	gate_raw(0x40)[0] &= ~(1ul << 47);
	TRAPS("INT through a gate not present raises #NP(IDT)", EXC_NP, IDT_ERROR(0x40),
	      "int $0x40");
	gate_default(0x40);
	gate_set(0x40, 0, 0, 0, 0);
	TRAPS("INT through no gate raises #GP(IDT)", EXC_GP, IDT_ERROR(0x40), "int $0x40");
	gate_set(0x40, 0, GATE_TASK, 0, 0);
	TRAPS("task gates do not exist in long mode", EXC_GP, IDT_ERROR(0x40), "int $0x40");
	gate_default(0x40);
	USER_TRAPS("INT to a gate of DPL 0 at CPL 3 raises #GP(IDT)", EXC_GP, IDT_ERROR(0x40),
	           "int $0x40");
	gate_set_dpl(0x40, 3);
	USER_TRAPS("and to DPL 3 does not", 0x40, 0, "int $0x40");
	gate_default(0x40);
	gate_set_dpl(EXC_BP, 0);
	USER_TRAPS("INT3 checks DPL, too", EXC_GP, IDT_ERROR(3), "int3");
	USER_TRAPS("INT1 does not", EXC_DB, 0, ".byte 0xf1");
	gate_default(EXC_BP);
	gate_raw(0x40)[0] = (gate_raw(0x40)[0] & ~0xffff0000ul) | SEL_CODE32 << 16;
	TRAPS("a gate to 32-bit code raises #GP(sel)", EXC_GP, SEL_CODE32, "int $0x40");
	gate_raw(0x40)[0] = (gate_raw(0x40)[0] & ~0xffff0000ul) | SEL_CODE_NP << 16;
	TRAPS("a gate to code not present raises #NP(sel)", EXC_NP, SEL_CODE_NP, "int $0x40");
	gate_raw(0x40)[0] = gate_raw(0x40)[0] & ~0xffff0000ul;
	TRAPS("a gate with a null selector raises #GP(0)", EXC_GP, 0, "int $0x40");
	gate_default(0x40);
}

static void limit_idt(uint16_t limit)
{
	struct {
		uint16_t limit;
		word base;
	} __attribute__((packed)) p = { limit, (word)gate_raw(0) };

	__asm__ volatile("lidt %0" : : "m"(p));
}

static void test_nested(void)
{
	limit_idt(0x40 * 16 - 1);
	TRAPS("INT beyond the IDT raises #GP(IDT)", EXC_GP, IDT_ERROR(0x40), "int $0x40");
	idt_load();
	gate_raw(EXC_UD)[0] &= ~(1ul << 47);
	TRAPS("#UD through a gate not present raises #NP(IDT, EXT)", EXC_NP,
	      IDT_ERROR(EXC_UD) | EXT, "ud2");
	gate_default(EXC_UD);
	gate_raw(EXC_GP)[0] &= ~(1ul << 47);
	TRAPS("#NP while #GP is delivered is a double fault", EXC_DF, 0, "mov %0, %%ds",
	      :
	      : "r"(0x1000));
	gate_default(EXC_GP);
	gate_raw(EXC_PF)[0] &= ~(1ul << 47);
	TRAPS("#NP while #PF is delivered is a double fault", EXC_DF, 0, "movl (%0), %%eax",
	      :
	      : "r"(0x7000000000ul)
	      : "rax");
	gate_default(EXC_PF);
	gate_raw(EXC_DE)[0] &= ~(1ul << 47);
	TRAPS("#NP while #DE is delivered is a double fault", EXC_DF, 0,
	      "xor %%ecx, %%ecx; div %%ecx",
	      :
	      :
	      : "rcx", "rax", "rdx");
	gate_default(EXC_DE);
	TRAPS("#PF on the stack of #PF is a double fault", EXC_DF, 0,
	      "mov %0, %%rsp; movl (%0), %%eax",
	      :
	      : "r"(0x7000000000ul)
	      : "rax");
	TRAPS("#UD on an unmapped stack is a double fault by way of #PF", EXC_DF, 0,
	      "mov %0, %%rsp; ud2",
	      :
	      : "r"(0x7000000000ul));
}

static word frame_sp;

static bool keep_sp(struct regs *r)
{
	frame_sp = (word)r;
	return false;
}

static bool within(word sp, const void *stack)
{
	return sp > (word)stack && sp < (word)stack + STACK_BYTES;
}

static void test_stacks(void)
{
	struct cpu *c = this_cpu();
	static uint8_t ist_stack[STACK_BYTES] __attribute__((aligned(16)));

	trap_hook = keep_sp;
	c->tss.ist[2] = (word)ist_stack + STACK_BYTES;
	gate_set_ist(0x40, 3);
	TRAPS("INT on IST 3", 0x40, 0, "int $0x40");
	ok("takes the stack of IST 3", within(frame_sp, ist_stack));
	ok_equal("from its top", frame_sp + sizeof(struct regs), c->tss.ist[2]);
	c->tss.ist[2] += 5;
	TRAPS("INT on a crooked IST 3", 0x40, 0, "int $0x40");
	ok_equal("aligns it to 16", frame_sp + sizeof(struct regs), (word)ist_stack + STACK_BYTES);
	gate_default(0x40);
	USER_TRAPS("an exception from CPL 3", EXC_UD, 0, "ud2");
	ok("takes the stack of RSP0", within(frame_sp, c->trap_stack));
	ok_equal("and pushes SS of CPL 3", c->trap.regs.ss, SEL_UDATA);
	ok_equal("and CS of CPL 3", c->trap.regs.cs, SEL_UCODE64);
	trap_hook = NULL;
	c->tss.rsp[0] ^= NONCANONICAL << 1;
	gate_set_ist(EXC_SS, 3);
	USER_TRAPS("a non-canonical RSP0 raises #SS(EXT)", EXC_SS, EXT, "ud2");
	c->tss.rsp[0] ^= NONCANONICAL << 1;
	gate_default(EXC_SS);
}

void guest_run(void)
{
	test_return_addresses();
	test_undefined();
	test_prefixes();
	test_segments();
	test_memory();
	test_fpu();
	test_alignment();
	test_gates();
	test_nested();
	test_stacks();
}

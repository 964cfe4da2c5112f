/*
 * Saving and restoring the x87, SSE and AVX state: FXSAVE, the XSAVE family with its headers,
 * alignment and refusals (SDM 1 chapter 13), and lazy switching with CR0.TS.
 */
#include "guest.h"

static uint8_t area[4096] __attribute__((aligned(64)));
static uint8_t other[4096] __attribute__((aligned(64)));

static uint64_t *word_at(uint8_t *at, unsigned offset)
{
	return (uint64_t *)(at + offset);
}

#define XSTATE_BV(a)  (*word_at(a, 512))
#define XCOMP_BV(a)   (*word_at(a, 520))
#define COMPACT       (1ul << 63)
#define MXCSR(a)      (*(uint32_t *)((a) + 24))
#define MXCSR_MASK(a) (*(uint32_t *)((a) + 28))

#define XSAVE_FORM(name, insn)                                                       \
	static int name(uint8_t *to, uint32_t mask)                                  \
	{                                                                            \
		return TRY(insn " (%0)", : : "r"(to), "a"(mask), "d"(0) : "memory"); \
	}
XSAVE_FORM(xsave, "xsave64")
XSAVE_FORM(xsaveopt, "xsaveopt64")
XSAVE_FORM(xsavec, "xsavec64")
XSAVE_FORM(xsaves, "xsaves64")
XSAVE_FORM(xrstor, "xrstor64")
XSAVE_FORM(xrstors, "xrstors64")

static void load_registers(uint64_t xmm)
{
	__asm__ volatile("fninit; fld1; fldpi; movq %0, %%xmm3; movq %0, %%xmm15" : : "r"(xmm));
}

static uint64_t xmm3(void)
{
	uint64_t v;

	__asm__ volatile("movq %%xmm3, %0" : "=r"(v));
	return v;
}

static void test_fxsave(void)
{
	load_registers(0x1111);
	TRAPS("FXSAVE", NO_TRAP, 0, "fxsave64 %0", : "=m"(area));
	ok_equal("control word", *(uint16_t *)area, 0x37f);
	ok_equal("status word: TOP 6", *(uint16_t *)(area + 2), 6 << 11);
	ok_equal("abridged tags", area[4], 0xc0);
	ok_equal("MXCSR", MXCSR(area), 0x1f80);
	ok_equal("XMM3", *word_at(area, 160 + 48), 0x1111);
	ok_equal("XMM15", *word_at(area, 160 + 240), 0x1111);
	ok_equal("ST0 is pi", *word_at(area, 32), 0xc90fdaa22168c235);
	load_registers(0x2222);
	__asm__ volatile("fninit; fxrstor64 %0" : : "m"(area));
	ok_equal("FXRSTOR: XMM3", xmm3(), 0x1111);
	TRAPS("FXSAVE misaligned raises #GP", EXC_GP, 0, "fxsave64 8(%0)",
	      :
	      : "r"(area)
	      : "memory");
	MXCSR(area) = 1u << 31;
	TRAPS("FXRSTOR of a reserved MXCSR bit raises #GP", EXC_GP, 0, "fxrstor64 %0",
	      :
	      : "m"(area));
	TRAPS("LDMXCSR of one raises #GP", EXC_GP, 0, "ldmxcsr %0", : : "m"(MXCSR(area)));
	ok("MXCSR_MASK", MXCSR_MASK(area) == 0xffff || MXCSR_MASK(area) == 0x2ffff);
}

static void test_xsave(void)
{
	load_registers(0x3333);
	memset(area, 0xff, sizeof(area));
	memset(area + 512, 0, 64);
	ok("XSAVE", xsave(area, 3) == NO_TRAP);
	ok_equal("XSTATE_BV", XSTATE_BV(area), 3);
	ok_equal("XMM3", *word_at(area, 160 + 48), 0x3333);
	*word_at(area, 160 + 48) = 0x4444;
	ok("XRSTOR of SSE", xrstor(area, 2) == NO_TRAP);
	ok_equal("XMM3", xmm3(), 0x4444);
	XSTATE_BV(area) = 1;
	ok("XRSTOR with SSE not in XSTATE_BV", xrstor(area, 2) == NO_TRAP);
	ok_equal("initialises it", xmm3(), 0);
	XSTATE_BV(area) = 1ul << 62;
	ok("an unknown component raises #GP", xrstor(area, 3) == EXC_GP);
	XSTATE_BV(area) = 3;
	*word_at(area, 528) = 1;
	ok("a reserved byte of the header raises #GP", xrstor(area, 3) == EXC_GP);
	*word_at(area, 528) = 0;
	ok("XSAVE misaligned raises #GP", xsave(area + 16, 3) == EXC_GP);
	ok("XRSTOR misaligned raises #GP", xrstor(area + 16, 3) == EXC_GP);
	XSTATE_BV(area) = 3;
	MXCSR(area) = 1u << 31;
	ok("XRSTOR of a reserved MXCSR bit raises #GP", xrstor(area, 2) == EXC_GP);
	MXCSR(area) = 0x1f80;
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	ok("XSAVE without OSXSAVE raises #UD", xsave(area, 3) == EXC_UD);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	write_cr0(read_cr0() | CR0_TS);
	ok("XSAVE with TS raises #NM", xsave(area, 3) == EXC_NM);
	ok("XRSTOR with TS raises #NM", xrstor(area, 3) == EXC_NM);
	__asm__ volatile("clts");
}

static void test_avx(void)
{
	uint64_t hi;

	if (!(cpuid(0xd, 0).a & 4))
		return;
	__asm__ volatile("xsetbv" : : "a"(7), "c"(0), "d"(0));
	__asm__ volatile("vpcmpeqb %%ymm0, %%ymm0, %%ymm0" ::);
	if (!(cpuid(7, 0).b & 1 << 5))
		return;
	memset(area, 0, sizeof(area));
	ok("XSAVE with AVX", xsave(area, 7) == NO_TRAP);
	ok_equal("XSTATE_BV", XSTATE_BV(area) & 4, 4);
	ok_equal("upper half at 576", *word_at(area, 576), ~0ul);
	__asm__ volatile("vzeroall");
	ok("XRSTOR with AVX", xrstor(area, 7) == NO_TRAP);
	__asm__ volatile("vextracti128 $1, %%ymm0, %%xmm1; vmovq %%xmm1, %0" : "=r"(hi));
	ok_equal("upper half", hi, ~0ul);
	XSTATE_BV(area) &= ~4ul;
	ok("XRSTOR that initialises AVX", xrstor(area, 4) == NO_TRAP);
	__asm__ volatile("vextracti128 $1, %%ymm0, %%xmm1; vmovq %%xmm1, %0" : "=r"(hi));
	ok_equal("upper half", hi, 0);
	__asm__ volatile("vzeroupper");
}

static void test_compact(void)
{
	uint32_t forms = cpuid(0xd, 1).a;

	load_registers(0x5555);
	if (forms & 1) {
		memset(area, 0, sizeof(area));
		ok("XSAVEOPT", xsaveopt(area, 3) == NO_TRAP && *word_at(area, 160 + 48) == 0x5555);
	}
	if (!(forms & 2)) {
		note("no XSAVEC");
		return;
	}
	memset(area, 0xff, sizeof(area));
	memset(area + 528, 0, 48); /* not written, and must be 0 for XRSTOR */
	ok("XSAVEC", xsavec(area, 3) == NO_TRAP);
	ok_equal("XCOMP_BV", XCOMP_BV(area), COMPACT | 3);
	ok_equal("XMM3", *word_at(area, 160 + 48), 0x5555);
	load_registers(0);
	ok("XRSTOR of it", xrstor(area, 3) == NO_TRAP);
	ok_equal("XMM3", xmm3(), 0x5555);
	XCOMP_BV(area) = COMPACT | 1;
	ok("XSTATE_BV outside XCOMP_BV raises #GP", xrstor(area, 3) == EXC_GP);
	if (!(forms & 8))
		return;
	memset(other, 0xff, sizeof(other));
	memset(other + 528, 0, 48);
	ok("XSAVES", xsaves(other, 3) == NO_TRAP);
	ok_equal("XCOMP_BV", XCOMP_BV(other), COMPACT | 3);
	ok("XRSTORS", xrstors(other, 3) == NO_TRAP);
	XCOMP_BV(other) = 0;
	ok("XRSTORS of the standard form raises #GP", xrstors(other, 3) == EXC_GP);
	TRY_USER("xsaves64 %0", : "=m"(other) : "a"(3), "d"(0));
	ok_trap("XSAVES at CPL 3 raises #GP", EXC_GP, 0);
	TRAPS("IA32_XSS refuses unknown bits", EXC_GP, 0, "wrmsr", : : "c"(0xda0), "a"(1), "d"(0));
}

static unsigned switches;

/* A kernel that gives the FPU to whoever asks. */
static bool give_fpu(struct regs *r)
{
	if (r->vector != EXC_NM)
		return false;
	switches++;
	__asm__ volatile("clts; fxrstor64 %0" : : "m"(area));
	return true;
}

static void test_lazy(void)
{
	load_registers(0x7777);
	__asm__ volatile("fxsave64 %0" : "=m"(area));
	load_registers(0x8888);
	trap_hook = give_fpu;
	write_cr0(read_cr0() | CR0_TS);
	ok_equal("the first use brings the state back", xmm3(), 0x7777);
	xmm3();
	ok_equal("the second finds it", switches, 1);
	trap_hook = NULL;
}

void guest_run(void)
{
	write_cr0((read_cr0() | CR0_MP | CR0_NE) & ~(CR0_EM | CR0_TS));
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	__asm__ volatile("ldmxcsr %0" : : "m"(*&(uint32_t){ 0x1f80 }));
	test_fxsave();
	test_lazy();
	if (!(cpuid(1, 0).c & 1 << 26))
		return;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	__asm__ volatile("xsetbv" : : "a"(3), "c"(0), "d"(0));
	test_xsave();
	test_compact();
	test_avx();
}

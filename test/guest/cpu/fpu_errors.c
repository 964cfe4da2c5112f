/*
 * Floating-point exceptions that are not masked, from every kind of instruction, and states with a
 * pending exception loaded from memory. An engine that computes on the host's units must not let
 * the host's traps out.
 */
#include "guest.h"

static uint8_t area[1024] __attribute__((aligned(64)));
static const uint32_t masked = 0x1f80, unmasked = 0;
static const uint64_t snan[4] __attribute__((aligned(32))) = {
	0x7ff0000000000001,
	0x7f8000017f800001,
	0x7ff0000000000001,
	0x7f8000017f800001,
};
static const uint8_t snan80[10] = { 1, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f };
static uint64_t out[4] __attribute__((aligned(32)));

/* Operands: XMM1 zeros, XMM2 ones, XMM0 and memory signalling NaNs. */
#define XM(name, insn)                                                                   \
	do {                                                                             \
		__asm__ volatile("ldmxcsr %0; movups %1, %%xmm0; xorps %%xmm1, %%xmm1; " \
		                 "cvtsi2sd %2, %%xmm2"                                   \
		                 :                                                       \
		                 : "m"(masked), "m"(snan), "r"(1));                      \
		TRAPS(name, EXC_XM, 0, "ldmxcsr %0; " insn,                              \
		      :                                                                  \
		      : "m"(unmasked), "r"(snan), "r"(out)                               \
		      : "rax", "memory", "cc");                                          \
		__asm__ volatile("ldmxcsr %0" : : "m"(masked));                          \
	} while (0)

static void test_sse(void)
{
	uint32_t mxcsr;

	XM("ADDSD", "addsd %%xmm0, %%xmm1");
	XM("ADDPS of memory", "addps (%1), %%xmm1");
	XM("DIVSD by zero", "divsd %%xmm1, %%xmm2");
	XM("SQRTPD", "sqrtpd %%xmm0, %%xmm1");
	XM("MINSD", "minsd %%xmm0, %%xmm1");
	XM("CMPLTPD", "cmpltpd %%xmm0, %%xmm1");
	XM("UCOMISD", "ucomisd %%xmm0, %%xmm1");
	XM("CVTTSD2SI", "cvttsd2si %%xmm0, %%eax");
	XM("CVTSD2SI of memory, 64 bits", "cvtsd2si (%1), %%rax");
	XM("CVTSD2SS", "cvtsd2ss %%xmm0, %%xmm1");
	XM("CVTPD2DQ", "cvtpd2dq %%xmm0, %%xmm1");
	XM("HADDPD", "haddpd %%xmm0, %%xmm1");
	XM("ROUNDSD", "roundsd $0, %%xmm0, %%xmm1");
	XM("DPPS", "dpps $0xff, (%1), %%xmm1");
	__asm__ volatile("ldmxcsr %0; movups %1, %%xmm0" : : "m"(masked), "m"(snan));
	TRY("ldmxcsr %0; addsd %%xmm0, %%xmm0", : : "m"(unmasked));
	__asm__ volatile("stmxcsr %0; ldmxcsr %1" : "=m"(mxcsr) : "m"(masked));
	ok_equal("the flag is set in MXCSR", mxcsr & 0x3f, 1);
	__asm__ volatile("movq %%xmm0, %0" : "=r"(out[0]));
	ok_equal("the register is as it was", out[0], snan[0]);
}

static void test_avx(void)
{
	if (!(cpuid(1, 0).c & 1 << 28))
		return;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	__asm__ volatile("xsetbv" : : "a"(7), "c"(0), "d"(0));
	XM("VDIVPD of 256 bits", "vdivpd %%ymm1, %%ymm2, %%ymm3");
	XM("VADDPS of memory, 256 bits", "vaddps (%1), %%ymm1, %%ymm3");
	if (cpuid(1, 0).c & 1 << 12)
		XM("VFMADD231PD", "vfmadd231pd (%1), %%ymm1, %%ymm2");
	if (cpuid(1, 0).c & 1 << 29)
		XM("VCVTPS2PH to memory", "vmovups (%1), %%ymm0; vcvtps2ph $0, %%ymm0, (%2)");
	__asm__ volatile("vzeroupper");
}

#define MF(name, insn)                                                             \
	do {                                                                       \
		TRY("fninit; fldcw %0; " insn,                                     \
		    :                                                              \
		    : "m"(*&(uint16_t){ 0x340 }), "r"(snan), "r"(out), "m"(snan80) \
		    : "rax", "memory", "cc");                                      \
		ok_trap(name, NO_TRAP, 0);                                         \
		TRAPS("  then FWAIT", EXC_MF, 0, "fwait");                         \
		TRAPS("  and FLD1", EXC_MF, 0, "fld1");                            \
		TRAPS("  and EMMS", EXC_MF, 0, "emms");                            \
		TRAPS("  not FNSAVE", NO_TRAP, 0, "fnsave %0", : "=m"(area));      \
	} while (0)

static void test_x87(void)
{
	MF("FLDL of a signalling NaN", "fldl (%1)");
	MF("an empty register", "fadd %%st(1), %%st");
	MF("FSQRT of -1", "fld1; fchs; fsqrt");
	MF("FDIV by zero", "fld1; fldz; fdivrp");
	MF("FISTP of too much", "fldpi; fldl2e; fscale; fscale; fscale; fistpl (%2)");
	MF("FSTP of a signalling NaN", "fldt %3; fstpl (%2)");
	MF("inexact FSIN", "fldpi; fsin");
	MF("FCOMI", "fldt %3; fld1; fcomi %%st(1), %%st");
	MF("overflow of the stack", "fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1");
	MF("FBSTP", "fldt %3; fbstp (%2)");
}

/* Every load of the state may bring a pending exception in. */
static void test_loaded(void)
{
	uint16_t *fcw = (uint16_t *)area, *fsw = (uint16_t *)(area + 2);

	__asm__ volatile("fninit; fxsave64 %0" : "=m"(area));
	*fcw = 0x340;
	*fsw = 0x3f;
	TRAPS("FXRSTOR of a pending exception", NO_TRAP, 0, "fxrstor64 %0", : : "m"(area));
	TRAPS("  then FWAIT", EXC_MF, 0, "fwait");
	TRAPS("  and MMX", EXC_MF, 0, "movd %%eax, %%mm0", : : "a"(0));
	TRAPS("  not SSE", NO_TRAP, 0, "xorps %xmm0, %xmm0");
	TRAPS("  not FXSAVE", NO_TRAP, 0, "fxsave64 %0", : "=m"(area));
	ok_equal("  which has ES", *fsw & 0x80ff, 0x80bf);
	TRAPS("FNCLEX ends it", NO_TRAP, 0, "fnclex; fwait; fld1");
	TRAPS("FLDENV of a pending exception", NO_TRAP, 0,
	      "fninit; fnstenv (%0); movw $0x340, (%0); movw $4, 4(%0); fldenv (%0)",
	      :
	      : "r"(area)
	      : "memory");
	TRAPS("  then FLDZ", EXC_MF, 0, "fldz");
	TRAPS("  and FLDCW", EXC_MF, 0, "fldcw %0", : : "m"(*fcw));
	TRAPS("FNINIT ends it", NO_TRAP, 0, "fninit; fldz");
	TRAPS("FLDCW that unmasks a flag", NO_TRAP, 0, "fninit; fld1; fldz; fdivrp; fldcw %0",
	      :
	      : "m"(*&(uint16_t){ 0x37b }));
	TRAPS("  then FLDZ", EXC_MF, 0, "fldz");
	__asm__ volatile("fninit");
}

/* With the exceptions unmasked an engine may do FLDCW otherwise than with them masked, and what
 * follows again otherwise; it lies beside the control word, so the engine may have looked at both
 * addresses at once. */
static void test_masked_again(void)
{
	static struct {
		uint64_t before;
		uint16_t control;
		uint64_t after;
	} at[2];

	for (unsigned n = 0; n < 2; n++)
		at[n].before = 0x1111 + n, at[n].control = 0x37f, at[n].after = 0x2222 + n;
	for (unsigned n = 0; n < 2; n++) {
		uint64_t before, after;

		__asm__ volatile("fninit; fnstcw (%2); andw $0xffdf, (%2); fldcw (%2)\n"
		                 "jmp 1f\n"
		                 "1: fldcw 8(%3)\n"
		                 "mov (%3), %0\n"
		                 "mov 16(%3), %1\n"
		                 : "=&r"(before), "=&r"(after)
		                 : "r"(area), "r"(&at[n])
		                 : "memory");
		ok_equal("loaded behind FLDCW", before, 0x1111 + n);
		ok_equal("  and on its other side", after, 0x2222 + n);
	}
}

void guest_run(void)
{
	write_cr0((read_cr0() | CR0_MP | CR0_NE) & ~(CR0_EM | CR0_TS));
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	test_sse();
	test_avx();
	test_x87();
	test_loaded();
	test_masked_again();
}

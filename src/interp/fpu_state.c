/*
 * FXSAVE and FXRSTOR, MXCSR, and the table of everything that saves and restores x87, SSE and AVX
 * state.
 */
#include <string.h>
#include "interp/fpu.h"
#include "interp/ops.h"

#define FXSAVE_BYTES 512

void fpu_refuse_sse(struct cpu *c)
{
	cpu_raise(c, (c->cr0 & CR0_EM) || !(c->cr4 & CR4_OSFXSR) ? EXC_UD : EXC_NM, 0);
}

void fpu_refuse_avx(struct cpu *c)
{
	const uint64_t need = XCR0_SSE | XCR0_AVX;
	bool real = !(c->cr0 & CR0_PE) || (c->rflags & RFLAGS_VM);

	if (real || !(c->cr4 & CR4_OSXSAVE) || (c->xcr0 & need) != need)
		cpu_raise(c, EXC_UD, 0);
	cpu_raise(c, EXC_NM, 0);
}

void fpu_refuse_x87(struct cpu *c)
{
	cpu_raise(c, c->cr0 & (CR0_EM | CR0_TS) ? EXC_NM : EXC_MF, 0);
}

void fpu_refuse_mmx(struct cpu *c)
{
	if (c->cr0 & CR0_EM)
		cpu_raise(c, EXC_UD, 0);
	cpu_raise(c, c->cr0 & CR0_TS ? EXC_NM : EXC_MF, 0);
}

/* ---- the x87 part of an image: bytes 0..23 and the registers ---- */

void fpu_put_x87(struct cpu *c, uint8_t *p, bool wide)
{
	struct fpu_pointers to = *fpu_pointers(c);

	if (!wide)
		to = (struct fpu_pointers){ (uint32_t)to.ip, (uint32_t)to.dp };
	memcpy(p, c->fpu.area, FPU_POINTERS);
	memcpy(p + FPU_POINTERS, &to, sizeof(to));
	memcpy(p + FPU_ST, fpu_st(c, 0), FPU_ST_BYTES);
}

void fpu_get_x87(struct cpu *c, const uint8_t *p, bool wide)
{
	struct fpu_pointers from;
	uint16_t fcw;

	memcpy(&from, p + FPU_POINTERS, sizeof(from));
	if (!wide)
		from = (struct fpu_pointers){ (uint32_t)from.ip, (uint32_t)from.dp };
	memcpy(&fcw, p, 2);
	memcpy(c->fpu.area, p, FPU_POINTERS);
	c->fpu.area[5] = 0;
	*fpu_fop(c) &= FOP_VALID;
	*fpu_pointers(c) = from;
	for (unsigned n = 0; n < 8; n++) {
		memcpy(fpu_st(c, n), p + FPU_ST + 16 * n, 10);
		memset(fpu_st(c, n) + 10, 0, 6);
	}
	fpu_set_fcw(c, fcw);
}

/* ---- FXSAVE, FXRSTOR; opsize 8: with REX.W ---- */

/* XMM registers in the image: AMD's fast form leaves them to lazy switching (APM 2 3.1.7). */
static unsigned xmm_bytes(const struct cpu *c)
{
	if ((c->efer & EFER_FFXSR) && c->cpl == 0 && c->mode == MODE_64)
		return 0;
	return 16 * fpu_registers(c);
}

static gva_t fxsave_address(struct cpu *c, const struct insn *i, bool write)
{
	gva_t va;

	if (c->cr0 & (CR0_EM | CR0_TS))
		cpu_raise(c, EXC_NM, 0);
	va = access_ea(c, i, FXSAVE_BYTES, write);
	if (va & 15)
		cpu_raise(c, EXC_GP, 0);
	return va;
}

/* What lies behind the registers is the software's and not written. */
static void op_fxsave(struct cpu *c, const struct insn *i)
{
	const uint32_t mask = MXCSR_VALID;
	uint8_t image[FXSAVE_BYTES];
	gva_t va = fxsave_address(c, i, true);

	mmu_probe(c, va, FXSAVE_BYTES, MMU_WRITE, i->seg);
	fpu_put_x87(c, image, i->opsize == 8);
	memcpy(image + FPU_MXCSR, fpu_mxcsr(c), 4);
	memcpy(image + FPU_MXCSR_MASK, &mask, 4);
	memcpy(image + FPU_XMM, fpu_xmm(c, 0), xmm_bytes(c));
	mmu_copy_out(c, va, image, FPU_XMM + xmm_bytes(c), i->seg);
}

static void op_fxrstor(struct cpu *c, const struct insn *i)
{
	uint8_t image[FXSAVE_BYTES];
	gva_t va = fxsave_address(c, i, false);
	uint32_t mxcsr;

	mmu_copy_in(c, image, va, FXSAVE_BYTES, i->seg);
	memcpy(&mxcsr, image + FPU_MXCSR, 4);
	if (mxcsr & ~MXCSR_VALID)
		cpu_raise(c, EXC_GP, 0);
	fpu_get_x87(c, image, i->opsize == 8);
	*fpu_mxcsr(c) = mxcsr;
	memcpy(fpu_xmm(c, 0), image + FPU_XMM, xmm_bytes(c));
}

/* ---- MXCSR ---- */

static void load_mxcsr(struct cpu *c, const struct insn *i)
{
	uint32_t value = load32(c, access_ea(c, i, 4, false), i->seg);

	if (value & ~MXCSR_VALID)
		cpu_raise(c, EXC_GP, 0);
	*fpu_mxcsr(c) = value;
}

static void op_ldmxcsr(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	load_mxcsr(c, i);
}

static void op_vldmxcsr(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	load_mxcsr(c, i);
}

static void op_stmxcsr(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	store32(c, access_ea(c, i, 4, true), *fpu_mxcsr(c), i->seg);
}

static void op_vstmxcsr(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	store32(c, access_ea(c, i, 4, true), *fpu_mxcsr(c), i->seg);
}

const struct op_row ops_fpu[] = {
	{ ZYDIS_MNEMONIC_FXSAVE, 0, op_fxsave, NULL },
	{ ZYDIS_MNEMONIC_FXSAVE64, 0, op_fxsave, NULL },
	{ ZYDIS_MNEMONIC_FXRSTOR, 0, op_fxrstor, NULL },
	{ ZYDIS_MNEMONIC_FXRSTOR64, 0, op_fxrstor, NULL },
	{ ZYDIS_MNEMONIC_LDMXCSR, 0, op_ldmxcsr, NULL },
	{ ZYDIS_MNEMONIC_STMXCSR, 0, op_stmxcsr, NULL },
	{ ZYDIS_MNEMONIC_VLDMXCSR, 0, op_vldmxcsr, NULL },
	{ ZYDIS_MNEMONIC_VSTMXCSR, 0, op_vstmxcsr, NULL },

	{ ZYDIS_MNEMONIC_XSAVE, 0, fpu_xsave, NULL },
	{ ZYDIS_MNEMONIC_XSAVE64, 0, fpu_xsave, NULL },
	{ ZYDIS_MNEMONIC_XSAVEOPT, 0, fpu_xsaveopt, NULL },
	{ ZYDIS_MNEMONIC_XSAVEOPT64, 0, fpu_xsaveopt, NULL },
	{ ZYDIS_MNEMONIC_XSAVEC, 0, fpu_xsavec, NULL },
	{ ZYDIS_MNEMONIC_XSAVEC64, 0, fpu_xsavec, NULL },
	{ ZYDIS_MNEMONIC_XSAVES, 0, fpu_xsaves, NULL },
	{ ZYDIS_MNEMONIC_XSAVES64, 0, fpu_xsaves, NULL },
	{ ZYDIS_MNEMONIC_XRSTOR, 0, fpu_xrstor, NULL },
	{ ZYDIS_MNEMONIC_XRSTOR64, 0, fpu_xrstor, NULL },
	{ ZYDIS_MNEMONIC_XRSTORS, 0, fpu_xrstors, NULL },
	{ ZYDIS_MNEMONIC_XRSTORS64, 0, fpu_xrstors, NULL },
	{ ZYDIS_MNEMONIC_XGETBV, 0, fpu_xgetbv, NULL },
	{ ZYDIS_MNEMONIC_XSETBV, 0, fpu_xsetbv, NULL },

	{ ZYDIS_MNEMONIC_EMMS, 0, fpu_emms, NULL },
	{ ZYDIS_MNEMONIC_FWAIT, 0, fpu_wait, NULL },
	{ ZYDIS_MNEMONIC_FENI8087_NOP, 0, fpu_nop, NULL },
	{ ZYDIS_MNEMONIC_FDISI8087_NOP, 0, fpu_nop, NULL },
	{ ZYDIS_MNEMONIC_FSETPM287_NOP, 0, fpu_nop, NULL },
	{ ZYDIS_MNEMONIC_FNINIT, 0, fpu_ninit, NULL },
	{ ZYDIS_MNEMONIC_FNCLEX, 0, fpu_nclex, NULL },
	{ ZYDIS_MNEMONIC_FNSTCW, 0, fpu_nstcw, NULL },
	{ ZYDIS_MNEMONIC_FNSTSW, 0, fpu_nstsw, NULL },
	{ ZYDIS_MNEMONIC_FLDCW, 0, fpu_ldcw, NULL },
	{ ZYDIS_MNEMONIC_FNSTENV, 0, fpu_nstenv, NULL },
	{ ZYDIS_MNEMONIC_FLDENV, 0, fpu_ldenv, NULL },
	{ ZYDIS_MNEMONIC_FNSAVE, 0, fpu_nsave, NULL },
	{ ZYDIS_MNEMONIC_FRSTOR, 0, fpu_rstor, NULL },
	{ .fn = NULL },
};

/*
 * x87 and SSE state within struct fpu, shared by the routines that save, restore and run it.
 * Private to src/interp.
 *
 * The legacy region is kept as FXSAVE64 writes it: registers in stack order, an abridged tag word
 * by physical register, 64-bit pointers. Selectors of the last instruction and operand are not kept
 * and read as zero, as on processors with CPUID.7.EBX[13].
 */
#pragma once

#include "interp/access.h"

#define FCW_INIT     0x037f
#define FCW_VALID    0x1f3f
#define FCW_FIXED    0x0040
#define FSW_ERRORS   0x003f
#define FSW_ES       0x0080
#define FSW_TOP      0x3800
#define FSW_B        0x8000
#define FOP_VALID    0x07ff
#define MXCSR_ERRORS 0x3f
#define MXCSR_MASKS  0x1f80
#define MXCSR_VALID  0xffffu
#define MXCSR_INIT   0x1f80

#define FPU_POINTERS   8
#define FPU_MXCSR_MASK 28
#define FPU_ST_BYTES   128
#define YMM_HIGH       (FPU_YMMH - FPU_XMM) /* from the lower half of a YMM to its upper half */

static inline uint16_t *fpu_fcw(struct cpu *c)
{
	return (uint16_t *)c->fpu.area;
}
static inline uint16_t *fpu_fsw(struct cpu *c)
{
	return (uint16_t *)(c->fpu.area + 2);
}
/* A bit for each physical register that is not empty. */
static inline uint8_t *fpu_ftw(struct cpu *c)
{
	return c->fpu.area + 4;
}
static inline uint16_t *fpu_fop(struct cpu *c)
{
	return (uint16_t *)(c->fpu.area + 6);
}

/* Offsets of the last instruction and of its memory operand. */
struct fpu_pointers {
	uint64_t ip, dp;
};
static inline struct fpu_pointers *fpu_pointers(struct cpu *c)
{
	return (struct fpu_pointers *)(c->fpu.area + FPU_POINTERS);
}

static inline uint32_t *fpu_mxcsr(struct cpu *c)
{
	return (uint32_t *)(c->fpu.area + FPU_MXCSR);
}
static inline uint8_t *fpu_st(struct cpu *c, unsigned n)
{
	return c->fpu.area + FPU_ST + 16 * n;
}
static inline uint8_t *fpu_xmm(struct cpu *c, unsigned n)
{
	return c->fpu.area + FPU_XMM + 16 * n;
}

static inline unsigned fpu_top(struct cpu *c)
{
	return (*fpu_fsw(c) & FSW_TOP) >> 11;
}
static inline bool fpu_pending(struct cpu *c)
{
	return *fpu_fsw(c) & ~*fpu_fcw(c) & FSW_ERRORS;
}

/* Renames the physical registers: TOP changes, they stay. */
void fpu_set_top(struct cpu *c, unsigned top);
/* Loads the control word; what it has no bits for is as the processor has it. */
void fpu_set_fcw(struct cpu *c, uint16_t value);
/* ES and B follow from the exception flags and masks (SDM 1 8.1.3.3). */
void fpu_update_es(struct cpu *c);

/* Availability, in the order of SDM 2A 2.4 and 2.5 and SDM 3A 2.5; they raise #UD, #NM or #MF. */
_Noreturn void fpu_refuse_sse(struct cpu *c);
_Noreturn void fpu_refuse_avx(struct cpu *c);
_Noreturn void fpu_refuse_x87(struct cpu *c);
_Noreturn void fpu_refuse_mmx(struct cpu *c);

static inline void check_sse(struct cpu *c)
{
	if (unlikely((c->cr0 & (CR0_EM | CR0_TS)) || !(c->cr4 & CR4_OSFXSR)))
		fpu_refuse_sse(c);
}
static inline void check_avx(struct cpu *c)
{
	bool off = (c->cr0 & CR0_TS) || !(c->cr4 & CR4_OSXSAVE) || !(c->cr0 & CR0_PE);

	if (unlikely(off || (~c->xcr0 & (XCR0_SSE | XCR0_AVX)) || (c->rflags & RFLAGS_VM)))
		fpu_refuse_avx(c);
}
/* For instructions that wait for pending exceptions. */
static inline void check_x87(struct cpu *c)
{
	if (unlikely((c->cr0 & (CR0_EM | CR0_TS)) || fpu_pending(c)))
		fpu_refuse_x87(c);
}
static inline void check_mmx(struct cpu *c)
{
	if (unlikely((c->cr0 & (CR0_EM | CR0_TS)) || fpu_pending(c)))
		fpu_refuse_mmx(c);
}

/* fpu_env.c: the rows of the x87 control instructions; fpu_xsave.c: of the XSAVE family. */
void fpu_wait(struct cpu *c, const struct insn *i);
void fpu_nop(struct cpu *c, const struct insn *i);
void fpu_emms(struct cpu *c, const struct insn *i);
void fpu_ninit(struct cpu *c, const struct insn *i);
void fpu_nclex(struct cpu *c, const struct insn *i);
void fpu_nstcw(struct cpu *c, const struct insn *i);
void fpu_nstsw(struct cpu *c, const struct insn *i);
void fpu_ldcw(struct cpu *c, const struct insn *i);
void fpu_nstenv(struct cpu *c, const struct insn *i);
void fpu_ldenv(struct cpu *c, const struct insn *i);
void fpu_nsave(struct cpu *c, const struct insn *i);
void fpu_rstor(struct cpu *c, const struct insn *i);

void fpu_xsave(struct cpu *c, const struct insn *i);
void fpu_xsaveopt(struct cpu *c, const struct insn *i);
void fpu_xsavec(struct cpu *c, const struct insn *i);
void fpu_xsaves(struct cpu *c, const struct insn *i);
void fpu_xrstor(struct cpu *c, const struct insn *i);
void fpu_xrstors(struct cpu *c, const struct insn *i);
void fpu_xgetbv(struct cpu *c, const struct insn *i);
void fpu_xsetbv(struct cpu *c, const struct insn *i);

/* fpu_state.c: parts of an FXSAVE image at p. wide: 64-bit pointers (REX.W). */
void fpu_put_x87(struct cpu *c, uint8_t *p, bool wide);
void fpu_get_x87(struct cpu *c, const uint8_t *p, bool wide);
/* XMM and YMM registers that the mode can name; the others are neither saved nor restored. */
static inline unsigned fpu_registers(const struct cpu *c)
{
	return c->mode == MODE_64 ? 16 : 8;
}

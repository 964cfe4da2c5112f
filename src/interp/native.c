/*
 * Running MMX, SSE and AVX instructions through their stubs: is the unit available, is the memory
 * operand accessible, then the stub. Every fault is raised before the stub runs, except the SIMD
 * exception, which leaves everything but MXCSR as it was.
 */
#include <string.h>
#include "cpu/cpuid.h"
#include "interp/native.h"

/* Stack and physical order of the registers agree when TOP is 0. */
void native_enter_mmx(struct cpu *c)
{
	fpu_set_top(c, 0);
	*fpu_ftw(c) = 0xff;
}

void *native_read_slow(struct cpu *c, gva_t va, unsigned size, unsigned seg)
{
	void *bounce = native_frame(c)->bounce;
	uint64_t value;

	if (size == 1 || size == 2 || size == 4 || size == 8) {
		value = mmu_load(c, va, size, seg);
		memcpy(bounce, &value, size);
		return bounce;
	}
	mmu_copy_in(c, bounce, va, size, seg);
	return bounce;
}

void *native_write_slow(struct cpu *c, gva_t va, unsigned size, unsigned seg)
{
	void *host = mmu_host(c, va, size, MMU_WRITE, seg);

	if (!host)
		mmu_probe(c, va, size, MMU_WRITE, seg);
	return host;
}

void native_write_out(struct cpu *c, gva_t va, const void *data, unsigned size, unsigned seg)
{
	uint64_t value = 0;

	if (size == 1 || size == 2 || size == 4 || size == 8) {
		memcpy(&value, data, size);
		mmu_store(c, va, size, value, seg);
		return;
	}
	mmu_copy_out(c, va, data, size, seg);
}

/* Calls the stub with the addresses of the slots. */
static inline void call_plain(struct cpu *c, const struct insn *i, const struct native_op *op,
                              struct native_frame *f, void *mem)
{
	op->code(f, mem, fpu_slot(c, i->dst), fpu_slot(c, i->src), fpu_slot(c, i->aux),
	         fpu_slot(c, i->aux2));
}

/* Some exception is not masked: the stub may end in SIGFPE. SDM 1 11.5.4: the flags are set either
 * way. */
static void call_trapping(struct cpu *c, const struct insn *i, const struct native_op *op,
                          struct native_frame *f, void *mem)
{
	bool trapped = native_run_trapping(op, f, mem, fpu_slot(c, i->dst), fpu_slot(c, i->src),
	                                   fpu_slot(c, i->aux), fpu_slot(c, i->aux2));

	*fpu_mxcsr(c) = f->mxcsr;
	if (trapped)
		cpu_raise(c, c->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD, 0);
}

/* The same for an instruction that uses MXCSR. */
static inline void call_rounding(struct cpu *c, const struct insn *i, const struct native_op *op,
                                 struct native_frame *f, void *mem)
{
	f->mxcsr = *fpu_mxcsr(c);
	if (unlikely(~f->mxcsr & MXCSR_MASKS)) {
		call_trapping(c, i, op, f, mem);
		return;
	}
	call_plain(c, i, op, f, mem);
	*fpu_mxcsr(c) = f->mxcsr;
}

static inline void *read_operand(struct cpu *c, const struct insn *i, const struct native_op *op)
{
	gva_t va = access_ea(c, i, op->form.mem_size, false);

	check_align(c, va, op->form.mem_align);
	return native_read(c, va, op->form.mem_size, i->seg);
}

/* The frequent shapes: registers only, or one memory source, nothing else. */
void native_sse_rr(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	call_plain(c, i, native_op(i), native_frame(c), NULL);
}

void native_sse_rm(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	call_plain(c, i, native_op(i), native_frame(c), read_operand(c, i, native_op(i)));
}

void native_sse_rr_rounding(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	call_rounding(c, i, native_op(i), native_frame(c), NULL);
}

void native_sse_rm_rounding(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	call_rounding(c, i, native_op(i), native_frame(c), read_operand(c, i, native_op(i)));
}

void native_avx_rr(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	call_plain(c, i, native_op(i), native_frame(c), NULL);
}

void native_avx_rm(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	call_plain(c, i, native_op(i), native_frame(c), read_operand(c, i, native_op(i)));
}

void native_avx_rr_rounding(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	call_rounding(c, i, native_op(i), native_frame(c), NULL);
}

void native_avx_rm_rounding(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	call_rounding(c, i, native_op(i), native_frame(c), read_operand(c, i, native_op(i)));
}

static void check_units(struct cpu *c, uint32_t flags)
{
	if (flags & FORM_VEX)
		check_avx(c);
	if (flags & FORM_SSE)
		check_sse(c);
	if (flags & FORM_MMX)
		check_mmx(c);
}

/* Results outside the vector registers. */
static void take_results(struct cpu *c, const struct insn *i, const struct native_frame *f,
                         uint32_t flags)
{
	if (flags & FORM_GPR_OUT)
		c->gpr[i->opsize] = f->rax;
	if (flags & FORM_RCX_OUT)
		c->rcx = (uint32_t)f->rcx;
	if (flags & FORM_FLAGS)
		flags_set_arith(c, f->rflags);
}

/* VCVTPS2PH to memory on Intel's processors: should the store fault, MXCSR has the conversion's
 * flags by then. */
void native_convert_store(struct cpu *c, const struct insn *i)
{
	const struct native_op *op = native_op(i);
	struct native_frame *f = native_frame(c);
	unsigned size = op->form.mem_size;

	check_units(c, op->form.flags);
	call_rounding(c, i, op, f, f->bounce);
	native_write_out(c, access_ea(c, i, size, true), f->bounce, size, i->seg);
}

/* Everything else: stores, general registers, flags, MMX. opsize holds the general register's
 * number. */
void native_any(struct cpu *c, const struct insn *i)
{
	const struct native_op *op = native_op(i);
	const struct native_form *form = &op->form;
	struct native_frame *f = native_frame(c);
	void *mem = NULL;
	bool bounced = false;
	gva_t va = 0;

	check_units(c, form->flags);
	/* Intel's processors do this part of the transition to MMX before the store can fault. */
	if (!(~form->flags & (FORM_MMX | FORM_STORE)) && !cpuid_is_amd(c->cpuid))
		fpu_set_top(c, 0);
	if (form->mem_size) {
		va = access_ea(c, i, form->mem_size, form->flags & FORM_STORE);
		check_align(c, va, form->mem_align);
	}
	if (form->flags & FORM_STORE) {
		mem = native_write(c, va, form->mem_size, i->seg);
		bounced = !mem;
		mem = mem ? mem : f->bounce;
	} else if (form->mem_size) {
		mem = native_read(c, va, form->mem_size, i->seg);
	}
	if (form->flags & FORM_MMX)
		native_enter_mmx(c);
	f->rax = form->flags & FORM_GPR_IN ? c->gpr[i->opsize] : c->rax;
	f->rdx = c->rdx;
	if (form->flags & FORM_MXCSR)
		call_rounding(c, i, op, f, mem);
	else
		call_plain(c, i, op, f, mem);
	take_results(c, i, f, form->flags);
	if (bounced)
		native_write_out(c, va, f->bounce, form->mem_size, i->seg);
}

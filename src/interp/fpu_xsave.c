/*
 * The XSAVE family (SDM 1 chapter 13): components x87, SSE, AVX and PKRU.
 *
 * RFBM, the components an instruction is about, is EDX:EAX masked by what is enabled. XINUSE, the
 * components that are not in their initial configuration, is computed from the registers instead of
 * tracked, which is allowed: it is exact. No instruction here uses the modified optimisation.
 */
#include <string.h>
#include "cpu/cpuid.h"
#include "cpu/xsave.h"
#include "interp/fpu.h"

static bool is_zero(const void *p, size_t n)
{
	const uint8_t *b = p;

	return !b[0] && !memcmp(b, b + 1, n - 1);
}

static bool x87_in_use(struct cpu *c)
{
	return *fpu_fcw(c) != FCW_INIT || !is_zero(c->fpu.area + 2, FPU_MXCSR - 2) ||
	       !is_zero(fpu_st(c, 0), FPU_ST_BYTES);
}

/* MXCSR counts with SSE. */
static uint64_t components_in_use(struct cpu *c)
{
	bool sse = *fpu_mxcsr(c) != MXCSR_INIT || !is_zero(fpu_xmm(c, 0), 256);

	return (x87_in_use(c) ? XCR0_X87 : 0) | (sse ? XCR0_SSE : 0) |
	       (is_zero(c->fpu.area + FPU_YMMH, 256) ? 0 : XCR0_AVX) | (c->pkru ? XCR0_PKRU : 0);
}

/* Offset of a component, given the components of a compacted image, or 0 for the standard format.
 */
static unsigned offset_of(unsigned bit, uint64_t compacted)
{
	unsigned at = XSAVE_EXTENDED;

	for (unsigned n = 0; n < ARRAY_SIZE(xsave_components); n++) {
		const struct xsave_component *x = &xsave_components[n];

		if (x->bit == bit)
			return compacted ? at : x->offset;
		if (compacted & BIT(x->bit))
			at += x->size;
	}
	return at;
}
#define BIT_AVX  2
#define BIT_PKRU 9

static unsigned image_bytes(uint64_t components, uint64_t compacted)
{
	if (components & XCR0_PKRU)
		return offset_of(BIT_PKRU, compacted) + 8;
	return components & XCR0_AVX ? offset_of(BIT_AVX, compacted) + 256 : XSAVE_EXTENDED;
}

static uint64_t requested(const struct cpu *c)
{
	return c->xcr0 & ((uint64_t)(uint32_t)c->rdx << 32 | (uint32_t)c->rax);
}

static void check_xsave(struct cpu *c, bool supervisor)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		cpu_raise(c, EXC_UD, 0);
	if (supervisor && c->cpl)
		cpu_raise(c, EXC_GP, 0);
	if (c->cr0 & CR0_TS)
		cpu_raise(c, EXC_NM, 0);
}

static gva_t area_address(struct cpu *c, const struct insn *i, unsigned size, bool write)
{
	gva_t va = access_ea(c, i, size, write);

	if (va & 63)
		cpu_raise(c, EXC_GP, 0);
	return va;
}

/* ---- saving ---- */

/* An image on its way out, and which bytes of it have been filled. */
struct image {
	uint8_t bytes[XSAVE_MAX_BYTES];
	uint8_t filled[XSAVE_MAX_BYTES / 8]; /* by units of 8 bytes */
};

static void fill(struct image *m, unsigned at, const void *data, unsigned size)
{
	memcpy(m->bytes + at, data, size);
	memset(m->filled + at / 8, 1, (size + 7) / 8);
}

static void fill_x87(struct cpu *c, struct image *m, bool wide)
{
	fpu_put_x87(c, m->bytes, wide);
	memset(m->filled, 1, FPU_MXCSR / 8);
	memset(m->filled + FPU_ST / 8, 1, FPU_ST_BYTES / 8);
}

static void fill_mxcsr(struct cpu *c, struct image *m)
{
	fill(m, FPU_MXCSR, (uint32_t[]){ *fpu_mxcsr(c), MXCSR_VALID }, 8);
}

static void fill_components(struct cpu *c, struct image *m, uint64_t which, uint64_t compacted,
                            bool wide)
{
	if (which & XCR0_X87)
		fill_x87(c, m, wide);
	if (which & XCR0_SSE)
		fill(m, FPU_XMM, fpu_xmm(c, 0), 16 * fpu_registers(c));
	if (which & XCR0_AVX)
		fill(m, offset_of(BIT_AVX, compacted), c->fpu.area + FPU_YMMH,
		     16 * fpu_registers(c));
	if (which & XCR0_PKRU)
		fill(m, offset_of(BIT_PKRU, compacted), &(uint64_t){ c->pkru }, 8);
}

/* Writes what has been filled, run by run. */
static void write_image(struct cpu *c, const struct insn *i, gva_t va, const struct image *m)
{
	for (unsigned from = 0, to; from < sizeof(m->filled); from = to + 1) {
		for (to = from; to < sizeof(m->filled) && m->filled[to]; to++)
			;
		if (to > from)
			mmu_copy_out(c, va + 8 * from, m->bytes + 8 * from, 8 * (to - from),
			             i->seg);
	}
}

/* XSAVE and XSAVEOPT: the latter leaves out what is in its initial configuration. */
static void save_standard(struct cpu *c, const struct insn *i, bool optimise)
{
	struct image m = { .filled = { 0 } };
	uint64_t rfbm, in_use, state;
	unsigned size;
	gva_t va;

	check_xsave(c, false);
	rfbm = requested(c);
	in_use = components_in_use(c);
	size = image_bytes(rfbm, 0);
	va = area_address(c, i, size, true);
	mmu_probe(c, va, size, MMU_WRITE, i->seg);
	state = load64(c, va + XSAVE_XSTATE_BV, i->seg);
	state = (state & ~rfbm) | (in_use & rfbm);
	fill_components(c, &m, optimise ? rfbm & in_use : rfbm, 0, i->opsize == 8);
	if (rfbm & (XCR0_SSE | XCR0_AVX))
		fill_mxcsr(c, &m);
	fill(&m, XSAVE_XSTATE_BV, &state, 8);
	write_image(c, i, va, &m);
}

/* XSAVEC and XSAVES. */
static void save_compacted(struct cpu *c, const struct insn *i, bool supervisor)
{
	struct image m = { .filled = { 0 } };
	uint64_t rfbm, header[2];
	unsigned size;
	gva_t va;

	check_xsave(c, supervisor);
	rfbm = requested(c);
	header[0] = components_in_use(c) & rfbm;
	header[1] = rfbm | XSAVE_COMPACTED;
	size = image_bytes(rfbm, header[1]);
	va = area_address(c, i, size, true);
	mmu_probe(c, va, size, MMU_WRITE, i->seg);
	fill_components(c, &m, header[0], header[1], i->opsize == 8);
	if (header[0] & XCR0_SSE)
		fill_mxcsr(c, &m);
	fill(&m, XSAVE_XSTATE_BV, header, sizeof(header));
	write_image(c, i, va, &m);
}

void fpu_xsave(struct cpu *c, const struct insn *i)
{
	save_standard(c, i, false);
}

void fpu_xsaveopt(struct cpu *c, const struct insn *i)
{
	save_standard(c, i, true);
}

void fpu_xsavec(struct cpu *c, const struct insn *i)
{
	save_compacted(c, i, false);
}

void fpu_xsaves(struct cpu *c, const struct insn *i)
{
	save_compacted(c, i, true);
}

/* ---- restoring ---- */

struct header {
	uint64_t state, compacted, reserved[6];
};

/* SDM 1 13.8.1 and 13.8.2. */
static bool header_valid(const struct cpu *c, const struct header *h, bool supervisor)
{
	uint64_t components = h->compacted & ~XSAVE_COMPACTED;

	if (!(h->compacted & XSAVE_COMPACTED))
		return !supervisor && !h->compacted && !h->reserved[0] && !(h->state & ~c->xcr0);
	return !(components & ~c->xcr0) && !(h->state & ~components) &&
	       is_zero(h->reserved, sizeof(h->reserved));
}

/* MXCSR: with SSE in a compacted image, with SSE or AVX and unconditionally in a standard one. */
static bool mxcsr_loaded(const struct header *h, uint64_t rfbm)
{
	if (h->compacted)
		return rfbm & h->state & XCR0_SSE;
	return rfbm & (XCR0_SSE | XCR0_AVX);
}

static void load_registers(struct cpu *c, uint8_t *to, const uint8_t *from, bool present)
{
	unsigned size = 16 * fpu_registers(c);

	if (present)
		memcpy(to, from, size);
	else
		memset(to, 0, size);
}

static void load_x87(struct cpu *c, const uint8_t *image, bool present, bool wide)
{
	static const uint8_t initial[FPU_XMM] = { FCW_INIT & 0xff, FCW_INIT >> 8 };

	fpu_get_x87(c, present ? image : initial, wide);
}

static void load_pkru(struct cpu *c, uint32_t value)
{
	if (c->pkru == value)
		return;
	c->pkru = value;
	mmu_flush_data(c);
}

static void load_components(struct cpu *c, const struct header *h, const uint8_t *image,
                            uint64_t rfbm, bool wide)
{
	uint64_t have = h->state;
	uint32_t pkru = 0;

	if (rfbm & XCR0_X87)
		load_x87(c, image, have & XCR0_X87, wide);
	if (mxcsr_loaded(h, rfbm))
		memcpy(fpu_mxcsr(c), image + FPU_MXCSR, 4);
	else if (rfbm & XCR0_SSE)
		*fpu_mxcsr(c) = MXCSR_INIT;
	if (rfbm & XCR0_SSE)
		load_registers(c, fpu_xmm(c, 0), image + FPU_XMM, have & XCR0_SSE);
	if (rfbm & XCR0_AVX)
		load_registers(c, c->fpu.area + FPU_YMMH, image + offset_of(BIT_AVX, h->compacted),
		               have & XCR0_AVX);
	if (have & XCR0_PKRU)
		memcpy(&pkru, image + offset_of(BIT_PKRU, h->compacted), 4);
	if (rfbm & XCR0_PKRU)
		load_pkru(c, pkru);
}

/* Everything that can fault comes before the first register changes. */
static void restore(struct cpu *c, const struct insn *i, bool supervisor)
{
	uint8_t image[XSAVE_MAX_BYTES];
	struct header h;
	uint64_t rfbm;
	uint32_t mxcsr;
	unsigned size;
	gva_t va;

	check_xsave(c, supervisor);
	rfbm = requested(c);
	va = area_address(c, i, XSAVE_EXTENDED, false);
	mmu_copy_in(c, image, va, XSAVE_EXTENDED, i->seg);
	memcpy(&h, image + XSAVE_XSTATE_BV, sizeof(h));
	if (!header_valid(c, &h, supervisor))
		cpu_raise(c, EXC_GP, 0);
	memcpy(&mxcsr, image + FPU_MXCSR, 4);
	if (mxcsr_loaded(&h, rfbm) && (mxcsr & ~MXCSR_VALID))
		cpu_raise(c, EXC_GP, 0);
	size = image_bytes(rfbm & h.state, h.compacted);
	if (size > XSAVE_EXTENDED)
		mmu_copy_in(c, image + XSAVE_EXTENDED, va + XSAVE_EXTENDED, size - XSAVE_EXTENDED,
		            i->seg);
	load_components(c, &h, image, rfbm, i->opsize == 8);
}

void fpu_xrstor(struct cpu *c, const struct insn *i)
{
	restore(c, i, false);
}

void fpu_xrstors(struct cpu *c, const struct insn *i)
{
	restore(c, i, true);
}

/* ---- XCR0 ---- */

void fpu_xgetbv(struct cpu *c, const struct insn *i)
{
	uint64_t value = c->xcr0;

	if (!(c->cr4 & CR4_OSXSAVE))
		cpu_raise(c, EXC_UD, 0);
	if ((uint32_t)c->rcx > 1)
		cpu_raise(c, EXC_GP, 0);
	if ((uint32_t)c->rcx == 1)
		value &= components_in_use(c);
	c->rax = (uint32_t)value;
	c->rdx = value >> 32;
}

/* SDM 2D XSETBV: x87 cannot be disabled, and AVX needs SSE. */
static bool xcr0_valid(const struct cpu *c, uint64_t value)
{
	uint32_t r[4];

	cpuid_query(c, 0xd, 0, r);
	if (value & ~(r[0] | (uint64_t)r[3] << 32))
		return false;
	return (value & XCR0_X87) && ((value & XCR0_SSE) || !(value & XCR0_AVX));
}

void fpu_xsetbv(struct cpu *c, const struct insn *i)
{
	uint64_t value = (uint64_t)(uint32_t)c->rdx << 32 | (uint32_t)c->rax;

	if (!(c->cr4 & CR4_OSXSAVE))
		cpu_raise(c, EXC_UD, 0);
	if (c->cpl || (uint32_t)c->rcx || !xcr0_valid(c, value))
		cpu_raise(c, EXC_GP, 0);
	c->xcr0 = value;
}

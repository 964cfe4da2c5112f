/*
 * From struct cpu to the host's registers and back. Compiled for general registers only: between
 * enter() and the XSAVE the vector registers are the guest's.
 */
#include "engine/bt/enter.h"

#include "cpu/flags.h"
#include "engine/bt/cache.h"

#define FPU_HEADER  512 /* of the XSAVE area: XSTATE_BV and what has to be zero */
#define STATE_VECTOR 6u  /* XMM and YMM; x87 is the interpreter's */
#define MXCSR_MASKS 0x1f80u
#define MXCSR_HOST  0x1f80u

/* Both components count as in use, and the format is the standard one; x87's bit stays. */
static void set_header(struct bt *b)
{
	uint64_t *h = (uint64_t *)(b->cpu->fpu.area + FPU_HEADER);

	h[0] |= STATE_VECTOR;
	for (unsigned n = 1; n < 8; n++)
		h[n] = 0;
}

static void save_vector(struct bt *b)
{
	uint32_t mxcsr = MXCSR_HOST;

	asm volatile("xsave64 %0" : "+m"(b->cpu->fpu) : "a"(STATE_VECTOR), "d"(0) : "memory");
	set_header(b); /* XSAVE clears what is as after reset */
	asm volatile("ldmxcsr %0; vzeroupper" : : "m"(mxcsr));
	b->fpu_live = false;
	b->sse_ok = b->avx_ok = 0;
}

bool enter_vector(struct bt *b, bool needs_sse, bool needs_avx)
{
	const struct cpu *c = b->cpu;
	uint32_t mxcsr = *(const uint32_t *)(c->fpu.area + FPU_MXCSR);
	bool masked = !(~mxcsr & MXCSR_MASKS);
	bool sse = !(c->cr0 & (CR0_EM | CR0_TS)) && (c->cr4 & CR4_OSFXSR);
	bool avx = !(c->cr0 & CR0_TS) && (c->cr4 & CR4_OSXSAVE) &&
	           !(~c->xcr0 & (XCR0_SSE | XCR0_AVX)) && !(c->rflags & RFLAGS_VM) &&
	           (c->cr0 & CR0_PE);

	b->want_sse = masked && sse;
	b->want_avx = masked && avx;
	b->want_vector = (b->want_sse || !needs_sse) && (b->want_avx || !needs_avx);
	return b->want_vector;
}

static void load_vector(struct bt *b)
{
	set_header(b);
	asm volatile("xrstor64 %0" : : "m"(b->cpu->fpu), "a"(STATE_VECTOR), "d"(0));
	b->fpu_live = true;
	b->sse_ok = b->want_sse;
	b->avx_ok = b->want_avx;
	b->want_vector = false;
}

bool enter_is_wanted(const struct cpu *c, uint32_t attention)
{
	if (attention & (ATTN_KICK | ATTN_INIT | ATTN_CODE))
		return true;
	if (attention & ATTN_NMI && !c->nmi_masked)
		return true;
	return attention & ATTN_INTR && c->rflags & RFLAGS_IF;
}

static void load_state(struct bt *b)
{
	struct cpu *c = b->cpu;

	for (unsigned n = 0; n < 16; n++)
		b->gpr[n] = c->gpr[n];
	b->seg_base[0] = c->seg[SEG_FS].base;
	b->seg_base[1] = c->seg[SEG_GS].base;
	b->host_flags = b->slot = flags_get_arith(c) | RFLAGS_1 | RFLAGS_IF;
	b->fill_site = 0;
}

static void store_state(struct bt *b)
{
	struct cpu *c = b->cpu;

	for (unsigned n = 0; n < 16; n++)
		c->gpr[n] = b->gpr[n];
	c->seg[SEG_FS].base = b->seg_base[0];
	c->seg[SEG_GS].base = b->seg_base[1];
}

bool enter_code(struct bt *b, uint64_t target)
{
	struct cpu *c = b->cpu;

	load_state(b);
	b->target = target;
	atomic_store(&b->in_code, 1);
	if (enter_is_wanted(c, atomic_load(&c->attention))) {
		atomic_store_explicit(&b->in_code, 0, memory_order_release);
		return false;
	}
	if (b->want_vector)
		load_vector(b);
	b->cache->enter(b);
	if (b->fpu_live)
		save_vector(b);
	atomic_store_explicit(&b->in_code, 0, memory_order_release);
	store_state(b);
	return true;
}

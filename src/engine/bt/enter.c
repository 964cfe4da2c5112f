/*
 * From struct cpu to the host's registers and back. Compiled for general registers only: between
 * enter() and the XSAVE the vector registers are the guest's.
 */
#include "engine/bt/enter.h"

#include "cpu/flags.h"
#include "engine/bt/cache.h"
#include "engine/bt/tlb.h"

#define FPU_HEADER   512 /* of the XSAVE area: XSTATE_BV and what has to be zero */
#define FPU_FIP      8
#define STATE_VECTOR 6u /* XMM and YMM */
#define STATE_X87    1u
#define MXCSR_MASKS  0x1f80u
#define MXCSR_HOST   0x1f80u
#define FCW_MASKS    0x3fu

/* Both components count as in use, and the format is the standard one. */
static void set_header(struct bt *b, uint32_t components)
{
	uint64_t *h = (uint64_t *)(b->cpu->fpu.area + FPU_HEADER);

	h[0] |= components;
	for (unsigned n = 1; n < 8; n++)
		h[n] = 0;
}

/* The last x87 instruction was one of ours: the guest's address of it instead. */
static void translate_fip(struct bt *b)
{
	uint64_t *fip = (uint64_t *)(b->cpu->fpu.area + FPU_FIP);
	const struct bt_block *k = cache_block_at(b, *fip);
	uint32_t off = (uint32_t)(*fip - (uintptr_t)b->cache->exec);

	for (unsigned n = 0; k && n < k->nr_sites; n++)
		if (k->site[n].trap == off) {
			*fip = b->x87_page + k->site[n].off;
			return;
		}
}

static void save_vector(struct bt *b)
{
	uint32_t mxcsr = MXCSR_HOST, components = STATE_VECTOR | (b->x87_live ? STATE_X87 : 0);

	asm volatile("xsave64 %0" : "+m"(b->cpu->fpu) : "a"(components), "d"(0) : "memory");
	set_header(b, components); /* XSAVE clears what is as after reset */
	asm volatile("ldmxcsr %0; vzeroupper" : : "m"(mxcsr));
	if (b->x87_live) {
		asm volatile("fninit");
		translate_fip(b);
	}
	b->fpu_live = b->x87_live = false;
	b->sse_ok = b->avx_ok = b->x87_ok = 0;
}

bool enter_vector(struct bt *b, bool needs_sse, bool needs_avx, bool needs_x87)
{
	const struct cpu *c = b->cpu;
	uint32_t mxcsr = *(const uint32_t *)(c->fpu.area + FPU_MXCSR);
	bool masked = !(~mxcsr & MXCSR_MASKS);
	bool off = c->cr0 & (CR0_EM | CR0_TS);
	bool avx = !(c->cr0 & CR0_TS) && (c->cr4 & CR4_OSXSAVE) &&
	           !(~c->xcr0 & (XCR0_SSE | XCR0_AVX)) && !(c->rflags & RFLAGS_VM) &&
	           (c->cr0 & CR0_PE);

	b->want_sse = masked && !off && (c->cr4 & CR4_OSFXSR);
	b->want_avx = masked && avx;
	b->want_x87 = needs_x87 && !off && !(~*(const uint16_t *)c->fpu.area & FCW_MASKS);
	b->want_vector = (b->want_sse || !needs_sse) && (b->want_avx || !needs_avx) &&
	                 (b->want_x87 || !needs_x87);
	return b->want_vector;
}

static void load_vector(struct bt *b)
{
	uint32_t components = STATE_VECTOR | (b->want_x87 ? STATE_X87 : 0);

	set_header(b, components);
	asm volatile("xrstor64 %0" : : "m"(b->cpu->fpu), "a"(components), "d"(0));
	b->fpu_live = true;
	b->x87_live = b->want_x87;
	b->sse_ok = b->want_sse;
	b->avx_ok = b->want_avx;
	b->x87_ok = b->want_x87;
	b->want_vector = false;
}

bool enter_is_wanted(const struct cpu *c, uint32_t attention)
{
	if (attention & (ATTN_KICK | ATTN_INIT | ATTN_CODE | ATTN_EVENT))
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
	bt_tlb_drop_stack(b);
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

/*
 * The software TLB: filling, dropping, and address-space tags.
 *
 * Invariants
 *  1. An entry whose tag carries the current ASID translates as the tables did at some moment since
 *     the guest last asked for it to be dropped.
 *  2. An ASID is never handed out twice without the whole TLB being emptied in between.
 *  3. Table MMU_MODES (the last) has only TLB_NEVER tags.
 *  4. `large` has the bit of every large page that an entry was cut from.
 *
 * Dropping everything costs as little as dropping one address space, because guests do it often
 * (WRPKRU, MOV DR7, MOV CR4): besides the new ASID there is a new generation, and the entry of a
 * global page serves other address spaces only within the generation in which it was made.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "mem/mem.h"
#include "mmu/tlb.h"

#define ASID_LAST 0xffe
_Static_assert(TLB_BITS == MEM_GRANTED_BITS, "mem->granted names an entry");

static void clear_entry(struct tlb_entry *t)
{
	t->read = t->write = t->fetch = TLB_NEVER;
}

static void forget_spaces(struct mmu *m)
{
	for (unsigned n = 0; n < MMU_SPACES; n++)
		m->space[n].asid = 0;
}

static void tell(struct cpu *c, enum mmu_flush what, gva_t va)
{
	if (c->mmu->flushed)
		c->mmu->flushed(c, what, va);
}

static uint16_t new_asid(struct cpu *c)
{
	struct mmu *m = c->mmu;

	if (m->next_asid > ASID_LAST) {
		tlb_clear(m);
		tell(c, MMU_FLUSH_ALL, 0);
	}
	return m->next_asid++;
}

/* memset() without vector registers: a translator calls here with the guest's in them. */
static void zero(void *p, size_t bytes)
{
	asm volatile("rep stosb" : "+D"(p), "+c"(bytes) : "a"(0) : "memory");
}

void tlb_clear(struct mmu *m)
{
	for (unsigned mode = 0; mode <= MMU_MODES; mode++)
		for (unsigned n = 0; n < TLB_ENTRIES; n++)
			clear_entry(&m->tlb[mode][n]);
	forget_spaces(m);
	m->next_asid = 1;
	m->generation = 1;
	zero(m->large, sizeof(m->large));
}

static unsigned current_pcid(const struct cpu *c)
{
	return c->cr4 & CR4_PCIDE ? c->cr3 & 0xfff : 0;
}

/* Kernels number address spaces upwards and tell user from kernel tables by a high bit. */
static unsigned space_of(unsigned pcid)
{
	return (pcid ^ pcid >> 8) % MMU_SPACES;
}

/* Makes the current PCID's address space current, keeping its translations if asked and known. */
static void enter_space(struct cpu *c, bool keep)
{
	struct mmu *m = c->mmu;
	unsigned pcid = current_pcid(c), n = space_of(pcid);

	if (!keep || !m->space[n].asid || m->space[n].pcid != pcid) {
		uint16_t asid = new_asid(c);

		m->space[n].pcid = pcid;
		m->space[n].asid = asid;
	}
	c->tlb_tag = m->space[n].asid;
}

void mmu_set_cr3(struct cpu *c, uint64_t value)
{
	c->cr3 = value & ~BIT(63);
	enter_space(c, (value >> 63) && (c->cr4 & CR4_PCIDE));
	tell(c, MMU_FLUSH_SPACE, 0);
}

static bool needs_checks(const struct cpu *c)
{
	if (c->mmu->writing)
		return true;
	/* A data or I/O breakpoint armed, or alignment checks in force. */
	for (unsigned n = 0; n < 4 && c->dr7 & 0xff; n++)
		if ((c->dr7 >> (2 * n) & 3) && (c->dr7 >> (16 + 4 * n) & 3))
			return true;
	return c->cpl == 3 && (c->cr0 & CR0_AM) && (c->rflags & RFLAGS_AC);
}

void mmu_update_mode(struct cpu *c)
{
	struct mmu *m = c->mmu;

	if (c->cpl == 3)
		m->mode = MMU_USER;
	else if ((c->cr4 & CR4_SMAP) && !(c->rflags & RFLAGS_AC))
		m->mode = MMU_KERNEL;
	else
		m->mode = MMU_KERNEL_AC;
	c->tlb = m->tlb[unlikely(needs_checks(c)) ? MMU_MODES : m->mode];
}

static void flush_all(struct cpu *c, enum mmu_flush what)
{
	struct mmu *m = c->mmu;

	forget_spaces(m);
	if (!++m->generation)
		tlb_clear(m);
	enter_space(c, false);
	mmu_update_mode(c);
	tell(c, what, 0);
}

void mmu_flush_all(struct cpu *c)
{
	flush_all(c, MMU_FLUSH_ALL);
}

void mmu_flush_data(struct cpu *c)
{
	flush_all(c, MMU_FLUSH_DATA);
}

static void drop_page(struct mmu *m, gva_t va)
{
	unsigned n = (va >> 12) & (TLB_ENTRIES - 1);

	for (unsigned mode = 0; mode < MMU_MODES; mode++)
		clear_entry(&m->tlb[mode][n]);
}

/* Sizes of pages that are cut up in the TLB, as shifts. */
static const uint8_t large_shift[MMU_LARGE_SIZES] = { 21, 22, 30 };

static unsigned large_bit(gva_t va, unsigned shift)
{
	return (va >> shift) * 0x9e3779b97f4a7c15ull >> (64 - MMU_LARGE_BITS);
}

static void note_large(struct mmu *m, gva_t va, uint64_t page_size)
{
	for (unsigned k = 0; k < MMU_LARGE_SIZES; k++)
		if (page_size == BIT(large_shift[k])) {
			unsigned bit = large_bit(va, large_shift[k]);

			m->large[k][bit / 64] |= BIT(bit % 64);
		}
}

static bool from_region(const struct tlb_entry *t, gva_t va, unsigned shift)
{
	return !((t->read ^ va) >> shift) || !((t->write ^ va) >> shift) ||
	       !((t->fetch ^ va) >> shift);
}

/* Drops what lies in the naturally aligned region of BIT(shift) bytes around va. */
static void drop_region(struct mmu *m, gva_t va, unsigned shift)
{
	unsigned pages = shift - 12 < TLB_BITS ? 1u << (shift - 12) : TLB_ENTRIES;
	unsigned first = (va >> 12) & (TLB_ENTRIES - 1) & ~(pages - 1);

	for (unsigned mode = 0; mode < MMU_MODES; mode++)
		for (unsigned n = first; n < first + pages; n++)
			if (from_region(&m->tlb[mode][n], va, shift))
				clear_entry(&m->tlb[mode][n]);
}

void mmu_invlpg(struct cpu *c, gva_t va)
{
	enum mmu_flush what = MMU_FLUSH_PAGE;
	struct mmu *m = c->mmu;

	drop_page(m, va);
	for (unsigned k = 0; k < MMU_LARGE_SIZES; k++) {
		unsigned bit = large_bit(va, large_shift[k]);

		if (m->large[k][bit / 64] >> (bit % 64) & 1) {
			drop_region(m, va, large_shift[k]);
			what = MMU_FLUSH_ALL;
		}
	}
	tell(c, what, va);
}

static void drop_pcid(struct cpu *c, unsigned pcid)
{
	struct mmu *m = c->mmu;
	unsigned n = space_of(pcid);

	if (m->space[n].pcid == pcid)
		m->space[n].asid = 0;
	if (pcid == current_pcid(c))
		enter_space(c, false);
	tell(c, MMU_FLUSH_SPACE, 0);
}

void mmu_invpcid(struct cpu *c, unsigned type, unsigned pcid, gva_t va)
{
	switch (type) {
	case 0:
		mmu_invlpg(c, va);
		break;
	case 1:
		drop_pcid(c, pcid);
		break;
	case 2:
		mmu_flush_all(c);
		break;
	case 3:
		forget_spaces(c->mmu);
		enter_space(c, false);
		tell(c, MMU_FLUSH_SPACE, 0);
		break;
	}
}

static uint64_t *kind_tag(struct tlb_entry *t, enum mmu_access access)
{
	return access == MMU_READ ? &t->read : access == MMU_WRITE ? &t->write : &t->fetch;
}

/* A global page's entry serves every address space: restamp it when only the ASID differs. */
static bool restamp(struct cpu *c, struct tlb_entry *t, gva_t va, enum mmu_access access)
{
	uint64_t tag = *kind_tag(t, access);

	if ((tag & PAGE_MASK) != (va & PAGE_MASK) || (tag & 0xfff) == 0xfff)
		return false;
	if (t->read != TLB_NEVER)
		t->read = (va & PAGE_MASK) | c->tlb_tag;
	if (t->write != TLB_NEVER)
		t->write = (va & PAGE_MASK) | c->tlb_tag;
	if (t->fetch != TLB_NEVER)
		t->fetch = (va & PAGE_MASK) | c->tlb_tag;
	return true;
}

static uint64_t tag_if(const struct cpu *c, bool yes, gva_t va)
{
	return yes ? (va & PAGE_MASK) | c->tlb_tag : TLB_NEVER;
}

/*
 * The right to write a page must not be cached while it has code that is watched. Whoever starts to
 * watch a page sets its word in mem->code and then takes such rights out of all TLBs
 * (src/engine/bt); so the word is looked at once more after the tag is in place.
 */
static void grant_write(struct cpu *c, struct tlb_entry *t, gva_t va, const uint8_t *host)
{
	struct mem *m = c->mem;
	uint64_t page;

	if (likely(!m->code)) {
		t->write = tag_if(c, true, va);
		return;
	}
	t->write = TLB_NEVER;
	page = mem_page(m, host);
	if (page == MEM_NO_PAGE || mem_has_code(m, host))
		return;
	mem_grant(m, page, va >> 12);
	*(volatile uint64_t *)&t->write = tag_if(c, true, va);
	atomic_thread_fence(memory_order_seq_cst);
	if (mem_has_code(m, host))
		*(volatile uint64_t *)&t->write = TLB_NEVER;
}

static void fill(struct cpu *c, gva_t va, unsigned mode, const struct mmu_result *r, uint8_t *host,
                 bool writable)
{
	struct mmu *m = c->mmu;
	unsigned n = (va >> 12) & (TLB_ENTRIES - 1);
	struct tlb_entry *t = &m->tlb[mode][n];

	t->write = TLB_NEVER; /* never the old page's tag with the new one's address */
	t->addend = (uintptr_t)host - va;
	t->read = tag_if(c, r->readable, va);
	t->fetch = tag_if(c, r->executable, va);
	if (writable)
		grant_write(c, t, va, host);
	m->global[mode][n] = r->global ? m->generation : 0;
	if (r->page_size > PAGE_SIZE)
		note_large(m, va, r->page_size);
}

uint8_t *mmu_find(struct cpu *c, gva_t va, enum mmu_access access, unsigned mode, gpa_t *gpa,
                  uint32_t *error)
{
	struct mmu *m = c->mmu;
	unsigned n = (va >> 12) & (TLB_ENTRIES - 1);
	struct tlb_entry *t = &m->tlb[mode][n];
	const struct mem_bank *bank;
	struct mmu_result r;
	uint8_t *host;

	*error = MMU_NO_FAULT;
	if (*kind_tag(t, access) == ((va & PAGE_MASK) | c->tlb_tag) ||
	    (m->global[mode][n] == m->generation && restamp(c, t, va, access)))
		return (uint8_t *)(va + t->addend);
	c->stats.tlb_misses++;
	if (!mmu_walk(c, va, access, mode, &r, error))
		return NULL;
	*error = MMU_NO_FAULT;
	bank = mem_find(c->mem, r.gpa);
	*gpa = r.gpa;
	if (!bank)
		return NULL;
	host = bank->host + (r.gpa - bank->base);
	fill(c, va, mode, &r, host, r.writable && !bank->readonly);
	return access == MMU_WRITE && bank->readonly ? NULL : host;
}

uint8_t *tlb_lookup(struct cpu *c, gva_t va, enum mmu_access access, unsigned mode, gpa_t *gpa)
{
	uint32_t error;
	uint8_t *host = mmu_find(c, va, access, mode, gpa, &error);

	if (unlikely(!host && error != MMU_NO_FAULT))
		cpu_raise_pf(c, va, error);
	return host;
}

int mmu_new(struct cpu *c)
{
	c->mmu = calloc(1, sizeof(*c->mmu));
	if (!c->mmu)
		return -ENOMEM;
	tlb_clear(c->mmu);
	mmu_flush_all(c);
	return 0;
}

void mmu_free(struct cpu *c)
{
	free(c->mmu);
	c->mmu = NULL;
	c->tlb = NULL;
}

/*
 * The software TLB: filling, dropping, and address-space tags.
 *
 * Invariants
 *  1. An entry whose tag carries the current ASID translates as the tables did at some moment since
 *     the guest last asked for it to be dropped.
 *  2. An ASID is never handed out twice without the whole TLB being emptied in between.
 *  3. Table MMU_MODES (the last) has only TLB_NEVER tags.
 *  4. `large` has the bit of every 2 MiB region from which an entry came by a larger page.
 */
#include <errno.h>
#include <stdlib.h>
#include "mem/mem.h"
#include "mmu/tlb.h"

#define ASID_LAST 0xffe

static void clear_entry(struct tlb_entry *t)
{
	t->read = t->write = t->fetch = TLB_NEVER;
}

static uint16_t new_asid(struct cpu *c)
{
	struct mmu *m = c->mmu;

	if (m->next_asid > ASID_LAST)
		tlb_clear(m);
	return m->next_asid++;
}

void tlb_clear(struct mmu *m)
{
	for (unsigned mode = 0; mode <= MMU_MODES; mode++)
		for (unsigned n = 0; n < TLB_ENTRIES; n++)
			clear_entry(&m->tlb[mode][n]);
	for (unsigned n = 0; n < MMU_SPACES; n++)
		m->space[n].asid = 0;
	m->next_asid = 1;
	m->large = 0;
}

static unsigned current_pcid(const struct cpu *c)
{
	return c->cr4 & CR4_PCIDE ? c->cr3 & 0xfff : 0;
}

/* Makes the current PCID's address space current, keeping its translations if asked and known. */
static void enter_space(struct cpu *c, bool keep)
{
	struct mmu *m = c->mmu;
	unsigned pcid = current_pcid(c), n = pcid % MMU_SPACES;

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
}

static bool needs_checks(const struct cpu *c)
{
	/* A data or I/O breakpoint armed, or alignment checks in force. */
	for (unsigned n = 0; n < 4; n++)
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

void mmu_flush_all(struct cpu *c)
{
	tlb_clear(c->mmu);
	enter_space(c, false);
	mmu_update_mode(c);
}

static void drop_page(struct mmu *m, gva_t va)
{
	unsigned n = (va >> 12) & (TLB_ENTRIES - 1);

	for (unsigned mode = 0; mode < MMU_MODES; mode++)
		clear_entry(&m->tlb[mode][n]);
}

void mmu_invlpg(struct cpu *c, gva_t va)
{
	struct mmu *m = c->mmu;

	/* Part of a large page: its other 4 KiB entries could be anywhere in the table. */
	if (m->large & BIT((va >> 21) & 63))
		mmu_flush_all(c);
	else
		drop_page(m, va);
}

static void drop_pcid(struct cpu *c, unsigned pcid)
{
	struct mmu *m = c->mmu;
	unsigned n = pcid % MMU_SPACES;

	if (m->space[n].pcid == pcid)
		m->space[n].asid = 0;
	if (pcid == current_pcid(c))
		enter_space(c, false);
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
		for (unsigned n = 0; n < MMU_SPACES; n++)
			c->mmu->space[n].asid = 0;
		enter_space(c, false);
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

uint8_t *tlb_lookup(struct cpu *c, gva_t va, enum mmu_access access, unsigned mode, gpa_t *gpa)
{
	struct mmu *m = c->mmu;
	unsigned n = (va >> 12) & (TLB_ENTRIES - 1);
	struct tlb_entry *t = &m->tlb[mode][n];
	struct mmu_result r;
	const struct mem_bank *bank;
	uint32_t error;
	uint8_t *host;

	if (*kind_tag(t, access) == ((va & PAGE_MASK) | c->tlb_tag) ||
	    (m->global[mode][n] && restamp(c, t, va, access)))
		return (uint8_t *)(va + t->addend);
	c->stats.tlb_misses++;
	if (!mmu_walk(c, va, access, mode, &r, &error))
		cpu_raise_pf(c, va, error);
	bank = mem_find(c->mem, r.gpa);
	*gpa = r.gpa;
	if (!bank)
		return NULL;
	host = bank->host + (r.gpa - bank->base);
	t->addend = (uintptr_t)host - va;
	t->read = tag_if(c, r.readable, va);
	t->write = tag_if(c, r.writable && !bank->readonly, va);
	t->fetch = tag_if(c, r.executable, va);
	m->global[mode][n] = r.global;
	if (r.page_size > PAGE_SIZE)
		m->large |= BIT((va >> 21) & 63);
	return access == MMU_WRITE && bank->readonly ? NULL : host;
}

int mmu_new(struct cpu *c)
{
	c->mmu = calloc(1, sizeof(*c->mmu));
	if (!c->mmu)
		return -ENOMEM;
	mmu_flush_all(c);
	return 0;
}

void mmu_free(struct cpu *c)
{
	free(c->mmu);
	c->mmu = NULL;
	c->tlb = NULL;
}

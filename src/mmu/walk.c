/*
 * The page walk: 2-level, PAE, 4-level and 5-level paging as SDM 3A chapter 4 has them.
 *
 * A format is a list of levels; each level knows which address bits index it and whether an entry
 * there may map a page. Rights accumulate on the way down, are judged once at the leaf, and only a
 * walk that succeeds sets accessed and dirty bits, with compare-and-swap, because other vCPUs walk
 * too.
 */
#include "mem/mem.h"
#include "mmu/mmu.h"

#define PTE_P         BIT(0)
#define PTE_W         BIT(1)
#define PTE_U         BIT(2)
#define PTE_A         BIT(5)
#define PTE_D         BIT(6)
#define PTE_PS        BIT(7)
#define PTE_G         BIT(8)
#define PTE_NX        BIT(63)
#define PTE_ADDR      0x000ffffffffff000ull
#define PHYS_RESERVED (PTE_ADDR & ~(BIT(MMU_PHYS_BITS) - 1))
#define MAX_LEVELS    5

struct walk {
	struct cpu *c;
	gva_t va;
	enum mmu_access access;
	unsigned mode;
	bool wide; /* 8-byte entries */
	unsigned nr;
	gpa_t entry_gpa[MAX_LEVELS];
	uint64_t entry[MAX_LEVELS];
	uint64_t rights; /* PTE_W and PTE_U that survive, PTE_NX that was met */
	uint64_t leaf;
	uint64_t page_size;
	gpa_t frame;
};

static bool read_entry(struct walk *w, gpa_t gpa, uint64_t *out)
{
	void *p = mem_host(w->c->mem, gpa, w->wide ? 8 : 4, false);

	if (!p)
		return false;
	*out = w->wide ? *(volatile uint64_t *)p : *(volatile uint32_t *)p;
	return true;
}

/* Bits that must be zero in an entry at a level whose index starts at address bit `shift`. */
static uint64_t reserved_bits(const struct walk *w, unsigned shift, uint64_t entry)
{
	const struct cpu *c = w->c;
	uint64_t rsvd;

	if (!w->wide)
		return shift == 22 && (entry & PTE_PS) && (c->cr4 & CR4_PSE) ? BIT(21) : 0;
	rsvd = PHYS_RESERVED;
	if (!(c->efer & EFER_NXE))
		rsvd |= PTE_NX;
	if (!cpu_long_mode(c))
		rsvd |= 0x7ff0000000000000ull;
	if (shift >= 39)
		rsvd |= PTE_PS;
	else if (shift > 12 && (entry & PTE_PS))
		rsvd |= (BIT(shift) - 1) & ~0x1fffull;
	return rsvd;
}

static bool maps_page(const struct walk *w, unsigned shift, uint64_t entry)
{
	if (shift == 12)
		return true;
	if (!(entry & PTE_PS) || shift >= 39)
		return false;
	return w->wide || (w->c->cr4 & CR4_PSE);
}

static gpa_t leaf_frame(const struct walk *w, unsigned shift, uint64_t entry)
{
	if (!w->wide && shift == 22) /* PSE-36, SDM 3A table 4-4 */
		return (entry & 0xffc00000) | ((entry >> 13 & 0xff) << 32);
	return entry & PTE_ADDR & ~(BIT(shift) - 1);
}

/* Follows the tables; false with the P and RSVD bits of the error code. */
static bool descend(struct walk *w, gpa_t table, unsigned shift, unsigned step, uint32_t *error)
{
	for (;; shift -= step) {
		gpa_t gpa = table + ((w->va >> shift) & (BIT(step) - 1)) * (w->wide ? 8 : 4);
		uint64_t e;

		if (!read_entry(w, gpa, &e))
			e = w->wide ? ~0ull : ~0u; /* not memory: reads as all ones */
		if (!(e & PTE_P)) {
			*error = 0;
			return false;
		}
		if (e & reserved_bits(w, shift, e)) {
			*error = PF_P | PF_RSVD;
			return false;
		}
		w->entry_gpa[w->nr] = gpa;
		w->entry[w->nr++] = e;
		w->rights &= e | ~(PTE_W | PTE_U);
		w->rights |= e & PTE_NX;
		if (maps_page(w, shift, e)) {
			w->leaf = e;
			w->page_size = BIT(shift);
			w->frame = leaf_frame(w, shift, e);
			return true;
		}
		table = e & PTE_ADDR;
	}
}

static bool walk_tables(struct walk *w, uint32_t *error)
{
	const struct cpu *c = w->c;

	if (cpu_long_mode(c))
		return descend(w, c->cr3 & PTE_ADDR, c->cr4 & CR4_LA57 ? 48 : 39, 9, error);
	if (!(c->cr4 & CR4_PAE)) {
		w->wide = false;
		return descend(w, c->cr3 & 0xfffff000, 22, 10, error);
	}
	if (!(c->pdpte[w->va >> 30 & 3] & PTE_P)) {
		*error = 0;
		return false;
	}
	return descend(w, c->pdpte[w->va >> 30 & 3] & PTE_ADDR, 21, 9, error);
}

/* SDM 3A 4.6.2: may the data access `write` touch a user page with this protection key? */
static bool pkey_allows(const struct walk *w, bool write)
{
	const struct cpu *c = w->c;
	unsigned key = w->leaf >> 59 & 15;
	uint32_t bits = c->pkru >> (2 * key);

	if (!(c->cr4 & CR4_PKE) || !cpu_long_mode(c) || !(w->rights & PTE_U))
		return true;
	if (bits & 1)
		return false;
	return !(write && (bits & 2) && (w->mode == MMU_USER || (c->cr0 & CR0_WP)));
}

/* SDM 3A 4.6.1, protection keys apart. */
static bool rights_allow(const struct walk *w, enum mmu_access access)
{
	const struct cpu *c = w->c;
	bool user_page = w->rights & PTE_U;

	if (access == MMU_FETCH) {
		if (w->rights & PTE_NX)
			return false;
		if (w->mode == MMU_USER)
			return user_page;
		return !(user_page && (c->cr4 & CR4_SMEP));
	}
	if (w->mode == MMU_USER) {
		if (!user_page)
			return false;
	} else if (user_page && w->mode == MMU_KERNEL) {
		return false; /* SMAP */
	}
	if (access == MMU_READ || (w->rights & PTE_W))
		return true;
	return w->mode != MMU_USER && !(c->cr0 & CR0_WP);
}

static bool allowed(const struct walk *w, enum mmu_access access)
{
	return rights_allow(w, access) &&
	       (access == MMU_FETCH || pkey_allows(w, access == MMU_WRITE));
}

/* Sets bits in an entry unless it changed under us; false: walk again. */
static bool set_bits(struct walk *w, unsigned n, uint64_t bits)
{
	uint64_t old = w->entry[n];
	bool done;
	void *p;

	if ((old & bits) == bits)
		return true;
	p = mem_host(w->c->mem, w->entry_gpa[n], w->wide ? 8 : 4, true);
	if (!p)
		return true; /* tables in ROM keep what they have */
	if (w->wide) {
		done = __atomic_compare_exchange_n((uint64_t *)p, &old, old | bits, false,
		                                   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	} else {
		uint32_t old32 = old;
		done = __atomic_compare_exchange_n((uint32_t *)p, &old32, old32 | (uint32_t)bits,
		                                   false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
	mem_wrote(w->c->mem, p, w->wide ? 8 : 4);
	return done;
}

static bool set_accessed_dirty(struct walk *w)
{
	for (unsigned n = 0; n < w->nr; n++) {
		bool leaf = n == w->nr - 1;

		if (!set_bits(w, n, PTE_A | (leaf && w->access == MMU_WRITE ? PTE_D : 0)))
			return false;
	}
	if (w->access == MMU_WRITE)
		w->leaf |= PTE_D;
	return true;
}

static uint32_t error_bits(const struct walk *w)
{
	const struct cpu *c = w->c;
	uint32_t error = 0;

	if (w->access == MMU_WRITE)
		error |= PF_W;
	if (w->mode == MMU_USER)
		error |= PF_U;
	if (w->access == MMU_FETCH &&
	    ((c->efer & EFER_NXE && c->cr4 & CR4_PAE) || (c->cr4 & CR4_SMEP)))
		error |= PF_I;
	return error;
}

static void unpaged(gva_t va, struct mmu_result *out)
{
	*out = (struct mmu_result){ .gpa = va,
		                    .page_size = PAGE_SIZE,
		                    .writable = true,
		                    .readable = true,
		                    .executable = true,
		                    .global = true };
}

bool mmu_walk(struct cpu *c, gva_t va, enum mmu_access access, unsigned mode,
              struct mmu_result *out, uint32_t *error)
{
	struct walk w;

	if (!(c->cr0 & CR0_PG)) {
		unpaged(va, out);
		return true;
	}
	do {
		w = (struct walk){ .c = c,
			           .va = va,
			           .access = access,
			           .mode = mode,
			           .wide = true,
			           .rights = PTE_W | PTE_U };
		if (!walk_tables(&w, error)) {
			*error |= error_bits(&w);
			return false;
		}
		if (!allowed(&w, access)) {
			*error = PF_P | error_bits(&w);
			/* whatever else refused it (SDM 3A 4.7) */
			if (access != MMU_FETCH && !pkey_allows(&w, access == MMU_WRITE))
				*error |= PF_PK;
			return false;
		}
	} while (!set_accessed_dirty(&w));
	*out = (struct mmu_result){
		.gpa = w.frame | (va & (w.page_size - 1)),
		.page_size = w.page_size,
		.readable = allowed(&w, MMU_READ),
		.writable = (w.leaf & PTE_D) && allowed(&w, MMU_WRITE),
		.executable = allowed(&w, MMU_FETCH),
		.global = (w.leaf & PTE_G) && (c->cr4 & CR4_PGE),
	};
	return true;
}

bool mmu_peek(struct cpu *c, gva_t va, gpa_t *gpa)
{
	struct walk w = { .c = c, .va = va, .wide = true };
	uint32_t error;

	if (!(c->cr0 & CR0_PG)) {
		*gpa = va;
		return true;
	}
	if (!walk_tables(&w, &error))
		return false;
	*gpa = w.frame | (va & (w.page_size - 1));
	return true;
}

bool mmu_load_pdptes(struct cpu *c, uint64_t cr3)
{
	/* SDM 3A 4.4.1: bits 2:1, 8:5 and those beyond the physical width are reserved when P is
	 * set. */
	const uint64_t rsvd = 0x1e6 | PHYS_RESERVED | 0xfff0000000000000ull;
	uint64_t pdpte[4];

	if (mem_read(c->mem, cr3 & 0xffffffe0, pdpte, sizeof(pdpte)))
		return false;
	for (unsigned n = 0; n < 4; n++)
		if ((pdpte[n] & PTE_P) && (pdpte[n] & rsvd))
			return false;
	for (unsigned n = 0; n < 4; n++)
		c->pdpte[n] = pdpte[n];
	return true;
}

/*
 * Address translation: GVA -> GPA -> host, and the software TLB.
 *
 * The TLB is direct mapped by linear page, one table per privilege mode, and shared by all address
 * spaces: the low 12 bits of an entry's tag name the address space (an ASID handed out by mmu.c,
 * not the PCID itself). Dropping an address space is handing it a new ASID; entries of global pages
 * that miss on the tag alone are restamped without a walk. The fast paths are in interp/access.h.
 *
 * An entry is filled for reading, writing and fetching separately: a tag that can never match keeps
 * the other kinds out. Pages that are not RAM, ROM for writing, pages without D set and watched
 * pages (data breakpoints) never get a tag and so always reach the slow path.
 */
#pragma once

#include "cpu/cpu.h"

#define TLB_BITS    12
#define TLB_ENTRIES (1u << TLB_BITS)
#define TLB_NEVER   0x4000000000000fffull /* not canonical, and no ASID is 0xfff */

struct tlb_entry {
	uint64_t read, write, fetch; /* linear page | ASID, or TLB_NEVER */
	uintptr_t addend;            /* host address = linear address + addend */
};

/* MMU modes: supervisor accesses with SMAP in force, without, and user accesses. */
enum { MMU_KERNEL, MMU_KERNEL_AC, MMU_USER, MMU_MODES };
#define MMU_PHYS_BITS 40 /* MAXPHYADDR: as CPUID 0x80000008 reports it */

enum mmu_access { MMU_READ, MMU_WRITE, MMU_FETCH };

/* Page fault error code bits. */
#define PF_P    BIT(0)
#define PF_W    BIT(1)
#define PF_U    BIT(2)
#define PF_RSVD BIT(3)
#define PF_I    BIT(4)
#define PF_PK   BIT(5)

#define MMU_SPACES      16 /* PCIDs remembered */
#define MMU_LARGE_SIZES 3  /* 2 MiB, 4 MiB, 1 GiB */
#define MMU_LARGE_BITS  10

struct mmu_result {
	gpa_t gpa;
	uint64_t page_size; /* bytes of the page that maps it */
	bool writable;      /* a write would need no further check or bit set */
	bool readable;
	bool executable;
	bool global;
};

/* What a cache of translations beside this TLB has to drop. */
enum mmu_flush { MMU_FLUSH_PAGE, MMU_FLUSH_SPACE, MMU_FLUSH_DATA, MMU_FLUSH_ALL };

struct mmu {
	/* Told of every drop, unless NULL: one page of 4 KiB (in all spaces, globals too), all but
	 * globals (the address space may be another one now), all that is not for fetching, all. */
	void (*flushed)(struct cpu *c, enum mmu_flush what, gva_t va);
	/* Told of every write before it is done, unless NULL: nothing is written by way of c->tlb
	 * then. mmu_update_mode() has to be called after a change. */
	void (*writing)(struct cpu *c, uint8_t *host, unsigned len);
	unsigned mode;      /* MMU_* in force */
	uint16_t next_asid; /* handed out upwards; all is flushed when they run out */
	struct {
		uint16_t pcid, asid; /* asid 0: none */
	} space[MMU_SPACES];
	uint16_t generation; /* of the global entries that count, never 0 */
	/* A hashed set for each size of large page: those that the TLB may have entries of. */
	uint64_t large[MMU_LARGE_SIZES][BIT(MMU_LARGE_BITS) / 64];
	struct tlb_entry tlb[MMU_MODES + 1][TLB_ENTRIES]; /* the last stays empty */
	uint16_t global[MMU_MODES][TLB_ENTRIES]; /* generation of a global page's entry, else 0 */
};

int mmu_new(struct cpu *c);
void mmu_free(struct cpu *c);

/*
 * Walks the tables as an access by `mode` would, with accessed and dirty bits set. Returns true, or
 * false with *error holding the page-fault error code (the caller sets CR2 and raises).
 * Non-canonical addresses must have been refused before.
 */
bool mmu_walk(struct cpu *c, gva_t va, enum mmu_access access, unsigned mode,
              struct mmu_result *out, uint32_t *error);

/* As a debugger sees memory: no privilege, no side effects. False when not mapped. */
bool mmu_peek(struct cpu *c, gva_t va, gpa_t *gpa);

/* To be called when anything changes that translation depends on. */
void mmu_update_mode(struct cpu *c); /* CPL, CR4.SMAP, RFLAGS.AC: picks c->tlb. Cheap. */
void mmu_flush_all(struct cpu *c);   /* CR0, CR4, EFER, DR7: everything, globals too */
void mmu_flush_data(struct cpu *c);  /* PKRU: what is not for fetching; as mmu_flush_all() here */
void mmu_set_cr3(struct cpu *c, uint64_t value); /* value as written by MOV CR3 incl. bit 63; sets
                                                    c->cr3, loads nothing else */
void mmu_invlpg(struct cpu *c, gva_t va);        /* current and global translations of one page */
/* type as INVPCID has it: 0 address, 1 single context, 2 all with globals, 3 all without. */
void mmu_invpcid(struct cpu *c, unsigned type, unsigned pcid, gva_t va);
/* PAE: loads PDPTEs from cr3; false when a reserved bit is set (raise #GP(0)). */
bool mmu_load_pdptes(struct cpu *c, uint64_t cr3);

/*
 * Fills the TLB for an access within a page, or finds it there. Returns the host address; NULL for
 * a fault (*error has the page-fault error code) and for what is not memory that the access may
 * reach
 * (*error is MMU_NO_FAULT, *gpa valid). Raises nothing and leaves vector registers alone.
 */
#define MMU_NO_FAULT UINT32_MAX
uint8_t *mmu_find(struct cpu *c, gva_t va, enum mmu_access access, unsigned mode, gpa_t *gpa,
                  uint32_t *error);

/*
 * Slow paths of the access functions, and system accesses (descriptor tables, TSS: always
 * supervisor). They raise on a fault and do not return then. seg chooses #SS over #GP for a
 * non-canonical address.
 */
uint64_t mmu_load(struct cpu *c, gva_t va, unsigned size, unsigned seg);
void mmu_store(struct cpu *c, gva_t va, unsigned size, uint64_t value, unsigned seg);
uint64_t mmu_load_system(struct cpu *c, gva_t va, unsigned size);
void mmu_store_system(struct cpu *c, gva_t va, unsigned size, uint64_t value);
/* Checks that [va, va+len) can be read (written) before anything is changed; raises if not. */
void mmu_probe(struct cpu *c, gva_t va, unsigned len, enum mmu_access access, unsigned seg);
void mmu_copy_in(struct cpu *c, void *dst, gva_t va, unsigned len, unsigned seg);
void mmu_copy_out(struct cpu *c, gva_t va, const void *src, unsigned len, unsigned seg);
/* Host address for an access of len bytes within one page of RAM, or NULL when it crosses a page or
 * is no RAM; raises on a fault. write marks the page dirty and checks for self-modified code. */

/* Host address of the instruction byte at va, fetched at the current privilege; NULL when it is no
 * memory. Raises #PF; the caller has checked for canonical form. */
const uint8_t *mmu_fetch(struct cpu *c, gva_t va);
/* One byte of code that mmu_fetch() found to be no memory. */
uint8_t mmu_fetch_device(struct cpu *c, gva_t va);
void *mmu_host(struct cpu *c, gva_t va, unsigned len, enum mmu_access access, unsigned seg);
/* Reports what has been written through mmu_host() to who watches code; to be called between that
 * and the next instruction, or the next mmu_host() for writing. */
void mmu_report_stores(struct cpu *c);

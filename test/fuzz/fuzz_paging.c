/*
 * libFuzzer target: one translation by the page walk, against a second reading of the manual.
 *
 * Input: struct request, then the tables: packed entries that always point at one of a few tables
 * or at a page nearby, so that walks go deep. reference_walk() follows SDM 3A 4.3 to 4.6 in the
 * order of its text, one level after the other, with no attempt at sharing.
 */
#include <stdlib.h>
#include <string.h>
#include "cpu/cpuid.h"
#include "mem/mem.h"
#include "mmu/mmu.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NR_TABLES 8
#define TABLES    0x100000ull
#define PTE_P     BIT(0)
#define PTE_W     BIT(1)
#define PTE_U     BIT(2)
#define PTE_PS    BIT(7)
#define PTE_NX    BIT(63)
#define ADDR_MASK 0x000ffffffffff000ull

enum format { FORMAT_2, FORMAT_PAE, FORMAT_4, FORMAT_5 };
enum { BIT_WP = 1, BIT_PSE = 2, BIT_NXE = 4, BIT_SMEP = 8, BIT_PKE = 16 };

struct request {
	uint8_t format, access, mode, bits;
	uint32_t pkru;
	uint64_t va;
};

struct answer {
	bool ok;
	uint32_t error;
	gpa_t gpa;
};

/* What a reference walk knows. */
struct reference {
	const struct mem *mem;
	enum format format;
	bool wp, pse, nxe, smep, smap, pke;
	bool user, write, fetch;
	uint32_t pkru;
	const uint64_t *pdpte;
	uint64_t va;
	bool may_write, may_user, no_exec;
};

static struct answer fail(const struct reference *r, uint32_t error)
{
	if (r->write)
		error |= PF_W;
	if (r->user)
		error |= PF_U;
	if (r->fetch && (r->nxe || r->smep))
		error |= PF_I;
	return (struct answer){ .error = error };
}

static bool key_refuses(const struct reference *r, uint64_t leaf)
{
	unsigned key = leaf >> 59 & 15;
	bool ad = r->pkru >> (2 * key) & 1, wd = r->pkru >> (2 * key + 1) & 1;

	if (r->fetch || !r->may_user || !r->pke || r->format < FORMAT_4)
		return false;
	return ad || (wd && r->write && (r->user || r->wp));
}

/* SDM 3A 4.6: the judgement at the page. */
static struct answer judge(const struct reference *r, uint64_t leaf, gpa_t gpa)
{
	uint32_t pk = key_refuses(r, leaf) ? PF_PK : 0;
	bool refused = false;

	if (r->user && !r->may_user)
		refused = true;
	if (r->write && !r->may_write && (r->user || r->wp))
		refused = true;
	if (r->fetch && r->no_exec && r->nxe)
		refused = true;
	if (r->fetch && !r->user && r->may_user && r->smep)
		refused = true;
	if (!r->fetch && !r->user && r->may_user && r->smap)
		refused = true;
	if (refused || pk)
		return fail(r, PF_P | pk);
	return (struct answer){ .ok = true, .gpa = gpa };
}

static uint64_t read_table(const struct reference *r, gpa_t pa, unsigned bytes)
{
	uint64_t v = 0;

	/* What is not memory reads as all ones. */
	return mem_read(r->mem, pa, &v, bytes) ? ~0ull : v;
}

static void take_rights(struct reference *r, uint64_t e)
{
	r->may_write = r->may_write && (e & PTE_W);
	r->may_user = r->may_user && (e & PTE_U);
	r->no_exec = r->no_exec || (e & PTE_NX);
}

static struct answer walk_2level(struct reference *r, gpa_t cr3)
{
	uint64_t e = read_table(r, (cr3 & 0xfffff000) + (r->va >> 22 & 1023) * 4, 4);

	if (!(e & PTE_P))
		return fail(r, 0);
	take_rights(r, e);
	if (e & PTE_PS && r->pse) {
		if (e & BIT(21))
			return fail(r, PF_P | PF_RSVD);
		/* PSE-36: bits 20:13 are address bits 39:32 */
		return judge(r, 0, (e & 0xffc00000) | (e >> 13 & 0xff) << 32 | (r->va & 0x3fffff));
	}
	e = read_table(r, (e & 0xfffff000) + (r->va >> 12 & 1023) * 4, 4);
	if (!(e & PTE_P))
		return fail(r, 0);
	take_rights(r, e);
	return judge(r, 0, (e & 0xfffff000) | (r->va & 0xfff));
}

static struct answer walk_wide(struct reference *r, gpa_t table, int shift)
{
	uint64_t reserved = ADDR_MASK & ~(BIT(CPUID_PHYS_BITS) - 1);

	if (!r->nxe)
		reserved |= PTE_NX;
	if (r->format == FORMAT_PAE)
		reserved |= 0x7ff0000000000000ull;
	for (;; shift -= 9) {
		uint64_t e = read_table(r, table + (r->va >> shift & 511) * 8, 8);
		uint64_t page = BIT(shift);

		if (!(e & PTE_P))
			return fail(r, 0);
		if (e & reserved || (shift > 30 && e & PTE_PS))
			return fail(r, PF_P | PF_RSVD);
		take_rights(r, e);
		if (shift > 12 && !(e & PTE_PS)) {
			table = e & ADDR_MASK;
			continue;
		}
		/* bit 12 of a large page is PAT */
		if (shift > 12 && e & (page - 1) & ~0x1fffull)
			return fail(r, PF_P | PF_RSVD);
		return judge(r, e, (e & ADDR_MASK & ~(page - 1)) | (r->va & (page - 1)));
	}
}

static struct answer reference_walk(struct reference *r, gpa_t cr3)
{
	uint64_t e;

	r->may_write = r->may_user = true;
	switch (r->format) {
	case FORMAT_2:
		return walk_2level(r, cr3);
	case FORMAT_PAE:
		e = r->pdpte[r->va >> 30 & 3];
		if (!(e & PTE_P))
			return fail(r, 0);
		return walk_wide(r, e & ADDR_MASK, 21);
	case FORMAT_4:
		return walk_wide(r, cr3 & ADDR_MASK, 39);
	default:
		return walk_wide(r, cr3 & ADDR_MASK, 48);
	}
}

/* Two bytes an entry: which table it points at, flags, and now and then a bit that may be reserved.
 */
static uint64_t unpack(const uint8_t *p, bool wide)
{
	uint64_t e = TABLES + (p[0] & 15) * PAGE_SIZE;

	e |= (p[1] & 0xe0) | (p[1] & 6) | !(p[1] & 1);
	if (p[0] & 16)
		e |= wide ? BIT(32 + (p[1] & 31)) : BIT(12 + (p[1] & 15));
	if (p[0] & 32 && wide)
		e |= PTE_NX;
	if (p[0] & 64)
		e |= (uint64_t)p[1] << 58 & ~PTE_NX;
	if (p[0] & 128)
		e &= ~0x1fe000ull; /* fit for a large page */
	return wide ? e : (uint32_t)e;
}

static void fill_tables(struct mem *m, const uint8_t *data, size_t size, bool wide)
{
	unsigned width = wide ? 8 : 4;

	memset(mem_host(m, TABLES, 16 * PAGE_SIZE, true), 0, 16 * PAGE_SIZE);
	for (size_t i = 0; i + 2 <= size && i / 2 * width < NR_TABLES * PAGE_SIZE; i += 2) {
		uint64_t e = unpack(data + i, wide);

		/* A stride prime to the size spreads few entries over all tables. */
		mem_write(m, TABLES + i / 2 * 2039 * width % (NR_TABLES * PAGE_SIZE), &e, width);
	}
}

static void read_request(struct reference *r, const struct request *q, unsigned *mode)
{
	static const unsigned modes[] = { MMU_KERNEL, MMU_KERNEL_AC, MMU_USER };
	unsigned shift;

	*mode = modes[q->mode % 3];
	r->format = q->format & 3;
	r->wp = q->bits & BIT_WP;
	r->pse = q->bits & BIT_PSE;
	r->nxe = q->bits & BIT_NXE && r->format != FORMAT_2; /* 2-level paging has no such bit */
	r->smep = q->bits & BIT_SMEP;
	r->pke = q->bits & BIT_PKE;
	r->smap = *mode == MMU_KERNEL; /* that is what the mode says, whatever CR4 does */
	r->user = *mode == MMU_USER;
	r->write = q->access % 3 == MMU_WRITE;
	r->fetch = q->access % 3 == MMU_FETCH;
	r->pkru = q->pkru;
	shift = r->format == FORMAT_5 ? 7 : 16;
	r->va = r->format < FORMAT_4 ? (uint32_t)q->va
	                             : (uint64_t)((int64_t)(q->va << shift) >> shift);
}

static void set_state(struct cpu *c, const struct reference *r, const struct request *q)
{
	c->cr0 = CR0_PE | CR0_PG | (r->wp ? CR0_WP : 0);
	c->cr4 = (r->pse ? CR4_PSE : 0) | (r->smep ? CR4_SMEP : 0) | (r->pke ? CR4_PKE : 0);
	if (r->format != FORMAT_2)
		c->cr4 |= CR4_PAE;
	if (r->format == FORMAT_5)
		c->cr4 |= CR4_LA57;
	c->efer = (q->bits & BIT_NXE ? EFER_NXE : 0) |
	          (r->format >= FORMAT_4 ? EFER_LME | EFER_LMA : 0);
	c->pkru = q->pkru;
	c->cpl = r->user ? 3 : 0;
	mmu_flush_all(c);
}

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void compare(struct cpu *c, struct reference *r, unsigned mode)
{
	enum mmu_access access = r->write ? MMU_WRITE : r->fetch ? MMU_FETCH : MMU_READ;
	struct answer want = reference_walk(r, TABLES);
	struct mmu_result got = { 0 };
	uint32_t error = 0;
	bool ok = mmu_walk(c, r->va, access, mode, &got, &error);

	check(ok == want.ok);
	if (!ok) {
		check(error == want.error);
		return;
	}
	check((got.gpa | (r->va & (PAGE_SIZE - 1))) == want.gpa);
	check(!r->write || got.writable);
	check(!r->fetch || got.executable);
	/* A second walk finds the same: the accessed and dirty bits were no obstacle. */
	check(mmu_walk(c, r->va, access, mode, &got, &error));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cpu c;
	struct reference r = { 0 };
	struct request q;
	unsigned mode;

	if (size < sizeof(q))
		return 0;
	memcpy(&q, data, sizeof(q));
	if (!c.mem)
		check(mem_new(&c.mem, MEM_MIN_BYTES) == 0 && mmu_new(&c) == 0);
	read_request(&r, &q, &mode);
	r.mem = c.mem;
	r.pdpte = c.pdpte;
	fill_tables(c.mem, data + sizeof(q), size - sizeof(q), r.format != FORMAT_2);
	set_state(&c, &r, &q);
	if (r.format != FORMAT_PAE || mmu_load_pdptes(&c, TABLES)) {
		mmu_set_cr3(&c, TABLES);
		compare(&c, &r, mode);
	}
	return 0;
}

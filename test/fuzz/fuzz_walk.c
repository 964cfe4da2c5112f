/*
 * Random page tables through the page walk and the software TLB.
 *
 * Input: a struct header with the paging mode, then records that write table entries, access
 * memory, and drop translations as a guest would. A translation may be stale until the guest asks
 * for it to be dropped, but it must lie in guest memory, and be writable only where RAM is; after
 * INVLPG and after a full flush it must be what the tables say.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "mem/mem.h"
#include "mmu/mmu.h"

#define RAM_BYTES   MEM_MIN_BYTES
#define ROM_PA      0x100000
#define ROM_BYTES   0x10000
#define NR_TABLES   16 /* pages from address 0 on */
#define MAX_RECORDS 512

struct __attribute__((packed)) header {
	uint8_t format, cpl, root, rights;
	uint32_t pkru;
};

struct __attribute__((packed)) record {
	uint8_t what, how;
	uint16_t where;
	uint64_t value;
};

struct machine {
	struct cpu cpu;
	struct mem *mem;
};

static void answer_exit(struct cpu *c, struct exit *e)
{
	if (e->reason != EXIT_MMIO || mem_host(c->mem, e->io.addr, 1, e->io.write))
		abort();
	if (!e->io.write)
		e->io.value = 0x0123456789abcdef;
}

static const struct cpu_ops machine_ops = { .exit = answer_exit };

static void check_tlb(const struct machine *m)
{
	for (unsigned n = 0; n < MMU_MODES * TLB_ENTRIES; n++) {
		const struct tlb_entry *t = &m->cpu.mmu->tlb[n / TLB_ENTRIES][n % TLB_ENTRIES];
		const uint64_t tags[] = { t->read, t->write, t->fetch };

		for (unsigned kind = 0; kind < ARRAY_SIZE(tags); kind++)
			if (tags[kind] != TLB_NEVER)
				check_host(m->mem, (tags[kind] & PAGE_MASK) + t->addend, PAGE_SIZE,
				           kind == 1);
	}
}

/* Few addresses, so that records meet: each level's index is one of eight. */
static gva_t pick_address(const struct cpu *c, uint64_t value)
{
	static const uint16_t index[] = { 0, 1, 2, 3, 255, 256, 510, 511 };
	static const uint16_t offset[] = { 0, 1, 7, 0x7f8, 0xff1, 0xff8, 0xffc, 0xfff };
	gva_t va = offset[value & 7];
	unsigned shift = c->cr4 & CR4_LA57 ? 7 : 16;

	for (unsigned level = 0; level < 5; level++)
		va |= (gva_t)index[value >> (3 + 3 * level) & 7] << (12 + 9 * level);
	if (!cpu_long_mode(c))
		return (uint32_t)va;
	if (value >> 63) /* as it is, which may not be canonical */
		return va | value << 40;
	return (gva_t)((int64_t)(va << shift) >> shift);
}

/* Half of the entries lead to another table, the rest anywhere. */
static void write_entry(struct machine *m, const struct record *r)
{
	static const uint16_t index[] = { 0, 1, 2, 3, 255, 256, 510, 511 };
	static const uint64_t frame[] = {
		RAM_BYTES - PAGE_SIZE, RAM_BYTES,    ROM_PA, 0xfee00000, 0x200000, 0x40000000,
		0xfffffff000,          0x10000000000
	};
	uint64_t entry = r->value & 0x8000000000000fff;
	gpa_t at = r->where % NR_TABLES * PAGE_SIZE + index[r->where >> 4 & 7] * 8;

	if (r->how & 1)
		entry |= (uint64_t)(r->how >> 1) % NR_TABLES * PAGE_SIZE;
	else if (r->how & 2)
		entry |= frame[r->how >> 2 & 7];
	else
		entry = r->value;
	if (r->how & 0x80)
		entry |= 7;
	mem_write(m->mem, at, &entry, sizeof(entry));
}

/* What one access gave: a host address, NULL for a device, or a fault. */
struct seen {
	void *host;
	int vector;
	uint32_t error;
};

static __attribute__((noinline)) bool access_faults(struct cpu *c, gva_t va, enum mmu_access access,
                                                    void **host)
{
	if (__builtin_setjmp(c->jmp))
		return true;
	*host = access == MMU_FETCH ? (void *)(uintptr_t)mmu_fetch(c, va)
	                            : mmu_host(c, va, 1, access, SEG_DS);
	return false;
}

static void access_host(struct cpu *c, gva_t va, enum mmu_access access, struct seen *seen)
{
	*seen = (struct seen){ .vector = -1 };
	if (access_faults(c, va, access, &seen->host)) {
		seen->vector = c->fault.vector;
		seen->error = c->fault.error;
	}
}

/* Nothing stale is left at va: the access goes where the tables lead. */
static void check_fresh(struct machine *m, gva_t va, enum mmu_access access)
{
	struct cpu *c = &m->cpu;
	struct mmu_result r;
	struct seen seen;
	uint32_t error;
	bool mapped;
	gpa_t gpa;

	access_host(c, va, access, &seen);
	if (seen.vector >= 0 && seen.vector != EXC_PF)
		return; /* not canonical, or not aligned: not the walk's business */
	mapped = mmu_walk(c, va, access, c->mmu->mode, &r, &error);
	check(mapped == (seen.vector < 0));
	if (!mapped) {
		check(seen.error == error && c->cr2 == va);
		return;
	}
	check(seen.host == mem_host(m->mem, r.gpa, 1, access == MMU_WRITE));
	check(mmu_peek(c, va, &gpa) && gpa == r.gpa);
	check((r.gpa & (PAGE_SIZE - 1)) == (va & (PAGE_SIZE - 1)));
}

/* One access of any kind and width; what it returns or raises does not matter. */
static __attribute__((noinline)) void access_any(struct machine *m, const struct record *r)
{
	struct cpu *c = &m->cpu;
	gva_t va = pick_address(c, r->value);
	unsigned size = 1u << (r->how & 3), seg = r->how & 0x80 ? SEG_SS : SEG_DS;
	uint8_t bytes[64] = { 0 };
	void *host;

	if (__builtin_setjmp(c->jmp))
		return;
	switch (r->how >> 2 & 7) {
	case 0:
		mmu_load(c, va, size, seg);
		break;
	case 1:
		mmu_store(c, va, size, r->value, seg);
		break;
	case 2:
		mmu_load_system(c, va, size);
		break;
	case 3:
		mmu_store_system(c, va, size, r->value);
		break;
	case 4:
		mmu_copy_in(c, bytes, va, 1 + r->where % sizeof(bytes), seg);
		break;
	case 5:
		mmu_copy_out(c, va, bytes, 1 + r->where % sizeof(bytes), seg);
		break;
	case 6:
		mmu_probe(c, va, 1 + r->where % sizeof(bytes), MMU_WRITE, seg);
		break;
	case 7:
		host = mmu_host(c, va, size, r->where & 1 ? MMU_WRITE : MMU_READ, seg);
		if (host)
			check_host(m->mem, (uintptr_t)host, size, r->where & 1);
		break;
	}
}

static void set_rights(struct cpu *c, uint8_t bits)
{
	c->cr0 = (c->cr0 & ~CR0_WP) | (bits & 1 ? CR0_WP : 0);
	c->cr4 &= ~(CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PGE | CR4_PSE);
	c->cr4 |= (bits & 2 ? CR4_SMEP : 0) | (bits & 4 ? CR4_SMAP : 0) | (bits & 8 ? CR4_PKE : 0) |
	          (bits & 16 ? CR4_PGE : 0) | (bits & 32 ? CR4_PSE : 0);
	c->efer = (c->efer & ~EFER_NXE) | (bits & 64 ? EFER_NXE : 0);
	mmu_flush_all(c);
}

static void set_mode(struct cpu *c, uint8_t bits)
{
	c->cpl = bits & 1 ? 3 : 0;
	c->rflags = RFLAGS_1 | (bits & 2 ? RFLAGS_AC : 0);
	mmu_update_mode(c);
}

static void set_root(struct cpu *c, const struct record *r)
{
	uint64_t root = r->where % NR_TABLES * PAGE_SIZE;

	if (c->cr4 & CR4_PCIDE)
		root |= (r->how & 31) | (r->value & BIT(63));
	if (r->how == 0xff) /* tables outside of memory */
		root = 0xffffffffff & r->value & PAGE_MASK;
	mmu_set_cr3(c, root);
	if (c->cr0 & CR0_PG && c->cr4 & CR4_PAE && !cpu_long_mode(c))
		mmu_load_pdptes(c, root);
}

static void run_record(struct machine *m, const struct record *r)
{
	struct cpu *c = &m->cpu;
	gva_t va = pick_address(c, r->value);
	enum mmu_access access = r->how % 3;

	switch (r->what % 10) {
	case 0 ... 2:
		write_entry(m, r);
		break;
	case 3 ... 4:
		access_any(m, r);
		break;
	case 5:
		mmu_invlpg(c, va);
		check_fresh(m, va, access);
		break;
	case 6:
		mmu_invpcid(c, r->how & 3, r->where & 31, va);
		if ((r->how & 3) == 2)
			check_fresh(m, va, access);
		break;
	case 7:
		set_root(c, r);
		break;
	case 8:
		set_mode(c, r->how);
		break;
	case 9:
		if (r->how & 0x80)
			set_rights(c, r->how);
		else
			mmu_flush_all(c);
		check_fresh(m, va, access);
		break;
	}
}

static void set_state(struct machine *m, const struct header *h)
{
	static const struct {
		uint64_t cr0, cr4, efer;
	} format[] = {
		{ 0, 0, 0 },
		{ CR0_PG, 0, 0 },
		{ CR0_PG, CR4_PAE, 0 },
		{ CR0_PG, CR4_PAE, EFER_LMA | EFER_LME },
		{ CR0_PG, CR4_PAE | CR4_PCIDE, EFER_LMA | EFER_LME },
		{ CR0_PG, CR4_PAE | CR4_LA57 | CR4_PCIDE, EFER_LMA | EFER_LME },
	};
	struct cpu *c = &m->cpu;
	unsigned n = h->format % ARRAY_SIZE(format);

	c->cr0 = CR0_PE | (h->cpl & 4 ? CR0_AM : 0) | format[n].cr0;
	c->cr4 = format[n].cr4;
	c->efer = format[n].efer;
	c->pkru = h->pkru;
	c->cr2 = 0;
	c->fault.vector = -1;
	c->db_pending = 0;
	memset(c->pdpte, 0, sizeof(c->pdpte));
	set_mode(c, h->cpl);
	set_rights(c, h->rights);
	set_root(c, &(struct record){ .where = h->root });
}

static struct machine *make_machine(void)
{
	static const uint8_t rom[ROM_BYTES];
	struct machine *m = aligned_alloc(64, (sizeof(*m) + 63) & ~63ull);

	if (!m)
		abort();
	memset(m, 0, sizeof(*m));
	if (mem_new(&m->mem, RAM_BYTES) || mem_add_rom(m->mem, ROM_PA, rom, ROM_BYTES))
		abort();
	m->cpu.mem = m->mem;
	m->cpu.ops = &machine_ops;
	m->cpu.code_page = 1;
	if (mmu_new(&m->cpu))
		abort();
	return m;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct machine *m;
	struct header h;
	struct record r;

	if (size < sizeof(h))
		return 0;
	if (!m)
		m = make_machine();
	memcpy(&h, data, sizeof(h));
	mem_clear(m->mem);
	set_state(m, &h);
	for (unsigned n = 0; n < MAX_RECORDS && sizeof(h) + (n + 1) * sizeof(r) <= size; n++) {
		memcpy(&r, data + sizeof(h) + n * sizeof(r), sizeof(r));
		run_record(m, &r);
	}
	check_tlb(m);
	return 0;
}

/*
 * Guest memory accesses that the inline fast path did not serve: misses, page crossings, devices,
 * alignment checks and data breakpoints.
 */
#include <string.h>
#include "mem/mem.h"
#include "mmu/host.h"
#include "mmu/tlb.h"

/* One access cut at the page boundary. */
struct piece {
	gva_t va;
	unsigned len;
	uint8_t *host; /* NULL: a device, at gpa */
	gpa_t gpa;
};

static gva_t wrap(const struct cpu *c, gva_t va)
{
	return cpu_long_mode(c) ? va : (uint32_t)va;
}

static bool canonical(const struct cpu *c, gva_t va)
{
	unsigned shift = c->cr4 & CR4_LA57 ? 7 : 16;

	return (gva_t)((int64_t)(va << shift) >> shift) == va;
}

/* SDM 3A 3.3.7.1: a non-canonical address is #GP, or #SS through the stack segment. */
static void check_canonical(struct cpu *c, gva_t va, unsigned len, unsigned seg)
{
	if (cpu_long_mode(c) && (!canonical(c, va) || !canonical(c, va + len - 1)))
		cpu_raise(c, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

static void check_alignment(struct cpu *c, gva_t va, unsigned size)
{
	if (c->cpl == 3 && (c->cr0 & CR0_AM) && (c->rflags & RFLAGS_AC) && size <= 8 &&
	    (va & (size - 1)))
		cpu_raise(c, EXC_AC, 0);
}

/* Data breakpoints (SDM 3B 17.2.4): remembered, reported after the instruction. */
static void check_watch(struct cpu *c, gva_t va, unsigned len, bool write)
{
	static const uint8_t lengths[4] = { 1, 2, 8, 4 };

	for (unsigned n = 0; n < 4; n++) {
		unsigned rw = c->dr7 >> (16 + 4 * n) & 3;
		uint64_t size = lengths[c->dr7 >> (18 + 4 * n) & 3];
		gva_t at = c->dr[n] & ~(size - 1);

		if (!(c->dr7 >> (2 * n) & 3) || !(rw == 3 || (rw == 1 && write)))
			continue;
		if (va < at + size && at < va + len)
			c->db_pending |= BIT(n);
	}
}

/* Translates an access of at most a page; every fault is raised here, before anything is touched.
 */
static unsigned translate(struct cpu *c, gva_t va, unsigned len, enum mmu_access access,
                          unsigned mode, struct piece p[2])
{
	unsigned first = PAGE_SIZE - (va & ~PAGE_MASK);

	if (len < first)
		first = len;
	p[0] = (struct piece){ .va = wrap(c, va), .len = first };
	p[0].host = tlb_lookup(c, p[0].va, access, mode, &p[0].gpa);
	if (first == len)
		return 1;
	p[1] = (struct piece){ .va = wrap(c, va + first), .len = len - first };
	p[1].host = tlb_lookup(c, p[1].va, access, mode, &p[1].gpa);
	/* The second lookup may have evicted what the first returned, but not unmapped it. */
	return 2;
}

static uint64_t device_read(struct cpu *c, gpa_t gpa, unsigned size)
{
	struct exit e = { .reason = EXIT_MMIO, .io = { .addr = gpa, .size = size } };

	c->ops->exit(c, &e);
	return e.io.value;
}

static void device_write(struct cpu *c, gpa_t gpa, unsigned size, uint64_t value)
{
	struct exit e = { .reason = EXIT_MMIO,
		          .io = { .addr = gpa, .value = value, .size = size, .write = true } };

	c->ops->exit(c, &e);
}

static bool device_size(unsigned len)
{
	return len == 1 || len == 2 || len == 4 || len == 8;
}

static void piece_read(struct cpu *c, const struct piece *p, uint8_t *buf)
{
	if (p->host) {
		memcpy(buf, p->host, p->len);
	} else if (device_size(p->len)) {
		uint64_t v = device_read(c, p->gpa, p->len);
		memcpy(buf, &v, p->len);
	} else {
		for (unsigned n = 0; n < p->len; n++)
			buf[n] = device_read(c, p->gpa + n, 1);
	}
}

static void note_writing(struct cpu *c, uint8_t *host, unsigned len)
{
	if (unlikely(c->mmu->writing))
		c->mmu->writing(c, host, len);
}

/* A store into the code page in execution ends the block (interp/access.h says the same inline);
 * and who watches the page hears of it. */
static void note_store(struct cpu *c, const uint8_t *host, unsigned len)
{
	if ((((uintptr_t)host ^ c->code_page) & PAGE_MASK) == 0)
		c->stop_at = NULL;
	mem_wrote(c->mem, host, len);
}

/* The caller is about to write there by itself, within the instruction. */
static void note_coming_store(struct cpu *c, uint8_t *host, unsigned len)
{
	if ((((uintptr_t)host ^ c->code_page) & PAGE_MASK) == 0)
		c->stop_at = NULL;
	if (unlikely(mem_has_code(c->mem, host))) {
		c->wrote.host = host;
		c->wrote.len = len;
	}
}

void mmu_report_stores(struct cpu *c)
{
	const uint8_t *host = c->wrote.host;

	c->wrote.host = NULL;
	if (host)
		mem_wrote(c->mem, host, c->wrote.len);
}

static void piece_write(struct cpu *c, const struct piece *p, const uint8_t *buf)
{
	if (p->host) {
		note_writing(c, p->host, p->len);
		memcpy(p->host, buf, p->len);
		note_store(c, p->host, p->len);
	} else if (device_size(p->len)) {
		uint64_t v = 0;
		memcpy(&v, buf, p->len);
		device_write(c, p->gpa, p->len, v);
	} else {
		for (unsigned n = 0; n < p->len; n++)
			device_write(c, p->gpa + n, 1, buf[n]);
	}
}

static uint64_t load(struct cpu *c, gva_t va, unsigned size, unsigned mode)
{
	struct piece p[2];
	uint64_t value = 0;

	if (translate(c, va, size, MMU_READ, mode, p) == 1)
		return p[0].host ? host_load(p[0].host, size) : device_read(c, p[0].gpa, size);
	piece_read(c, &p[0], (uint8_t *)&value);
	piece_read(c, &p[1], (uint8_t *)&value + p[0].len);
	return value;
}

static void store(struct cpu *c, gva_t va, unsigned size, uint64_t value, unsigned mode)
{
	struct piece p[2];

	if (translate(c, va, size, MMU_WRITE, mode, p) == 1) {
		if (p[0].host) {
			note_writing(c, p[0].host, size);
			host_store(p[0].host, size, value);
			note_store(c, p[0].host, size);
		} else {
			device_write(c, p[0].gpa, size, value);
		}
		return;
	}
	piece_write(c, &p[0], (uint8_t *)&value);
	piece_write(c, &p[1], (uint8_t *)&value + p[0].len);
}

uint64_t mmu_load(struct cpu *c, gva_t va, unsigned size, unsigned seg)
{
	check_canonical(c, va, size, seg);
	check_alignment(c, va, size);
	uint64_t value = load(c, va, size, c->mmu->mode);
	check_watch(c, va, size, false);
	return value;
}

void mmu_store(struct cpu *c, gva_t va, unsigned size, uint64_t value, unsigned seg)
{
	check_canonical(c, va, size, seg);
	check_alignment(c, va, size);
	store(c, va, size, value, c->mmu->mode);
	check_watch(c, va, size, true);
}

/* Implicit supervisor accesses ignore AC, so SMAP applies whenever it is on (SDM 3A 4.6.1). */
static unsigned system_mode(const struct cpu *c)
{
	return c->cr4 & CR4_SMAP ? MMU_KERNEL : MMU_KERNEL_AC;
}

uint64_t mmu_load_system(struct cpu *c, gva_t va, unsigned size)
{
	check_canonical(c, va, size, SEG_DS);
	return load(c, va, size, system_mode(c));
}

void mmu_store_system(struct cpu *c, gva_t va, unsigned size, uint64_t value)
{
	check_canonical(c, va, size, SEG_DS);
	store(c, va, size, value, system_mode(c));
}

void mmu_probe(struct cpu *c, gva_t va, unsigned len, enum mmu_access access, unsigned seg)
{
	struct piece p[2];

	check_canonical(c, va, len, seg);
	translate(c, va, len, access, c->mmu->mode, p);
}

void mmu_copy_in(struct cpu *c, void *dst, gva_t va, unsigned len, unsigned seg)
{
	struct piece p[2];
	unsigned n;

	check_canonical(c, va, len, seg);
	n = translate(c, va, len, MMU_READ, c->mmu->mode, p);
	piece_read(c, &p[0], dst);
	if (n == 2)
		piece_read(c, &p[1], (uint8_t *)dst + p[0].len);
	check_watch(c, va, len, false);
}

void mmu_copy_out(struct cpu *c, gva_t va, const void *src, unsigned len, unsigned seg)
{
	struct piece p[2];
	unsigned n;

	check_canonical(c, va, len, seg);
	n = translate(c, va, len, MMU_WRITE, c->mmu->mode, p);
	piece_write(c, &p[0], src);
	if (n == 2)
		piece_write(c, &p[1], (const uint8_t *)src + p[0].len);
	check_watch(c, va, len, true);
}

void *mmu_host(struct cpu *c, gva_t va, unsigned len, enum mmu_access access, unsigned seg)
{
	gpa_t gpa;
	uint8_t *host;

	if ((va & ~PAGE_MASK) + len > PAGE_SIZE)
		return NULL;
	check_canonical(c, va, len, seg);
	host = tlb_lookup(c, wrap(c, va), access, c->mmu->mode, &gpa);
	check_watch(c, va, len, access == MMU_WRITE);
	if (host && access == MMU_WRITE) {
		note_writing(c, host, len);
		note_coming_store(c, host, len);
	}
	return host;
}

const uint8_t *mmu_fetch(struct cpu *c, gva_t va)
{
	gpa_t gpa;

	return tlb_lookup(c, va, MMU_FETCH, c->mmu->mode, &gpa);
}

uint8_t mmu_fetch_device(struct cpu *c, gva_t va)
{
	gpa_t gpa;

	return tlb_lookup(c, va, MMU_FETCH, c->mmu->mode, &gpa) ? 0xff : device_read(c, gpa, 1);
}

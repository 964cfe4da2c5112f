/*
 * The translator's own TLB, the first level before that of src/mmu, laid out for the code that
 * blocks inline:
 *
 *     lea  r14, [operand]
 *     rorx r15d, r14d, 8
 *     and  r15d, 0xfff0             ; byte offset of the entry
 *     xor  r14, gs:[r15 + tags]     ; the offset in the page on a hit, else large
 *     cmp  r14, 4096 - size         ; one compare for a miss and for an access across pages
 *     ja   miss
 *     add  r14, gs:[r15 + hosts]
 *
 * There is a table for each MMU mode, and in each one for reads and one for writes.
 *
 * This file runs with the guest's vector registers in the host's: it is compiled for general
 * registers only, and calls nothing that is not.
 *
 * What is filled from pages that are not global is remembered in a journal, so that a change of
 * address space drops few entries rather than whole tables.
 */
#include "engine/bt/stubs.h"
#include "engine/bt/tlb.h"
#include "engine/bt/world.h"
#include "mem/mem.h"

#define NO_PAGE 0x4000000000000000ull /* not canonical */

_Static_assert(BT_TLB_BITS == MEM_GRANTED_BITS, "mem->granted names an entry");

static void empty_entries(struct bt_tlb_entry *t, size_t n)
{
	for (size_t k = 0; k < n; k++)
		t[k].tag = bt_tlb_empty((unsigned)k);
}

static void empty_entry(struct bt *b, struct bt_tlb_entry *t)
{
	*(volatile uint64_t *)&t->tag = bt_tlb_empty((unsigned)(t - &b->tlb[0][0][0]));
}

void bt_tlb_drop_stack(struct bt *b)
{
	for (unsigned mode = 0; mode < MMU_MODES; mode++)
		b->stack[mode] = (struct bt_tlb_entry){ .tag = NO_PAGE, .host = b->trap_page };
}

void bt_tlb_clear(struct bt *b)
{
	bt_tlb_drop_stack(b);
	if (b->any_filled)
		empty_entries(&b->tlb[0][0][0], MMU_MODES * 2 * BT_TLB_ENTRIES);
	b->any_filled = false;
	b->nr_journal = 0;
}

void bt_tlb_drop_local(struct bt *b)
{
	bt_tlb_drop_stack(b);
	if (b->nr_journal > BT_JOURNAL) {
		bt_tlb_clear(b);
		return;
	}
	for (unsigned n = 0; n < b->nr_journal; n++)
		empty_entry(b, b->journal[n]);
	b->nr_journal = 0;
}

static void note_local(struct bt *b, struct bt_tlb_entry *t)
{
	if (b->nr_journal < BT_JOURNAL)
		b->journal[b->nr_journal++] = t;
	else
		b->nr_journal = BT_JOURNAL + 1;
}

static void enter(struct bt *b, unsigned mode, unsigned rw, gva_t va, uintptr_t host, bool global)
{
	struct bt_tlb_entry *t = &b->tlb[mode][rw][(va >> 12) & (BT_TLB_ENTRIES - 1)];

	if (t->tag == (va & PAGE_MASK) && t->host == (host & PAGE_MASK))
		return;
	b->any_filled = true;
	empty_entry(b, t);
	*(volatile uint64_t *)&t->host = host & PAGE_MASK;
	*(volatile uint64_t *)&t->tag = va & PAGE_MASK;
	if (!global)
		note_local(b, t);
	if (rw == BT_WRITE) { /* as grant_write() in src/mmu/tlb.c */
		atomic_thread_fence(memory_order_seq_cst);
		if (mem_has_code(b->cpu->mem, (void *)host))
			empty_entry(b, t);
	}
}

static bool canonical(const struct cpu *c, gva_t va)
{
	unsigned shift = c->cr4 & CR4_LA57 ? 7 : 16;

	return (gva_t)((int64_t)(va << shift) >> shift) == va;
}

bool bt_tlb_take(struct bt *b, unsigned mode, gva_t va, bool for_write)
{
	struct cpu *c = b->cpu;
	unsigned n = (va >> 12) & (TLB_ENTRIES - 1);
	const struct tlb_entry *t = &c->mmu->tlb[mode][n];
	uint64_t tag = (va & PAGE_MASK) | c->tlb_tag;
	bool global = c->mmu->global[mode][n] == c->mmu->generation;
	bool write = t->write == tag && t->read == tag;

	if (write)
		enter(b, mode, BT_WRITE, va, va + t->addend, global);
	if (t->read == tag)
		enter(b, mode, BT_READ, va, va + t->addend, global);
	return for_write ? write : t->read == tag;
}

static void go_on_at(struct bt *b, const struct bt_site *s, uint64_t host)
{
	b->target = cache_address(b, s->hit);
	*(s->addr_reg == 14 ? &b->r14 : &b->r13) = host;
}

/* The page may be accessed, but the right to write must not be kept: code is on it. This once the
 * access goes through unless it hits the code. Not for accesses that others rely on. */
static bool pass_once(struct bt *b, const struct bt_site *s, uint8_t *host)
{
	struct mem *m = b->cpu->mem;
	uint64_t page = mem_page(m, host);

	if (s->stack && !s->write && !s->group) { /* to be read, it need not be writable */
		go_on_at(b, s, (uintptr_t)host);
		return true;
	}
	if (page == MEM_NO_PAGE || !s->write)
		return false;
	world_note_beside(b, page);
	/* Who begins to watch more of the page has to know that a store may be under way. */
	atomic_fetch_or(&m->granted[page], MEM_PASSING);
	if (s->group || atomic_load(&m->code[page]) & mem_granules(host, s->span))
		return false;
	go_on_at(b, s, (uintptr_t)host);
	return true;
}

/* Two pages that follow each other on the host as well are as good as one. */
static bool take_across(struct bt *b, const struct bt_site *s, gva_t va)
{
	const struct bt_tlb_entry *t = b->tlb[s->mode][s->write_tag], *one, *two;
	gva_t page = va & PAGE_MASK, next = page + PAGE_SIZE;

	if (s->block->key & BT_KEY_32 && next >> 32)
		return false;
	if (!bt_tlb_take(b, s->mode, page, s->write_tag) ||
	    !bt_tlb_take(b, s->mode, next, s->write_tag))
		return false;
	one = &t[(page >> 12) & (BT_TLB_ENTRIES - 1)];
	two = &t[(next >> 12) & (BT_TLB_ENTRIES - 1)];
	if (one->tag != page || two->tag != next || one->host + PAGE_SIZE != two->host)
		return false;
	go_on_at(b, s, one->host + (va & ~PAGE_MASK));
	return true;
}

/* A range that one check cannot serve: on in the block that checks each access by itself, if there
 * is one, or by way of C, which makes it. */
static unsigned leave_group(struct bt *b, const struct bt_site *s)
{
	const struct bt_block *from = s->block, *k;
	uint32_t key = (from->key & ~(uint32_t)(BT_KEY_MMU | BT_KEY_KIND)) | s->mode;

	if (s->flags != BT_FLAGS_SLOT || from->dead || b->posted || b->check)
		return FILL_LEAVE;
	k = cache_find(b, (const uint8_t *)((uintptr_t)from->host & PAGE_MASK) + s->off,
	               key | BT_KEY_UNMERGED);
	/* The slot may hold a recipe. */
	if (!k || (from->takes_recipe && !k->takes_recipe))
		return FILL_LEAVE;
	b->stats.unmerged++;
	*(volatile uint64_t *)&b->target = cache_address(b, k->entry_slot);
	return *(volatile uint32_t *)&b->kicked ? FILL_LEAVE : FILL_GO;
}

unsigned bt_fill(struct bt *b, uint64_t site_offset, gva_t va)
{
	const struct bt_site *s = cache_at_meta(b, site_offset);
	struct cpu *c = b->cpu;
	uint8_t *host;
	uint32_t error;
	gpa_t gpa;

	b->stats.fills++;
	if (b->kicked)
		return FILL_LEAVE;
	if ((va & ~PAGE_MASK) + s->span > PAGE_SIZE) {
		if (!take_across(b, s, va))
			return s->group && !s->single ? leave_group(b, s) : FILL_LEAVE;
		return b->posted ? FILL_LEAVE : FILL_GO;
	}
	if (cpu_long_mode(c) && !canonical(c, va))
		return FILL_LEAVE;
	host = mmu_find(c, va, s->write ? MMU_WRITE : MMU_READ, s->mode, &gpa, &error);
	if (!host)
		return FILL_LEAVE;
	if (bt_tlb_take(b, s->mode, va, s->write_tag))
		b->target = cache_address(b, s->retry);
	else if (!pass_once(b, s, host))
		return s->group ? leave_group(b, s) : FILL_LEAVE;
	/* Of what is posted our own blocks may be a part, and nobody watches them any more. */
	return b->posted ? FILL_LEAVE : FILL_GO;
}

/* The page may have been a large one, of which src/mmu knows; its parts are anywhere. */
void bt_tlb_drop_page(struct bt *b, gva_t va)
{
	unsigned n = (va >> 12) & (BT_TLB_ENTRIES - 1);

	bt_tlb_drop_stack(b);
	for (unsigned mode = 0; mode < MMU_MODES; mode++)
		for (unsigned rw = 0; rw < 2; rw++)
			empty_entry(b, &b->tlb[mode][rw][n]);
}

/* See jump.h. Compiled for general registers only: bt_lookup() runs with the guest's in the others.
 */
#include "engine/bt/jump.h"

#include "engine/bt/stubs.h"

bool jump_is_global(const struct cpu *c, gva_t va)
{
	unsigned n = (va >> 12) & (TLB_ENTRIES - 1);

	return c->mmu->global[c->mmu->mode][n] == c->mmu->generation;
}

static unsigned page_bit(gva_t va)
{
	return (unsigned)((va >> 12) * 0x9e3779b97f4a7c15ull >> (64 - 16));
}

static void note_code_page(struct bt *b, gva_t va)
{
	b->code_pages[page_bit(va) / 64] |= BIT(page_bit(va) % 64);
}

bool jump_leads_to(const struct bt *b, gva_t va)
{
	return b->code_pages[page_bit(va) / 64] >> (page_bit(va) % 64) & 1;
}

void jump_note(struct bt *b, const struct bt_block *k, gva_t rip)
{
	note_code_page(b, rip);
	if (k->host2)
		note_code_page(b, rip + PAGE_SIZE);
	/* Code of the kernel in the lower half, or of user programs on global pages. */
	if (k->key & BT_KEY_CPL3 ? k->global : !(rip >> 63))
		b->kernel_low = true;
}

void jump_remember(struct bt *b, struct bt_block *k, gva_t rip)
{
	uint64_t space = *(volatile uint64_t *)&b->space[bt_space(k->key, k->key & BT_KEY_MMU)];
	unsigned n = bt_jc_index(rip);
	struct bt_jc_entry *j = &b->jc[n];

	/* What a kick has poisoned names no space: whoever is kicked next would find it. */
	if (b->cpu->cr4 & CR4_LA57 || space >> 63)
		return;
	if (!(k->key & BT_KEY_CPL3) && !k->global)
		b->kernel_local = true;
	jump_note(b, k, rip);
	k->jc = !k->jc || k->jc == n + 1 ? (uint16_t)(n + 1) : BT_JC_MANY;
	j->tag = rip ^ space;
	j->code = cache_address(b, k->entry_slot);
	j->page = rip & PAGE_MASK;
}

static const uint8_t *fetch(struct bt *b, gva_t va, unsigned mode)
{
	struct cpu *c = b->cpu;
	uint32_t error;
	gpa_t gpa;

	if (cpu_long_mode(c) && (gva_t)((int64_t)(va << 16) >> 16) != va)
		return NULL;
	return mmu_find(c, va, MMU_FETCH, mode, &gpa, &error);
}

unsigned bt_lookup(struct bt *b, uint64_t site_offset, gva_t target)
{
	const struct bt_site *s = cache_at_meta(b, site_offset);
	struct bt_block *k;
	const uint8_t *host;
	uint32_t key;

	if (!site_offset || b->kicked || b->posted || b->check || b->cpu->cr4 & CR4_LA57)
		return FILL_LEAVE;
	key = (s->block->key & ~(uint32_t)(BT_KEY_MMU | BT_KEY_KIND)) | s->mode;
	host = fetch(b, target, s->mode);
	k = host ? cache_find(b, host, key) : NULL;
	if (!k)
		return FILL_LEAVE;
	b->stats.lookups++;
	k->global = b->cpu->mmu->global[s->mode][(target >> 12) & (TLB_ENTRIES - 1)] ==
	            b->cpu->mmu->generation;
	jump_remember(b, k, target);
	b->pc = target & PAGE_MASK;
	*(volatile uint64_t *)&b->target = cache_address(b, k->entry_slot);
	return *(volatile uint32_t *)&b->kicked ? FILL_LEAVE : FILL_GO;
}

/*
 * What the software TLB may keep and what it must forget: a page table is changed behind its back,
 * and each way of dropping translations makes exactly the right ones fresh.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "mem/mem.h"
#include "mmu/mmu.h"

#define PML4     0x1000
#define PDPT     0x2000
#define PD       0x3000
#define PT       0x4000
#define SMALL_VA 0x600000ull  /* mapped by PT */
#define LARGE_VA 0x800000ull  /* mapped by a 2 MiB entry of PD */
#define OTHER_VA 0xa00000ull  /* as well */
#define HUGE_VA  (1ull << 30) /* mapped by a 1 GiB entry of PDPT */
#define RIGHTS   7ull
#define PS       BIT(7)
#define G        BIT(8)

struct machine {
	struct cpu cpu;
	struct mem *mem;
};

static void no_exit(struct cpu *c, struct exit *e)
{
	e->io.value = 0;
}

static void put_entry(struct machine *m, gpa_t table, unsigned index, uint64_t value)
{
	assert_int_equal(mem_write(m->mem, table + 8ull * index, &value, sizeof(value)), 0);
}

/* Each page begins with its own guest physical address, which tells where a load went. */
static void mark_pages(struct machine *m)
{
	for (gpa_t at = 0x10000; at < MEM_MIN_BYTES; at += PAGE_SIZE)
		assert_int_equal(mem_write(m->mem, at, &at, sizeof(at)), 0);
}

static uint64_t where(struct machine *m, gva_t va)
{
	return mmu_load(&m->cpu, va, 8, SEG_DS);
}

static int set_up(void **state)
{
	static const struct cpu_ops ops = { .exit = no_exit };
	static struct machine machine;
	struct machine *m = &machine;
	struct cpu *c = &m->cpu;

	memset(m, 0, sizeof(*m));
	assert_int_equal(mem_new(&m->mem, MEM_MIN_BYTES), 0);
	mark_pages(m);
	put_entry(m, PML4, 0, PDPT | RIGHTS);
	put_entry(m, PDPT, 0, PD | RIGHTS);
	put_entry(m, PDPT, 1, RIGHTS | PS);
	put_entry(m, PD, 3, PT | RIGHTS);
	put_entry(m, PD, 4, 0x400000 | RIGHTS | PS);
	put_entry(m, PD, 5, 0x400000 | RIGHTS | PS);
	put_entry(m, PT, 0, 0x20000 | RIGHTS);
	put_entry(m, PT, 1, 0x21000 | RIGHTS | G);
	c->mem = m->mem;
	c->ops = &ops;
	c->code_page = 1;
	c->cr0 = CR0_PE | CR0_PG;
	c->cr4 = CR4_PAE | CR4_PGE | CR4_PCIDE;
	c->efer = EFER_LME | EFER_LMA;
	assert_int_equal(mmu_new(c), 0);
	mmu_set_cr3(c, PML4);
	*state = m;
	return 0;
}

static int tear_down(void **state)
{
	struct machine *m = *state;

	mmu_free(&m->cpu);
	mem_free(m->mem);
	return 0;
}

static void small_page_is_dropped_alone(void **state)
{
	struct machine *m = *state;

	assert_int_equal(where(m, SMALL_VA), 0x20000);
	assert_int_equal(where(m, LARGE_VA), 0x400000);
	put_entry(m, PT, 0, 0x30000 | RIGHTS);
	put_entry(m, PD, 4, 0x600000 | RIGHTS | PS);
	assert_int_equal(where(m, SMALL_VA), 0x20000);
	mmu_invlpg(&m->cpu, SMALL_VA + 5);
	assert_int_equal(where(m, SMALL_VA), 0x30000);
	assert_int_equal(where(m, LARGE_VA), 0x400000);
}

static void large_page_is_dropped_whole(void **state)
{
	struct machine *m = *state;

	for (unsigned n = 0; n < 512; n++)
		assert_int_equal(where(m, LARGE_VA + n * PAGE_SIZE), 0x400000 + n * PAGE_SIZE);
	where(m, OTHER_VA + 0x3000); /* in the other half of the table */
	put_entry(m, PD, 4, 0x600000 | RIGHTS | PS);
	put_entry(m, PD, 5, 0x600000 | RIGHTS | PS);
	mmu_invlpg(&m->cpu, LARGE_VA + 77 * PAGE_SIZE);
	for (unsigned n = 0; n < 512; n++)
		assert_int_equal(where(m, LARGE_VA + n * PAGE_SIZE), 0x600000 + n * PAGE_SIZE);
	assert_int_equal(where(m, OTHER_VA + 0x3000), 0x403000);
}

static void huge_page_is_dropped_whole(void **state)
{
	struct machine *m = *state;

	where(m, HUGE_VA + 0x10000);
	where(m, HUGE_VA + 0x1fff000);
	put_entry(m, PDPT, 1, PD | RIGHTS);
	mmu_invlpg(&m->cpu, HUGE_VA + 0x555000);
	assert_int_equal(where(m, HUGE_VA + SMALL_VA), 0x20000);
	put_entry(m, PD, 0, 0x400000 | RIGHTS | PS);
	put_entry(m, PD, 15, 0x600000 | RIGHTS | PS);
	assert_int_equal(where(m, HUGE_VA + 0x10000), 0x410000);
	assert_int_equal(where(m, HUGE_VA + 0x1fff000), 0x7ff000);
}

/* SDM 3A 4.10.4.1: MOV CR3 spares global pages, a change of CR4.PGE does not. */
static void global_page_survives_cr3_only(void **state)
{
	struct machine *m = *state;

	assert_int_equal(where(m, SMALL_VA), 0x20000);
	assert_int_equal(where(m, SMALL_VA + PAGE_SIZE), 0x21000);
	put_entry(m, PT, 0, 0x30000 | RIGHTS);
	put_entry(m, PT, 1, 0x31000 | RIGHTS | G);
	mmu_set_cr3(&m->cpu, PML4);
	assert_int_equal(where(m, SMALL_VA), 0x30000);
	assert_int_equal(where(m, SMALL_VA + PAGE_SIZE), 0x21000);
	mmu_flush_all(&m->cpu);
	assert_int_equal(where(m, SMALL_VA + PAGE_SIZE), 0x31000);
}

/* More flushes than there are ASIDs or generations: none of them may bring back an old entry. */
static void many_flushes_leave_nothing_behind(void **state)
{
	struct machine *m = *state;

	for (unsigned n = 0; n < 140000; n++) {
		gpa_t at = 0x20000 + (n & 7) * PAGE_SIZE;

		put_entry(m, PT, 1, at | RIGHTS | G);
		mmu_flush_all(&m->cpu);
		assert_int_equal(where(m, SMALL_VA + PAGE_SIZE), at);
	}
}

static void address_spaces_are_kept_by_pcid(void **state)
{
	struct machine *m = *state;

	mmu_set_cr3(&m->cpu, PML4 | 1);
	assert_int_equal(where(m, SMALL_VA), 0x20000);
	put_entry(m, PT, 0, 0x30000 | RIGHTS);
	mmu_set_cr3(&m->cpu, PML4 | 0x801); /* as kernels number the user's half of a space */
	mmu_set_cr3(&m->cpu, PML4 | 1 | BIT(63));
	assert_int_equal(where(m, SMALL_VA), 0x20000);
	mmu_invpcid(&m->cpu, 1, 1, 0);
	assert_int_equal(where(m, SMALL_VA), 0x30000);
}

static __attribute__((noinline)) bool store_faults(struct machine *m, gva_t va)
{
	if (__builtin_setjmp(m->cpu.jmp))
		return true;
	mmu_store(&m->cpu, va, 1, 0, SEG_DS);
	return false;
}

static uint32_t error_of_store(struct machine *m, gva_t va)
{
	return store_faults(m, va) ? m->cpu.fault.error : 0;
}

/* SDM 3A 4.7: PK says what the key forbids even when the page's own rights forbid it as well. */
static void error_code_names_the_key(void **state)
{
	struct machine *m = *state;
	struct cpu *c = &m->cpu;

	put_entry(m, PT, 0, 0x20000 | 5 | 1ull << 59);
	c->cr0 |= CR0_WP;
	c->cr4 |= CR4_PKE;
	mmu_flush_all(c);
	assert_int_equal(error_of_store(m, SMALL_VA), PF_P | PF_W);
	c->pkru = 2 << 2;
	mmu_flush_all(c);
	assert_int_equal(error_of_store(m, SMALL_VA), PF_P | PF_W | PF_PK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(small_page_is_dropped_alone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(large_page_is_dropped_whole, set_up, tear_down),
		cmocka_unit_test_setup_teardown(huge_page_is_dropped_whole, set_up, tear_down),
		cmocka_unit_test_setup_teardown(global_page_survives_cr3_only, set_up, tear_down),
		cmocka_unit_test_setup_teardown(many_flushes_leave_nothing_behind, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(address_spaces_are_kept_by_pcid, set_up, tear_down),
		cmocka_unit_test_setup_teardown(error_code_names_the_key, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

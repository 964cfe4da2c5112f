/* The PV clock: the page is what a guest expects to compute time from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "mem/mem.h"
#include "monitor/pvclock.h"

#define PAGE_GPA 0x5040ull

static struct cpu *make_cpu(void)
{
	struct cpu *c = aligned_alloc(64, sizeof(*c));

	assert_non_null(c);
	memset(c, 0, sizeof(*c));
	assert_int_equal(mem_new(&c->mem, MEM_MIN_BYTES), 0);
	c->msr.tsc_offset = -(int64_t)clock_tsc();
	return c;
}

static void free_cpu(struct cpu *c)
{
	mem_free(c->mem);
	free(c);
}

static struct pvclock_page *page_at(struct cpu *c, gpa_t gpa)
{
	return mem_host(c->mem, gpa, sizeof(struct pvclock_page), false);
}

/* Linux's __pvclock_read_cycles(). */
static uint64_t guest_time(const struct pvclock_page *p, uint64_t tsc)
{
	uint64_t delta = tsc - p->tsc_timestamp;

	delta = p->tsc_shift < 0 ? delta >> -p->tsc_shift : delta << p->tsc_shift;
	return p->system_time + (uint64_t)(((unsigned __int128)delta * p->tsc_to_system_mul) >> 32);
}

static void page_gives_time(void **state)
{
	static const uint64_t hz[] = { 19200000,   999999999,  1000000000, 2000000000,
		                       2000000001, 2799999000, 5000000000 };
	struct cpu *c = make_cpu();
	struct pvclock_vcpu v;
	struct pvclock p;

	for (unsigned i = 0; i < ARRAY_SIZE(hz); i++) {
		uint64_t start, got;

		pvclock_init(&p, hz[i]);
		pvclock_reset(&v);
		assert_true(pvclock_write_msr(&p, &v, c, MSR_KVM_SYSTEM_TIME, PAGE_GPA | 1));
		start = p.tsc_start + (uint64_t)c->msr.tsc_offset;
		assert_int_equal(guest_time(page_at(c, PAGE_GPA), start), 0);
		/* After an hour the error of the scale's rounding is under 4 us. */
		got = guest_time(page_at(c, PAGE_GPA), start + hz[i] * 3600);
		assert_in_range(got, 3600000000000ull - 4000, 3600000000000ull + 4000);
		assert_int_equal(page_at(c, PAGE_GPA)->flags, PVCLOCK_TSC_STABLE);
	}
	free_cpu(c);
}

static void version_is_even_and_grows(void **state)
{
	struct cpu *c = make_cpu();
	struct pvclock_vcpu v;
	struct pvclock p;
	uint64_t value;

	pvclock_init(&p, 2500000000);
	pvclock_reset(&v);
	pvclock_write_msr(&p, &v, c, MSR_KVM_SYSTEM_TIME, PAGE_GPA | 1);
	assert_int_equal(page_at(c, PAGE_GPA)->version, 2);
	c->msr.tsc_offset += 1000;
	pvclock_tsc_changed(&p, &v, c);
	assert_int_equal(page_at(c, PAGE_GPA)->version, 4);
	assert_int_equal(page_at(c, PAGE_GPA)->tsc_timestamp,
	                 p.tsc_start + (uint64_t)c->msr.tsc_offset);
	assert_true(pvclock_read_msr(&v, MSR_KVM_SYSTEM_TIME, &value));
	assert_int_equal(value, PAGE_GPA | 1);
	assert_false(pvclock_read_msr(&v, 0x4b564d02, &value));
	free_cpu(c);
}

static void disabled_and_bad_pages_stay_untouched(void **state)
{
	struct cpu *c = make_cpu();
	struct pvclock_vcpu v;
	struct pvclock p;

	pvclock_init(&p, 2500000000);
	pvclock_reset(&v);
	pvclock_write_msr(&p, &v, c, MSR_KVM_SYSTEM_TIME, PAGE_GPA);
	assert_int_equal(page_at(c, PAGE_GPA)->version, 0);
	/* The last bytes of RAM, beyond it, and the end of the address space: accepted, not
	 * written. */
	pvclock_write_msr(&p, &v, c, MSR_KVM_SYSTEM_TIME, (MEM_MIN_BYTES - 16) | 1);
	pvclock_write_msr(&p, &v, c, MSR_KVM_SYSTEM_TIME, 0xfee00000ull | 1);
	pvclock_write_msr(&p, &v, c, MSR_KVM_SYSTEM_TIME, UINT64_MAX);
	pvclock_write_msr(&p, &v, c, MSR_KVM_WALL_CLOCK, UINT64_MAX);
	free_cpu(c);
}

static void wall_clock_is_the_hosts(void **state)
{
	struct cpu *c = make_cpu();
	struct pvclock_wall *w;
	struct pvclock_vcpu v;
	struct pvclock p;
	uint64_t now = clock_utc_ns() / 1000000000;

	pvclock_init(&p, 2500000000);
	pvclock_reset(&v);
	pvclock_write_msr(&p, &v, c, MSR_KVM_WALL_CLOCK, PAGE_GPA);
	w = mem_host(c->mem, PAGE_GPA, sizeof(*w), false);
	assert_int_equal(w->version, 2);
	assert_in_range(w->sec, now, now + 5);
	assert_in_range(w->nsec, 0, 999999999);
	free_cpu(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(page_gives_time),
		cmocka_unit_test(version_is_even_and_grows),
		cmocka_unit_test(disabled_and_bad_pages_stay_untouched),
		cmocka_unit_test(wall_clock_is_the_hosts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

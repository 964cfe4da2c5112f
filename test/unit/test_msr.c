/* MSRs: what exists, what a write may hold, what goes to the machine. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include "cpu/cpuid.h"
#include "cpu/msr.h"

#define APIC_BASE  0x1b
#define TSC_ADJUST 0x3b
#define PAT        0x277
#define MTRR_BASE0 0x200
#define MTRR_MASK0 0x201
#define LSTAR      0xc0000082
#define FS_BASE    0xc0000100
#define PRED_CMD   0x49

/* struct cpu wants 64-byte alignment. */
static void *new_zeroed(size_t size)
{
	void *p = aligned_alloc(64, size);

	assert_non_null(p);
	return memset(p, 0, size);
}

struct machine {
	struct cpu cpu;
	struct cpuid_model *model;
	struct exit last;
};

/* The machine knows every register but 0x8ff. */
static void answer(struct cpu *c, struct exit *e)
{
	struct machine *m = container_of(c, struct machine, cpu);

	m->last = *e;
	if (e->msr.index == 0x8ff)
		e->msr.fault = true;
	else if (!e->msr.write)
		e->msr.value = 0x5a;
}

static const struct cpu_ops ops = { .exit = answer };

static int set_up(void **state)
{
	struct machine *m = new_zeroed(sizeof(*m));
	char err[128];

	assert_int_equal(cpuid_model_new(&m->model, "host", NULL, 1, 2000000000, err, sizeof(err)),
	                 0);
	m->cpu.ops = &ops;
	m->cpu.cpuid = m->model;
	cpu_reset(&m->cpu);
	*state = m;
	return 0;
}

static int tear_down(void **state)
{
	struct machine *m = *state;

	cpuid_model_free(m->model);
	free(m);
	return 0;
}

static uint64_t get(struct machine *m, uint32_t index)
{
	uint64_t value;

	assert_int_equal(msr_read(&m->cpu, index, &value), MSR_OK);
	return value;
}

static void faults_on_unknown_registers(void **state)
{
	struct machine *m = *state;
	uint64_t value;

	assert_int_equal(msr_read(&m->cpu, 0x12345678, &value), MSR_FAULT);
	assert_int_equal(msr_write(&m->cpu, 0x12345678, 0), MSR_FAULT);
	assert_int_equal(msr_read(&m->cpu, PRED_CMD, &value), MSR_FAULT);
	assert_int_equal(msr_write(&m->cpu, PRED_CMD, 1), MSR_OK);
	assert_int_equal(msr_write(&m->cpu, PRED_CMD, 2), MSR_FAULT);
}

static void shows_one_vendors_registers(void **state)
{
	struct machine *m = *state;
	bool amd = cpuid_is_amd(m->model);
	uint64_t value;

	assert_int_equal(msr_read(&m->cpu, 0x10a, &value), amd ? MSR_FAULT : MSR_OK);
	assert_int_equal(msr_read(&m->cpu, 0xc0010015, &value), amd ? MSR_OK : MSR_FAULT);
}

static void wants_canonical_addresses(void **state)
{
	struct machine *m = *state;
	const uint64_t bad48 = 0x0000800000000000, bad57 = 0x0100000000000000;

	assert_int_equal(msr_write(&m->cpu, FS_BASE, bad48), MSR_FAULT);
	assert_int_equal(msr_write(&m->cpu, LSTAR, bad48), MSR_FAULT);
	m->cpu.cr4 |= CR4_LA57;
	assert_int_equal(msr_write(&m->cpu, FS_BASE, bad48), MSR_OK);
	assert_int_equal(m->cpu.seg[SEG_FS].base, bad48);
	assert_int_equal(msr_write(&m->cpu, FS_BASE, bad57), MSR_FAULT);
}

static void wants_valid_memory_types(void **state)
{
	struct machine *m = *state;

	assert_int_equal(msr_write(&m->cpu, PAT, 0x0007010600070106), MSR_OK);
	assert_int_equal(msr_write(&m->cpu, PAT, 0x0007010600070102), MSR_FAULT);
	assert_int_equal(msr_write(&m->cpu, PAT, 0x0807010600070106), MSR_FAULT);
	assert_int_equal(get(m, PAT), 0x0007010600070106);
	assert_int_equal(msr_write(&m->cpu, MTRR_BASE0, 0x80000006), MSR_OK);
	assert_int_equal(msr_write(&m->cpu, MTRR_BASE0, 0x80000007), MSR_FAULT);
	assert_int_equal(msr_write(&m->cpu, MTRR_BASE0, BIT(CPUID_PHYS_BITS)), MSR_FAULT);
	assert_int_equal(msr_write(&m->cpu, MTRR_MASK0, 0xff80000800), MSR_OK);
	assert_int_equal(get(m, MTRR_BASE0), 0x80000006);
	assert_int_equal(get(m, MTRR_MASK0), 0xff80000800);
}

static void guards_long_mode_enable(void **state)
{
	struct machine *m = *state;

	assert_int_equal(msr_write(&m->cpu, MSR_EFER, EFER_LME | EFER_NXE), MSR_PAGING);
	assert_int_equal(msr_write(&m->cpu, MSR_EFER, EFER_LME | EFER_NXE), MSR_OK);
	m->cpu.cr0 |= CR0_PG;
	m->cpu.efer |= EFER_LMA;
	assert_int_equal(msr_write(&m->cpu, MSR_EFER, EFER_NXE), MSR_FAULT);
	assert_int_equal(msr_write(&m->cpu, MSR_EFER, EFER_LME), MSR_PAGING);
	assert_int_equal(get(m, MSR_EFER), EFER_LME | EFER_LMA);
	assert_int_equal(msr_write(&m->cpu, MSR_EFER, BIT(40)), MSR_FAULT);
}

static void moves_the_tsc(void **state)
{
	struct machine *m = *state;
	uint64_t now;

	assert_int_equal(msr_write(&m->cpu, MSR_TSC, 1000), MSR_OK);
	now = get(m, MSR_TSC);
	assert_in_range(now, 1000, 1000 + 20000000000);
	assert_int_equal(msr_write(&m->cpu, TSC_ADJUST, get(m, TSC_ADJUST) + BIT(50)), MSR_OK);
	assert_in_range(get(m, MSR_TSC) - now, BIT(50), BIT(50) + 20000000000);
}

static void asks_the_machine(void **state)
{
	struct machine *m = *state;
	uint64_t value;

	assert_int_equal(get(m, APIC_BASE), 0x5a);
	assert_int_equal(m->last.reason, EXIT_MSR);
	assert_int_equal(msr_write(&m->cpu, 0x4b564d01, 77), MSR_OK);
	assert_true(m->last.msr.write);
	assert_int_equal(m->last.msr.value, 77);
	assert_int_equal(msr_read(&m->cpu, 0x8ff, &value), MSR_FAULT);
}

/* The table is searched by bisection: every register on the way up must be found or not, no other.
 */
static void finds_every_register_once(void **state)
{
	struct machine *m = *state;
	unsigned found = 0;
	uint64_t value;

	for (uint32_t index = 0; index < 0x1000; index++)
		found += msr_read(&m->cpu, index, &value) == MSR_OK;
	assert_in_range(found, 300, 320);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(faults_on_unknown_registers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(shows_one_vendors_registers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(wants_canonical_addresses, set_up, tear_down),
		cmocka_unit_test_setup_teardown(wants_valid_memory_types, set_up, tear_down),
		cmocka_unit_test_setup_teardown(guards_long_mode_enable, set_up, tear_down),
		cmocka_unit_test_setup_teardown(moves_the_tsc, set_up, tear_down),
		cmocka_unit_test_setup_teardown(asks_the_machine, set_up, tear_down),
		cmocka_unit_test_setup_teardown(finds_every_register_once, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("msr", tests, NULL, NULL);
}

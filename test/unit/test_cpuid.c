/* CPUID leaves must agree with each other and with the vCPU's state. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "cpu/cpuid.h"

#define TSC_HZ 2600000000ull

/* struct cpu wants 64-byte alignment. */
static void *new_zeroed(size_t size)
{
	void *p = aligned_alloc(64, size);

	assert_non_null(p);
	return memset(p, 0, size);
}

struct fixture {
	struct cpu cpu;
	struct cpuid_model *model;
};

static struct fixture *make(unsigned vcpus)
{
	struct fixture *f = new_zeroed(sizeof(*f));
	char err[128];

	assert_int_equal(cpuid_model_new(&f->model, "host", NULL, vcpus, TSC_HZ, err, sizeof(err)),
	                 0);
	f->cpu.cpuid = f->model;
	cpu_reset(&f->cpu);
	return f;
}

static void unmake(struct fixture *f)
{
	cpuid_model_free(f->model);
	free(f);
}

static uint32_t query(struct fixture *f, uint32_t leaf, uint32_t sub, unsigned reg)
{
	uint32_t r[4];

	cpuid_query(&f->cpu, leaf, sub, r);
	return r[reg];
}

static void refuses_what_it_does_not_know(void **state)
{
	struct cpuid_model *m;
	char err[128] = "";

	assert_int_equal(cpuid_model_new(&m, "486", NULL, 1, TSC_HZ, err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "486"));
	assert_int_equal(cpuid_model_new(&m, "host", NULL, 0, TSC_HZ, err, sizeof(err)), -EINVAL);
	assert_int_equal(cpuid_model_new(&m, "host", NULL, 100000, TSC_HZ, err, sizeof(err)),
	                 -EINVAL);
	assert_non_null(strstr(err, "100000"));
}

/* An engine that has all that the level asks for, and more. */
static struct cpuid_offer *rich_offer(void)
{
	struct cpuid_offer *o = new_zeroed((sizeof(*o) + 63) & ~63ul);
	static const struct {
		uint32_t leaf, sub;
	} all[] = { { 1, 0 }, { 6, 0 }, { 7, 0 }, { 0x80000001, 0 }, { 0x80000007, 0 } };

	o->engine = "rich";
	for (size_t n = 0; n < ARRAY_SIZE(all); n++)
		o->leaf[o->nr++] =
		        (struct cpuid_leaf){ .leaf = all[n].leaf, .r = { ~0u, ~0u, ~0u, ~0u } };
	for (uint32_t bit = 2; bit < 10; bit++)
		o->leaf[o->nr++] = (struct cpuid_leaf){ .leaf = 0xd,
			                                .sub = bit,
			                                .r = { 64, 576 + 64 * bit, 0, 0 } };
	return o;
}

static const struct cpuid_leaf *offered(struct cpuid_offer *o, uint32_t leaf)
{
	for (unsigned n = 0; n < o->nr; n++)
		if (o->leaf[n].leaf == leaf)
			return &o->leaf[n];
	return NULL;
}

static struct fixture *make_level(const char *name, const struct cpuid_offer *o)
{
	struct fixture *f = new_zeroed(sizeof(*f));
	char err[256] = "";

	assert_int_equal(cpuid_model_new(&f->model, name, o, 1, TSC_HZ, err, sizeof(err)), 0);
	f->cpu.cpuid = f->model;
	return f;
}

/* What a level shows does not depend on the engine, and grows from one to the next. */
static void levels_are_the_same_everywhere(void **state)
{
	struct cpuid_offer *o = rich_offer();
	struct fixture *rich = make_level("x86-64-v1", o), *soft = make_level("x86-64-v1", NULL);
	struct fixture *v4 = make_level("x86-64-v4", o), *v3 = make_level("x86-64-v3", o);

	for (unsigned reg = 2; reg < 4; reg++) {
		assert_int_equal(query(rich, 1, 0, reg), query(soft, 1, 0, reg));
		assert_int_equal(query(rich, 7, 0, reg), query(soft, 7, 0, reg));
		assert_int_equal(query(rich, 0x80000001, 0, reg), query(soft, 0x80000001, 0, reg));
	}
	assert_int_equal(query(soft, 1, 0, 2) & (BIT(0) | BIT(9) | BIT(26) | BIT(28)), 0);
	assert_int_equal(query(soft, 0xd, 0, 0), 0);
	assert_int_equal(query(v3, 7, 0, 1) & (BIT(5) | BIT(16)), BIT(5));
	assert_int_equal(query(v3, 0xd, 0, 0), 7);
	assert_int_equal(query(v4, 7, 0, 1) & (BIT(5) | BIT(16)), BIT(5) | BIT(16));
	assert_int_equal(query(v4, 0xd, 0, 0), 0xe7);
	assert_int_equal(query(v4, 0xd, 0, 2), 576 + 64 * 7 + 64);
	unmake(rich), unmake(soft), unmake(v3), unmake(v4);
	free(o);
}

static void names_what_is_missing(void **state)
{
	struct cpuid_offer *o = rich_offer();
	struct cpuid_model *m;
	char err[256] = "";

	((struct cpuid_leaf *)offered(o, 7))->r[1] &= ~(uint32_t)(BIT(5) | BIT(8));
	assert_int_equal(cpuid_model_new(&m, "x86-64-v3", o, 1, TSC_HZ, err, sizeof(err)),
	                 -ENOTSUP);
	assert_string_equal(err, "CPU model \"x86-64-v3\": rich has not avx2, bmi2");
	assert_int_equal(cpuid_model_new(&m, "x86-64-v4", NULL, 1, TSC_HZ, err, sizeof(err)),
	                 -ENOTSUP);
	assert_non_null(strstr(err, "avx512f"));
	free(o);
}

static void hides_what_is_not_executed(void **state)
{
	struct fixture *f = make(1);

	assert_int_equal(query(f, 7, 0, 1) & (BIT(16) | BIT(17) | BIT(30) | BIT(31)),
	                 0);                                                    /* AVX-512 */
	assert_int_equal(query(f, 7, 0, 3) & (BIT(22) | BIT(24) | BIT(25)), 0); /* AMX */
	assert_int_equal(query(f, 1, 0, 2) & BIT(5), 0);                        /* VMX */
	assert_int_equal(query(f, 0x80000001, 0, 2) & (BIT(2) | BIT(11) | BIT(16)), 0);
	assert_int_equal(query(f, 0x80000001, 0, 3) & (BIT(30) | BIT(31)), 0); /* 3DNow */
	unmake(f);
}

/* Some programs conclude from the model that there is AVX-512: Intel's that have it (SDM 4, table
 * 2-1), all of family 6. */
static void no_model_promises_more(void **state)
{
	static const uint8_t avx512[] = { 0x55, 0x57, 0x66, 0x6a, 0x6c, 0x7d, 0x7e, 0x85,
		                          0x8c, 0x8d, 0x8f, 0xa7, 0xad, 0xae, 0xcf };
	struct fixture *f = make(1);
	uint32_t eax = query(f, 1, 0, 0);

	for (unsigned i = 0; !cpuid_is_amd(f->model) && i < ARRAY_SIZE(avx512); i++)
		assert_int_not_equal((eax >> 12 & 0xf0) | (eax >> 4 & 0xf), avx512[i]);
	unmake(f);
}

static void shows_what_is_ours(void **state)
{
	struct fixture *f = make(1);
	const uint32_t ecx1 = BIT(13) | BIT(17) | BIT(21) | BIT(24) | BIT(26) | BIT(31);
	const uint32_t ebx7 = BIT(0) | BIT(1) | BIT(7) | BIT(10) | BIT(20);
	const uint32_t ecx7 = BIT(2) | BIT(3) | BIT(16) | BIT(22);

	assert_int_equal(query(f, 1, 0, 2) & ecx1, ecx1);
	assert_int_equal(query(f, 7, 0, 1) & ebx7, ebx7);
	assert_int_equal(query(f, 7, 0, 2) & ecx7, ecx7);
	assert_int_equal(query(f, 0x80000008, 0, 0) & 0xffff, 57 << 8 | CPUID_PHYS_BITS);
	assert_true(query(f, 0x80000007, 0, 3) & BIT(8));
	unmake(f);
}

static void follows_control_registers(void **state)
{
	struct fixture *f = make(1);

	assert_false(query(f, 1, 0, 2) & BIT(27));
	assert_false(query(f, 7, 0, 2) & BIT(4));
	f->cpu.cr4 = CR4_OSXSAVE | CR4_PKE;
	assert_true(query(f, 1, 0, 2) & BIT(27));
	assert_true(query(f, 7, 0, 2) & BIT(4));
	assert_int_equal(query(f, 0xd, 0, 1), 576);
	f->cpu.xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_PKRU;
	assert_int_equal(query(f, 0xd, 0, 1), 840);
	assert_int_equal(query(f, 0xd, 1, 1), 840);
	f->cpu.xcr0 = XCR0_X87 | XCR0_SSE | XCR0_PKRU;
	assert_int_equal(query(f, 0xd, 0, 1), 840);
	assert_int_equal(query(f, 0xd, 1, 1), 584); /* compacted */
	assert_int_equal(query(f, 0xd, 0, 2), 840);
	assert_int_equal(query(f, 0xd, 9, 1), 832);
	unmake(f);
}

static void tells_one_topology(void **state)
{
	struct fixture *f = make(3);

	for (unsigned id = 0; id < 3; id++) {
		f->cpu.id = id;
		assert_int_equal(query(f, 1, 0, 1) >> 24, id);
		assert_int_equal(query(f, 1, 0, 1) >> 16 & 0xff, 4);
		for (uint32_t sub = 0; sub < 4; sub++) {
			assert_int_equal(query(f, 0xb, sub, 3), id);
			assert_int_equal(query(f, 0xb, sub, 2) & 0xff, sub);
		}
		assert_int_equal(query(f, 0xb, 0, 0), 0);
		assert_int_equal(query(f, 0xb, 0, 1), 1);
		assert_int_equal(query(f, 0xb, 1, 0), 2);
		assert_int_equal(query(f, 0xb, 1, 1), 3);
		assert_int_equal(query(f, 0xb, 2, 2) >> 8, 0);
		if (cpuid_is_amd(f->model)) {
			assert_int_equal(query(f, 0x8000001e, 0, 0), id);
			assert_int_equal(query(f, 0x80000008, 0, 2) & 0xff, 2);
			assert_int_equal(query(f, 0x80000008, 0, 2) >> 12 & 0xf, 2);
		}
	}
	assert_true(query(f, 1, 0, 3) & BIT(28));
	unmake(f);
}

static void tells_one_time(void **state)
{
	struct fixture *f = make(1);
	uint64_t crystal = query(f, 0x15, 0, 2);

	assert_int_equal(crystal * query(f, 0x15, 0, 1) / query(f, 0x15, 0, 0), TSC_HZ);
	assert_int_equal(query(f, 0x40000010, 0, 0), TSC_HZ / 1000);
	assert_int_equal(query(f, 0x40000010, 0, 1), crystal / 1000);
	assert_int_equal(query(f, 0x40000000, 0, 0), 0x40000010);
	unmake(f);
}

static void answers_any_leaf(void **state)
{
	struct fixture *f = make(2);
	const uint32_t odd[] = { 0x1f, 0x23, 0x3fffffff, 0x40000002, 0x80000030, 0xc0000000, ~0u };

	for (size_t n = 0; n < ARRAY_SIZE(odd); n++)
		for (unsigned reg = 0; reg < 4; reg++)
			assert_int_equal(query(f, odd[n], ~0u, reg), 0);
	unmake(f);
}

static void resets_to_the_manuals_state(void **state)
{
	struct fixture *f = make(1);
	struct cpu *c = &f->cpu;
	char text[4096];

	assert_int_equal(c->rip, 0xfff0);
	assert_int_equal(c->seg[SEG_CS].base, 0xffff0000);
	assert_int_equal(c->rdx, query(f, 1, 0, 0));
	assert_int_equal(cpu_get_rflags(c), RFLAGS_1);
	assert_int_equal(c->mode, MODE_16);
	assert_false(c->flat);
	c->rax = 0x1234567890abcdef;
	assert_true(cpu_dump(c, text, sizeof(text)) > 100);
	assert_non_null(strstr(text, "1234567890abcdef"));
	assert_int_equal(cpu_dump(c, text, 10), 9);
	unmake(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_what_it_does_not_know),
		cmocka_unit_test(levels_are_the_same_everywhere),
		cmocka_unit_test(names_what_is_missing),
		cmocka_unit_test(hides_what_is_not_executed),
		cmocka_unit_test(no_model_promises_more),
		cmocka_unit_test(shows_what_is_ours),
		cmocka_unit_test(follows_control_registers),
		cmocka_unit_test(tells_one_topology),
		cmocka_unit_test(tells_one_time),
		cmocka_unit_test(answers_any_leaf),
		cmocka_unit_test(resets_to_the_manuals_state),
	};

	return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}

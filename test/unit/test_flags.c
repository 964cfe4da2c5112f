/* Lazy flags against the host's own: every combination, and additions and subtractions of edge
 * values. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include "cpu/cpu.h"
#include "cpu/flags.h"

/* struct cpu wants 64-byte alignment. */
static void *new_zeroed(size_t size)
{
	void *p = aligned_alloc(64, size);

	assert_non_null(p);
	return memset(p, 0, size);
}

static uint64_t host_flags(void)
{
	uint64_t f;

	__asm__ volatile("pushfq\n\tpopq %0" : "=r"(f));
	return f;
}

static void represents_every_combination(void **state)
{
	static const uint64_t bit[6] = { RFLAGS_CF, RFLAGS_PF, RFLAGS_AF,
		                         RFLAGS_ZF, RFLAGS_SF, RFLAGS_OF };
	struct cpu *c = new_zeroed(sizeof(*c));

	for (unsigned n = 0; n < 64; n++) {
		uint64_t flags = 0;

		for (unsigned k = 0; k < 6; k++)
			flags |= n >> k & 1 ? bit[k] : 0;
		flags_set_arith(c, flags);
		assert_int_equal(flags_get_arith(c), flags);
		flag_set_cf_of(c, !(flags & RFLAGS_CF), flags & RFLAGS_OF);
		assert_int_equal(flags_get_arith(c), flags ^ RFLAGS_CF);
	}
	free(c);
}

static void keeps_the_other_flags(void **state)
{
	struct cpu *c = new_zeroed(sizeof(*c));

	cpu_set_rflags(c, RFLAGS_CF | RFLAGS_IF | RFLAGS_IOPL | RFLAGS_AC);
	assert_int_equal(cpu_get_rflags(c),
	                 RFLAGS_CF | RFLAGS_IF | RFLAGS_IOPL | RFLAGS_AC | RFLAGS_1);
	assert_int_equal(c->rflags & RFLAGS_ARITH, 0);
	free(c);
}

static const uint64_t edge[] = { 0,          1,          0xf,
	                         0x10,       0x7f,       0x80,
	                         0xff,       0x7fff,     0x8000,
	                         0xffff,     0x7fffffff, 0x80000000,
	                         0xffffffff, INT64_MAX,  (uint64_t)INT64_MIN,
	                         UINT64_MAX, 0x1234567,  0xaaaaaaaaaaaaaaaa };

#define CHECK_WIDTH(bits)                                                                     \
	static void check_##bits(struct cpu *c, uint64_t x, uint64_t y)                       \
	{                                                                                     \
		uint##bits##_t a = (uint##bits##_t)x, b = (uint##bits##_t)y, r;               \
		uint64_t want;                                                                \
		__asm__("add %2, %0\n\tpushfq\n\tpopq %1"                                     \
		        : "=&r"(r), "=r"(want)                                                \
		        : "r"(b), "0"(a)                                                      \
		        : "cc");                                                              \
		flags_set_carries(c, bits, (uint64_t)(int##bits##_t)r, carries_add(a, b, r)); \
		assert_int_equal(flags_get_arith(c), want &RFLAGS_ARITH);                     \
		__asm__("sub %2, %0\n\tpushfq\n\tpopq %1"                                     \
		        : "=&r"(r), "=r"(want)                                                \
		        : "r"(b), "0"(a)                                                      \
		        : "cc");                                                              \
		flags_set_carries(c, bits, (uint64_t)(int##bits##_t)r, carries_sub(a, b, r)); \
		assert_int_equal(flags_get_arith(c), want &RFLAGS_ARITH);                     \
	}
CHECK_WIDTH(16)
CHECK_WIDTH(32)
CHECK_WIDTH(64)

static void agrees_with_the_host(void **state)
{
	struct cpu *c = new_zeroed(sizeof(*c));

	for (size_t a = 0; a < ARRAY_SIZE(edge); a++)
		for (size_t b = 0; b < ARRAY_SIZE(edge); b++) {
			check_16(c, edge[a], edge[b]);
			check_32(c, edge[a], edge[b]);
			check_64(c, edge[a], edge[b]);
		}
	free(c);
}

/* Each condition number must mean what the host's SETcc means after the same flags. */
#define HOST_COND(name)                                                                        \
	static bool cond_##name(uint64_t flags)                                                \
	{                                                                                      \
		bool r;                                                                        \
		__asm__("pushq %1\n\tpopfq\n\tset" #name " %0" : "=r"(r) : "r"(flags) : "cc"); \
		return r;                                                                      \
	}
HOST_COND(o)
HOST_COND(no)
HOST_COND(b)
HOST_COND(ae)
HOST_COND(e)
HOST_COND(ne)
HOST_COND(be)
HOST_COND(a)
HOST_COND(s)
HOST_COND(ns)
HOST_COND(p)
HOST_COND(np)
HOST_COND(l)
HOST_COND(ge)
HOST_COND(le)
HOST_COND(g)

static void conditions_agree_with_the_host(void **state)
{
	static bool (*const host[16])(
	        uint64_t) = { cond_o, cond_no, cond_b, cond_ae, cond_e, cond_ne, cond_be, cond_a,
		              cond_s, cond_ns, cond_p, cond_np, cond_l, cond_ge, cond_le, cond_g };
	struct cpu *c = new_zeroed(sizeof(*c));
	uint64_t other = host_flags() & ~RFLAGS_ARITH;

	for (uint64_t flags = 0; flags <= RFLAGS_ARITH; flags++) {
		if (flags & ~RFLAGS_ARITH)
			continue;
		flags_set_arith(c, flags);
		for (unsigned cc = 0; cc < 16; cc++)
			assert_int_equal(flags_cond(c, cc), host[cc](other | flags));
	}
	free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(represents_every_combination),
		cmocka_unit_test(keeps_the_other_flags),
		cmocka_unit_test(agrees_with_the_host),
		cmocka_unit_test(conditions_agree_with_the_host),
	};

	return cmocka_run_group_tests_name("flags", tests, NULL, NULL);
}

/* What the translator believes of instructions: classes, flags, alignment. */
#include "unit.h"

#include <string.h>

#include "isa/isa.h"

struct decoded {
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static struct decoded decode(const char *bytes, size_t n)
{
	struct decoded d;
	ZydisDecoder z;

	ZydisDecoderInit(&z, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&z, bytes, n, &d.z, d.op)));
	assert_int_equal(d.z.length, n);
	return d;
}
#define DECODE(bytes) decode(bytes, sizeof(bytes) - 1)

static void assert_class(struct decoded d, enum isa_class class)
{
	assert_int_equal(isa_class(&d.z, d.op), class);
}

static void test_classes(void **state)
{
	assert_class(DECODE("\x48\x01\xd8"), ISA_PLAIN);         /* add rax, rbx */
	assert_class(DECODE("\x48\xf7\xf3"), ISA_DIVIDE);        /* div rbx */
	assert_class(DECODE("\x0f\x58\xc1"), ISA_VECTOR);        /* addps xmm0, xmm1 */
	assert_class(DECODE("\xc5\xf4\x58\xc2"), ISA_VECTOR);    /* vaddps ymm0, ymm1, ymm2 */
	assert_class(DECODE("\xf2\x0f\x10\x07"), ISA_VECTOR);    /* movsd xmm0, [rdi] */
	assert_class(DECODE("\xf3\xa5"), ISA_MOVS);              /* rep movsd */
	assert_class(DECODE("\xa5"), ISA_OTHER);                 /* movsd */
	assert_class(DECODE("\xd8\xc1"), ISA_X87);               /* fadd st0, st1 */
	assert_class(DECODE("\x0f\x1f\x00"), ISA_NOTHING);       /* nop [rax] */
	assert_class(DECODE("\xc5\xf8\xae\x10"), ISA_OTHER);     /* vldmxcsr */
	assert_class(DECODE("\xc4\xe2\x7d\x2c\x00"), ISA_OTHER); /* vmaskmovps */
	assert_class(DECODE("\x0f\x6f\xc1"), ISA_OTHER);         /* movq mm0, mm1 */
	assert_class(DECODE("\xe3\x00"), ISA_JCXZ);              /* jrcxz */
	assert_class(DECODE("\x67\xe2\x00"), ISA_LOOP);          /* loop by ecx */
	assert_class(DECODE("\xe1\x00"), ISA_OTHER_END);         /* loope */
}

/* The same mnemonics with registers of the system. */
static void test_sensitive(void **state)
{
	assert_class(DECODE("\x0f\x20\xd8"), ISA_OTHER);     /* mov rax, cr3 */
	assert_class(DECODE("\x0f\x22\xd8"), ISA_OTHER_END); /* mov cr3, rax */
	assert_class(DECODE("\x8e\xd8"), ISA_OTHER);         /* mov ds, eax */
	assert_class(DECODE("\x8c\xd8"), ISA_FROM_SEGMENT);  /* mov eax, ds */
	assert_class(DECODE("\x0f\xa0"), ISA_OTHER);         /* push fs */
	assert_class(DECODE("\xff\x28"), ISA_OTHER_END);     /* jmp far [rax] */
	assert_class(DECODE("\xf4"), ISA_OTHER_END);         /* hlt */
	assert_class(DECODE("\x0f\x01\xf8"), ISA_SWAPGS);
	assert_class(DECODE("\x9d"), ISA_POPF);
}

static void test_bit_strings(void **state)
{
	assert_class(DECODE("\x0f\xa3\x07"), ISA_BIT);       /* bt [rdi], eax: any address */
	assert_class(DECODE("\x0f\xba\x27\x03"), ISA_PLAIN); /* bt dword [rdi], 3 */
	assert_class(DECODE("\x0f\xa3\xc7"), ISA_PLAIN);     /* bt edi, eax */
}

static struct isa_flags flags(struct decoded d)
{
	return isa_flags(&d.z, d.op);
}

static void test_flags(void **state)
{
	assert_true(flags(DECODE("\x48\x01\xd8")).writes_all);
	assert_int_equal(flags(DECODE("\x48\x01\xd8")).reads, 0);
	assert_true(flags(DECODE("\x48\x11\xd8")).reads); /* adc */
	assert_true(flags(DECODE("\x48\xff\xc0")).reads); /* inc keeps CF */
	assert_false(flags(DECODE("\x48\xff\xc0")).writes_all);
	assert_true(flags(DECODE("\x48\xff\xc0")).reads_cf);
	assert_true(flags(DECODE("\x48\x11\xd8")).reads_cf);  /* adc */
	assert_false(flags(DECODE("\xd1\xc0")).reads_cf);     /* rol eax, 1 */
	assert_false(flags(DECODE("\x0f\x92\xc0")).reads_cf); /* setb */
	assert_false(flags(DECODE("\x48\x89\xd8")).writes);   /* mov */
	assert_false(flags(DECODE("\x48\xf7\xd0")).writes);   /* not */
	assert_true(flags(DECODE("\x0f\x95\xc0")).reads);     /* setne */
}

/* A shift by zero leaves flags alone, so that they are still wanted. */
static void test_shifts(void **state)
{
	assert_true(flags(DECODE("\x48\xc1\xe0\x03")).writes_all);  /* shl rax, 3 */
	assert_false(flags(DECODE("\x48\xd3\xe0")).writes_all);     /* shl rax, cl */
	assert_false(flags(DECODE("\x48\xc1\xe0\x40")).writes_all); /* shl rax, 64 */
	assert_false(flags(DECODE("\xc1\xe0\x20")).writes_all);     /* shl eax, 32 */
	assert_false(flags(DECODE("\xd1\xc0")).writes_all);         /* rol eax, 1 */
}

static void test_alignment(void **state)
{
	struct decoded d = DECODE("\x0f\x28\x07"); /* movaps xmm0, [rdi] */

	assert_int_equal(isa_alignment(&d.z, 16), 16);
	d = DECODE("\x0f\x10\x07"); /* movups */
	assert_int_equal(isa_alignment(&d.z, 16), 0);
	d = DECODE("\xf3\x0f\x58\x07"); /* addss */
	assert_int_equal(isa_alignment(&d.z, 4), 0);
	d = DECODE("\xc5\xfc\x28\x07"); /* vmovaps ymm0, [rdi] */
	assert_int_equal(isa_alignment(&d.z, 32), 32);
	d = DECODE("\xc5\xfc\x58\x07"); /* vaddps ymm0, ymm0, [rdi] */
	assert_int_equal(isa_alignment(&d.z, 32), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_classes),     cmocka_unit_test(test_sensitive),
		cmocka_unit_test(test_bit_strings), cmocka_unit_test(test_flags),
		cmocka_unit_test(test_shifts),      cmocka_unit_test(test_alignment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

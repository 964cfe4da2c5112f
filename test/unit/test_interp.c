/*
 * The run loop and events, where the guest's view is not enough: what a kick finds, what is left in
 * the vCPU between an instruction's parts. Code runs in real mode from CODE.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpuid.h"
#include "interp/interp.h"
#include "mem/mem.h"
#include "mmu/mmu.h"

#define CODE  0x1000
#define STACK 0x8000
#define DATA  0x2000

struct machine {
	struct cpu cpu;
	struct mem *mem;
	struct cpuid_model *model;
};

static void answer_exit(struct cpu *c, struct exit *e)
{
	switch (e->reason) {
	case EXIT_INTACK:
		e->vector = -1;
		break;
	case EXIT_PIO:
		e->io.value = 0x5a;
		break;
	default:
		break;
	}
}

static void put_code(struct machine *m, const uint8_t *code, size_t n)
{
	assert_int_equal(mem_write(m->mem, CODE, code, n), 0);
}
#define PUT(m, ...) \
	put_code(m, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static int set_up(void **state)
{
	static const struct cpu_ops ops = { .exit = answer_exit };
	static struct machine machine;
	struct machine *m = &machine;
	struct cpu *c = &m->cpu;
	char err[256];

	memset(m, 0, sizeof(*m));
	assert_int_equal(cpuid_model_new(&m->model, "host", NULL, 1, 1000000000, err, sizeof(err)),
	                 0);
	assert_int_equal(mem_new(&m->mem, MEM_MIN_BYTES), 0);
	c->ops = &ops;
	c->cpuid = m->model;
	c->mem = m->mem;
	assert_int_equal(mmu_new(c), 0);
	assert_int_equal(interp_new(c), 0);
	cpu_reset(c);
	c->seg[SEG_CS].sel = 0;
	c->seg[SEG_CS].base = 0;
	c->rip = CODE;
	c->rsp = STACK;
	c->rdi = DATA;
	mmu_flush_all(c);
	*state = m;
	return 0;
}

static int tear_down(void **state)
{
	struct machine *m = *state;

	interp_free(&m->cpu);
	mmu_free(&m->cpu);
	mem_free(m->mem);
	cpuid_model_free(m->model);
	return 0;
}

static bool step(struct machine *m)
{
	struct exit e;

	return interp_step(&m->cpu, &e);
}

/* The shadow of MOV SS outlives a kick, which does not wait for its end. */
static void kick_reaches_into_a_shadow(void **state)
{
	struct machine *m = *state;
	struct cpu *c = &m->cpu;
	struct exit e;

	PUT(m, 0x8e, 0xd0, 0x8e, 0xd0); /* mov ss, ax; twice */
	assert_true(step(m));
	assert_true(c->shadow);
	cpu_raise_attention(c, ATTN_KICK);
	interp_run(c, &e);
	assert_int_equal(e.reason, EXIT_KICK);
	assert_int_equal(c->rip, CODE + 2);
	assert_true(c->shadow);
}

/* An IRET that faults has unblocked NMIs all the same. */
static void faulting_iret_unblocks_nmi(void **state)
{
	struct machine *m = *state;
	struct cpu *c = &m->cpu;

	PUT(m, 0xcf);
	c->rsp = 0xffff; /* the frame leaves the segment: #SS */
	c->nmi_masked = true;
	step(m);
	assert_int_equal(c->stats.exceptions[EXC_SS], 1);
	assert_false(c->nmi_masked);
}

/* Interrupts that IF holds back do not keep a repeated instruction from getting on; RF says that it
 * is not complete. */
static void repeated_instruction_gets_on(void **state)
{
	static const uint8_t codes[][2] = { { 0xf3, 0xaa }, { 0xf3, 0xa4 }, { 0xf3, 0x6c },
		                            { 0xf3, 0x6e }, { 0xf3, 0xac }, { 0xf2, 0xae } };
	struct machine *m = *state;
	struct cpu *c = &m->cpu;

	cpu_raise_attention(c, ATTN_INTR);
	for (unsigned n = 0; n < ARRAY_SIZE(codes); n++) {
		put_code(m, codes[n], 2);
		c->rip = CODE;
		c->rcx = 3;
		c->rax = 0x77;
		c->rdi = DATA;
		for (unsigned left = 2; left > 0; left--) {
			assert_true(step(m));
			assert_int_equal(c->rcx, left);
			assert_int_equal(c->rip, CODE);
			assert_true(c->rflags & RFLAGS_RF);
		}
		assert_true(step(m));
		assert_int_equal(c->rcx, 0);
		assert_int_equal(c->rip, CODE + 2);
		assert_false(c->rflags & RFLAGS_RF);
	}
}

/* An instruction that goes on beyond the limit is #GP, even if the next page is missing. */
static void limit_comes_before_the_page(void **state)
{
	const uint32_t directory = 0x100003, table = 0x3;
	const uint8_t code[] = { 0x66, 0xb8 }; /* mov eax, imm32; cut short */
	struct machine *m = *state;
	struct cpu *c = &m->cpu;

	/* Only page 0 to 1 of linear memory is there. */
	assert_int_equal(mem_write(m->mem, 0x200000, &directory, 4), 0);
	assert_int_equal(mem_write(m->mem, 0x100000, &table, 4), 0);
	assert_int_equal(mem_write(m->mem, 0xffe, code, sizeof(code)), 0);
	c->cr3 = 0x200000;
	c->cr0 = CR0_PE | CR0_PG | CR0_ET;
	c->seg[SEG_CS].limit = 0xfff;
	c->idtr.limit = 0;
	c->rip = 0xffe;
	cpu_update_mode(c);
	mmu_flush_all(c);
	assert_false(step(m) && step(m) && step(m)); /* without an IDT it ends in shutdown */
	assert_int_equal(c->stats.exceptions[EXC_PF], 0);
	assert_true(c->stats.exceptions[EXC_GP] > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(kick_reaches_into_a_shadow, set_up, tear_down),
		cmocka_unit_test_setup_teardown(faulting_iret_unblocks_nmi, set_up, tear_down),
		cmocka_unit_test_setup_teardown(repeated_instruction_gets_on, set_up, tear_down),
		cmocka_unit_test_setup_teardown(limit_comes_before_the_page, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

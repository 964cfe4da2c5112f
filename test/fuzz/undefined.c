#include "undefined.h"

#include <string.h>
#include <Zydis/Zydis.h>

#include "interp/interp.h"
#include "isa/isa.h"
#include "mmu/mmu.h"

#define MAX_STEPS 20000
#define INSN_MAX  15
#define USED      (~0ull)

/* As many bytes of an instruction as there are. */
static unsigned read_code(struct cpu *c, gva_t at, uint8_t *bytes)
{
	unsigned have = 0;
	uint32_t error;
	gpa_t gpa;

	for (; have < INSN_MAX; have++) {
		const uint8_t *p = mmu_find(c, at + have, MMU_FETCH, c->mmu->mode, &gpa, &error);

		if (!p)
			break;
		bytes[have] = *p;
	}
	return have;
}

/* A repeated instruction that overwrites itself, or what maps it, may go on or not. */
static bool overwritten(struct cpu *c, gva_t at, const uint8_t *before, unsigned len)
{
	uint8_t bytes[INSN_MAX];

	return read_code(c, at, bytes) < len || memcmp(bytes, before, len);
}

/* The instruction at RIP; false: none, or one that this does not look at. */
static bool decode(struct cpu *c, uint8_t *bytes, ZydisDecodedInstruction *z,
                   ZydisDecodedOperand *op)
{
	ZydisDecoder decoder;
	unsigned have;

	ZydisDecoderInit(&decoder,
	                 c->mode == MODE_64 ? ZYDIS_MACHINE_MODE_LONG_64
	                                    : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
	                 c->mode == MODE_64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
	have = read_code(c, c->rip, bytes);
	return c->mode != MODE_16 &&
	       ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, have, z, op));
}

/* Whether an instruction uses flags that are undefined, and which are after it. */
static bool follow(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op, uint64_t *flags)
{
	enum isa_class class = isa_class(z, op);
	const ZydisAccessedFlags *f = z->cpu_flags;

	if (*flags &&
	    (class == ISA_PUSHF || class == ISA_SYSCALL ||
	     z->meta.category == ZYDIS_CATEGORY_INTERRUPT || z->mnemonic == ZYDIS_MNEMONIC_LAHF))
		return true;
	if (!f)
		return false;
	if (*flags & f->tested)
		return true;
	if (isa_flags(z, op).writes_all)
		*flags = 0;
	*flags |= f->undefined & RFLAGS_ARITH;
	return false;
}

static uint64_t exceptions(const struct cpu *c)
{
	uint64_t sum = 0;

	for (unsigned n = 0; n < ARRAY_SIZE(c->stats.exceptions); n++)
		sum += c->stats.exceptions[n];
	return sum;
}

/*
 * The tables as they were loaded, to see the guest write them: from then on it is nobody's to say
 * what is in a TLB. A write may be undone before the end, so each step is looked at.
 */
struct tables {
	const uint8_t *now;
	uint8_t loaded[SYSTEM_SIZE - PML5_PA], last[SYSTEM_SIZE - PML5_PA];
};

static void note_tables(struct tables *t, struct guest *g)
{
	t->now = mem_host(g->mem, PML5_PA, sizeof(t->loaded), true);
	memcpy(t->loaded, t->now, sizeof(t->loaded));
	memcpy(t->last, t->now, sizeof(t->last));
}

/* Other bits than accessed and dirty. */
static bool tables_written(struct tables *t)
{
	if (!memcmp(t->last, t->now, sizeof(t->last)))
		return false;
	memcpy(t->last, t->now, sizeof(t->last));
	for (unsigned n = 0; n < sizeof(t->loaded); n++)
		if ((t->loaded[n] ^ t->now[n]) & (n % 4 ? 0xff : 0x9f))
			return true;
	return false;
}

static uint64_t step_to_end(struct guest *g, struct tables *t)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	struct exit e = { .reason = EXIT_NONE };
	ZydisDecodedInstruction z;
	struct cpu *c = g->cpu;
	uint8_t bytes[INSN_MAX];
	uint64_t flags = 0;

	interp_flush(c);
	for (unsigned n = 0; n < MAX_STEPS; n++) {
		uint64_t before = exceptions(c), was = flags;
		gva_t at = c->rip;

		if (!decode(c, bytes, &z, op))
			z.length = 0;
		if (z.length && follow(&z, op, &flags))
			return USED;
		interp_step(c, &e);
		if ((z.length && overwritten(c, at, bytes, z.length)) || tables_written(t))
			return USED;
		if (exceptions(c) != before) {
			if (was) /* they are on the stack now, or in a TSS */
				return USED;
			flags = 0;
		}
		if (e.reason == EXIT_HLT || e.reason == EXIT_SHUTDOWN)
			return was | flags;
	}
	return USED;
}

uint64_t undefined_flags(struct guest *g)
{
	static struct tables tables;

	note_tables(&tables, g);
	return step_to_end(g, &tables);
}

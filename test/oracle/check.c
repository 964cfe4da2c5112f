/*
 * Comparing batches, and reducing what differs.
 *
 * A difference in a sequence is reduced by running longer and longer prefixes of it (a breakpoint
 * in place of every later instruction) until one differs: then the outcome of the prefix before, on
 * the host, is the state from which the last instruction alone should show the difference.
 */
#include <stdio.h>
#include <string.h>
#include "check.h"

void check_init(struct oracle_check *k, struct oracle_side *native, struct oracle_side *engine)
{
	memset(k, 0, sizeof(*k));
	k->native = native;
	k->engine = engine;
	k->max_per_mnemonic = 2;
	ZydisDecoderInit(&k->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisFormatterInit(&k->formatter, ZYDIS_FORMATTER_STYLE_INTEL);
}

/* Index of the instruction at rip: nr for the breakpoint at the end, -1 for none. After a
 * breakpoint RIP is one further. */
static int index_of(const struct oracle_sequence *seq, uint64_t start, const struct oracle_state *s)
{
	uint64_t off = s->rip - start - (s->vector == EXC_BP);

	for (unsigned i = 0; i <= seq->nr; i++)
		if (seq->insn[i].offset == off)
			return i;
	return -1;
}

/* A trap (single step) ends behind its instruction, so only one who knows the way taken could tell
 * which. */
static uint32_t undefined_at(const struct oracle_sequence *seq, int index)
{
	return index < 0 ? RFLAGS_ARITH : seq->insn[index].undefined;
}

static bool both_comparable(const struct oracle_state *a)
{
	return a->vector != ORACLE_SYSCALL && a->vector != ORACLE_HUNG && a->vector != ORACLE_DIED;
}

static unsigned compare(const struct oracle_sequence *seq, uint64_t start,
                        const struct oracle_outcome *a, const struct oracle_outcome *b, unsigned i)
{
	uint32_t undefined = undefined_at(seq, index_of(seq, start, &a->out[i]));

	return oracle_compare(&a->out[i], &a->memory[i], &b->out[i], &b->memory[i], undefined);
}

static void print_insn(struct oracle_check *k, uint64_t address, const uint8_t *bytes)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	char text[128] = "(unknown)";

	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&k->decoder, bytes, 15, &z, op)))
		z.length = 1;
	else
		ZydisFormatterFormatInstruction(&k->formatter, &z, op, z.operand_count_visible,
		                                text, sizeof(text), address, NULL);
	printf("  %lx:", address);
	for (unsigned i = 0; i < z.length; i++)
		printf(" %02x", bytes[i]);
	printf("   %s\n", text);
}

static void print_inputs(const struct oracle_state *s)
{
	static const char *const name[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
		                              "rsi", "rdi", "r8",  "r9",  "r10", "r11",
		                              "r12", "r13", "r14", "r15" };
	uint32_t mxcsr;
	uint16_t x87[2];

	for (unsigned i = 0; i < 16; i++)
		printf("%s%4s=%016lx", i % 4 ? " " : i ? "\n   " : "   ", name[i], s->gpr[i]);
	memcpy(&mxcsr, s->fpu.area + FPU_MXCSR, 4);
	memcpy(x87, s->fpu.area, 4);
	printf("\n    rflags=%06lx mxcsr=%08x fcw=%04x fsw=%04x ftw=%02x\n", s->rflags, mxcsr,
	       x87[0], x87[1], s->fpu.area[4]);
}

static void print_vector(const char *name, const struct oracle_state *s, unsigned n)
{
	printf("    %s%u =", name, n);
	for (int i = 15; i >= 0; i--)
		printf(" %02x", s->fpu.area[FPU_YMMH + n * 16 + i]);
	printf(" |");
	for (int i = 15; i >= 0; i--)
		printf(" %02x", s->fpu.area[FPU_XMM + n * 16 + i]);
	printf("\n");
}

/* The vector registers that the instruction names. */
static void print_vector_inputs(const struct oracle_state *s, const ZydisDecodedInstruction *z,
                                const ZydisDecodedOperand *op)
{
	for (unsigned i = 0; i < z->operand_count; i++) {
		ZydisRegisterClass class;

		if (op[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		class = ZydisRegisterGetClass(op[i].reg.value);
		if (class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM)
			print_vector("ymm", s, ZydisRegisterGetId(op[i].reg.value));
	}
}

/* Runs the scratch batch's only case on both sides. */
static bool run_scratch(struct oracle_check *k, const struct oracle_outcome **a,
                        const struct oracle_outcome **b)
{
	k->scratch.nr = 1;
	*a = k->native->ops->run(k->native, &k->scratch);
	*b = k->engine->ops->run(k->engine, &k->scratch);
	return *a && *b;
}

/* The sequence as code of the scratch batch, with breakpoints for all instructions outside [from,
 * to). */
static void put_code(struct oracle_check *k, const struct oracle_sequence *seq, uint64_t start,
                     unsigned from, unsigned to)
{
	uint8_t *code = k->scratch.code + (start - ORACLE_CODE);

	memset(k->scratch.code, 0xcc, sizeof(k->scratch.code));
	for (unsigned i = from; i < to; i++)
		memcpy(code + seq->insn[i].offset, seq->bytes + seq->insn[i].offset,
		       seq->insn[i].len);
}

static void print_sequence(struct oracle_check *k, const struct oracle_sequence *seq,
                           uint64_t start)
{
	for (unsigned i = 0; i < seq->nr; i++)
		print_insn(k, start + seq->insn[i].offset, seq->bytes + seq->insn[i].offset);
}

static bool want_print(struct oracle_check *k, ZydisMnemonic m)
{
	return k->seen[m]++ < k->max_per_mnemonic || k->verbose;
}

/* The difference needs the whole sequence. */
static void report_sequence(struct oracle_check *k, const struct oracle_batch *b,
                            const struct oracle_sequence *seq, const struct oracle_outcome *x,
                            const struct oracle_outcome *y, unsigned i)
{
	if (oracle_is_emulated(&x->out[0])) {
		k->dropped++;
		return;
	}
	k->differences++;
	if (!want_print(k, 0))
		return;
	printf("difference %lu, in a sequence as a whole:\n", k->differences);
	print_sequence(k, seq, b->in[i].rip);
	print_inputs(&b->in[i]);
	for (unsigned v = 0; v < 16; v++)
		print_vector("ymm", &b->in[i], v);
	if (!oracle_compare(&x->out[0], &x->memory[0], &y->out[0], &y->memory[0], 0)) {
		printf("  gone when run again; in its batch it was:\n");
		x = &k->native_out;
		y = &k->engine_out;
		oracle_print_difference(&x->out[i], &x->memory[i], &y->out[i], &y->memory[i], 0);
		return;
	}
	oracle_print_difference(&x->out[0], &x->memory[0], &y->out[0], &y->memory[0], 0);
}

static void count_excuse(struct oracle_check *k, const char *why)
{
	unsigned n = 0;

	while (n < CHECK_EXCUSES - 1 && k->excuse[n].why && k->excuse[n].why != why)
		n++;
	k->excuse[n].why = why;
	k->excuse[n].count++;
	k->excused++;
}

/* The scratch batch runs instruction n alone from a state where it differs. */
static bool report_single(struct oracle_check *k, const struct oracle_sequence *seq, unsigned n,
                          const struct oracle_outcome *x, const struct oracle_outcome *y,
                          unsigned diff)
{
	const struct oracle_insn *insn = &seq->insn[n];
	const struct oracle_state *in = &k->scratch.in[0];
	const char *excuse;
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&k->decoder, seq->bytes + insn->offset, 15, &z, op)))
		return false;
	excuse = oracle_excuse(in, &z, op, diff, &x->out[0], &y->out[0]);
	if (excuse) {
		count_excuse(k, excuse);
		return true;
	}
	k->differences++;
	if (!want_print(k, insn->mnemonic))
		return true;
	printf("difference %lu (%s):\n", k->differences, oracle_class_name[insn->class]);
	print_insn(k, in->rip, seq->bytes + insn->offset);
	print_inputs(in);
	print_vector_inputs(in, &z, op);
	oracle_print_difference(&x->out[0], &x->memory[0], &y->out[0], &y->memory[0],
	                        seq->insn[n + 1].undefined);
	return true;
}

/* Runs instruction n alone from where the host stood after the prefix before it. */
static bool reduce_to(struct oracle_check *k, const struct oracle_sequence *seq, uint64_t start,
                      unsigned n)
{
	const struct oracle_outcome *x, *y;
	unsigned diff;

	if (n) {
		put_code(k, seq, start, 0, n);
		x = k->native->ops->run(k->native, &k->scratch);
		if (!x || x->out[0].vector != EXC_BP)
			return false;
		k->scratch.in[0] = x->out[0];
		k->scratch.initial = x->memory[0];
		k->scratch.in[0].rip--;
	}
	put_code(k, seq, start, n, n + 1);
	if (!run_scratch(k, &x, &y))
		return false;
	diff = oracle_compare(&x->out[0], &x->memory[0], &y->out[0], &y->memory[0],
	                      seq->insn[n + 1].undefined | seq->insn[n].undefined);
	return diff && report_single(k, seq, n, x, y, diff);
}

/* The prefixes agree with breakpoints in between, the sequence does not without, or only in its
 * batch. */
static void report_whole(struct oracle_check *k, const struct oracle_batch *b,
                         const struct oracle_sequence *seq, unsigned i)
{
	const struct oracle_outcome *x = &k->native_out, *y = &k->engine_out;

	k->differences++;
	printf("difference %lu, only without breakpoints:\n", k->differences);
	print_sequence(k, seq, b->in[i].rip);
	print_inputs(&b->in[i]);
	oracle_print_difference(&x->out[i], &x->memory[i], &y->out[i], &y->memory[i],
	                        undefined_at(seq, index_of(seq, b->in[i].rip, &x->out[i])));
}

static bool examine(struct oracle_check *k, const struct oracle_batch *b,
                    const struct oracle_sequence *seq, unsigned i)
{
	uint64_t start = b->in[i].rip;
	const struct oracle_outcome *x, *y;

	memcpy(k->scratch.rodata, b->rodata, sizeof(b->rodata));
	for (unsigned n = 1; n <= seq->nr; n++) {
		k->scratch.initial = b->initial;
		k->scratch.in[0] = b->in[i];
		put_code(k, seq, start, 0, n);
		if (!run_scratch(k, &x, &y))
			return false;
		if (!compare(seq, start, x, y, 0))
			continue;
		if (!reduce_to(k, seq, start, n - 1)) {
			k->scratch.initial = b->initial;
			k->scratch.in[0] = b->in[i];
			put_code(k, seq, start, 0, n);
			if (!run_scratch(k, &x, &y))
				return false;
			report_sequence(k, b, seq, x, y, i);
		}
		return true;
	}
	report_whole(k, b, seq, i);
	return true;
}

static void count_insns(struct oracle_check *k, const struct oracle_sequence *seq, int end)
{
	for (int i = 0; i < (end < 0 ? 1 : end); i++)
		k->insns[seq->insn[i].class]++;
}

bool check_batch(struct oracle_check *k, const struct oracle_batch *b,
                 const struct oracle_sequence *seq)
{
	const struct oracle_outcome *x = k->native->ops->run(k->native, b);
	const struct oracle_outcome *y = k->engine->ops->run(k->engine, b);
	uint64_t differing = 0;

	if (!x || !y)
		return false;
	for (unsigned i = 0; i < b->nr; i++) {
		const struct oracle_state *out = &x->out[i];

		k->cases++;
		if (!both_comparable(out)) {
			k->dropped++;
			continue;
		}
		k->faults += out->vector != EXC_BP;
		count_insns(k, &seq[i], index_of(&seq[i], b->in[i].rip, out));
		if (compare(&seq[i], b->in[i].rip, x, y, i))
			differing |= BIT(i);
	}
	if (differing) {
		k->native_out = *x;
		k->engine_out = *y;
	}
	for (unsigned i = 0; i < b->nr; i++)
		if (differing >> i & 1 && !examine(k, b, &seq[i], i))
			return false;
	return true;
}

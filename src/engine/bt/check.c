/*
 * The lockstep mode, --check interp.
 *
 * In this mode nothing leads from block to block without C: exits are not linked, the jump cache
 * stays empty. For the block at RIP:
 *
 *   before = state
 *   the interpreter does the block's instructions, up to a branch taken;
 *     src/mmu tells of each write before it is done, and the old bytes are noted
 *   expected = state, with the bytes that the noted places have now
 *   the noted bytes and `before` are put back
 *   the block runs; then state and places must be as expected
 *
 * What cannot be done twice is done by the interpreter only, and counts as unchecked: accesses to
 * devices, faults, changes of translations, stores to translated code, instructions whose result
 * depends on when they execute, and those of class ISA_OTHER. So does a block that did not get to
 * its end, because of an interrupt.
 *
 * Left aside: accessed and dirty bits that the interpreter's walks set stay set. Writes of a block
 * to places that the interpreter did not write are not found. An undefined flag may be anything; an
 * instruction that reads one ends the comparison.
 */
#include "engine/bt/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/flags.h"
#include "engine/bt/cache.h"
#include "engine/bt/enter.h"
#include "engine/bt/trace.h"
#include "engine/bt/xlat.h"
#include "engine/engine.h"
#include "interp/interp.h"
#include "mem/mem.h"

#define PLAN_BITS 12
#define LOG_BYTES (4 * MiB)
#define LOG_MAX   65536u
#define PTE_A_D   0x60

#define PLACES_SHOWN 16

/* What has to be known of an instruction, and its decoded form. */
struct step {
	struct insn insn;
	bool once;                          /* can be done only once */
	uint16_t reads, defines, undefines; /* arithmetic flags */
};

struct plan {
	const struct bt_block *block;
	unsigned generation, drops;
	struct step step[XLAT_INSNS];
};

struct log_entry {
	uint8_t *host;
	uint32_t len, at; /* bytes, and where they are in the buffers */
};

enum phase { IDLE, RECORDING, TRANSLATED };

struct bt_check {
	struct bt *b;
	enum phase phase;
	const struct bt_block *block;
	struct cpu before, expected;
	unsigned done;      /* instructions that the interpreter did */
	uint16_t last;      /* offset of the last in its page */
	uint16_t undefined; /* flags after it */
	bool once, split;
	const struct cpu_ops *ops; /* the machine's */
	unsigned nr_log;
	uint32_t used;
	struct log_entry log[LOG_MAX];
	uint8_t old[LOG_BYTES], after[LOG_BYTES];
	ZydisDecoder decoder[2]; /* 64-bit code, 32-bit code */
	struct plan plan[1 << PLAN_BITS];
};

/* ---- the state of the vCPU ---- */

/* All but `attention`, which others write. */
static void copy_state(struct cpu *to, const struct cpu *from)
{
	const size_t head = offsetof(struct cpu, attention), tail = offsetof(struct cpu, pkru);

	memcpy(to, from, head);
	memcpy((char *)to + tail, (const char *)from + tail, sizeof(*to) - tail);
}

static void put_back(struct cpu *c, const struct cpu *from)
{
	copy_state(c, from);
	mmu_update_mode(c);
}

/* ---- memory ---- */

static void note_write(struct cpu *c, uint8_t *host, unsigned len)
{
	struct bt_check *ch = c->bt->check;

	if (ch->nr_log == LOG_MAX || len > LOG_BYTES - ch->used) {
		ch->once = true;
		return;
	}
	ch->log[ch->nr_log++] = (struct log_entry){ .host = host, .len = len, .at = ch->used };
	memcpy(ch->old + ch->used, host, len);
	ch->used += len;
}

static void keep_memory(struct bt_check *ch)
{
	for (unsigned n = 0; n < ch->nr_log; n++)
		memcpy(ch->after + ch->log[n].at, ch->log[n].host, ch->log[n].len);
}

static void undo_memory(struct bt_check *ch)
{
	for (unsigned n = ch->nr_log; n-- > 0;)
		memcpy(ch->log[n].host, ch->old + ch->log[n].at, ch->log[n].len);
}

static void redo_memory(struct bt_check *ch)
{
	for (unsigned n = 0; n < ch->nr_log; n++)
		memcpy(ch->log[n].host, ch->after + ch->log[n].at, ch->log[n].len);
}

/* ---- the block's instructions ---- */

static bool only_once(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op,
                      enum isa_class class)
{
	switch (class) {
	case ISA_OTHER:
	case ISA_OTHER_END:
	case ISA_RDTSC:
	case ISA_RDTSCP:
		return true;
	case ISA_JCC:
	case ISA_JCXZ:
	case ISA_LOOP: /* to the next instruction: the block ends there or does not */
		return !op[0].imm.value.s;
	default:
		return z->mnemonic == ZYDIS_MNEMONIC_RDRAND || z->mnemonic == ZYDIS_MNEMONIC_RDSEED;
	}
}

/* By CL, a count of 0 leaves all flags as they were. */
static bool may_keep_flags(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	for (unsigned n = 0; n < z->operand_count; n++)
		if (op[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    op[n].reg.value == ZYDIS_REGISTER_CL &&
		    op[n].actions & ZYDIS_OPERAND_ACTION_MASK_READ)
			return true;
	return z->attributes &
	       (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
}

static void describe(struct step *s, const ZydisDecodedInstruction *z,
                     const ZydisDecodedOperand *op)
{
	enum isa_class class = isa_class(z, op);
	const ZydisAccessedFlags *f = z->cpu_flags;

	s->once = only_once(z, op, class);
	if (!f)
		return;
	s->undefines = f->undefined & ISA_FLAGS;
	s->reads = f->tested & ISA_FLAGS;
	if (!may_keep_flags(z, op))
		s->defines = (f->modified | f->set_0 | f->set_1) & ISA_FLAGS & ~f->undefined;
	if (class == ISA_PUSHF || class == ISA_SYSCALL)
		s->reads = ISA_FLAGS;
}

static void make_plan(struct bt_check *ch, struct plan *p, const struct bt_block *k)
{
	const ZydisDecoder *d = &ch->decoder[!!(k->key & BT_KEY_32)];
	uint8_t code[PAGE_SIZE + INSN_MAX + 1];
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	size_t at = 0, bytes = k->bytes;

	memcpy(code, k->host, bytes);
	if (k->host2) {
		memcpy(code + bytes, k->host2, k->bytes2);
		bytes += k->bytes2;
	}
	memset(p->step, 0, sizeof(p->step));
	for (unsigned n = 0; n < k->nr_insns; n++) {
		if (at >= bytes ||
		    !ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, code + at, bytes - at, &z, op))) {
			p->step[n].once = true;
			break;
		}
		describe(&p->step[n], &z, op);
		at += z.length;
	}
}

static struct plan *plan_of(struct bt_check *ch, const struct bt_block *k)
{
	struct bt *b = ch->b;
	struct plan *p = &ch->plan[((uintptr_t)k >> 4) * 0x9e3779b97f4a7c15ull >> (64 - PLAN_BITS)];
	unsigned generation = interp_generation(b->cpu);

	if (p->block != k || p->generation != generation || p->drops != b->cache->drops) {
		make_plan(ch, p, k);
		p->block = k;
		p->generation = generation;
		p->drops = b->cache->drops;
	}
	return p;
}

/* ---- the interpreter's turn ---- */

static void watched_exit(struct cpu *c, struct exit *e)
{
	struct bt_check *ch = c->bt->check;

	ch->once = true;
	ch->ops->exit(c, e);
}

static const struct cpu_ops watched = { .exit = watched_exit };

static void begin_recording(struct bt_check *ch)
{
	struct cpu *c = ch->b->cpu;

	copy_state(&ch->before, c);
	ch->phase = RECORDING;
	ch->nr_log = ch->used = ch->done = 0;
	ch->undefined = 0;
	ch->once = false;
	ch->ops = c->ops;
	c->ops = &watched;
	c->mmu->writing = note_write;
	mmu_update_mode(c);
}

static void end_recording(struct bt_check *ch)
{
	struct cpu *c = ch->b->cpu;

	c->ops = ch->ops;
	c->mmu->writing = NULL;
	mmu_update_mode(c);
	ch->phase = IDLE;
}

/* Something is due before the next instruction, or after it, that only a turn of the loop sees. */
static bool is_event_next(const struct cpu *c)
{
	uint32_t attention = atomic_load_explicit(&c->attention, memory_order_relaxed);

	return interp_must_trace(c) || enter_is_wanted(c, attention) || (c->shadow && attention);
}

/* Up to the block's end or a branch taken; false when something happened that cannot be done again.
 */
static bool interpret(struct bt_check *ch, const struct bt_block *k, struct plan *p)
{
	struct bt *b = ch->b;
	struct cpu *c = b->cpu;
	unsigned flushes = b->flushes;

	while (ch->done < k->nr_insns) {
		struct step *s = &p->step[ch->done];
		uint64_t at = c->rip, next;

		if (ch->undefined & s->reads)
			return false;
		c->shadow = false;
		interp_execute(c, &s->insn);
		mmu_report_stores(c);
		ch->done++;
		ch->last = at & ~PAGE_MASK;
		if (s->once || ch->once || b->posted || flushes != b->flushes || is_event_next(c))
			return false;
		ch->undefined = (uint16_t)((ch->undefined & ~s->defines) | s->undefines);
		if (c->rip == at && s->insn.flags & (INSN_REP | INSN_REPNE))
			return false; /* interrupted */
		next = at + s->insn.len;
		if (c->rip != (c->mode == MODE_64 ? next : (uint32_t)next))
			break;
	}
	return true;
}

/* ---- comparison ---- */

/* The parts of struct cpu that have to be the same. */
#define FIELD(name)                                                                \
	{                                                                          \
#name, offsetof(struct cpu, name), sizeof(((struct cpu *)0)->name) \
	}
#define SEGMENT(seg) FIELD(seg.base), FIELD(seg.limit), FIELD(seg.attr), FIELD(seg.sel)
#define FPU(name, at, size)                                  \
	{                                                    \
		name, offsetof(struct cpu, fpu) + (at), size \
	}
static const struct field {
	const char *name;
	size_t at, size;
} fields[] = {
	FIELD(rax),
	FIELD(rcx),
	FIELD(rdx),
	FIELD(rbx),
	FIELD(rsp),
	FIELD(rbp),
	FIELD(rsi),
	FIELD(rdi),
	FIELD(r8),
	FIELD(r9),
	FIELD(r10),
	FIELD(r11),
	FIELD(r12),
	FIELD(r13),
	FIELD(r14),
	FIELD(r15),
	FIELD(rip),
	FIELD(cpl),
	FIELD(mode),
	FIELD(pkru),
	FIELD(cr0),
	FIELD(cr2),
	FIELD(cr3),
	FIELD(cr4),
	FIELD(msr.kernel_gs_base),
	SEGMENT(seg[SEG_ES]),
	SEGMENT(seg[SEG_CS]),
	SEGMENT(seg[SEG_SS]),
	SEGMENT(seg[SEG_DS]),
	SEGMENT(seg[SEG_FS]),
	SEGMENT(seg[SEG_GS]),
	FPU("x87 control word", 0, 2),
	FPU("x87 status word", 2, 2),
	FPU("x87 tags", 4, 1),
	FPU("mxcsr", FPU_MXCSR, 4),
	FPU("st0", FPU_ST, 10),
	FPU("st1", FPU_ST + 16, 10),
	FPU("st2", FPU_ST + 32, 10),
	FPU("st3", FPU_ST + 48, 10),
	FPU("st4", FPU_ST + 64, 10),
	FPU("st5", FPU_ST + 80, 10),
	FPU("st6", FPU_ST + 96, 10),
	FPU("st7", FPU_ST + 112, 10),
};
/* XMM registers, then the high halves of YMM registers. */
#define VECTORS      32
#define VECTOR_BYTES 16

static const uint8_t *vector(const struct cpu *c, unsigned n)
{
	return c->fpu.area + (n < 16 ? FPU_XMM : FPU_YMMH) + n % 16 * VECTOR_BYTES;
}

static void print_bytes(FILE *f, const uint8_t *p, size_t n)
{
	while (n--)
		fprintf(f, "%02x", p[n]);
}

static void print_pair(FILE *f, const void *expected, const void *got, size_t n)
{
	fputs(": interpreter ", f);
	print_bytes(f, expected, n);
	fputs(", translated code ", f);
	print_bytes(f, got, n);
	fputc('\n', f);
}

static bool same_fields(const struct cpu *e, const struct cpu *c, FILE *f)
{
	bool same = true;

	for (unsigned n = 0; n < ARRAY_SIZE(fields); n++) {
		const uint8_t *x = (const uint8_t *)e + fields[n].at;
		const uint8_t *y = (const uint8_t *)c + fields[n].at;

		if (likely(!memcmp(x, y, fields[n].size)))
			continue;
		same = false;
		if (f) {
			fputs(fields[n].name, f);
			print_pair(f, x, y, fields[n].size);
		}
	}
	return same;
}

static bool same_vectors(const struct cpu *e, const struct cpu *c, FILE *f)
{
	bool same = true;

	for (unsigned n = 0; n < VECTORS; n++) {
		if (likely(!memcmp(vector(e, n), vector(c, n), VECTOR_BYTES)))
			continue;
		same = false;
		if (f) {
			fprintf(f, "%s%u", n < 16 ? "xmm" : "high half of ymm", n % 16);
			print_pair(f, vector(e, n), vector(c, n), VECTOR_BYTES);
		}
	}
	return same;
}

static bool same_flags(const struct bt_check *ch, const struct cpu *e, const struct cpu *c, FILE *f)
{
	uint64_t mask = ~(RFLAGS_RF | ch->undefined);
	uint64_t x = cpu_get_rflags(e) & mask, y = cpu_get_rflags(c) & mask;

	if (x != y && f) {
		fputs("rflags", f);
		print_pair(f, &x, &y, 4);
	}
	return x == y;
}

static bool same_memory(const struct bt_check *ch, FILE *f)
{
	bool same = true;
	unsigned shown = 0;

	for (unsigned n = 0; n < ch->nr_log; n++) {
		const struct log_entry *l = &ch->log[n];
		unsigned at = 0;

		if (likely(!memcmp(ch->after + l->at, l->host, l->len)))
			continue;
		same = false;
		while (ch->after[l->at + at] == l->host[at])
			at++;
		if (f && shown++ < PLACES_SHOWN) {
			fprintf(f, "RAM page %" PRIx64 ", from %03x on, %u bytes",
			        mem_page(ch->b->cpu->mem, l->host),
			        (unsigned)((uintptr_t)(l->host + at) & ~PAGE_MASK), l->len - at);
			print_pair(f, ch->after + l->at + at, l->host + at,
			           l->len - at < 64 ? l->len - at : 64);
		}
	}
	return same;
}

/* The interpreter's walk of the tables set bits that the block's access, a hit, did not. */
static bool is_walk(const uint8_t *host, uint8_t expected)
{
	return !((uintptr_t)host & 3) && !((expected ^ *host) & ~PTE_A_D);
}

static bool same_but_for_walks(const struct bt_check *ch)
{
	const struct cpu *e = &ch->expected, *c = ch->b->cpu;

	if (e->stats.tlb_misses == ch->before.stats.tlb_misses || !same_fields(e, c, NULL) ||
	    !same_flags(ch, e, c, NULL) || !same_vectors(e, c, NULL))
		return false;
	for (unsigned n = 0; n < ch->nr_log; n++) {
		const struct log_entry *l = &ch->log[n];

		for (unsigned k = 0; k < l->len; k++)
			if (ch->after[l->at + k] != l->host[k] &&
			    !is_walk(l->host + k, ch->after[l->at + k]))
				return false;
	}
	return true;
}

/* Everything in fields[], and more, in a few pieces: the common case. */
static bool same_registers(const struct cpu *e, const struct cpu *c)
{
	const uint8_t *x = e->fpu.area, *y = c->fpu.area;

	return !memcmp(e->gpr, c->gpr, sizeof(e->gpr)) && e->cpl == c->cpl && e->mode == c->mode &&
	       e->pkru == c->pkru && e->msr.kernel_gs_base == c->msr.kernel_gs_base &&
	       !memcmp(e->seg, c->seg, offsetof(struct cpu, pdpte) - offsetof(struct cpu, seg)) &&
	       !memcmp(x, y, 5) && !memcmp(x + FPU_MXCSR, y + FPU_MXCSR, 4) &&
	       !memcmp(x + FPU_ST, y + FPU_ST, FPU_XMM - FPU_ST + 16 * VECTOR_BYTES) &&
	       !memcmp(x + FPU_YMMH, y + FPU_YMMH, 16 * VECTOR_BYTES);
}

static bool same(const struct bt_check *ch, FILE *f)
{
	const struct cpu *e = &ch->expected, *c = ch->b->cpu;

	if (likely(!f && same_registers(e, c)))
		return same_flags(ch, e, c, NULL) && same_memory(ch, NULL);
	return same_fields(e, c, f) & same_flags(ch, e, c, f) & same_vectors(e, c, f) &
	       same_memory(ch, f);
}

static void print_state(FILE *f, const char *what, const struct cpu *c)
{
	char text[4096];

	cpu_dump(c, text, sizeof(text));
	fprintf(f, "%s:\n%s\n", what, text);
}

static bool report(struct bt_check *ch, struct exit *e, const char *text)
{
	FILE *f = stderr;

	print_state(f, "before the block", &ch->before);
	print_state(f, "after it, by the interpreter", &ch->expected);
	print_state(f, "after it, by translated code", ch->b->cpu);
	same(ch, f);
	fprintf(f, "%u of its instructions were executed\n", ch->done);
	trace_print_block(f, ch->b, ch->block, ch->before.rip);
	*e = (struct exit){ .reason = EXIT_ERROR, .text = text };
	return false;
}

/* ---- the block's turn ---- */

/* Did the block get to where the interpreter did? */
static bool is_whole(const struct bt_check *ch)
{
	struct bt *b = ch->b;
	const struct bt_site *s;

	if (b->reason != BT_SITE)
		return true;
	s = b->r15 ? cache_at_meta(b, b->r15) : NULL;
	return s && s->off == ch->last && b->cpu->rip == ch->expected.rip;
}

static void run_translated(struct bt_check *ch)
{
	struct bt *b = ch->b;

	undo_memory(ch);
	put_back(b->cpu, &ch->before);
	b->reason = BT_SITE;
	b->r15 = 0;
	ch->split = false;
	ch->phase = TRANSLATED;
	run_block(b, ch->block);
	ch->phase = IDLE;
}

/* The block of this key; true when it is done, with *more false when the run is to end. */
static bool check_block(struct bt_check *ch, struct exit *e, bool *more)
{
	struct bt *b = ch->b;
	struct cpu *c = b->cpu;
	bool again;

	begin_recording(ch);
	again = interpret(ch, ch->block, plan_of(ch, ch->block));
	end_recording(ch);
	if (!again) {
		b->stats.unchecked++;
		return true;
	}
	copy_state(&ch->expected, c);
	keep_memory(ch);
	run_translated(ch);
	if (ch->split) {
		undo_memory(ch);
		put_back(c, &ch->before);
		return false;
	}
	if (likely(is_whole(ch) && same(ch, NULL))) {
		b->stats.checked++;
		return true;
	}
	if (!is_whole(ch) || same_but_for_walks(ch)) {
		redo_memory(ch);
		put_back(c, &ch->expected);
		b->stats.unchecked++;
		return true;
	}
	*more = report(ch, e, "a block of it and the interpreter differ");
	return true;
}

bool check_turn(struct bt *b, struct exit *e, uint32_t key)
{
	struct bt_check *ch = b->check;
	bool more = true;

	do {
		ch->block = run_find_block(b, key);
		if (!ch->block)
			return interp_turn(b->cpu, e, true);
		key |= BT_KEY_UNMERGED;
	} while (!check_block(ch, e, &more));
	return more;
}

bool check_caught(struct bt *b, struct exit *e)
{
	struct bt_check *ch = b->check;

	if (ch->phase == TRANSLATED) {
		ch->phase = IDLE;
		fprintf(stderr, "translated code raised exception %d, the interpreter did not\n",
		        b->cpu->fault.vector);
		return report(ch, e, "a block of it raised an exception");
	}
	if (ch->phase == RECORDING) {
		end_recording(ch);
		b->stats.unchecked++;
	}
	return true;
}

void check_split(struct bt *b)
{
	b->check->split = true;
}

/* ---- life ---- */

int check_new(struct bt *b)
{
	struct bt_check *ch;

	if (!b->cpu->options || !b->cpu->options->check)
		return 0;
	ch = calloc(1, sizeof(*ch));
	if (!ch)
		return -ENOMEM;
	ch->b = b;
	ZydisDecoderInit(&ch->decoder[0], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderInit(&ch->decoder[1], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	b->check = ch;
	return 0;
}

void check_free(struct bt *b)
{
	free(b->check);
	b->check = NULL;
}

/*
 * String instructions: MOVS, STOS, LODS, CMPS, SCAS, alone and repeated. (INS and OUTS are I/O.)
 *
 * A repeated one commits after each element, so a fault leaves it restartable at the same RIP.
 * After every page's worth it looks at cpu->attention and, if there is something, goes back to its
 * own RIP with the registers as they are: interruptible between elements, as the manual asks.
 *
 * Where the vendors differ, the one that CPUID shows decides. Intel's CMPS reads its second operand
 * first. Its repeated CMPS and SCAS leave the flags as they were when an element faults (SDM 2B
 * REP) or an interrupt or single step comes between; AMD's have those of the last element that was
 * compared. With 32-bit addresses its REP clears the upper halves of the registers before it does
 * anything, even for a count of zero, and AMD's with the first element; only LODS, CMPS and SCAS
 * wait with their pointers on both.
 *
 * REP MOVS and REP STOS upwards in 64-bit mode move what lies within one page of source and
 * destination at a time, with the TLB looked at once.
 */
#include <string.h>
#include "cpu/cpuid.h"
#include "interp/ops.h"
#include "interp/rmw.h"

#define ELEMENTS_PER_TURN 1024

/* String instructions have no immediate: imm is the vendor. */
static bool is_intel(const struct insn *i)
{
	return i->imm;
}

static uint64_t truncate_to(uint64_t v, unsigned asize)
{
	return asize == 8 ? v : asize == 4 ? (uint32_t)v : (uint16_t)v;
}

static gva_t source_address(struct cpu *c, const struct insn *i, unsigned size)
{
	return access_linear(c, i->seg, truncate_to(c->rsi, i->asize), size, false);
}

static gva_t dest_address(struct cpu *c, const struct insn *i, unsigned size, bool write)
{
	return access_linear(c, SEG_ES, truncate_to(c->rdi, i->asize), size, write);
}

static void step_reg(struct cpu *c, const struct insn *i, unsigned reg, unsigned size)
{
	uint64_t by = c->rflags & RFLAGS_DF ? -(uint64_t)size : size;

	reg_set(c, reg, i->asize, c->gpr[reg] + by);
}

static void movs(struct cpu *c, const struct insn *i)
{
	unsigned size = i->aux;
	uint64_t v = load_size(c, source_address(c, i, size), size, i->seg);

	store_size(c, dest_address(c, i, size, true), size, v, SEG_ES);
	step_reg(c, i, R_RSI, size);
	step_reg(c, i, R_RDI, size);
}

static void stos(struct cpu *c, const struct insn *i)
{
	unsigned size = i->aux;

	store_size(c, dest_address(c, i, size, true), size, reg_get(c, R_RAX, size), SEG_ES);
	step_reg(c, i, R_RDI, size);
}

static void lods(struct cpu *c, const struct insn *i)
{
	unsigned size = i->aux;

	reg_set(c, R_RAX, size, load_size(c, source_address(c, i, size), size, i->seg));
	step_reg(c, i, R_RSI, size);
}

static void compare(struct cpu *c, unsigned size, uint64_t a, uint64_t b)
{
	uint64_t r = sext(a - b, size);

	flags_set_carries(c, 8 * size, r, carries_sub(a, b, r));
}

static void cmps(struct cpu *c, const struct insn *i)
{
	unsigned size = i->aux;
	uint64_t a, b;

	if (is_intel(i)) {
		b = load_size(c, dest_address(c, i, size, false), size, SEG_ES);
		a = load_size(c, source_address(c, i, size), size, i->seg);
	} else {
		a = load_size(c, source_address(c, i, size), size, i->seg);
		b = load_size(c, dest_address(c, i, size, false), size, SEG_ES);
	}
	compare(c, size, a, b);
	step_reg(c, i, R_RSI, size);
	step_reg(c, i, R_RDI, size);
}

static void scas(struct cpu *c, const struct insn *i)
{
	unsigned size = i->aux;
	uint64_t b = load_size(c, dest_address(c, i, size, false), size, SEG_ES);

	compare(c, size, reg_get(c, R_RAX, size), b);
	step_reg(c, i, R_RDI, size);
}

static const insn_fn string_fns[] = { movs, stos, lods, cmps, scas };
enum { STR_MOVS, STR_STOS, STR_LODS, STR_CMPS, STR_SCAS };

void op_again(struct cpu *c, const struct insn *i)
{
	c->rip -= i->len;
	if (c->mode != MODE_64)
		c->rip = (uint32_t)c->rip;
	c->rflags |= RFLAGS_RF;
}

static uint64_t repeat_count(const struct cpu *c, const struct insn *i)
{
	return truncate_to(c->rcx, i->asize);
}

static void set_count(struct cpu *c, const struct insn *i, uint64_t n)
{
	reg_set(c, R_RCX, i->asize, n);
}

static bool attention(const struct cpu *c)
{
	return atomic_load_explicit(&c->attention, memory_order_relaxed);
}

/* What Intel's repeated instructions do before the first element. */
static void clear_upper(struct cpu *c, const struct insn *i)
{
	if (!is_intel(i) || i->asize != 4)
		return;
	c->rcx = (uint32_t)c->rcx;
	if (i->aux2 == STR_MOVS)
		c->rsi = (uint32_t)c->rsi;
	if (i->aux2 == STR_MOVS || i->aux2 == STR_STOS)
		c->rdi = (uint32_t)c->rdi;
}

/* One element at a time; aux2 is the kind, aux the size. */
static void repeated(struct cpu *c, const struct insn *i)
{
	bool conditional = i->aux2 == STR_CMPS || i->aux2 == STR_SCAS;
	struct flags_saved before = flags_save(c);
	uint64_t n = repeat_count(c, i);

	clear_upper(c, i);
	c->rflags &= ~RFLAGS_RF;
	for (unsigned k = 0; n; k++) {
		if (is_intel(i))
			flags_restore(c, before); /* should this element fault */
		if (k == ELEMENTS_PER_TURN || (k && attention(c))) {
			op_again(c, i);
			return;
		}
		string_fns[i->aux2](c, i);
		set_count(c, i, --n);
		if (conditional && flag_zf(c) != ((i->flags & INSN_REP) != 0))
			return;
		if (c->rflags & RFLAGS_TF) { /* single step traps after each iteration */
			if (n && is_intel(i))
				flags_restore(c, before);
			if (n)
				op_again(c, i);
			return;
		}
	}
}

/* May whole runs be moved at once? */
static bool bulk_allowed(const struct cpu *c, const struct insn *i)
{
	return c->mode == MODE_64 && i->asize == 8 && !(c->rflags & (RFLAGS_DF | RFLAGS_TF)) &&
	       c->tlb != c->mmu->tlb[MMU_MODES];
}

/* Elements of size bytes that fit from va to the end of its page. */
static uint64_t room(gva_t va, unsigned size)
{
	return (PAGE_SIZE - (va & ~PAGE_MASK)) / size;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* memmove() would protect the source from an overlapping destination; the instruction does not. */
static void copy_forward(uint8_t *dst, const uint8_t *src, size_t bytes, unsigned size)
{
	if (dst <= src || dst >= src + bytes) {
		memmove(dst, src, bytes);
		return;
	}
	for (size_t at = 0; at < bytes; at += size)
		memmove(dst + at, src + at, size);
}

static void fill(uint8_t *dst, uint64_t value, size_t count, unsigned size)
{
	if (size == 1) {
		memset(dst, (int)value, count);
		return;
	}
	for (size_t n = 0; n < count; n++)
		memcpy(dst + n * size, &value, size);
}

/* Both return the number of elements done, 0 when the run must go element by element. */
static uint64_t movs_run(struct cpu *c, const struct insn *i, uint64_t count)
{
	unsigned size = i->aux;
	gva_t from = access_linear(c, i->seg, c->rsi, size, false), to = c->rdi;
	uint64_t n = least(count, least(room(from, size), room(to, size)));
	const uint8_t *src;
	uint8_t *dst;

	if (!n)
		return 0;
	src = mmu_host(c, from, n * size, MMU_READ, i->seg);
	if (!src)
		return 0;
	dst = mmu_host(c, to, n * size, MMU_WRITE, SEG_ES);
	if (!dst)
		return 0;
	copy_forward(dst, src, n * size, size);
	c->rsi += n * size;
	c->rdi += n * size;
	return n;
}

static uint64_t stos_run(struct cpu *c, const struct insn *i, uint64_t count)
{
	unsigned size = i->aux;
	uint64_t n = least(count, room(c->rdi, size));
	uint8_t *dst = n ? mmu_host(c, c->rdi, n * size, MMU_WRITE, SEG_ES) : NULL;

	if (!dst)
		return 0;
	fill(dst, c->rax, n, size);
	c->rdi += n * size;
	return n;
}

static void repeated_runs(struct cpu *c, const struct insn *i)
{
	uint64_t (*const run)(struct cpu *, const struct insn *, uint64_t) =
	        i->aux2 == STR_MOVS ? movs_run : stos_run;
	uint64_t n;

	if (!bulk_allowed(c, i)) { /* 32-bit addresses, too, so there is nothing to clear below */
		repeated(c, i);
		return;
	}
	c->rflags &= ~RFLAGS_RF;
	while ((n = c->rcx) != 0) {
		uint64_t done = run(c, i, n);

		mmu_report_stores(c);
		if (!done) {
			string_fns[i->aux2](c, i);
			done = 1;
		}
		c->rcx = n - done;
		if (c->rcx && attention(c)) {
			op_again(c, i);
			return;
		}
	}
}

static void once(struct cpu *c, const struct insn *i)
{
	string_fns[i->aux2](c, i);
}

static unsigned segment_of(const struct op_decode *d)
{
	/* Only the source, addressed by rSI, can be overridden. */
	for (unsigned n = 0; n < d->z->operand_count; n++) {
		const ZydisDecodedOperand *op = &d->op[n];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.segment != ZYDIS_REGISTER_ES)
			return ZydisRegisterGetId(op->mem.segment);
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    ZydisRegisterGetId(op->mem.base) == R_RSI)
			return SEG_ES;
	}
	return SEG_DS;
}

static insn_fn pick_string(const struct op_decode *d, struct insn *i, unsigned kind, unsigned size)
{
	i->aux = size;
	i->aux2 = kind;
	i->imm = !cpuid_is_amd(d->c->cpuid);
	i->seg = segment_of(d);
	if (!(i->flags & (INSN_REP | INSN_REPNE)))
		return once;
	i->flags |= INSN_END;
	return kind == STR_MOVS || kind == STR_STOS ? repeated_runs : repeated;
}

static const struct {
	ZydisMnemonic mnemonic;
	uint8_t kind, size;
} string_kinds[] = {
	{ ZYDIS_MNEMONIC_MOVSB, STR_MOVS, 1 }, { ZYDIS_MNEMONIC_MOVSW, STR_MOVS, 2 },
	{ ZYDIS_MNEMONIC_MOVSD, STR_MOVS, 4 }, { ZYDIS_MNEMONIC_MOVSQ, STR_MOVS, 8 },
	{ ZYDIS_MNEMONIC_STOSB, STR_STOS, 1 }, { ZYDIS_MNEMONIC_STOSW, STR_STOS, 2 },
	{ ZYDIS_MNEMONIC_STOSD, STR_STOS, 4 }, { ZYDIS_MNEMONIC_STOSQ, STR_STOS, 8 },
	{ ZYDIS_MNEMONIC_LODSB, STR_LODS, 1 }, { ZYDIS_MNEMONIC_LODSW, STR_LODS, 2 },
	{ ZYDIS_MNEMONIC_LODSD, STR_LODS, 4 }, { ZYDIS_MNEMONIC_LODSQ, STR_LODS, 8 },
	{ ZYDIS_MNEMONIC_CMPSB, STR_CMPS, 1 }, { ZYDIS_MNEMONIC_CMPSW, STR_CMPS, 2 },
	{ ZYDIS_MNEMONIC_CMPSD, STR_CMPS, 4 }, { ZYDIS_MNEMONIC_CMPSQ, STR_CMPS, 8 },
	{ ZYDIS_MNEMONIC_SCASB, STR_SCAS, 1 }, { ZYDIS_MNEMONIC_SCASW, STR_SCAS, 2 },
	{ ZYDIS_MNEMONIC_SCASD, STR_SCAS, 4 }, { ZYDIS_MNEMONIC_SCASQ, STR_SCAS, 8 },
};

/* MOVSD and CMPSD are also SSE instructions: those have the 0F map. */
static insn_fn pick_by_mnemonic(const struct op_decode *d, struct insn *i)
{
	if (d->z->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return NULL;
	for (unsigned n = 0; n < ARRAY_SIZE(string_kinds); n++)
		if (string_kinds[n].mnemonic == d->z->mnemonic)
			return pick_string(d, i, string_kinds[n].kind, string_kinds[n].size);
	return NULL;
}

#define STRING(name)                                                     \
	{ ZYDIS_MNEMONIC_##name##B, 0, NULL, pick_by_mnemonic },         \
	        { ZYDIS_MNEMONIC_##name##W, 0, NULL, pick_by_mnemonic }, \
	        { ZYDIS_MNEMONIC_##name##D, 0, NULL, pick_by_mnemonic }, \
	{                                                                \
		ZYDIS_MNEMONIC_##name##Q, 0, NULL, pick_by_mnemonic      \
	}
const struct op_row ops_string[] = {
	STRING(MOVS), STRING(STOS), STRING(LODS), STRING(CMPS), STRING(SCAS), { 0 },
};

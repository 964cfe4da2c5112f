/*
 * Plain copies between vector registers, memory and general registers: the most frequent vector
 * instructions by far, and no arithmetic in them, so they are a few lines of C instead of a stub.
 * In these routines dst and src are register numbers and aux is what the pick function says.
 */
#include <string.h>
#include "interp/native.h"

struct u128 {
	uint64_t lo, hi;
} __attribute__((may_alias, packed));

static inline void copy16(void *dst, const void *src)
{
	*(struct u128 *)dst = *(const struct u128 *)src;
}

static inline void set_high(struct cpu *c, unsigned n, struct u128 value)
{
	*(struct u128 *)(fpu_xmm(c, n) + YMM_HIGH) = value;
}
static const struct u128 zero = { 0, 0 };

/* ---- whole registers; aux is the alignment that memory must have, 0 for none ---- */

static inline void *read_aligned(struct cpu *c, const struct insn *i, unsigned size)
{
	gva_t va = access_ea(c, i, size, false);

	check_align(c, va, i->aux);
	return native_read(c, va, size, i->seg);
}

/* Stores to memory that is RAM and lies in one page go directly. */
static inline void write_aligned(struct cpu *c, const struct insn *i, unsigned size)
{
	uint8_t *reg = fpu_xmm(c, i->src), both[32];
	gva_t va = access_ea(c, i, size, true);
	uint8_t *to;

	check_align(c, va, i->aux);
	to = native_write(c, va, size, i->seg);
	if (unlikely(!to)) {
		copy16(both, reg);
		copy16(both + 16, reg + YMM_HIGH);
		native_write_out(c, va, both, size, i->seg);
		return;
	}
	copy16(to, reg);
	if (size == 32)
		copy16(to + 16, reg + YMM_HIGH);
}

static void sse_load(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	copy16(fpu_xmm(c, i->dst), read_aligned(c, i, 16));
}

static void sse_store(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	write_aligned(c, i, 16);
}

static void sse_copy(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	copy16(fpu_xmm(c, i->dst), fpu_xmm(c, i->src));
}

static void avx128_load(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	copy16(fpu_xmm(c, i->dst), read_aligned(c, i, 16));
	set_high(c, i->dst, zero);
}

static void avx128_store(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	write_aligned(c, i, 16);
}

static void avx128_copy(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	copy16(fpu_xmm(c, i->dst), fpu_xmm(c, i->src));
	set_high(c, i->dst, zero);
}

static void avx256_load(struct cpu *c, const struct insn *i)
{
	const uint8_t *from;

	check_avx(c);
	from = read_aligned(c, i, 32);
	copy16(fpu_xmm(c, i->dst), from);
	copy16(fpu_xmm(c, i->dst) + YMM_HIGH, from + 16);
}

static void avx256_store(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	write_aligned(c, i, 32);
}

static void avx256_copy(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	copy16(fpu_xmm(c, i->dst), fpu_xmm(c, i->src));
	copy16(fpu_xmm(c, i->dst) + YMM_HIGH, fpu_xmm(c, i->src) + YMM_HIGH);
}

/* ---- the low 4 or 8 bytes; aux: the encoding is VEX ---- */

static inline void check_either(struct cpu *c, const struct insn *i)
{
	if (i->aux)
		check_avx(c);
	else
		check_sse(c);
}

/* The low quadword of a register; the rest becomes zero, the upper half only for VEX. */
static inline void set_low(struct cpu *c, const struct insn *i, uint64_t value)
{
	*(struct u128 *)fpu_xmm(c, i->dst) = (struct u128){ value, 0 };
	if (i->aux)
		set_high(c, i->dst, zero);
}

static inline uint64_t low64(struct cpu *c, unsigned n)
{
	return *(uint64_t *)fpu_xmm(c, n);
}

static void load_double(struct cpu *c, const struct insn *i)
{
	check_either(c, i);
	set_low(c, i, load64(c, access_ea(c, i, 8, false), i->seg));
}

static void load_single(struct cpu *c, const struct insn *i)
{
	check_either(c, i);
	set_low(c, i, load32(c, access_ea(c, i, 4, false), i->seg));
}

static void store_double(struct cpu *c, const struct insn *i)
{
	check_either(c, i);
	store64(c, access_ea(c, i, 8, true), low64(c, i->src), i->seg);
}

static void store_single(struct cpu *c, const struct insn *i)
{
	check_either(c, i);
	store32(c, access_ea(c, i, 4, true), (uint32_t)low64(c, i->src), i->seg);
}

static void copy_quadword(struct cpu *c, const struct insn *i)
{
	check_either(c, i);
	set_low(c, i, low64(c, i->src));
}

/* MOVSD and MOVSS between registers keep the rest of the destination. */
static void merge_double(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	*(uint64_t *)fpu_xmm(c, i->dst) = low64(c, i->src);
}

static void merge_single(struct cpu *c, const struct insn *i)
{
	check_sse(c);
	*(uint32_t *)fpu_xmm(c, i->dst) = (uint32_t)low64(c, i->src);
}

static void from_gpr64(struct cpu *c, const struct insn *i)
{
	check_either(c, i);
	set_low(c, i, c->gpr[i->src]);
}

static void from_gpr32(struct cpu *c, const struct insn *i)
{
	check_either(c, i);
	set_low(c, i, (uint32_t)c->gpr[i->src]);
}

static void to_gpr64(struct cpu *c, const struct insn *i)
{
	check_either(c, i);
	c->gpr[i->dst] = low64(c, i->src);
}

static void to_gpr32(struct cpu *c, const struct insn *i)
{
	check_either(c, i);
	c->gpr[i->dst] = (uint32_t)low64(c, i->src);
}

/* ---- choosing ---- */

enum place { PLACE_MEMORY, PLACE_VECTOR, PLACE_GPR32, PLACE_GPR64, PLACE_OTHER, PLACES };

static enum place place_of(const ZydisDecodedOperand *op)
{
	if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
		return PLACE_MEMORY;
	switch (op->type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(op->reg.value)
	                                                : ZYDIS_REGCLASS_INVALID) {
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
		return PLACE_VECTOR;
	case ZYDIS_REGCLASS_GPR32:
		return PLACE_GPR32;
	case ZYDIS_REGCLASS_GPR64:
		return PLACE_GPR64;
	default:
		return PLACE_OTHER;
	}
}

/* By where it comes from and where it goes. */
static insn_fn pick_small(enum place dst, enum place src, unsigned bytes)
{
	static const insn_fn by_place[PLACES][PLACES] = {
		[PLACE_VECTOR][PLACE_GPR32] = from_gpr32,
		[PLACE_VECTOR][PLACE_GPR64] = from_gpr64,
		[PLACE_GPR32][PLACE_VECTOR] = to_gpr32,
		[PLACE_GPR64][PLACE_VECTOR] = to_gpr64,
	};

	if (src == PLACE_MEMORY)
		return bytes == 8 ? load_double : load_single;
	if (dst == PLACE_MEMORY)
		return bytes == 8 ? store_double : store_single;
	return by_place[dst][src];
}

static insn_fn pick_whole(enum place dst, enum place src, bool vex, unsigned bytes)
{
	static const insn_fn load[] = { sse_load, avx128_load, avx256_load };
	static const insn_fn store[] = { sse_store, avx128_store, avx256_store };
	static const insn_fn copy[] = { sse_copy, avx128_copy, avx256_copy };
	unsigned k = vex + (bytes == 32);

	return src == PLACE_MEMORY ? load[k] : dst == PLACE_MEMORY ? store[k] : copy[k];
}

/* Loads of half a register keep the other half: left to the stubs, as is VEX with three operands.
 */
static bool is_partial(const struct op_decode *d)
{
	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_MOVLPS:
	case ZYDIS_MNEMONIC_MOVLPD:
	case ZYDIS_MNEMONIC_MOVHPS:
	case ZYDIS_MNEMONIC_MOVHPD:
		return true;
	default:
		return d->z->operand_count_visible != 2;
	}
}

static insn_fn pick_registers(const struct op_decode *d, enum place dst, enum place src, bool vex)
{
	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_MOVSD:
		return merge_double;
	case ZYDIS_MNEMONIC_MOVSS:
		return merge_single;
	case ZYDIS_MNEMONIC_MOVQ:
	case ZYDIS_MNEMONIC_VMOVQ:
		return copy_quadword;
	default:
		return pick_whole(dst, src, vex, d->op[0].size / 8);
	}
}

insn_fn native_pick_move(const struct op_decode *d, struct insn *i)
{
	const ZydisDecodedInstruction *z = d->z;
	enum place dst = place_of(&d->op[0]), src = place_of(&d->op[1]);
	bool vex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	unsigned bytes = d->op[dst == PLACE_MEMORY ? 0 : 1].size / 8;
	bool aligned = z->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE1 ||
	               z->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1;

	if (is_partial(d) || dst == PLACE_OTHER || src == PLACE_OTHER ||
	    (!vex && z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY))
		return native_pick_vector(d, i);
	if (!native_offers(d->c, z->meta.isa_set))
		return NULL;
	i->aux = vex;
	if (dst == PLACE_VECTOR && src == PLACE_VECTOR)
		return pick_registers(d, dst, src, vex);
	if (bytes <= 8)
		return pick_small(dst, src, bytes);
	i->aux = aligned ? bytes : 0;
	return pick_whole(dst, src, vex, bytes);
}

/* Zydis gives the string instructions MOVSD and CMPSD the mnemonics of the SSE2 ones. */
static insn_fn pick_string(const struct op_decode *d, struct insn *i)
{
	for (const struct op_row *r = ops_string; r->fn || r->pick; r++) {
		if (r->mnemonic != d->z->mnemonic)
			continue;
		i->flags |= r->flags;
		return r->fn ? r->fn : r->pick(d, i);
	}
	return NULL;
}

insn_fn native_pick_movsd(const struct op_decode *d, struct insn *i)
{
	if (d->z->meta.category == ZYDIS_CATEGORY_STRINGOP)
		return pick_string(d, i);
	return native_pick_move(d, i);
}

insn_fn native_pick_cmpsd(const struct op_decode *d, struct insn *i)
{
	if (d->z->meta.category == ZYDIS_CATEGORY_STRINGOP)
		return pick_string(d, i);
	return native_pick_vector(d, i);
}

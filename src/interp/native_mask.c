/*
 * Vector instructions whose memory accesses depend on a mask: masked moves, gathers and byte-masked
 * stores. Their lanes are accessed one by one, because only selected lanes may fault; no arithmetic
 * is in them, so none runs natively.
 */
#include <string.h>
#include "cpu/cpuid.h"
#include "interp/native.h"

struct lanes {
	unsigned count;
	unsigned bytes; /* of a lane: 4 or 8 */
};

static inline uint8_t *lane(struct cpu *c, unsigned xmm, unsigned n, unsigned bytes)
{
	unsigned at = n * bytes;

	return fpu_xmm(c, xmm) + (at & 15) + (at >= 16 ? YMM_HIGH : 0);
}

/* The sign bit of a mask lane selects. */
static inline bool selected(struct cpu *c, unsigned mask, unsigned n, unsigned bytes)
{
	return lane(c, mask, n, bytes)[bytes - 1] & 0x80;
}

static void clear_high(struct cpu *c, unsigned xmm)
{
	memset(fpu_xmm(c, xmm) + YMM_HIGH, 0, 16);
}

/* ---- VMASKMOVPx, VPMASKMOVx; imm: bytes of a lane, opsize: of the vector ---- */

static void masked_load(struct cpu *c, const struct insn *i)
{
	struct lanes l = { i->opsize / i->imm, i->imm };
	uint64_t value[8] = { 0 };
	gva_t va;

	check_avx(c);
	va = access_ea(c, i, i->opsize, false);
	for (unsigned n = 0; n < l.count; n++)
		if (selected(c, i->src, n, l.bytes))
			value[n] = load_size(c, va + n * l.bytes, l.bytes, i->seg);
	for (unsigned n = 0; n < l.count; n++)
		memcpy(lane(c, i->dst, n, l.bytes), &value[n], l.bytes);
	if (i->opsize == 16)
		clear_high(c, i->dst);
}

static void masked_store(struct cpu *c, const struct insn *i)
{
	struct lanes l = { i->opsize / i->imm, i->imm };
	uint64_t value = 0;
	gva_t va;

	check_avx(c);
	va = access_ea(c, i, i->opsize, true);
	for (unsigned n = 0; n < l.count; n++)
		if (selected(c, i->src, n, l.bytes))
			mmu_probe(c, va + n * l.bytes, l.bytes, MMU_WRITE, i->seg);
	for (unsigned n = 0; n < l.count; n++) {
		if (!selected(c, i->src, n, l.bytes))
			continue;
		memcpy(&value, lane(c, i->aux, n, l.bytes), l.bytes);
		store_size(c, va + n * l.bytes, l.bytes, value, i->seg);
	}
}

insn_fn native_pick_masked(const struct op_decode *d, struct insn *i)
{
	bool doubles = d->z->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
	               d->z->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;

	if (!native_offers(d->c, d->z->meta.isa_set))
		return NULL;
	i->imm = doubles ? 8 : 4;
	i->opsize = d->z->raw.vex.L ? 32 : 16;
	return d->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY ? masked_store : masked_load;
}

/* ---- gathers; src: index register, aux: mask register, aux2: bytes of an index lane ---- */

static gva_t gather_address(struct cpu *c, const struct insn *i, unsigned n, unsigned bytes)
{
	uint64_t index = 0, offset;

	memcpy(&index, lane(c, i->src, n, i->aux2), i->aux2);
	offset = c->gpr[i->base] + (sext(index, i->aux2) << i->scale) + (int64_t)i->disp;
	if (i->asize != 8)
		offset = (uint32_t)offset;
	if (i->flags & INSN_SLOW)
		return access_linear(c, i->seg, offset, bytes, false);
	return offset;
}

/* SDM 2C VGATHERDPS: sign bits become whole lanes first. Only who sees a fault can tell, so AMD's
 * processors need not. */
static void widen_mask(struct cpu *c, const struct insn *i)
{
	for (unsigned n = 0; n * i->imm < i->opsize; n++)
		memset(lane(c, i->aux, n, i->imm), selected(c, i->aux, n, i->imm) ? 0xff : 0,
		       i->imm);
	if (i->opsize == 16)
		clear_high(c, i->aux);
}

/*
 * Each lane that has been loaded is committed and its mask cleared at once, so that after a fault
 * in the middle the instruction starts again where it was (SDM 2C VGATHERDPS).
 */
static void gather(struct cpu *c, const struct insn *i)
{
	unsigned wide = i->imm > i->aux2 ? i->imm : i->aux2;
	struct lanes l = { i->opsize / wide, i->imm };

	check_avx(c);
	if (!cpuid_is_amd(c->cpuid))
		widen_mask(c, i);
	for (unsigned n = 0; n < l.count; n++) {
		uint64_t value;

		if (!selected(c, i->aux, n, l.bytes)) {
			memset(lane(c, i->aux, n, l.bytes), 0, l.bytes);
			continue;
		}
		value = load_size(c, gather_address(c, i, n, l.bytes), l.bytes, i->seg);
		memcpy(lane(c, i->dst, n, l.bytes), &value, l.bytes);
		memset(lane(c, i->aux, n, l.bytes), 0, l.bytes);
	}
	memset(fpu_xmm(c, i->aux), 0, 16);
	clear_high(c, i->aux);
	for (unsigned n = l.count; n * l.bytes < 32; n++)
		memset(lane(c, i->dst, n, l.bytes), 0, l.bytes);
}

insn_fn native_pick_gather(const struct op_decode *d, struct insn *i)
{
	const ZydisDecodedInstruction *z = d->z;
	/* VEX.128/256.66.0F38 90..93: odd opcodes have quadword indices, W chooses quadword data.
	 */
	bool index64 = z->opcode & 1, data64 = z->raw.vex.W;

	if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX || !native_offers(d->c, z->meta.isa_set))
		return NULL;
	i->src = (uint8_t)ZydisRegisterGetId(d->op[1].mem.index);
	i->index = GPR_ZERO;
	i->aux2 = index64 ? 8 : 4;
	i->imm = data64 ? 8 : 4;
	i->opsize = z->raw.vex.L ? 32 : 16;
	if (i->dst == i->src || i->dst == i->aux || i->src == i->aux)
		return NULL;
	return gather;
}

/* ---- MASKMOVDQU, MASKMOVQ: bytes of dst to DS:[rDI] where src has bit 7 set ---- */

static gva_t address_from(struct cpu *c, const struct insn *i, unsigned at, unsigned bytes)
{
	uint64_t offset = c->rdi + at;

	if (i->asize != 8)
		offset = i->asize == 4 ? (uint32_t)offset : (uint16_t)offset;
	return access_linear(c, i->seg, offset, bytes, true);
}

/* Whether bytes that are not selected may fault is up to the processor (SDM 2B MASKMOVDQU). AMD's
 * and Intel's check all of them; to Intel's, 16 bytes are two operands, the second of which comes
 * first. */
static void store_bytes(struct cpu *c, const struct insn *i, const uint8_t *data,
                        const uint8_t *mask, unsigned bytes)
{
	unsigned part = cpuid_is_amd(c->cpuid) ? bytes : 8;
	gva_t va[2];

	for (unsigned k = bytes / part; k--;) {
		va[k] = address_from(c, i, k * part, part);
		mmu_probe(c, va[k], part, MMU_WRITE, i->seg);
	}
	for (unsigned n = 0; n < bytes; n++)
		if (mask[n] & 0x80)
			store8(c, va[n / part] + n % part, data[n], i->seg);
}

static void maskmovdqu(struct cpu *c, const struct insn *i)
{
	if (i->aux)
		check_avx(c);
	else
		check_sse(c);
	store_bytes(c, i, fpu_xmm(c, i->dst), fpu_xmm(c, i->src), 16);
}

static void maskmovq(struct cpu *c, const struct insn *i)
{
	check_mmx(c);
	native_enter_mmx(c); /* with both vendors even when the store faults */
	store_bytes(c, i, fpu_st(c, i->dst), fpu_st(c, i->src), 8);
}

insn_fn native_pick_maskmov(const struct op_decode *d, struct insn *i)
{
	if (!native_offers(d->c, d->z->meta.isa_set))
		return NULL;
	for (unsigned k = 0; k < d->z->operand_count; k++)
		if (d->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			i->seg = (uint8_t)ZydisRegisterGetId(d->op[k].mem.segment);
	i->aux = d->z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	return d->z->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? maskmovq : maskmovdqu;
}

/* ---- VZEROALL, VZEROUPPER; aux: number of registers, aux2: lower halves too ---- */

static void vzero(struct cpu *c, const struct insn *i)
{
	check_avx(c);
	for (unsigned n = 0; n < i->aux; n++) {
		if (i->aux2)
			memset(fpu_xmm(c, n), 0, 16);
		clear_high(c, n);
	}
}

insn_fn native_pick_vzero(const struct op_decode *d, struct insn *i)
{
	if (!native_offers(d->c, d->z->meta.isa_set))
		return NULL;
	i->aux = d->z->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 ? 16 : 8;
	i->aux2 = d->z->mnemonic == ZYDIS_MNEMONIC_VZEROALL;
	return vzero;
}

/*
 * Bit tests and scans, BMI1/BMI2, ADX, BSWAP, MOVBE, CRC32.
 */
#include "interp/ops.h"
#include "interp/rmw.h"

/* The r/m source, in memory or in the given register. */
static uint64_t source(struct cpu *c, const struct insn *i, unsigned reg, unsigned size)
{
	if (i->flags & INSN_MEM)
		return load_size(c, access_ea(c, i, size, false), size, i->seg);
	return reg_get(c, reg, size);
}

enum bt_op { BT_TEST, BT_SET, BT_RESET, BT_COMPLEMENT };

static uint64_t bt_apply(enum bt_op op, uint64_t v, uint64_t bit)
{
	switch (op) {
	case BT_SET:
		return v | bit;
	case BT_RESET:
		return v & ~bit;
	case BT_COMPLEMENT:
		return v ^ bit;
	default:
		return v;
	}
}

/* CF is the bit; the other flags stay (ZF by definition, the rest undefined and kept by CPUs). */
static void bt_flag(struct cpu *c, bool cf)
{
	flag_set_cf_of(c, cf, flag_of(c));
}

static void bt_reg(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, bits = size * 8;
	uint64_t n = i->aux2 & 4 ? (uint64_t)i->imm : c->gpr[i->src];
	uint64_t bit = 1ull << (n & (bits - 1)), v = reg_get(c, i->dst, size);

	if (i->aux2 & 3)
		reg_set(c, i->dst, size, bt_apply(i->aux2 & 3, v, bit));
	bt_flag(c, v & bit);
}

/* With a register the bit offset is signed and reaches beyond the operand (SDM 2 "BT"). */
static gva_t bt_address(struct cpu *c, const struct insn *i, bool write, unsigned *bitno)
{
	unsigned size = i->opsize;
	uint64_t offset;
	int64_t off;

	if (i->aux2 & 4) {
		*bitno = i->imm & (8 * size - 1);
		return access_ea(c, i, size, write);
	}
	off = sext(reg_get(c, i->src, size), size);
	*bitno = off & (8 * size - 1);
	off = (off >> (size == 8 ? 6 : size == 4 ? 5 : 4)) * (int64_t)size;
	if (!(i->flags & INSN_SLOW))
		return access_ea(c, i, size, write) + off;
	/* Segmented or truncated: displace the offset before the checks. */
	offset = access_offset(c, i) + off;
	offset = i->asize == 8 ? offset : i->asize == 4 ? (uint32_t)offset : (uint16_t)offset;
	return access_linear(c, i->seg, offset, size, write);
}

static void bt_mem(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, n;
	enum bt_op op = i->aux2 & 3;
	gva_t va = bt_address(c, i, op != BT_TEST, &n);
	uint64_t bit = 1ull << n, v;
	void *p;

	if (op == BT_TEST) {
		bt_flag(c, load_size(c, va, size, i->seg) & bit);
		return;
	}
	p = rmw_begin(c, va, size, i->seg);
	v = rmw_load(c, p, va, size, i->seg);
	if (!p || !(i->flags & INSN_LOCK)) {
		rmw_store(c, p, va, size, bt_apply(op, v, bit), i->seg);
	} else {
		while (!rmw_swap(c, p, size, &v, bt_apply(op, v, bit)))
			;
	}
	bt_flag(c, v & bit);
}

static insn_fn pick_bt(const struct op_decode *d, struct insn *i)
{
	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_BTS:
		i->aux2 = BT_SET;
		break;
	case ZYDIS_MNEMONIC_BTR:
		i->aux2 = BT_RESET;
		break;
	case ZYDIS_MNEMONIC_BTC:
		i->aux2 = BT_COMPLEMENT;
		break;
	default:
		i->aux2 = BT_TEST;
		break;
	}
	if (d->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		i->aux2 |= 4;
	return i->flags & INSN_MEM ? bt_mem : bt_reg;
}

/* BSF and BSR leave the destination alone when the source is zero (AMD says so, Intel does so). */
static void bsf_bsr(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t v = source(c, i, i->src, size);

	if (v)
		reg_set(c, i->dst, size, i->aux2 ? 63 - __builtin_clzll(v) : __builtin_ctzll(v));
	flags_set_arith(c, (flags_get_arith(c) & ~RFLAGS_ZF) | (v ? 0 : RFLAGS_ZF));
}

static insn_fn pick_scan(const struct op_decode *d, struct insn *i)
{
	i->aux2 = d->z->mnemonic == ZYDIS_MNEMONIC_BSR;
	return bsf_bsr;
}

/* ZF by the result, CF by a zero source, the others undefined: kept. */
static void count_flags(struct cpu *c, uint64_t res, uint64_t source)
{
	uint64_t keep = flags_get_arith(c) & ~(RFLAGS_ZF | RFLAGS_CF);

	flags_set_arith(c, keep | (res ? 0 : RFLAGS_ZF) | (source ? 0 : RFLAGS_CF));
}

static void lzcnt(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, bits = size * 8;
	uint64_t v = source(c, i, i->src, size);
	uint64_t r = v ? (unsigned)__builtin_clzll(v) - (64 - bits) : bits;

	reg_set(c, i->dst, size, r);
	count_flags(c, r, v);
}

static void tzcnt(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t v = source(c, i, i->src, size);
	uint64_t r = v ? (unsigned)__builtin_ctzll(v) : size * 8;

	reg_set(c, i->dst, size, r);
	count_flags(c, r, v);
}

static void popcnt(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t r = __builtin_popcountll(source(c, i, i->src, size));

	reg_set(c, i->dst, size, r);
	flags_set_arith(c, r ? 0 : RFLAGS_ZF);
}

static void bswap(struct cpu *c, const struct insn *i)
{
	if (i->opsize == 8)
		c->gpr[i->dst] = __builtin_bswap64(c->gpr[i->dst]);
	else if (i->opsize == 4)
		c->gpr[i->dst] = __builtin_bswap32(c->gpr[i->dst]);
	else
		reg_set(c, i->dst, 2, 0); /* undefined; CPUs give 0 */
}

static uint64_t swap_bytes(uint64_t v, unsigned size)
{
	return __builtin_bswap64(v) >> (64 - 8 * size);
}

static void movbe_load(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t v = load_size(c, access_ea(c, i, size, false), size, i->seg);

	reg_set(c, i->dst, size, swap_bytes(v, size));
}

static void movbe_store(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;

	store_size(c, access_ea(c, i, size, true), size, swap_bytes(reg_get(c, i->src, size), size),
	           i->seg);
}

static insn_fn pick_movbe(const struct op_decode *d, struct insn *i)
{
	return d->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY ? movbe_store : movbe_load;
}

/* SSE4.2 CRC32: the Castagnoli polynomial, reflected. aux2 is the source size. */
static void crc32(struct cpu *c, const struct insn *i)
{
	unsigned size = i->aux2;
	uint64_t v = source(c, i, i->src, size);
	uint32_t crc = c->gpr[i->dst];

	for (unsigned n = 0; n < size; n++) {
		crc ^= (uint8_t)(v >> (8 * n));
		for (unsigned b = 0; b < 8; b++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	c->gpr[i->dst] = crc;
}

static insn_fn pick_crc32(const struct op_decode *d, struct insn *i)
{
	i->aux2 = d->op[1].size / 8;
	return crc32;
}

static void andn(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t r = ~reg_get(c, i->src, size) & source(c, i, i->aux, size);

	reg_set(c, i->dst, size, r);
	flags_set_logic(c, sext(r, size));
}

static void bextr(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t v = source(c, i, i->src, size), control = c->gpr[i->aux];
	unsigned start = control & 0xff, len = control >> 8 & 0xff;

	v = start < 8 * size ? v >> start : 0;
	if (len < 64)
		v &= (1ull << len) - 1;
	reg_set(c, i->dst, size, v);
	flags_set_logic(c, v ? 1 : 0);
}

enum bls_op { BLSR, BLSMSK, BLSI };

static void bls(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t v = source(c, i, i->src, size), r;

	if (i->aux2 == BLSR)
		r = v & (v - 1);
	else if (i->aux2 == BLSMSK)
		r = v ^ (v - 1);
	else
		r = v & -v;
	reg_set(c, i->dst, size, r);
	flags_set_logic(c, sext(r, size));
	flag_set_cf_of(c, i->aux2 == BLSI ? v != 0 : v == 0, false);
}

static insn_fn pick_bls(const struct op_decode *d, struct insn *i)
{
	i->aux2 = d->z->mnemonic == ZYDIS_MNEMONIC_BLSR     ? BLSR
	          : d->z->mnemonic == ZYDIS_MNEMONIC_BLSMSK ? BLSMSK
	                                                    : BLSI;
	return bls;
}

static void bzhi(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, n = (uint8_t)c->gpr[i->aux];
	uint64_t v = source(c, i, i->src, size);

	if (n < 8 * size)
		v &= (1ull << n) - 1;
	reg_set(c, i->dst, size, v);
	flags_set_logic(c, sext(v, size));
	flag_set_cf_of(c, n >= 8 * size, false);
}

static void pdep(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t v = reg_get(c, i->src, size), r = 0;

	for (uint64_t mask = source(c, i, i->aux, size); mask; mask &= mask - 1, v >>= 1)
		r |= v & 1 ? mask & -mask : 0;
	reg_set(c, i->dst, size, r);
}

static void pext(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, n = 0;
	uint64_t v = reg_get(c, i->src, size), r = 0;

	for (uint64_t mask = source(c, i, i->aux, size); mask; mask &= mask - 1, n++)
		r |= (uint64_t)((v & mask & -mask) != 0) << n;
	reg_set(c, i->dst, size, r);
}

/* ADCX carries through CF, ADOX through OF; both leave the other flags. */
static uint64_t add_with(uint64_t a, uint64_t b, bool carry, unsigned size, bool *out)
{
	unsigned __int128 r = (unsigned __int128)a + b + carry;

	*out = r >> (8 * size) & 1;
	return r;
}

static void adcx(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t b = source(c, i, i->src, size);
	bool of = flag_of(c), cf;

	reg_set(c, i->dst, size, add_with(reg_get(c, i->dst, size), b, flag_cf(c), size, &cf));
	flag_set_cf_of(c, cf, of);
}

static void adox(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t b = source(c, i, i->src, size);
	bool cf = flag_cf(c), of;

	reg_set(c, i->dst, size, add_with(reg_get(c, i->dst, size), b, flag_of(c), size, &of));
	flag_set_cf_of(c, cf, of);
}

const struct op_row ops_bits[] = {
	{ ZYDIS_MNEMONIC_BT, 0, NULL, pick_bt },
	{ ZYDIS_MNEMONIC_BTS, 0, NULL, pick_bt },
	{ ZYDIS_MNEMONIC_BTR, 0, NULL, pick_bt },
	{ ZYDIS_MNEMONIC_BTC, 0, NULL, pick_bt },
	{ ZYDIS_MNEMONIC_BSF, 0, NULL, pick_scan },
	{ ZYDIS_MNEMONIC_BSR, 0, NULL, pick_scan },
	{ ZYDIS_MNEMONIC_LZCNT, 0, lzcnt, NULL },
	{ ZYDIS_MNEMONIC_TZCNT, 0, tzcnt, NULL },
	{ ZYDIS_MNEMONIC_POPCNT, 0, popcnt, NULL },
	{ ZYDIS_MNEMONIC_BSWAP, 0, bswap, NULL },
	{ ZYDIS_MNEMONIC_MOVBE, 0, NULL, pick_movbe },
	{ ZYDIS_MNEMONIC_CRC32, 0, NULL, pick_crc32 },
	{ ZYDIS_MNEMONIC_ANDN, 0, andn, NULL },
	{ ZYDIS_MNEMONIC_BEXTR, 0, bextr, NULL },
	{ ZYDIS_MNEMONIC_BLSR, 0, NULL, pick_bls },
	{ ZYDIS_MNEMONIC_BLSMSK, 0, NULL, pick_bls },
	{ ZYDIS_MNEMONIC_BLSI, 0, NULL, pick_bls },
	{ ZYDIS_MNEMONIC_BZHI, 0, bzhi, NULL },
	{ ZYDIS_MNEMONIC_PDEP, 0, pdep, NULL },
	{ ZYDIS_MNEMONIC_PEXT, 0, pext, NULL },
	{ ZYDIS_MNEMONIC_ADCX, 0, adcx, NULL },
	{ ZYDIS_MNEMONIC_ADOX, 0, adox, NULL },
	{ 0 },
};

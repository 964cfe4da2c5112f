/*
 * Shifts and rotates (SDM 2 "SAL/SAR/SHL/SHR", "RCL/RCR/ROL/ROR", SHLD, SHRD) and their BMI2 kin.
 *
 * Where the manual leaves OF undefined (counts other than 1) the value is what the formula for a
 * count of 1 gives on the result, as current CPUs do.
 */
#include "interp/ops.h"
#include "interp/rmw.h"

enum shift_op { SHIFT_ROL, SHIFT_ROR, SHIFT_RCL, SHIFT_RCR, SHIFT_SHL, SHIFT_SHR, SHIFT_SAR };

#define INLINE static inline __attribute__((always_inline))

struct shifted {
	uint64_t res; /* zero extended */
	bool cf, of;
	bool logic; /* SF, ZF, PF follow the result; rotates leave them */
};

INLINE uint64_t mask_of(unsigned bits)
{
	return bits == 64 ? ~0ull : (1ull << bits) - 1;
}

INLINE struct shifted rotate(const struct cpu *c, enum shift_op op, unsigned bits, uint64_t a,
                             unsigned n)
{
	const uint64_t top = 1ull << (bits - 1);
	struct shifted s = { .res = a, .cf = flag_cf(c) };

	if (op == SHIFT_ROL || op == SHIFT_ROR) {
		n %= bits;
		if (n)
			s.res = op == SHIFT_ROL ? a << n | a >> (bits - n)
			                        : a >> n | a << (bits - n);
		s.res &= mask_of(bits);
		s.cf = op == SHIFT_ROL ? s.res & 1 : (s.res & top) != 0;
	} else {
		for (n %= bits + 1; n; n--) {
			bool out = op == SHIFT_RCL ? (s.res & top) != 0 : s.res & 1;

			s.res = op == SHIFT_RCL ? (s.res << 1 | s.cf) & mask_of(bits)
			                        : s.res >> 1 | (s.cf ? top : 0);
			s.cf = out;
		}
	}
	if (op == SHIFT_ROL || op == SHIFT_RCL)
		s.of = ((s.res & top) != 0) != s.cf;
	else
		s.of = ((s.res & top) != 0) != ((s.res & top >> 1) != 0);
	return s;
}

/* n is 1..63, already masked. */
INLINE struct shifted shift(const struct cpu *c, enum shift_op op, unsigned bits, uint64_t a,
                            unsigned n)
{
	const uint64_t top = 1ull << (bits - 1);
	struct shifted s = { .logic = true };
	int64_t sa;

	switch (op) {
	case SHIFT_SHL:
		s.res = a << n & mask_of(bits);
		s.cf = n <= bits && (a >> (bits - n) & 1);
		s.of = ((s.res & top) != 0) != s.cf;
		return s;
	case SHIFT_SHR:
		s.res = a >> n;
		s.cf = a >> (n - 1) & 1;
		s.of = ((s.res ^ s.res << 1) & top) != 0;
		return s;
	case SHIFT_SAR:
		sa = sext(a, bits / 8);
		s.res = (uint64_t)(sa >> n) & mask_of(bits);
		s.cf = sa >> (n - 1) & 1;
		s.of = false;
		return s;
	default:
		return rotate(c, op, bits, a, n);
	}
}

INLINE void shift_flags(struct cpu *c, unsigned size, struct shifted s)
{
	if (s.logic) {
		c->flag_res = sext(s.res, size);
		c->flag_aux = 0;
	}
	flag_set_cf_of(c, s.cf, s.of);
}

/* The count: an immediate, or CL when aux says so. */
INLINE unsigned count_of(const struct cpu *c, const struct insn *i, unsigned size)
{
	unsigned n = i->aux2 ? (uint8_t)c->rcx : (uint8_t)i->imm;

	return n & (size == 8 ? 63 : 31);
}

INLINE void shift_reg(struct cpu *c, const struct insn *i, enum shift_op op, unsigned size)
{
	unsigned n = count_of(c, i, size);
	uint64_t a = reg_get(c, i->dst, size);
	struct shifted s;

	if (!n) {
		if (size == 4)
			reg_set(c, i->dst, size, a);
		return;
	}
	s = shift(c, op, size * 8, a, n);
	reg_set(c, i->dst, size, s.res);
	shift_flags(c, size, s);
}

INLINE void shift_mem(struct cpu *c, const struct insn *i, enum shift_op op, unsigned size)
{
	unsigned n = count_of(c, i, size);
	gva_t va = access_ea(c, i, size, true);
	void *p = rmw_begin(c, va, size, i->seg);
	uint64_t a = rmw_load(c, p, va, size, i->seg);
	struct shifted s;

	if (!n)
		return;
	s = shift(c, op, size * 8, a, n);
	rmw_store(c, p, va, size, s.res, i->seg);
	shift_flags(c, size, s);
}

#define SHIFT_ROUTINES(name, op, bits)                                  \
	static void name##bits##_r(struct cpu *c, const struct insn *i) \
	{                                                               \
		shift_reg(c, i, op, bits / 8);                          \
	}                                                               \
	static void name##bits##_m(struct cpu *c, const struct insn *i) \
	{                                                               \
		shift_mem(c, i, op, bits / 8);                          \
	}
#define SHIFT_SIZES(name, op)        \
	SHIFT_ROUTINES(name, op, 8)  \
	SHIFT_ROUTINES(name, op, 16) \
	SHIFT_ROUTINES(name, op, 32) \
	SHIFT_ROUTINES(name, op, 64)

SHIFT_SIZES(rol, SHIFT_ROL)
SHIFT_SIZES(ror, SHIFT_ROR)
SHIFT_SIZES(rcl, SHIFT_RCL)
SHIFT_SIZES(rcr, SHIFT_RCR)
SHIFT_SIZES(shl, SHIFT_SHL)
SHIFT_SIZES(shr, SHIFT_SHR)
SHIFT_SIZES(sar, SHIFT_SAR)

#define SHIFT_TABLE(name)                                                                         \
	{                                                                                         \
		{ name##8_r, name##8_m }, { name##16_r, name##16_m }, { name##32_r, name##32_m }, \
		{                                                                                 \
			name##64_r, name##64_m                                                    \
		}                                                                                 \
	}
static const insn_fn shift_fns[][4][2] = {
	[SHIFT_ROL] = SHIFT_TABLE(rol), [SHIFT_ROR] = SHIFT_TABLE(ror),
	[SHIFT_RCL] = SHIFT_TABLE(rcl), [SHIFT_RCR] = SHIFT_TABLE(rcr),
	[SHIFT_SHL] = SHIFT_TABLE(shl), [SHIFT_SHR] = SHIFT_TABLE(shr),
	[SHIFT_SAR] = SHIFT_TABLE(sar),
};

static insn_fn pick_shift(const struct op_decode *d, struct insn *i)
{
	static const ZydisMnemonic order[] = {
		[SHIFT_ROL] = ZYDIS_MNEMONIC_ROL, [SHIFT_ROR] = ZYDIS_MNEMONIC_ROR,
		[SHIFT_RCL] = ZYDIS_MNEMONIC_RCL, [SHIFT_RCR] = ZYDIS_MNEMONIC_RCR,
		[SHIFT_SHL] = ZYDIS_MNEMONIC_SHL, [SHIFT_SHR] = ZYDIS_MNEMONIC_SHR,
		[SHIFT_SAR] = ZYDIS_MNEMONIC_SAR,
	};
	unsigned op = 0;

	while (order[op] != d->z->mnemonic)
		op++;
	i->aux2 = d->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
	if (!i->aux2 && d->z->operand_count_visible < 2)
		i->imm = 1; /* the short form with an implied 1 */
	return shift_fns[op][__builtin_ctz(i->opsize)][(i->flags & INSN_MEM) != 0];
}

/* SHLD and SHRD: aux says which; with 16 bits and a count over 16 the manual says nothing, and the
 * bits come from the concatenation dst:src:dst as on current CPUs. */
static struct shifted shift_double(bool left, unsigned bits, uint64_t a, uint64_t b, unsigned n)
{
	struct shifted s = { .logic = true };
	const uint64_t top = 1ull << (bits - 1);
	const unsigned width = bits == 16 ? 48 : 2 * bits;
	unsigned __int128 v;

	if (bits == 16)
		v = a << 32 | b << 16 | a;
	else
		v = (unsigned __int128)(left ? a : b) << bits | (left ? b : a);
	if (left) {
		s.res = (uint64_t)(v << n >> (width - bits)) & mask_of(bits);
		s.cf = v >> (width - n) & 1;
	} else {
		s.res = (uint64_t)(v >> n) & mask_of(bits);
		s.cf = v >> (n - 1) & 1;
	}
	s.of = ((s.res ^ a) & top) != 0;
	return s;
}

static void shld_shrd(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, n = i->aux2 & 2 ? (uint8_t)c->rcx : (uint8_t)i->imm;
	bool mem = i->flags & INSN_MEM;
	gva_t va = mem ? access_ea(c, i, size, true) : 0;
	void *p = mem ? rmw_begin(c, va, size, i->seg) : NULL;
	uint64_t a = mem ? rmw_load(c, p, va, size, i->seg) : reg_get(c, i->dst, size);
	struct shifted s;

	n &= size == 8 ? 63 : 31;
	if (!n) {
		if (!mem && size == 4)
			reg_set(c, i->dst, size, a);
		return;
	}
	s = shift_double(i->aux2 & 1, size * 8, a, reg_get(c, i->src, size), n);
	if (mem)
		rmw_store(c, p, va, size, s.res, i->seg);
	else
		reg_set(c, i->dst, size, s.res);
	shift_flags(c, size, s);
}

static insn_fn pick_shift_double(const struct op_decode *d, struct insn *i)
{
	i->aux2 = (d->z->mnemonic == ZYDIS_MNEMONIC_SHLD) |
	          (d->op[2].type == ZYDIS_OPERAND_TYPE_REGISTER) << 1;
	return shld_shrd;
}

/* BMI2: SHLX, SHRX, SARX (count in aux), RORX (count immediate). No flags. */
static void bmi_shift(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize, bits = size * 8, n;
	uint64_t a = i->flags & INSN_MEM ? load_size(c, access_ea(c, i, size, false), size, i->seg)
	                                 : reg_get(c, i->src, size);

	n = (i->aux2 == SHIFT_ROR ? (uint64_t)i->imm : c->gpr[i->aux]) & (bits - 1);
	if (n)
		a = shift(c, i->aux2, bits, a, n).res;
	reg_set(c, i->dst, size, a);
}

static insn_fn pick_bmi_shift(const struct op_decode *d, struct insn *i)
{
	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_SHLX:
		i->aux2 = SHIFT_SHL;
		break;
	case ZYDIS_MNEMONIC_SHRX:
		i->aux2 = SHIFT_SHR;
		break;
	case ZYDIS_MNEMONIC_SARX:
		i->aux2 = SHIFT_SAR;
		break;
	default:
		i->aux2 = SHIFT_ROR;
		break;
	}
	return bmi_shift;
}

const struct op_row ops_shift[] = {
	{ ZYDIS_MNEMONIC_ROL, 0, NULL, pick_shift },
	{ ZYDIS_MNEMONIC_ROR, 0, NULL, pick_shift },
	{ ZYDIS_MNEMONIC_RCL, 0, NULL, pick_shift },
	{ ZYDIS_MNEMONIC_RCR, 0, NULL, pick_shift },
	{ ZYDIS_MNEMONIC_SHL, 0, NULL, pick_shift },
	{ ZYDIS_MNEMONIC_SHR, 0, NULL, pick_shift },
	{ ZYDIS_MNEMONIC_SAR, 0, NULL, pick_shift },
	{ ZYDIS_MNEMONIC_SHLD, 0, NULL, pick_shift_double },
	{ ZYDIS_MNEMONIC_SHRD, 0, NULL, pick_shift_double },
	{ ZYDIS_MNEMONIC_SHLX, 0, NULL, pick_bmi_shift },
	{ ZYDIS_MNEMONIC_SHRX, 0, NULL, pick_bmi_shift },
	{ ZYDIS_MNEMONIC_SARX, 0, NULL, pick_bmi_shift },
	{ ZYDIS_MNEMONIC_RORX, 0, NULL, pick_bmi_shift },
	{ 0 },
};

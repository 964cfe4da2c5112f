/*
 * Two-operand arithmetic and logic, INC, DEC, NEG, NOT, XADD, CMPXCHG.
 *
 * alu() is the meaning of each operation, computed before anything is changed, so that a store that
 * faults leaves flags as they were. The routines below it are alu() with operation, size and
 * operand form made constants: the interpreter's hot set.
 */
#include "interp/ops.h"
#include "interp/rmw.h"

enum alu_op {
	ALU_ADD,
	ALU_OR,
	ALU_ADC,
	ALU_SBB,
	ALU_AND,
	ALU_SUB,
	ALU_XOR,
	ALU_CMP,
	ALU_TEST,
	ALU_INC,
	ALU_DEC,
	ALU_NEG,
	ALU_NOT,
	ALU_OPS
};

struct alu_out {
	uint64_t res; /* sign extended */
	uint32_t aux; /* for cpu->flag_aux */
};

#define INLINE static inline __attribute__((always_inline))

INLINE uint32_t aux_of(unsigned size, uint64_t carries)
{
	uint32_t top = size == 8 ? carries >> 32 : (uint32_t)carries << (32 - 8 * size);

	return (top & (AUX_CF | AUX_PO)) | ((uint32_t)carries & AUX_AF);
}

/* INC and DEC keep CF: the PO bit is what says OF relative to it. */
INLINE uint32_t keep_cf(const struct cpu *c, uint32_t aux)
{
	bool of = ((aux << 1) ^ aux) >> 31, cf = flag_cf(c);

	return (aux & AUX_AF) | (cf ? AUX_CF : 0) | (cf != of ? AUX_PO : 0);
}

INLINE struct alu_out alu(const struct cpu *c, enum alu_op op, unsigned size, uint64_t a,
                          uint64_t b)
{
	uint64_t r;

	switch (op) {
	case ALU_ADD:
		r = sext(a + b, size);
		return (struct alu_out){ r, aux_of(size, carries_add(a, b, r)) };
	case ALU_ADC:
		r = sext(a + b + flag_cf(c), size);
		return (struct alu_out){ r, aux_of(size, carries_add(a, b, r)) };
	case ALU_SUB:
	case ALU_CMP:
		r = sext(a - b, size);
		return (struct alu_out){ r, aux_of(size, carries_sub(a, b, r)) };
	case ALU_SBB:
		r = sext(a - b - flag_cf(c), size);
		return (struct alu_out){ r, aux_of(size, carries_sub(a, b, r)) };
	case ALU_AND:
	case ALU_TEST:
		return (struct alu_out){ sext(a & b, size), 0 };
	case ALU_OR:
		return (struct alu_out){ sext(a | b, size), 0 };
	case ALU_XOR:
		return (struct alu_out){ sext(a ^ b, size), 0 };
	case ALU_INC:
		r = sext(a + 1, size);
		return (struct alu_out){ r, keep_cf(c, aux_of(size, carries_add(a, 1, r))) };
	case ALU_DEC:
		r = sext(a - 1, size);
		return (struct alu_out){ r, keep_cf(c, aux_of(size, carries_sub(a, 1, r))) };
	case ALU_NEG:
		r = sext(-a, size);
		return (struct alu_out){ r, aux_of(size, carries_sub(0, a, r)) };
	case ALU_NOT:
	default:
		return (struct alu_out){ ~a, 0 };
	}
}

INLINE void set_flags(struct cpu *c, enum alu_op op, struct alu_out o)
{
	if (op == ALU_NOT)
		return;
	c->flag_res = o.res;
	c->flag_aux = o.aux;
}

INLINE bool writes_back(enum alu_op op)
{
	return op != ALU_CMP && op != ALU_TEST;
}

INLINE void alu_reg(struct cpu *c, const struct insn *i, enum alu_op op, unsigned size, uint64_t b)
{
	struct alu_out o = alu(c, op, size, reg_get(c, i->dst, size), b);

	if (writes_back(op))
		reg_set(c, i->dst, size, o.res);
	set_flags(c, op, o);
}

INLINE void alu_mem(struct cpu *c, const struct insn *i, enum alu_op op, unsigned size, uint64_t b)
{
	gva_t va = access_ea(c, i, size, writes_back(op));
	struct alu_out o;
	void *p;

	if (!writes_back(op)) {
		set_flags(c, op, alu(c, op, size, load_size(c, va, size, i->seg), b));
		return;
	}
	p = rmw_begin(c, va, size, i->seg);
	o = alu(c, op, size, rmw_load(c, p, va, size, i->seg), b);
	rmw_store(c, p, va, size, o.res, i->seg);
	set_flags(c, op, o);
}

#define ALU_ROUTINES(name, op, bits)                                       \
	static void name##bits##_rr(struct cpu *c, const struct insn *i)   \
	{                                                                  \
		alu_reg(c, i, op, bits / 8, reg_get(c, i->src, bits / 8)); \
	}                                                                  \
	static void name##bits##_ri(struct cpu *c, const struct insn *i)   \
	{                                                                  \
		alu_reg(c, i, op, bits / 8, i->imm);                       \
	}                                                                  \
	static void name##bits##_rm(struct cpu *c, const struct insn *i)   \
	{                                                                  \
		gva_t va = access_ea(c, i, bits / 8, false);               \
		alu_reg(c, i, op, bits / 8, load##bits(c, va, i->seg));    \
	}                                                                  \
	static void name##bits##_mr(struct cpu *c, const struct insn *i)   \
	{                                                                  \
		alu_mem(c, i, op, bits / 8, reg_get(c, i->src, bits / 8)); \
	}                                                                  \
	static void name##bits##_mi(struct cpu *c, const struct insn *i)   \
	{                                                                  \
		alu_mem(c, i, op, bits / 8, i->imm);                       \
	}
#define ALU_SIZES(name, op)        \
	ALU_ROUTINES(name, op, 8)  \
	ALU_ROUTINES(name, op, 16) \
	ALU_ROUTINES(name, op, 32) \
	ALU_ROUTINES(name, op, 64)

ALU_SIZES(add, ALU_ADD)
ALU_SIZES(or, ALU_OR)
ALU_SIZES(adc, ALU_ADC)
ALU_SIZES(sbb, ALU_SBB)
ALU_SIZES(and, ALU_AND)
ALU_SIZES(sub, ALU_SUB)
ALU_SIZES(xor, ALU_XOR)
ALU_SIZES(cmp, ALU_CMP)
ALU_SIZES(test, ALU_TEST)

/* One operand: the immediate is not there and reads as 0, which these operations ignore. */
#define ALU_UNARY(name, op, bits)                                       \
	static void name##bits##_r(struct cpu *c, const struct insn *i) \
	{                                                               \
		alu_reg(c, i, op, bits / 8, 0);                         \
	}                                                               \
	static void name##bits##_m(struct cpu *c, const struct insn *i) \
	{                                                               \
		alu_mem(c, i, op, bits / 8, 0);                         \
	}
#define ALU_UNARY_SIZES(name, op) \
	ALU_UNARY(name, op, 8)    \
	ALU_UNARY(name, op, 16)   \
	ALU_UNARY(name, op, 32)   \
	ALU_UNARY(name, op, 64)

ALU_UNARY_SIZES(inc, ALU_INC)
ALU_UNARY_SIZES(dec, ALU_DEC)
ALU_UNARY_SIZES(neg, ALU_NEG)
ALU_UNARY_SIZES(not, ALU_NOT)

#define ALU_ROW(name, bits)                                                         \
	{                                                                           \
		name##bits##_rr, name##bits##_ri, name##bits##_rm, name##bits##_mr, \
		        name##bits##_mi                                             \
	}
#define ALU_TABLE(name)                                                                   \
	{                                                                                 \
		ALU_ROW(name, 8), ALU_ROW(name, 16), ALU_ROW(name, 32), ALU_ROW(name, 64) \
	}
static const insn_fn alu_fns[][4][FORMS] = {
	[ALU_ADD] = ALU_TABLE(add), [ALU_OR] = ALU_TABLE(or),   [ALU_ADC] = ALU_TABLE(adc),
	[ALU_SBB] = ALU_TABLE(sbb), [ALU_AND] = ALU_TABLE(and), [ALU_SUB] = ALU_TABLE(sub),
	[ALU_XOR] = ALU_TABLE(xor), [ALU_CMP] = ALU_TABLE(cmp), [ALU_TEST] = ALU_TABLE(test),
};

#define UNARY_TABLE(name)                                                                         \
	{                                                                                         \
		{ name##8_r, name##8_m }, { name##16_r, name##16_m }, { name##32_r, name##32_m }, \
		{                                                                                 \
			name##64_r, name##64_m                                                    \
		}                                                                                 \
	}
static const insn_fn unary_fns[][4][2] = {
	[ALU_INC] = UNARY_TABLE(inc),
	[ALU_DEC] = UNARY_TABLE(dec),
	[ALU_NEG] = UNARY_TABLE(neg),
	[ALU_NOT] = UNARY_TABLE(not ),
};

/* LOCK: retry until nobody came between. aux is the operation, aux2 set when the source is a
 * register. */
static void alu_locked(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	gva_t va = access_ea(c, i, size, true);
	void *p = rmw_begin(c, va, size, i->seg);
	uint64_t b = i->aux2 ? reg_get(c, i->src, size) : (uint64_t)i->imm;
	uint64_t a = rmw_load(c, p, va, size, i->seg);
	struct alu_out o;

	if (p) {
		do
			o = alu(c, i->aux, size, a, b);
		while (!rmw_swap(c, p, size, &a, o.res));
	} else {
		o = alu(c, i->aux, size, a, b);
		mmu_store(c, va, size, o.res, i->seg);
	}
	set_flags(c, i->aux, o);
}

static enum alu_op alu_op_of(ZydisMnemonic m)
{
	static const struct {
		ZydisMnemonic mnemonic;
		enum alu_op op;
	} map[] = {
		{ ZYDIS_MNEMONIC_ADD, ALU_ADD },   { ZYDIS_MNEMONIC_OR, ALU_OR },
		{ ZYDIS_MNEMONIC_ADC, ALU_ADC },   { ZYDIS_MNEMONIC_SBB, ALU_SBB },
		{ ZYDIS_MNEMONIC_AND, ALU_AND },   { ZYDIS_MNEMONIC_SUB, ALU_SUB },
		{ ZYDIS_MNEMONIC_XOR, ALU_XOR },   { ZYDIS_MNEMONIC_CMP, ALU_CMP },
		{ ZYDIS_MNEMONIC_TEST, ALU_TEST }, { ZYDIS_MNEMONIC_INC, ALU_INC },
		{ ZYDIS_MNEMONIC_DEC, ALU_DEC },   { ZYDIS_MNEMONIC_NEG, ALU_NEG },
		{ ZYDIS_MNEMONIC_NOT, ALU_NOT },
	};

	for (unsigned n = 0; n < ARRAY_SIZE(map); n++)
		if (map[n].mnemonic == m)
			return map[n].op;
	return ALU_OPS;
}

static insn_fn pick_alu(const struct op_decode *d, struct insn *i)
{
	enum alu_op op = alu_op_of(d->z->mnemonic);
	enum op_form form = op_form(d);

	if (i->flags & INSN_LOCK) {
		i->aux = op;
		i->aux2 = form == FORM_MR;
		return alu_locked;
	}
	return alu_fns[op][__builtin_ctz(i->opsize)][form];
}

static insn_fn pick_unary(const struct op_decode *d, struct insn *i)
{
	enum alu_op op = alu_op_of(d->z->mnemonic);

	if (i->flags & INSN_LOCK) {
		i->aux = op;
		i->aux2 = 0;
		return alu_locked;
	}
	return unary_fns[op][__builtin_ctz(i->opsize)][(i->flags & INSN_MEM) != 0];
}

static void xadd_reg(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t a = reg_get(c, i->dst, size), b = reg_get(c, i->src, size);
	struct alu_out o = alu(c, ALU_ADD, size, a, b);

	reg_set(c, i->src, size, a);
	reg_set(c, i->dst, size, o.res);
	set_flags(c, ALU_ADD, o);
}

/* Always as if locked: no cheaper than the two kinds apart. */
static void xadd_mem(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	gva_t va = access_ea(c, i, size, true);
	void *p = rmw_begin(c, va, size, i->seg);
	uint64_t a = rmw_load(c, p, va, size, i->seg), b = reg_get(c, i->src, size);
	struct alu_out o;

	do
		o = alu(c, ALU_ADD, size, a, b);
	while (p && !rmw_swap(c, p, size, &a, o.res));
	if (!p)
		mmu_store(c, va, size, o.res, i->seg);
	reg_set(c, i->src, size, a);
	set_flags(c, ALU_ADD, o);
}

static insn_fn pick_xadd(const struct op_decode *d, struct insn *i)
{
	return i->flags & INSN_MEM ? xadd_mem : xadd_reg;
}

static void cmpxchg_reg(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	uint64_t a = reg_get(c, R_RAX, size), old = reg_get(c, i->dst, size);

	set_flags(c, ALU_CMP, alu(c, ALU_CMP, size, a, old));
	if (a == old)
		reg_set(c, i->dst, size, reg_get(c, i->src, size));
	else
		reg_set(c, R_RAX, size, old);
}

static void cmpxchg_mem(struct cpu *c, const struct insn *i)
{
	unsigned size = i->opsize;
	gva_t va = access_ea(c, i, size, true);
	void *p = rmw_begin(c, va, size, i->seg);
	uint64_t a = reg_get(c, R_RAX, size), old = a;

	if (p) {
		rmw_swap(c, p, size, &old, reg_get(c, i->src, size));
	} else {
		old = mmu_load(c, va, size, i->seg);
		mmu_store(c, va, size, old == a ? reg_get(c, i->src, size) : old, i->seg);
	}
	set_flags(c, ALU_CMP, alu(c, ALU_CMP, size, a, old));
	if (a != old)
		reg_set(c, R_RAX, size, old);
}

static insn_fn pick_cmpxchg(const struct op_decode *d, struct insn *i)
{
	return i->flags & INSN_MEM ? cmpxchg_mem : cmpxchg_reg;
}

static void set_zf(struct cpu *c, bool zf)
{
	flags_set_arith(c, (flags_get_arith(c) & ~RFLAGS_ZF) | (zf ? RFLAGS_ZF : 0));
}

static void cmpxchg8b(struct cpu *c, const struct insn *i)
{
	gva_t va = access_ea(c, i, 8, true);
	void *p = rmw_begin(c, va, 8, i->seg);
	uint64_t expect = (uint32_t)c->rax | c->rdx << 32, old = expect;
	uint64_t new = (uint32_t)c->rbx | c->rcx << 32;

	if (p) {
		rmw_swap(c, p, 8, &old, new);
	} else {
		old = mmu_load(c, va, 8, i->seg);
		mmu_store(c, va, 8, old == expect ? new : old, i->seg);
	}
	set_zf(c, old == expect);
	if (old != expect) {
		c->rax = (uint32_t)old;
		c->rdx = old >> 32;
	}
}

static bool host_cmpxchg16b(void *p, uint64_t expect[2], const uint64_t new[2])
{
	bool done;

	__asm__ volatile("lock cmpxchg16b %1"
	                 : "=@ccz"(done), "+m"(*(__int128 *)p), "+a"(expect[0]), "+d"(expect[1])
	                 : "b"(new[0]), "c"(new[1])
	                 : "memory");
	return done;
}

static void cmpxchg16b(struct cpu *c, const struct insn *i)
{
	gva_t va = access_ea(c, i, 16, true);
	uint64_t old[2] = { c->rax, c->rdx };
	const uint64_t new[2] = { c->rbx, c->rcx };
	void *p;
	bool done;

	if (va & 15)
		cpu_raise(c, EXC_GP, 0);
	p = mmu_host(c, va, 16, MMU_WRITE, i->seg);
	if (p) {
		done = host_cmpxchg16b(p, old, new);
	} else {
		old[0] = mmu_load(c, va, 8, i->seg);
		old[1] = mmu_load(c, va + 8, 8, i->seg);
		done = old[0] == c->rax && old[1] == c->rdx;
		mmu_store(c, va, 8, done ? new[0] : old[0], i->seg);
		mmu_store(c, va + 8, 8, done ? new[1] : old[1], i->seg);
	}
	set_zf(c, done);
	if (!done) {
		c->rax = old[0];
		c->rdx = old[1];
	}
}

const struct op_row ops_alu[] = {
	{ ZYDIS_MNEMONIC_ADD, 0, NULL, pick_alu },
	{ ZYDIS_MNEMONIC_OR, 0, NULL, pick_alu },
	{ ZYDIS_MNEMONIC_ADC, 0, NULL, pick_alu },
	{ ZYDIS_MNEMONIC_SBB, 0, NULL, pick_alu },
	{ ZYDIS_MNEMONIC_AND, 0, NULL, pick_alu },
	{ ZYDIS_MNEMONIC_SUB, 0, NULL, pick_alu },
	{ ZYDIS_MNEMONIC_XOR, 0, NULL, pick_alu },
	{ ZYDIS_MNEMONIC_CMP, 0, NULL, pick_alu },
	{ ZYDIS_MNEMONIC_TEST, 0, NULL, pick_alu },
	{ ZYDIS_MNEMONIC_INC, 0, NULL, pick_unary },
	{ ZYDIS_MNEMONIC_DEC, 0, NULL, pick_unary },
	{ ZYDIS_MNEMONIC_NEG, 0, NULL, pick_unary },
	{ ZYDIS_MNEMONIC_NOT, 0, NULL, pick_unary },
	{ ZYDIS_MNEMONIC_XADD, 0, NULL, pick_xadd },
	{ ZYDIS_MNEMONIC_CMPXCHG, 0, NULL, pick_cmpxchg },
	{ ZYDIS_MNEMONIC_CMPXCHG8B, 0, cmpxchg8b, NULL },
	{ ZYDIS_MNEMONIC_CMPXCHG16B, 0, cmpxchg16b, NULL },
	{ 0 },
};

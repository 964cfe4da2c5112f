/*
 * Where the guest's arithmetic flags are while a block is translated.
 *
 *     HOST    in the host's RFLAGS
 *     SLOT    in the slot below RSP; the host's are anything
 *     RECIPE  nowhere, but they follow from registers that still hold what they were made of
 *
 * A check of an address clobbers the host's flags, and may fault: then the guest must see its own.
 * So they are saved before, if no recipe tells them, and restored only if something reads them.
 * Between two checks without a flag-setting instruction nothing is saved again, and most flags are
 * set anew before anybody reads them.
 */
#include "engine/bt/xlat.h"

void flags_free(struct bt_xlat *x)
{
	if (x->flags != BT_FLAGS_HOST)
		return;
	if (x->recipe.op != RECIPE_NONE) {
		x->flags = BT_FLAGS_RECIPE;
		return;
	}
	emit_save_flags(&x->e);
	x->flags = BT_FLAGS_SLOT;
}

/* LAHF's counterpart takes SF, ZF, AF, PF and CF from AH; OF comes from an addition that overflows
 * if AL is 8. */
void flags_from_slot(struct emit *e)
{
	emit_mov_rr(e, R15, RAX);
	EMIT(e, 0x8a, 0x64, 0x24, 0xf8); /* mov ah, [rsp - 8] */
	EMIT(e, 0x8a, 0x44, 0x24, 0xf9); /* mov al, [rsp - 7] */
	EMIT(e, 0x24, 0x08);             /* and al, 8 */
	EMIT(e, 0x04, 0x78);             /* add al, 0x78 */
	emit8(e, 0x9e);                  /* sahf */
	emit_mov_rr(e, RAX, R15);
}

/* op of two registers or a register and an immediate, of a size: ALU opcodes as for 32 bits. */
static void alu_rr(struct emit *e, unsigned size, uint8_t opcode, unsigned rm, unsigned reg)
{
	uint8_t rex = (size == 8 ? 0x48 : 0x40) | (reg & 8) >> 1 | rm >> 3;

	if (size == 2)
		emit8(e, 0x66);
	EMIT(e, rex, size == 1 ? opcode - 1 : opcode, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static void alu_ri(struct emit *e, unsigned size, unsigned n, unsigned rm, int32_t imm)
{
	if (size == 2)
		emit8(e, 0x66);
	EMIT(e, (size == 8 ? 0x48 : 0x40) | rm >> 3, size == 1 ? 0x80 : 0x81,
	     0xc0 | n << 3 | (rm & 7));
	if (size == 1)
		emit8(e, (uint8_t)imm);
	else if (size == 2)
		EMIT(e, (uint8_t)imm, (uint8_t)(imm >> 8));
	else
		emit32(e, (uint32_t)imm);
}

static void test_ri(struct emit *e, unsigned size, unsigned rm, int32_t imm)
{
	if (size == 2)
		emit8(e, 0x66);
	EMIT(e, (size == 8 ? 0x48 : 0x40) | rm >> 3, size == 1 ? 0xf6 : 0xf7, 0xc0 | (rm & 7));
	if (size == 1)
		emit8(e, (uint8_t)imm);
	else if (size == 2)
		EMIT(e, (uint8_t)imm, (uint8_t)(imm >> 8));
	else
		emit32(e, (uint32_t)imm);
}

static size_t place_of(unsigned reg)
{
	return reg == RECIPE_SAVED ? GS(saved) : GS(gpr) + 8 * (size_t)reg;
}

/* A register of a recipe in one that the host can name; R15 serves one of them. */
static unsigned recipe_operand(struct bt_xlat *x, unsigned reg)
{
	if (reg != RECIPE_SAVED)
		return rewrite_read(x, (int)reg, R15);
	hold_forget(x, R15);
	emit_load_gs(&x->e, R15, GS(saved));
	return R15;
}

/* Where the second register is while R15 holds the first: a host register, or NO_HOST: memory. */
static unsigned beside_r15(const struct bt_xlat *x, unsigned reg)
{
	int copy = reg == RECIPE_SAVED ? NO_REG : hold_find(x, (int)reg);

	if (reg != RECIPE_SAVED && bt_host_reg[reg] != NO_HOST)
		return bt_host_reg[reg];
	return copy == R13 || copy == R14 ? (unsigned)copy : NO_HOST;
}

/* op r15, second register. Opcodes are as for op rm, reg of 32 bits; TEST knows no order. */
static void alu_r15(struct bt_xlat *x, const struct bt_recipe *r, uint8_t opcode)
{
	unsigned b = beside_r15(x, r->b);
	struct emit *e = &x->e;

	if (b != NO_HOST) {
		alu_rr(e, r->size, opcode, R15, b);
		return;
	}
	emit8(e, 0x65);
	if (r->size == 2)
		emit8(e, 0x66);
	EMIT(e, r->size == 8 ? 0x4c : 0x44, (opcode == 0x85 ? 0x85 : opcode + 2) - (r->size == 1),
	     0x3c, 0x25);
	emit32(e, (uint32_t)place_of(r->b));
}

static void emit_pair(struct bt_xlat *x, const struct bt_recipe *r, uint8_t opcode)
{
	unsigned a = recipe_operand(x, r->a);

	if (a == R15 && r->b != r->a)
		alu_r15(x, r, opcode);
	else
		alu_rr(&x->e, r->size, opcode, a, r->b == r->a ? a : recipe_operand(x, r->b));
}

/* What was subtracted or added is undone in R15, and done again. */
static void emit_done_pair(struct bt_xlat *x, const struct bt_recipe *r)
{
	unsigned a = recipe_operand(x, r->a);

	if (a != R15)
		emit_mov_rr(&x->e, R15, a);
	hold_forget(x, R15);
	alu_r15(x, r, r->op == RECIPE_ADD_DONE ? 0x29 : 0x01);
	alu_r15(x, r, r->op == RECIPE_ADD_DONE ? 0x01 : 0x39);
}

static void emit_done(struct bt_xlat *x, const struct bt_recipe *r)
{
	bool add = r->op == RECIPE_ADD_DONE;
	unsigned a = recipe_operand(x, r->a);

	hold_forget(x, R15);
	emit_lea(&x->e, r->size == 8, R15, a, add ? -r->imm : r->imm);
	alu_ri(&x->e, r->size, add ? 0 : 7, R15, r->imm);
}

static void emit_shift(struct bt_xlat *x, const struct bt_recipe *r)
{
	unsigned n = r->op == RECIPE_SHL ? 4 : r->op == RECIPE_SHR ? 5 : 7;

	recipe_operand(x, RECIPE_SAVED);
	EMIT(&x->e, r->size == 8 ? 0x49 : 0x41, 0xc1, 0xc7 | n << 3, (uint8_t)r->imm);
}

void flags_emit_recipe(struct bt_xlat *x, const struct bt_recipe *r)
{
	bool imm = r->b == RECIPE_IMM;

	switch (r->op) {
	case RECIPE_CMP:
		if (imm)
			alu_ri(&x->e, r->size, 7, recipe_operand(x, r->a), r->imm);
		else
			emit_pair(x, r, 0x39);
		break;
	case RECIPE_TEST:
		if (imm)
			test_ri(&x->e, r->size, recipe_operand(x, r->a), r->imm);
		else
			emit_pair(x, r, 0x85);
		break;
	case RECIPE_SUB_DONE:
	case RECIPE_ADD_DONE:
		if (imm)
			emit_done(x, r);
		else
			emit_done_pair(x, r);
		break;
	default:
		emit_shift(x, r);
	}
}

void flags_host(struct bt_xlat *x)
{
	if (x->flags == BT_FLAGS_SLOT) {
		flags_from_slot(&x->e);
		hold_forget(x, R15);
	} else if (x->flags == BT_FLAGS_RECIPE)
		flags_emit_recipe(x, &x->recipe);
	x->flags = BT_FLAGS_HOST;
}

/* The flag that decides a condition code alone (SDM 1 B), its bit in RFLAGS; or -1. */
static int deciding_bit(unsigned cc)
{
	static const int8_t bit[8] = { 11, 0, 6, -1, 7, 2, -1, -1 }; /* O B Z BE S P L LE */

	return bit[cc >> 1];
}

bool flags_from_bit(struct bt_xlat *x, unsigned *cc)
{
	int bit = deciding_bit(*cc);

	if (x->flags != BT_FLAGS_SLOT || bit < 0)
		return false;
	EMIT(&x->e, 0x0f, 0xba, 0x64, 0x24, 0xf8, (uint8_t)bit); /* bt dword [rsp - 8], */
	*cc = 2 | (*cc & 1);
	return true;
}

void flags_slot(struct bt_xlat *x)
{
	if (x->flags == BT_FLAGS_SLOT)
		return;
	flags_host(x);
	emit_save_flags(&x->e);
	x->flags = BT_FLAGS_SLOT;
}

/* A general register operand that is a low part (not AH), or -1. */
static int recipe_register(const ZydisDecodedOperand *op)
{
	ZydisRegister r = op->reg.value;

	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH))
		return -1;
	return scan_gpr(r);
}

static struct bt_recipe recipe_of(const struct guest_insn *g)
{
	const struct bt_recipe none = { 0 };
	struct bt_recipe r = { .size = g->z.operand_width / 8 };
	int a, b;

	if (g->class != ISA_PLAIN || g->mem.present || g->z.operand_count_visible != 2)
		return none;
	a = recipe_register(&g->op[0]);
	if (a < 0)
		return none;
	r.a = (uint8_t)a;
	if (g->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		r.b = RECIPE_IMM;
		if (g->op[1].imm.value.s != (int32_t)g->op[1].imm.value.s)
			r.imm = (int32_t)g->op[1].imm.value.u;
		else
			r.imm = (int32_t)g->op[1].imm.value.s;
	} else {
		b = recipe_register(&g->op[1]);
		if (b < 0)
			return none;
		r.b = (uint8_t)b;
	}
	switch (g->z.mnemonic) {
	case ZYDIS_MNEMONIC_CMP:
		r.op = RECIPE_CMP;
		return r;
	case ZYDIS_MNEMONIC_TEST:
		r.op = RECIPE_TEST;
		return r;
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
		r.op = RECIPE_TEST; /* of the result with itself */
		r.b = r.a;
		return r;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (r.size < 4 || (r.b == RECIPE_IMM ? r.imm == INT32_MIN : r.a == r.b))
			return none;
		r.op = g->z.mnemonic == ZYDIS_MNEMONIC_ADD ? RECIPE_ADD_DONE : RECIPE_SUB_DONE;
		return r;
	default:
		return none;
	}
}

static bool uses(const struct bt_recipe *r, uint32_t writes)
{
	return writes >> r->a & 1 || (r->b != RECIPE_IMM && writes >> r->b & 1);
}

/* Translated without a look at the flags of before. */
static bool ignores_flags(const struct guest_insn *g)
{
	switch (g->class) {
	case ISA_PLAIN:
	case ISA_DIVIDE:
	case ISA_VECTOR:
	case ISA_NOTHING:
	case ISA_LEA:
	case ISA_PUSH:
	case ISA_POP:
	case ISA_LEAVE:
		return !g->flags.reads && g->flags.writes == g->flags.writes_all;
	default:
		return false;
	}
}

/* Behind the instruction at hand: are flags set anew before anybody can see the old ones? */
static bool unseen(const struct bt_xlat *x)
{
	for (unsigned n = x->at + 1; n < x->nr; n++) {
		const struct guest_insn *g = &x->insn[n];

		if (!ignores_flags(g) || xlat_has_site(g))
			return false;
		if (g->flags.writes_all)
			return true;
	}
	return false;
}

/* Will flags be set anew in this block before they are wanted as such? If they are in the host's,
 * and nothing comes that may fault before, there is nothing to do. */
static bool is_worth_saving(const struct bt_xlat *x)
{
	bool seen = x->flags == BT_FLAGS_RECIPE;

	for (unsigned n = x->at; n < x->nr; n++) {
		const struct guest_insn *g = &x->insn[n];

		if (!ignores_flags(g))
			return false;
		seen = seen || (xlat_has_site(g) && !xlat_needs_no_check(x, n));
		if (g->flags.writes_all)
			return seen;
	}
	return false;
}

/* Only one register of the recipe changes: its value is saved in its place. */
static bool save_operand(struct bt_xlat *x, uint32_t writes)
{
	struct bt_recipe *r = &x->recipe;
	bool a = writes >> r->a & 1, b = r->b != RECIPE_IMM && writes >> r->b & 1;
	unsigned reg = a ? r->a : r->b;

	if ((a && b && r->a != r->b) || r->a == RECIPE_SAVED || r->b == RECIPE_SAVED)
		return false;
	emit_store_gs(&x->e, rewrite_read(x, (int)reg, R15), GS(saved));
	if (a)
		r->a = RECIPE_SAVED;
	if (b)
		r->b = RECIPE_SAVED;
	x->packed = false;
	return true;
}

/*
 * A shift by a constant loses what its flags were made of. If an access that may fault comes before
 * they are set anew, and nobody reads them until then, its operand is saved.
 */
static bool is_at_risk(const struct bt_xlat *x)
{
	for (unsigned n = x->at + 1; n < x->nr; n++) {
		const struct guest_insn *g = &x->insn[n];

		if (!ignores_flags(g))
			return false;
		if (xlat_has_site(g) && !xlat_needs_no_check(x, n))
			return true;
		if (g->flags.writes)
			return false;
	}
	return false;
}

static unsigned shift_op(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_SHL   ? RECIPE_SHL
	       : m == ZYDIS_MNEMONIC_SHR ? RECIPE_SHR
	       : m == ZYDIS_MNEMONIC_SAR ? RECIPE_SAR
	                                 : RECIPE_NONE;
}

static void save_shifted(struct bt_xlat *x, const struct guest_insn *g)
{
	unsigned size = g->z.operand_width / 8, op = shift_op(g->z.mnemonic), by;
	int reg;

	x->shift.op = RECIPE_NONE;
	if (op == RECIPE_NONE || g->class != ISA_PLAIN || g->mem.present || size < 4 ||
	    g->op[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !is_at_risk(x))
		return;
	by = g->op[1].imm.value.u & (size == 8 ? 63 : 31);
	reg = recipe_register(&g->op[0]);
	if (!by || reg < 0)
		return;
	emit_store_gs(&x->e, rewrite_read(x, reg, R15), GS(saved));
	x->shift = (struct bt_recipe){ .op = (uint8_t)op,
		                       .size = (uint8_t)size,
		                       .a = RECIPE_SAVED,
		                       .b = RECIPE_IMM,
		                       .imm = (int32_t)by };
}

void flags_keep(struct bt_xlat *x, const struct guest_insn *g)
{
	save_shifted(x, g);
	x->unseen = false;
	if (x->recipe.op == RECIPE_NONE || g->flags.writes || !uses(&x->recipe, g->writes))
		return;
	x->unseen = ignores_flags(g) && unseen(x);
	if (x->unseen)
		return; /* good until the register changes */
	if (is_worth_saving(x) && save_operand(x, g->writes))
		return;
	if (x->flags == BT_FLAGS_RECIPE)
		flags_host(x);
	x->recipe.op = RECIPE_NONE;
	x->packed = false;
}

static uint16_t made_of(const struct bt_recipe *r)
{
	return (uint16_t)(BIT(r->a) | (r->b == RECIPE_IMM ? 0 : BIT(r->b)));
}

static bool pack(struct bt_xlat *x, const struct bt_recipe *r)
{
	uint32_t slot;

	if (!bt_pack_recipe(r, &slot))
		return false;
	EMIT(&x->e, 0xc7, 0x44, 0x24, 0xf8); /* mov dword [rsp - 8], */
	emit32(&x->e, slot);
	return true;
}

/* Ahead of the instruction, for the host runs a comparison and the jump behind it as one. Nothing
 * looks at the slot between. */
void flags_announce(struct bt_xlat *x, const struct guest_insn *g)
{
	const struct guest_insn *next = g + 1;
	struct bt_recipe r;

	x->announced = false;
	if (x->at + 1 >= x->nr || next->class != ISA_JCC || !xlat_same_page(next->target))
		return;
	r = recipe_of(g);
	x->announced = pack(x, &r);
}

uint16_t flags_pack(struct bt_xlat *x)
{
	if (x->flags != BT_FLAGS_HOST || x->recipe.op == RECIPE_NONE)
		return 0;
	x->packed = x->packed || pack(x, &x->recipe);
	return x->packed ? made_of(&x->recipe) : 0;
}

bool flags_unread(const struct bt_xlat *x, uint16_t *spoils)
{
	uint32_t written = 0;

	*spoils = 0;
	for (unsigned n = 0; n < x->nr && ignores_flags(&x->insn[n]); n++) {
		if (xlat_has_site(&x->insn[n]))
			*spoils = (uint16_t)written;
		if (x->insn[n].flags.writes_all)
			return true;
		written |= x->insn[n].writes;
	}
	return false;
}

void flags_done(struct bt_xlat *x, const struct guest_insn *g)
{
	if (x->unseen) {
		x->flags = x->flags == BT_FLAGS_RECIPE ? BT_FLAGS_SLOT : x->flags; /* anything */
		x->recipe.op = RECIPE_NONE;
		x->packed = x->unseen = false;
	}
	if (!g->flags.writes || g->class == ISA_POPF) /* which leaves them in the slot */
		return;
	x->flags = BT_FLAGS_HOST;
	x->recipe = x->shift.op == RECIPE_NONE ? recipe_of(g) : x->shift;
	x->packed = x->announced;
}

/*
 * The guest's instruction once more, with registers and memory operand where the host has them.
 * Legacy and VEX encodings (SDM 2A 2.1 to 2.3).
 */
#include "engine/bt/xlat.h"

/* What the fields of the new encoding name. */
struct fields {
	uint8_t reg, rm, vvvv; /* host registers; rm: the base when memory */
	bool memory, home;     /* home: rm is a guest register in struct bt */
	int32_t disp;
};

struct temp {
	int guest; /* register that the temporary stands for, or NO_REG */
	unsigned host;
	bool store;
};

unsigned rewrite_read(struct bt_xlat *x, int reg, unsigned temp)
{
	int copy;

	if (bt_host_reg[reg] != NO_HOST)
		return bt_host_reg[reg];
	copy = hold_find(x, reg);
	if (copy != NO_REG)
		return (unsigned)copy;
	hold_forget(x, temp);
	emit_load_gs(&x->e, temp, GS(gpr) + 8 * (size_t)reg);
	return temp;
}

static bool is_high_byte(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

/* AH to BH can be named only without a REX prefix: neither a scratch register nor R8 to R15 beside
 * them. */
bool rewrite_possible(const struct guest_insn *g)
{
	bool high = false, other = g->mem.present;

	for (unsigned n = 0; n < g->z.operand_count_visible; n++) {
		const ZydisDecodedOperand *op = &g->op[n];
		int reg;

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		if (is_high_byte(op->reg.value)) {
			high = true;
			continue;
		}
		reg = scan_gpr(op->reg.value);
		other = other ||
		        (reg >= 0 && (bt_host_reg[reg] == NO_HOST || bt_host_reg[reg] >= 8 ||
		                      (op->size == 8 && reg >= 4)));
	}
	return !(high && other);
}

static void put_immediates(struct emit *e, const struct guest_insn *g)
{
	for (unsigned n = 0; n < 2; n++)
		if (g->z.raw.imm[n].size)
			emit_bytes(e, g->bytes + g->z.raw.imm[n].offset, g->z.raw.imm[n].size / 8);
}

/* ADD, OR, SUB or XOR of a zero, locked: a memory barrier (SDM 3A 8.2.3.9), and nothing else. */
static bool is_barrier(const struct guest_insn *g)
{
	return g->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (g->z.opcode & 0xfc) == 0x80 &&
	       (BIT(g->z.raw.modrm.reg) & (BIT(0) | BIT(1) | BIT(5) | BIT(6))) &&
	       !g->z.raw.imm[0].value.u;
}

/*
 * With one vCPU nobody else does read-modify-write on guest memory, and a host's LOCK costs what a
 * guest on such a machine does not expect. But a device's thread reads what the guest has written,
 * and the other way round: a driver that offers a buffer and then looks whether the device wants a
 * doorbell (virtio 1.2, 2.7.13.4.1 and 2.8.21.3.1) must not look first. Its barrier stays one.
 */
static bool needs_lock(const struct bt_xlat *x, const struct guest_insn *g)
{
	return x->b->cpu->nr_cpus != 1 || is_barrier(g);
}

/* Each once, and of REP and REPNE the last, which is the one that counts: an instruction of 15
 * bytes that repeats them has no room for what is longer here (SDM 2A 2.3.11). */
static void put_prefixes(struct bt_xlat *x, const struct guest_insn *g)
{
	bool size = false, lock = false;
	uint8_t rep = 0;

	for (unsigned n = 0; n < g->z.raw.prefix_count; n++) {
		uint8_t v = g->z.raw.prefixes[n].value;

		size |= v == 0x66;
		lock |= v == 0xf0;
		if (v == 0xf2 || v == 0xf3)
			rep = v;
	}
	if (size)
		emit8(&x->e, 0x66);
	if (lock && needs_lock(x, g))
		emit8(&x->e, 0xf0);
	if (rep)
		emit8(&x->e, rep);
}

static void put_modrm(struct emit *e, const struct fields *f)
{
	if (f->home) {
		EMIT(e, 0x04 | (f->reg & 7) << 3, 0x25);
		emit32(e, (uint32_t)f->disp);
	} else if (f->memory) {
		emit_modrm_mem(e, f->reg, f->rm, f->disp);
	} else {
		emit8(e, 0xc0 | (f->reg & 7) << 3 | (f->rm & 7));
	}
}

/* MOV between the accumulator and an absolute address, A0 to A3: MOV with ModRM instead. */
static const uint8_t moffs_opcode[4] = { 0x8a, 0x8b, 0x88, 0x89 };
static bool is_moffs(const struct guest_insn *g)
{
	return g->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (g->z.opcode & 0xfc) == 0xa0 &&
	       g->mem.present;
}

/* INC and DEC in one byte, which 64-bit code does not have: FF /0 and /1 instead. */
static bool is_short_inc(const struct guest_insn *g)
{
	return g->z.machine_mode != ZYDIS_MACHINE_MODE_LONG_64 &&
	       g->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (g->z.opcode & 0xf0) == 0x40;
}

static void put_legacy(struct bt_xlat *x, const struct guest_insn *g, const struct fields *f,
                       bool opcode_reg)
{
	struct emit *e = &x->e;
	static const uint8_t escape[] = {
		[ZYDIS_OPCODE_MAP_0F38] = 0x38, [ZYDIS_OPCODE_MAP_0F3A] = 0x3a
	};
	bool modrm = g->z.attributes & ZYDIS_ATTRIB_HAS_MODRM || is_moffs(g) || is_short_inc(g);
	uint8_t rex = g->z.raw.rex.W ? 0x48 : 0x40;

	if (f->home)
		emit8(e, 0x65);
	put_prefixes(x, g);
	if (modrm)
		rex |= (f->reg & 8) >> 1 | (f->home ? 0 : f->rm >> 3);
	else if (opcode_reg)
		rex |= f->rm >> 3;
	/* With REX, byte registers 4 to 7 are SPL to DIL; without, AH to BH. */
	if (rex != 0x40 || g->z.attributes & ZYDIS_ATTRIB_HAS_REX)
		emit8(e, rex);
	if (g->z.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		emit8(e, 0x0f);
	if (g->z.opcode_map == ZYDIS_OPCODE_MAP_0F38 || g->z.opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		emit8(e, escape[g->z.opcode_map]);
	if (is_moffs(g))
		emit8(e, moffs_opcode[g->z.opcode & 3]);
	else if (is_short_inc(g))
		emit8(e, 0xff);
	else if (g->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && g->z.opcode == 0x82)
		emit8(e, 0x80); /* the same, but not in 64-bit code */
	else
		emit8(e, opcode_reg ? (g->z.opcode & 0xf8) | (f->rm & 7) : g->z.opcode);
	if (modrm)
		put_modrm(e, f);
	put_immediates(e, g);
}

static void put_vex(struct emit *e, const struct guest_insn *g, const struct fields *f)
{
	if (f->home)
		emit8(e, 0x65);
	EMIT(e, 0xc4,
	     ((f->reg & 8) ? 0 : 0x80) | 0x40 | (f->home || !(f->rm & 8) ? 0x20 : 0) |
	             g->z.raw.vex.m_mmmm,
	     g->z.raw.vex.W << 7 | (~f->vvvv & 0xf) << 3 | g->z.raw.vex.L << 2 | g->z.raw.vex.pp,
	     g->z.opcode);
	if (g->z.attributes & ZYDIS_ATTRIB_HAS_MODRM)
		put_modrm(e, f);
	put_immediates(e, g);
}

/* May a guest register without a host register be the memory operand instead? It must only be read,
 * and the instruction must mean the same. */
static bool home_possible(const struct guest_insn *g, const ZydisDecodedOperand *op)
{
	if (g->mem.present || op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
	    op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE || g->class != ISA_PLAIN)
		return false;
	switch (g->z.mnemonic) {
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_MOVBE:
		return false;
	default:
		return true;
	}
}

/* An instruction has at most three registers besides its operand's. */
static unsigned free_temp(struct bt_xlat *x, uint32_t *busy, bool keeps)
{
	unsigned host = hold_pick(x, *busy, keeps);

	*busy |= 1u << host;
	place_forget_host(x, host);
	return host;
}

/* A host register for a register operand; a temporary one if the guest's lives in struct bt. */
static unsigned place_register(struct bt_xlat *x, const struct guest_insn *g,
                               const ZydisDecodedOperand *op, struct temp t[3], uint32_t *busy)
{
	int reg = scan_gpr(op->reg.value);
	bool write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	int copy;
	bool whole = op->size >= 32 &&
	             (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) == ZYDIS_OPERAND_ACTION_WRITE;
	unsigned n;

	if (is_high_byte(op->reg.value))
		return 4 + (op->reg.value - ZYDIS_REGISTER_AH);
	if (reg < 0) /* a vector register */
		return (unsigned)ZydisRegisterGetId(op->reg.value);
	if (bt_host_reg[reg] != NO_HOST)
		return bt_host_reg[reg];
	for (n = 0; n < 3 && t[n].guest != NO_REG; n++)
		if (t[n].guest == reg) {
			t[n].store = t[n].store || write;
			return t[n].host;
		}
	copy = hold_find(x, reg);
	if (copy != NO_REG) {
		*busy |= 1u << copy;
		t[n] = (struct temp){ .guest = reg, .host = (unsigned)copy, .store = write };
		return t[n].host;
	}
	t[n] = (struct temp){ .guest = reg,
		              .host = free_temp(x, busy, hold_is_wanted(x, reg)),
		              .store = write };
	if (!whole || op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		emit_load_gs(&x->e, t[n].host, GS(gpr) + 8 * (size_t)reg);
	return t[n].host;
}

/* The same register may be read by a later operand than the one that writes all of it. */
static bool is_read(const struct guest_insn *g, int reg)
{
	for (unsigned n = 0; n < g->z.operand_count; n++)
		if (g->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    scan_gpr(g->op[n].reg.value) == reg &&
		    (g->op[n].actions & ZYDIS_OPERAND_ACTION_MASK_READ ||
		     (g->op[n].actions & ZYDIS_OPERAND_ACTION_CONDWRITE)))
			return true;
	return false;
}

void rewrite_insn(struct bt_xlat *x, const struct guest_insn *g, const struct reach *r)
{
	struct temp t[3] = { { .guest = NO_REG }, { .guest = NO_REG }, { .guest = NO_REG } };
	bool vex = g->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX, opcode_reg = false;
	struct fields f = { .reg = g->z.raw.modrm.reg, .rm = g->z.raw.modrm.rm };
	uint32_t busy = 0;

	if (r) {
		f.memory = true;
		f.rm = r->base;
		f.disp = r->disp;
		busy |= 1u << r->base;
	}
	for (unsigned n = 0; n < g->z.operand_count_visible; n++) {
		ZydisDecodedOperand op = g->op[n];
		int reg;

		if (op.type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		reg = scan_gpr(op.reg.value);
		if (reg >= 0 && bt_host_reg[reg] == NO_HOST && is_read(g, reg))
			op.actions |= ZYDIS_OPERAND_ACTION_READ;
		if (reg >= 0 && bt_host_reg[reg] == NO_HOST && hold_find(x, reg) == NO_REG &&
		    !hold_is_wanted(x, reg) && home_possible(g, &op)) {
			f.home = true;
			f.disp = (int32_t)(GS(gpr) + 8 * (size_t)reg);
			continue;
		}
		switch (op.encoding) {
		case ZYDIS_OPERAND_ENCODING_MODRM_REG:
			f.reg = (uint8_t)place_register(x, g, &op, t, &busy);
			break;
		case ZYDIS_OPERAND_ENCODING_MODRM_RM:
			f.rm = (uint8_t)place_register(x, g, &op, t, &busy);
			break;
		case ZYDIS_OPERAND_ENCODING_NDSNDD:
			f.vvvv = (uint8_t)place_register(x, g, &op, t, &busy);
			break;
		case ZYDIS_OPERAND_ENCODING_OPCODE:
			f.rm = (uint8_t)place_register(x, g, &op, t, &busy);
			opcode_reg = true;
			break;
		default: /* implicit, or a vector register in an immediate: stays where it is */
			break;
		}
	}
	if (is_moffs(g))
		f.reg = RAX;
	if (is_short_inc(g)) {
		f.reg = g->z.mnemonic == ZYDIS_MNEMONIC_DEC;
		opcode_reg = false;
	}
	x->insn_start = emit_offset(&x->e);
	if (vex)
		put_vex(&x->e, g, &f);
	else
		put_legacy(x, g, &f, opcode_reg);
	for (unsigned n = 0; n < 3; n++) {
		if (t[n].guest == NO_REG)
			continue;
		if (t[n].store)
			emit_store_gs(&x->e, t[n].host, GS(gpr) + 8 * (size_t)t[n].guest);
		hold_set(x, t[n].host, t[n].guest);
	}
}

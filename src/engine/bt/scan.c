/*
 * From guest bytes to a list of instructions with what the translator asks of them: class, operand
 * in memory, registers and flags written. A list ends at a jump that is always taken, at the end of
 * the page, and where the interpreter goes on elsewhere.
 */
#include <string.h>
#include "engine/bt/xlat.h"

int scan_gpr(ZydisRegister r)
{
	ZydisRegisterClass k = ZydisRegisterGetClass(r);

	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return r - ZYDIS_REGISTER_AH;
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_DIL)
		return 4 + (r - ZYDIS_REGISTER_SPL);
	if (r >= ZYDIS_REGISTER_R8B && r <= ZYDIS_REGISTER_R15B)
		return 8 + (r - ZYDIS_REGISTER_R8B);
	if (k < ZYDIS_REGCLASS_GPR8 || k > ZYDIS_REGCLASS_GPR64)
		return NO_REG;
	return ZydisRegisterGetId(r);
}

/* The mistake of Zydis 4.0 that src/interp/decode.c describes. */
static bool is_base_misread(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	return op->mem.base == ZYDIS_REGISTER_R13D && z->raw.modrm.mod == 0 &&
	       z->raw.sib.base == 5 && z->raw.modrm.rm == 4;
}

static void scan_memory(struct guest_insn *g, const ZydisDecodedOperand *op, bool code64)
{
	struct operand *o = &g->mem;
	bool pc = op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP;

	*o = (struct operand){
		.present = true,
		.base = pc ? REG_PC : (int8_t)scan_gpr(op->mem.base),
		.index = (int8_t)scan_gpr(op->mem.index),
		.scale = op->mem.scale ? (uint8_t)__builtin_ctz(op->mem.scale) : 0,
		.asize = g->z.address_width / 8,
		.seg = NO_REG,
		.disp = op->mem.disp.value,
		.size = op->size / 8,
		.read = op->actions & ZYDIS_OPERAND_ACTION_MASK_READ,
		.write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE,
	};
	if (is_base_misread(&g->z, op)) {
		o->base = NO_REG;
		o->disp = (int32_t)g->z.raw.disp.value;
	}
	if (pc)
		o->disp += g->off + g->len;
	if (op->mem.segment == ZYDIS_REGISTER_FS || op->mem.segment == ZYDIS_REGISTER_GS)
		o->seg = op->mem.segment == ZYDIS_REGISTER_GS;
}

/* A write of less than 32 bits leaves the rest as it was. */
static bool reads_part(const ZydisDecodedOperand *op)
{
	return op->size < 32 || op->actions & ZYDIS_OPERAND_ACTION_MASK_READ ||
	       op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE;
}

static void add_read(struct guest_insn *g, ZydisRegister r)
{
	int reg = scan_gpr(r);

	if (reg >= 0)
		g->reads |= 1u << reg;
}

static void scan_operands(struct guest_insn *g, bool code64)
{
	for (unsigned n = 0; n < g->z.operand_count; n++) {
		const ZydisDecodedOperand *op = &g->op[n];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && n < g->z.operand_count_visible)
			scan_memory(g, op, code64);
		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
			int reg = scan_gpr(op->reg.value);

			if (reg >= 0)
				g->writes |= 1u << reg;
		}
		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && reads_part(op))
			add_read(g, op->reg.value);
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			add_read(g, op->mem.base);
			add_read(g, op->mem.index);
		}
	}
}

static void stack_access(struct guest_insn *g, int disp, unsigned size, bool write, bool code64)
{
	g->stack = (struct operand){ .present = true,
		                     .base = R_RSP,
		                     .index = NO_REG,
		                     .seg = NO_REG,
		                     .asize = code64 ? 8 : 4,
		                     .disp = disp,
		                     .size = (uint16_t)size,
		                     .read = !write,
		                     .write = write };
	g->stack_step = (int8_t)(write ? -(int)size : (int)size);
}

static void scan_stack(struct guest_insn *g, bool code64)
{
	int size = code64 ? 8 : 4;

	switch (g->class) {
	case ISA_PUSH:
		size = g->z.operand_width / 8;
		stack_access(g, -size, (unsigned)size, true, code64);
		break;
	case ISA_POP:
		size = g->z.operand_width / 8;
		stack_access(g, 0, (unsigned)size, false, code64);
		break;
	case ISA_PUSHF:
	case ISA_CALL:
		stack_access(g, -size, (unsigned)size, true, code64);
		break;
	case ISA_RET:
		stack_access(g, 0, (unsigned)size, false, code64);
		break;
	case ISA_LEAVE:
		stack_access(g, 0, (unsigned)size, false, code64);
		g->stack.base = R_RBP;
		g->stack_step = 0;
		break;
	default:
		break;
	}
}

static bool has_segment(const struct guest_insn *g)
{
	return g->z.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS);
}

/* Forms of known classes that are left to the interpreter. */
static bool is_rare(const struct bt_xlat *x, const struct guest_insn *g, bool code64)
{
	unsigned natural = code64 ? 64 : 32;

	/* Nobody writes through CS. */
	if (!code64 && g->mem.write && g->z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS)
		return true;
	/* Outside 64-bit mode FS and GS have limits and types that nothing here checks. */
	if (!code64 && g->mem.present && g->mem.seg != NO_REG && g->class != ISA_LEA)
		return true;
	/* Vendors differ in how much it reads. */
	if (g->z.mnemonic == ZYDIS_MNEMONIC_MOVSXD && g->z.operand_width == 16)
		return true;
	if (g->mem.present && (g->z.address_width < 32 || (!g->mem.size && g->class != ISA_LEA)))
		return true;
	switch (g->class) {
	case ISA_CALL:
	case ISA_JMP:
	case ISA_RET:
	case ISA_LEAVE:
	case ISA_JCC:
		return g->z.operand_width != natural;
	case ISA_JCXZ:
	case ISA_LOOP:
		return g->z.operand_width != natural || g->z.address_width < 32;
	case ISA_PUSH:
		return g->z.operand_width != natural;
	case ISA_POP:
		return g->z.operand_width != natural || g->mem.present;
	case ISA_CLI:
	case ISA_STI:
	case ISA_SWAPGS:
		return x->user || !code64;
	case ISA_STAC:
	case ISA_CLAC:
		return x->user || !(x->key & BT_KEY_SMAP);
	case ISA_PUSHF:
		return !code64;
	case ISA_CLD:
	case ISA_RDTSC:
	case ISA_RDTSCP:
		return false;
	case ISA_POPF:
		return !code64 || x->user;
	case ISA_MOVS:
	case ISA_STOS:
		return !code64 || g->z.address_width != 64 || has_segment(g);
	case ISA_SYSCALL:
		return !code64 || !x->user;
	case ISA_SYSRET:
		return !code64 || x->user || g->z.operand_width != 64;
	case ISA_BASE:
	case ISA_RDPKRU:
	case ISA_FROM_SEGMENT:
		return !code64;
	case ISA_BIT:
		return g->z.operand_width < 32 || g->mem.seg != NO_REG ||
		       g->mem.asize * 8 != natural;
	case ISA_X87:
		return !x->x87 || !x->vectors[g->z.meta.isa_set];
	case ISA_FLDCW:
		return !x->x87;
	case ISA_VECTOR:
		return !x->vectors[g->z.meta.isa_set];
	case ISA_PLAIN:
	case ISA_DIVIDE:
		return !x->offers[g->z.meta.isa_set] || !rewrite_possible(g);
	default:
		return false;
	}
}

static bool ends_block(const struct guest_insn *g)
{
	return g->class == ISA_JMP || g->class == ISA_RET || g->class == ISA_CALL ||
	       g->class == ISA_SYSCALL || g->class == ISA_SYSRET || g->class == ISA_OTHER_END;
}

static bool scan_insn(struct bt_xlat *x, struct guest_insn *g, const uint8_t *bytes, unsigned avail)
{
	bool code64 = !(x->key & BT_KEY_32);
	ZyanStatus st = ZydisDecoderDecodeFull(code64 ? &x->decoder64 : &x->decoder32, bytes,
	                                       avail < INSN_MAX ? avail : INSN_MAX, &g->z, g->op);

	g->bytes = bytes;
	g->mem.present = g->stack.present = false;
	g->stack_step = 0;
	g->writes = g->reads = 0;
	if (!ZYAN_SUCCESS(st)) {
		if (st == ZYDIS_STATUS_NO_MORE_DATA && avail < INSN_MAX)
			return false;
		g->class = ISA_OTHER_END;
		g->len = 1;
		g->z.mnemonic = ZYDIS_MNEMONIC_INVALID;
		g->flags = (struct isa_flags){ 0 };
		return true;
	}
	g->len = g->z.length;
	g->class = isa_class(&g->z, g->op);
	scan_operands(g, code64);
	if (g->class == ISA_NOTHING || g->class == ISA_MOVS || g->class == ISA_STOS)
		g->mem.present = false;
	if (g->class == ISA_LEA)
		g->mem.read = g->mem.write = false;
	if (is_rare(x, g, code64))
		g->class = ends_block(g) || xlat_branches(g) ? ISA_OTHER_END : ISA_OTHER;
	g->flags = isa_flags(&g->z, g->op);
	scan_stack(g, code64);
	if (g->stack.present)
		g->writes |= BIT(R_RSP);
	if (xlat_branches(g) || ((g->class == ISA_JMP || g->class == ISA_CALL) &&
	                         g->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE))
		g->target = g->off + g->len + g->op[0].imm.value.s;
	return true;
}

void scan_block(struct bt_xlat *x, const uint8_t *bytes, unsigned avail, unsigned off)
{
	unsigned at = 0;

	x->nr = 0;
	x->spans = false;
	while (x->nr < (x->host2 ? 1 : XLAT_INSNS) && at < avail) {
		struct guest_insn *g = &x->insn[x->nr];

		g->off = (uint16_t)(off + at);
		if (!scan_insn(x, g, bytes + at, avail - at)) {
			x->spans = true;
			break;
		}
		at += g->len;
		x->nr++;
		if (ends_block(g))
			break;
	}
}

static bool is_register(const ZydisDecodedOperand *op, int reg, unsigned bits)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->size == bits &&
	       scan_gpr(op->reg.value) == reg;
}

bool scan_step(const struct guest_insn *g, int reg, int64_t *step)
{
	unsigned bits = g->z.machine_mode == ZYDIS_MACHINE_MODE_LONG_64 ? 64 : 32;

	*step = 0;
	if (!(g->writes >> reg & 1))
		return true;
	if (reg == R_RSP && g->stack.present && g->class != ISA_LEAVE) {
		*step = g->stack_step;
		return g->class != ISA_RET && g->class != ISA_CALL &&
		       !(g->class == ISA_POP && is_register(&g->op[0], reg, bits));
	}
	if (g->class == ISA_LEA && is_register(&g->op[0], reg, bits) && g->mem.base == reg &&
	    g->mem.index == NO_REG && g->mem.asize * 8 == bits) {
		*step = g->mem.disp;
		return true;
	}
	if (g->class != ISA_PLAIN || !is_register(&g->op[0], reg, bits))
		return false;
	switch (g->z.mnemonic) {
	case ZYDIS_MNEMONIC_INC:
		*step = 1;
		return true;
	case ZYDIS_MNEMONIC_DEC:
		*step = -1;
		return true;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (g->op[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return false;
		*step = g->z.mnemonic == ZYDIS_MNEMONIC_ADD ? g->op[1].imm.value.s
		                                            : -g->op[1].imm.value.s;
		return true;
	default:
		return false;
	}
}

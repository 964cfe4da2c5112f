/*
 * Instructions, class by class, in host code. What they have in common (operands in memory, flags,
 * how blocks end, the encoding itself) is in access.c, flags.c, flow.c and rewrite.c.
 */
#include "engine/bt/light.h"
#include "engine/bt/stubs.h"
#include "engine/bt/xlat.h"

/* mov between a register and [base + disp] */
static void store_reg(struct emit *e, unsigned size, unsigned reg, const struct reach *r)
{
	if (size == 2)
		emit8(e, 0x66);
	EMIT(e, (size == 8 ? 0x48 : 0x40) | (reg & 8) >> 1 | r->base >> 3, 0x89);
	emit_modrm_mem(e, reg, r->base, r->disp);
}

static void load_reg(struct emit *e, unsigned size, unsigned reg, const struct reach *r)
{
	EMIT(e, (size == 8 ? 0x48 : 0x40) | (reg & 8) >> 1 | r->base >> 3, 0x8b);
	emit_modrm_mem(e, reg, r->base, r->disp);
}

/* The interpreter does it; afterwards flags are both in the host's and in the slot. */
static void other(struct bt_xlat *x, const struct guest_insn *g)
{
	struct bt_site *s = xlat_site(x, g, SITE_INSN);

	emit_mov_imm32(&x->e, R15, cache_meta_offset(x->b, s));
	emit_jmp(&x->e, x->b->cache->stub_site);
	place_forget(x);
	x->flags = BT_FLAGS_HOST;
	x->recipe.op = RECIPE_NONE;
}

/* C does it, without leaving if it is the common case; afterwards flags are in the slot. */
static struct bt_site *light(struct bt_xlat *x, const struct guest_insn *g, enum light kind)
{
	struct bt_site *s;

	flags_slot(x);
	s = xlat_site(x, g, SITE_INSN);
	s->light = (uint8_t)kind;
	emit_mov_imm32(&x->e, R15, cache_meta_offset(x->b, s));
	emit_jmp(&x->e, x->b->cache->stub_light);
	place_forget(x);
	x->recipe.op = RECIPE_NONE;
	return s;
}

static void string(struct bt_xlat *x, const struct guest_insn *g)
{
	light(x, g, g->class == ISA_MOVS ? LIGHT_MOVS : LIGHT_STOS)->span =
	        g->z.mnemonic == ZYDIS_MNEMONIC_MOVSB || g->z.mnemonic == ZYDIS_MNEMONIC_STOSB
	                ? 1
	                : g->z.operand_width / 8;
}

static void base(struct bt_xlat *x, const struct guest_insn *g)
{
	bool gs = g->z.mnemonic == ZYDIS_MNEMONIC_RDGSBASE ||
	          g->z.mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
	bool write = g->z.mnemonic == ZYDIS_MNEMONIC_WRFSBASE ||
	             g->z.mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
	struct bt_site *s = light(x, g, write ? LIGHT_WRBASE : LIGHT_RDBASE);

	s->recipe.a = (uint8_t)ZydisRegisterGetId(g->op[0].reg.value);
	s->recipe.b = gs;
	s->recipe.size = g->z.operand_width / 8;
}

static void from_segment(struct bt_xlat *x, const struct guest_insn *g)
{
	unsigned seg = (unsigned)ZydisRegisterGetId(g->op[1].reg.value);
	int reg = ZydisRegisterGetId(g->op[0].reg.value);
	unsigned size = g->op[0].size, to = bt_host_reg[reg];
	struct emit *e = &x->e;

	emit_load_gs(e, R15, GS(cpu));
	EMIT(e, 0x45, 0x0f, 0xb7, 0xbf); /* movzx r15d, word [r15 + sel] */
	emit32(e, (uint32_t)(offsetof(struct cpu, seg) + seg * sizeof(struct segment) +
	                     offsetof(struct segment, sel)));
	if (to == NO_HOST) {
		EMIT(e, 0x65);
		if (size == 16)
			EMIT(e, 0x66);
		EMIT(e, size == 16 ? 0x44 : 0x4c, 0x89, 0x3c, 0x25); /* mov gs:[reg], r15 */
		emit32(e, (uint32_t)(GS(gpr) + 8 * (size_t)reg));
		return;
	}
	if (size == 16)
		EMIT(e, 0x66);
	EMIT(e, 0x44 | to >> 3, 0x89, 0xf8 | (to & 7)); /* mov to, r15 */
}

/* The bit string reaches as far as the register says: the operand is the word at
 * EA + (register >> 5 or 6) words, the bit what is left. */
static void bit(struct bt_xlat *x, const struct guest_insn *g)
{
	unsigned size = g->z.operand_width / 8, temp;
	int reg = ZydisRegisterGetId(g->op[1].reg.value);
	bool code64 = !(x->key & BT_KEY_32);
	struct operand o = { .present = true,
		             .base = REG_BIT,
		             .index = NO_REG,
		             .seg = NO_REG,
		             .asize = code64 ? 8 : 4,
		             .size = (uint16_t)size,
		             .read = true,
		             .write = g->mem.write };
	struct emit *e = &x->e;
	struct reach r;

	flags_free(x);
	place_forget(x);
	access_address(x, &g->mem, R14);
	emit_mov_rr(e, R15, rewrite_read(x, reg, R15));
	if (size == 4 && code64)
		EMIT(e, 0x4d, 0x63, 0xff);                            /* movsxd r15, r15d */
	EMIT(e, code64 ? 0x49 : 0x41, 0xc1, 0xff, size == 8 ? 6 : 5); /* sar r15, */
	emit_lea_sib(e, code64, R15, R14, R15, size == 8 ? 3 : 2, 0);
	emit_store_gs(e, R15, GS(bit_address));
	r = access_reach(x, &o, 0);
	flags_host(x); /* all but CF stay */
	temp = r.base == R14 ? R13 : R14;
	emit_mov_rr(e, temp, rewrite_read(x, reg, temp));
	if (g->z.attributes & ZYDIS_ATTRIB_HAS_LOCK) {
		EMIT(e, 0x9c, 0x41, 0x83, 0xe0 | (temp & 7), size == 8 ? 63 : 31,
		     0x9d); /* pushfq; and; popfq */
		EMIT(e, 0xf0, (size == 8 ? 0x48 : 0x40) | 5, 0x0f, g->z.opcode);
		emit_modrm_mem(e, temp, r.base, r.disp);
		return;
	}
	/* In a register the offset is taken modulo the size. */
	load_reg(e, size, R15, &r);
	EMIT(e, (size == 8 ? 0x48 : 0x40) | 5, 0x0f, g->z.opcode, 0xc7 | (temp & 7) << 3);
	if (g->mem.write)
		store_reg(e, size, R15, &r);
}

/* Vector instructions run only while the guest's registers are the host's. */
static void check_vector(struct bt_xlat *x, const struct guest_insn *g)
{
	bool avx = g->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	struct bt_site *s;

	if (avx ? x->avx_checked : x->sse_checked)
		return;
	s = xlat_site(x, g, SITE_VECTOR);
	flags_free(x);
	hold_forget(x, R15); /* at the second try */
	s->flags = (uint8_t)x->flags;
	s->recipe = x->recipe;
	s->retry = emit_offset(&x->e);
	EMIT(&x->e, 0x65, 0x83, 0x3c, 0x25); /* cmp dword gs:[ok], 0 */
	emit32(&x->e, avx ? GS(avx_ok) : GS(sse_ok));
	emit8(&x->e, 0);
	xlat_pending(x, PENDING_SITE, emit_jcc_later(&x->e, 4))->site = s;
	*(avx ? &x->avx_checked : &x->sse_checked) = true;
	*(avx ? &x->block->avx : &x->block->sse) = true;
}

/*
 * x87 instructions run on the host while all their exceptions are masked. What the host then keeps
 * of them beside the registers is the address of the last one, which is one of ours: XSAVE is
 * followed by a look into the block (enter.c), for which the block leaves the page it runs at. The
 * address of the last operand stays as it was on processors that keep it for unmasked exceptions
 * only (CPUID 7.EBX[6]); others have x87 interpreted.
 */
static void enter_x87(struct bt_xlat *x, const struct guest_insn *g)
{
	struct bt_site *s;

	if (x->x87_checked)
		return;
	s = xlat_site(x, g, SITE_VECTOR);
	flags_free(x);
	s->flags = (uint8_t)x->flags;
	s->recipe = x->recipe;
	s->retry = emit_offset(&x->e);
	EMIT(&x->e, 0x65, 0x83, 0x3c, 0x25); /* cmp dword gs:[x87_ok], 0 */
	emit32(&x->e, GS(x87_ok));
	emit8(&x->e, 0);
	xlat_pending(x, PENDING_SITE, emit_jcc_later(&x->e, 4))->site = s;
	emit_load_gs(&x->e, R15, GS(pc));
	emit_store_gs(&x->e, R15, GS(x87_page));
	x->x87_checked = x->block->x87 = true;
}

static void x87(struct bt_xlat *x, const struct guest_insn *g)
{
	struct bt_site *trap;
	struct reach r;

	enter_x87(x, g);
	if (g->mem.present)
		r = access_reach(x, &g->mem, 0);
	if (g->flags.reads || (g->flags.writes && !g->flags.writes_all))
		flags_host(x);
	trap = xlat_site(x, g, SITE_INSN);
	rewrite_insn(x, g, g->mem.present ? &r : NULL);
	trap->trap = x->insn_start;
}

/* The word is read once, looked at, and loaded from where the guest cannot change it. */
static void fldcw(struct bt_xlat *x, const struct guest_insn *g)
{
	struct emit *e = &x->e;
	struct bt_site *s;
	struct reach r;

	enter_x87(x, g);
	r = access_reach(x, &g->mem, 0);
	flags_free(x);
	s = xlat_site(x, g, SITE_INSN);
	EMIT(e, 0x44 | r.base >> 3, 0x0f, 0xb7); /* movzx r15d, word [r] */
	emit_modrm_mem(e, R15, r.base, r.disp);
	emit_store_gs(e, R15, GS(x87_control));
	EMIT(e, 0x41, 0x83, 0xe7, 0x3f, 0x41, 0x83, 0xff,
	     0x3f); /* and r15d, 0x3f; cmp r15d, 0x3f */
	xlat_pending(x, PENDING_SITE, emit_jcc_later(e, 5))->site = s;
	EMIT(e, 0x65, 0xd9, 0x2c, 0x25); /* fldcw gs:[x87_control] */
	emit32(e, GS(x87_control));
}

bool insn_may_trap(const struct guest_insn *g)
{
	if (g->class == ISA_DIVIDE || g->z.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
		return true;
	return g->class == ISA_VECTOR && g->mem.present && isa_alignment(&g->z, g->mem.size);
}

/* CMOVcc, SETcc: executed by another condition. */
static bool by_bit(struct bt_xlat *x, const struct guest_insn *g, const struct reach *r)
{
	unsigned cc = isa_condition(&g->z);
	struct guest_insn changed;

	if (!isa_is_conditional(&g->z) || !flags_from_bit(x, &cc))
		return false;
	changed = *g;
	changed.z.opcode = (uint8_t)((g->z.opcode & 0xf0) | cc);
	rewrite_insn(x, &changed, r);
	return true;
}

static void plain(struct bt_xlat *x, const struct guest_insn *g)
{
	unsigned carry = 2;
	struct bt_site *trap = NULL;
	struct reach r;

	if (g->class == ISA_VECTOR)
		check_vector(x, g);
	if (g->mem.present)
		r = access_reach(x, &g->mem, 0);
	if (by_bit(x, g, g->mem.present ? &r : NULL))
		return;
	/* ADC and SBB, INC and DEC */
	if (g->flags.reads_cf && flags_from_bit(x, &carry))
		;
	else if (g->flags.reads || (g->flags.writes && !g->flags.writes_all))
		flags_host(x);
	if (insn_may_trap(g))
		trap = xlat_site(x, g, SITE_INSN);
	rewrite_insn(x, g, g->mem.present ? &r : NULL);
	if (trap)
		trap->trap = x->insn_start;
}

/* LEA to 16 bits: the low word of the register only. */
static void lea_word(struct bt_xlat *x, const struct operand *o, int reg)
{
	struct emit *e = &x->e;
	unsigned to = bt_host_reg[reg] == NO_HOST ? R15 : bt_host_reg[reg];

	place_forget_host(x, R14);
	access_address(x, o, R14);
	hold_forget(x, R15);
	if (to == R15)
		emit_load_gs(e, R15, GS(gpr) + 8 * (size_t)reg);
	EMIT(e, 0x66, 0x44 | to >> 3, 0x89, 0xf0 | (to & 7)); /* mov to, r14w */
	if (to == R15)
		emit_store_gs(e, R15, GS(gpr) + 8 * (size_t)reg);
}

static void lea(struct bt_xlat *x, const struct guest_insn *g)
{
	int reg = ZydisRegisterGetId(g->op[0].reg.value);
	unsigned size = g->z.operand_width, to = bt_host_reg[reg];
	struct operand o = g->mem;

	o.seg = NO_REG;
	if (size == 16) {
		lea_word(x, &o, reg);
		return;
	}
	if (size == 32)
		o.asize = 4;
	if (to == NO_HOST) {
		to = hold_pick(x, 0, hold_is_wanted(x, reg));
		if (to == R15 && o.index != NO_REG) /* which is where that may have to go */
			to = hold_pick(x, 1u << R15, true);
		if (hold_find(x, o.base) != (int)to && hold_find(x, o.index) != (int)to)
			place_forget_host(x, to);
		access_address(x, &o, to);
		place_forget_host(x, to);
		emit_store_gs(&x->e, to, GS(gpr) + 8 * (size_t)reg);
		hold_set(x, to, reg);
		return;
	}
	if (o.base != NO_REG && o.base != REG_PC && o.index != NO_REG &&
	    bt_host_reg[(int)o.base] == NO_HOST) { /* the target may be the index */
		unsigned temp = hold_pick(x, 1u << R15, false);

		if (hold_find(x, o.base) != (int)temp && hold_find(x, o.index) != (int)temp)
			place_forget_host(x, temp);
		access_address(x, &o, temp);
		place_forget_host(x, temp);
		emit_mov_rr(&x->e, to, temp);
		return;
	}
	access_address(x, &o, to);
}

static void move_rsp(struct bt_xlat *x, int32_t by)
{
	x->rsp_late += by;
}

void insn_settle_rsp(struct bt_xlat *x)
{
	if (x->rsp_late)
		emit_lea(&x->e, !(x->key & BT_KEY_32), R12, R12, x->rsp_late);
	x->rsp_late = 0;
}

static bool names_rsp(const struct guest_insn *g)
{
	const ZydisDecodedOperand *op = &g->op[0];

	if (g->mem.present)
		return g->mem.base == R_RSP || g->mem.index == R_RSP;
	return g->z.operand_count_visible && op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       scan_gpr(op->reg.value) == R_RSP;
}

bool insn_minds_rsp(const struct guest_insn *g)
{
	switch (g->class) {
	case ISA_PUSH:
	case ISA_POP:
	case ISA_RET:
	case ISA_CALL:
		return names_rsp(g);
	case ISA_PLAIN:
	case ISA_DIVIDE:
	case ISA_VECTOR:
	case ISA_LEA:
	case ISA_NOTHING:
		return (g->reads | g->writes) >> R_RSP & 1;
	default:
		return true;
	}
}

static void push(struct bt_xlat *x, const struct guest_insn *g)
{
	struct reach to = access_reach(x, &g->stack, 0);
	unsigned size = g->stack.size;
	struct emit *e = &x->e;

	if (g->mem.present) {
		struct reach from = access_reach(x, &g->mem, 1u << to.base);

		load_reg(e, size, R15, &from);
		store_reg(e, size, R15, &to);
	} else if (g->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		EMIT(e, (size == 8 ? 0x48 : 0x40) | to.base >> 3, 0xc7); /* mov [to], imm32 */
		emit_modrm_mem(e, 0, to.base, to.disp);
		emit32(e, (uint32_t)g->op[0].imm.value.s);
	} else {
		store_reg(e, size, rewrite_read(x, ZydisRegisterGetId(g->op[0].reg.value), R15),
		          &to);
	}
	move_rsp(x, g->stack_step);
}

static void pop(struct bt_xlat *x, const struct guest_insn *g)
{
	struct reach from = access_reach(x, &g->stack, 0);
	int reg = ZydisRegisterGetId(g->op[0].reg.value);
	unsigned to = bt_host_reg[reg];

	load_reg(&x->e, g->stack.size, to == NO_HOST ? R15 : to, &from);
	if (to == NO_HOST)
		emit_store_gs(&x->e, R15, GS(gpr) + 8 * (size_t)reg);
	if (reg != R_RSP)
		move_rsp(x, g->stack_step);
}

static void leave(struct bt_xlat *x, const struct guest_insn *g)
{
	struct reach from = access_reach(x, &g->stack, 0);

	emit_lea(&x->e, !(x->key & BT_KEY_32), R12, RBP, g->stack.size);
	load_reg(&x->e, g->stack.size, RBP, &from);
}

static void pushf(struct bt_xlat *x, const struct guest_insn *g)
{
	struct reach to = access_reach(x, &g->stack, 0);
	struct emit *e = &x->e;
	unsigned temp = to.base == R14 ? R13 : R14;

	flags_slot(x);
	place_forget_host(x, temp);
	EMIT(e, 0x44, 0x8b, 0x7c, 0x24, 0xf8); /* mov r15d, [rsp - 8] */
	EMIT(e, 0x41, 0x81, 0xe7);             /* and r15d, */
	emit32(e, ISA_FLAGS);
	emit_load_gs(e, temp, GS(cpu));
	EMIT(e, 0x4d, 0x0b, 0xb8 | (temp & 7)); /* or r15, [temp + rflags] */
	emit32(e, offsetof(struct cpu, rflags));
	EMIT(e, 0x49, 0x81, 0xe7); /* and r15, ~(RF | VM) */
	emit32(e, (uint32_t) ~(RFLAGS_RF | RFLAGS_VM));
	store_reg(e, 8, R15, &to);
	move_rsp(x, g->stack_step);
}

/* op dword [cpu + off], imm; n: 1 OR, 4 AND. Uses R15. */
static void alter_cpu(struct bt_xlat *x, unsigned n, size_t off, uint32_t imm)
{
	struct emit *e = &x->e;

	flags_free(x);
	emit_load_gs(e, R15, GS(cpu));
	EMIT(e, 0x41, 0x81, 0x87 | n << 3);
	emit32(e, (uint32_t)off);
	emit32(e, imm);
}

static void sti(struct bt_xlat *x, const struct guest_insn *g)
{
	struct bt_site *s;

	/* With something pending the interpreter does it, and takes that after the next
	 * instruction. */
	flags_free(x);
	s = xlat_site(x, g, SITE_INSN);
	emit_load_gs(&x->e, R15, GS(cpu));
	EMIT(&x->e, 0x41, 0x83, 0xbf); /* cmp dword [r15 + attention], 0 */
	emit32(&x->e, offsetof(struct cpu, attention));
	emit8(&x->e, 0);
	xlat_pending(x, PENDING_SITE, emit_jcc_later(&x->e, 5))->site = s;
	alter_cpu(x, 1, offsetof(struct cpu, rflags), RFLAGS_IF);
}

static void smap(struct bt_xlat *x, bool ac)
{
	alter_cpu(x, ac ? 1 : 4, offsetof(struct cpu, rflags),
	          ac ? (uint32_t)RFLAGS_AC : (uint32_t)~RFLAGS_AC);
	x->mode = ac ? MMU_KERNEL_AC : MMU_KERNEL;
	place_forget(x);
}

static void swapgs(struct bt_xlat *x)
{
	struct emit *e = &x->e;
	const uint32_t off = offsetof(struct cpu, msr.kernel_gs_base);

	place_forget(x);
	emit_load_gs(e, R15, GS(cpu));
	emit_load_gs(e, R14, GS(seg_base[1]));
	EMIT(e, 0x4d, 0x8b, 0xaf); /* mov r13, [r15 + off] */
	emit32(e, off);
	EMIT(e, 0x4d, 0x89, 0xb7); /* mov [r15 + off], r14 */
	emit32(e, off);
	emit_store_gs(e, R13, GS(seg_base[1]));
}

/* Target of an indirect jump or call into R14; false for a direct one. */
static bool load_target(struct bt_xlat *x, const struct guest_insn *g)
{
	unsigned size = x->key & BT_KEY_32 ? 4 : 8;
	struct emit *e = &x->e;

	if (xlat_is_direct(g))
		return false;
	if (g->mem.present) {
		struct reach r = access_reach(x, &g->mem, 1u << R13);

		load_reg(e, size, R14, &r);
	} else {
		unsigned reg = rewrite_read(x, ZydisRegisterGetId(g->op[0].reg.value), R14);

		if (size == 8)
			emit_mov_rr(e, R14, reg);
		else
			EMIT(e, 0x41 | (reg & 8) >> 1, 0x89, 0xc6 | (reg & 7) << 3);
	}
	place_forget_host(x, R14);
	return true;
}

static void jmp(struct bt_xlat *x, const struct guest_insn *g)
{
	if (!load_target(x, g)) {
		flow_exit(x, g->target, -1);
		return;
	}
	flags_slot(x);
	flow_indirect(x, g, 0);
}

static void call(struct bt_xlat *x, const struct guest_insn *g)
{
	struct emit *e = &x->e;
	bool indirect = load_target(x, g);
	struct reach to = access_reach(x, &g->stack, indirect ? 1u << R14 : 0);

	emit_load_gs(e, R15, GS(pc));
	emit_lea(e, !(x->key & BT_KEY_32), R15, R15, g->off + g->len);
	store_reg(e, g->stack.size, R15, &to);
	move_rsp(x, g->stack_step);
	if (!indirect) {
		flow_exit(x, g->target, -1);
		return;
	}
	flags_slot(x);
	flow_indirect(x, g, g->stack.size);
}

static void ret(struct bt_xlat *x, const struct guest_insn *g)
{
	struct reach from = access_reach(x, &g->stack, 0);
	int32_t extra = g->z.operand_count_visible ? (int32_t)g->op[0].imm.value.u : 0;

	place_forget_host(x, R14); /* of a copy, flags might be made yet */
	load_reg(&x->e, g->stack.size, R14, &from);
	move_rsp(x, g->stack_step + extra);
	flags_slot(x);
	flow_indirect(x, g, -(g->stack_step + extra));
}

static void jcc(struct bt_xlat *x, const struct guest_insn *g)
{
	unsigned cc = isa_condition(&g->z);

	if (!flags_from_bit(x, &cc))
		flags_host(x);
	flow_exit(x, g->target, (int)cc);
}

static void loop(struct bt_xlat *x, const struct guest_insn *g)
{
	bool wide = g->z.address_width == 64;

	emit_lea(&x->e, wide, RCX, RCX, -1);
	flow_exit(x, g->target, wide ? FLOW_RCX : FLOW_ECX);
}

void insn_translate(struct bt_xlat *x, const struct guest_insn *g)
{
	switch (g->class) {
	case ISA_PLAIN:
	case ISA_DIVIDE:
	case ISA_VECTOR:
		plain(x, g);
		break;
	case ISA_NOTHING:
		break;
	case ISA_LEA:
		lea(x, g);
		break;
	case ISA_PUSH:
		push(x, g);
		break;
	case ISA_POP:
		pop(x, g);
		break;
	case ISA_LEAVE:
		leave(x, g);
		break;
	case ISA_PUSHF:
		pushf(x, g);
		break;
	case ISA_CLI:
		alter_cpu(x, 4, offsetof(struct cpu, rflags), (uint32_t)~RFLAGS_IF);
		break;
	case ISA_STI:
		sti(x, g);
		break;
	case ISA_STAC:
		smap(x, true);
		break;
	case ISA_CLAC:
		smap(x, false);
		break;
	case ISA_SWAPGS:
		swapgs(x);
		break;
	case ISA_JCC:
		jcc(x, g);
		break;
	case ISA_JCXZ:
		flow_exit(x, g->target, g->z.address_width == 64 ? FLOW_RCX_ZERO : FLOW_ECX_ZERO);
		break;
	case ISA_LOOP:
		loop(x, g);
		break;
	case ISA_JMP:
		jmp(x, g);
		break;
	case ISA_CALL:
		call(x, g);
		break;
	case ISA_RET:
		ret(x, g);
		break;
	case ISA_POPF:
		light(x, g, LIGHT_POPF);
		break;
	case ISA_CLD:
		alter_cpu(x, 4, offsetof(struct cpu, rflags), (uint32_t)~RFLAGS_DF);
		break;
	case ISA_MOVS:
	case ISA_STOS:
		string(x, g);
		break;
	case ISA_SYSCALL:
		light(x, g, LIGHT_SYSCALL);
		break;
	case ISA_SYSRET:
		light(x, g, LIGHT_SYSRET);
		break;
	case ISA_RDTSC:
		light(x, g, LIGHT_RDTSC);
		break;
	case ISA_RDTSCP:
		light(x, g, LIGHT_RDTSCP);
		break;
	case ISA_RDPKRU:
		light(x, g, LIGHT_RDPKRU);
		break;
	case ISA_BASE:
		base(x, g);
		break;
	case ISA_FROM_SEGMENT:
		from_segment(x, g);
		break;
	case ISA_BIT:
		bit(x, g);
		break;
	case ISA_X87:
		x87(x, g);
		break;
	case ISA_FLDCW:
		fldcw(x, g);
		break;
	default:
		other(x, g);
		break;
	}
}

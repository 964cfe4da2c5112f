/*
 * Into translated code and out of it.
 *
 *   enter()        C calls it; loads the guest's registers and jumps to bt.target
 *   stub_link ...  stores them and returns to C, with bt.reason saying why
 *   stub_stack     the stack has moved to another page
 *   stub_fill      a memory access missed: calls bt_fill(), which neither knows nor touches vector
 *                  registers, and goes on where that says
 *
 * While translated code runs RSP stays where enter() put it. The slot for flags is the eight bytes
 * below it, in the red zone, which the kernel leaves alone when it delivers a signal.
 */
#include "engine/bt/stubs.h"

#include "engine/bt/emit.h"
#include "engine/bt/jump.h"
#include "engine/bt/light.h"

const uint8_t bt_host_reg[16] = {
	RAX, RCX, RDX,     RBX,     R12, RBP, RSI,     RDI,
	R8,  R9,  NO_HOST, NO_HOST, R10, R11, NO_HOST, NO_HOST,
};

static void load_registers(struct emit *e)
{
	for (unsigned n = 0; n < 16; n++)
		if (bt_host_reg[n] != NO_HOST)
			emit_load_gs(e, bt_host_reg[n], GS(gpr) + 8 * n);
}

static void store_registers(struct emit *e)
{
	for (unsigned n = 0; n < 16; n++)
		if (bt_host_reg[n] != NO_HOST)
			emit_store_gs(e, bt_host_reg[n], GS(gpr) + 8 * n);
}

static void make_enter(struct emit *e)
{
	EMIT(e, 0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57); /* push callee-saved */
	emit_lea(e, true, RSP, RSP, -8);
	emit_store_gs(e, RSP, GS(host_rsp));
	EMIT(e, 0x65, 0xff, 0x34, 0x25); /* push gs:[host_flags] */
	emit32(e, GS(host_flags));
	emit8(e, 0x9d); /* popfq */
	emit_load_gs(e, R15, GS(slot));
	EMIT(e, 0x4c, 0x89, 0x7c, 0x24, 0xf8); /* mov [rsp - 8], r15 */
	load_registers(e);
	emit_load_gs(e, R13, GS(r13));
	emit_load_gs(e, R14, GS(r14));
	emit_load_gs(e, R15, GS(r15));
	EMIT(e, 0x65, 0xff, 0x24, 0x25); /* jmp gs:[target] */
	emit32(e, GS(target));
}

static void make_leave(struct emit *e, enum bt_reason reason)
{
	store_registers(e);
	emit_store_gs(e, R13, GS(r13));
	emit_store_gs(e, R14, GS(r14));
	emit_store_gs(e, R15, GS(r15));
	EMIT(e, 0x48, 0x8b, 0x44, 0x24, 0xf8); /* mov rax, [rsp - 8] */
	emit_store_gs(e, RAX, GS(slot));
	EMIT(e, 0x9c, 0x58); /* pushfq; pop rax */
	emit_store_gs(e, RAX, GS(host_flags));
	emit_mov_gs_imm32(e, GS(reason), reason);
	emit_lea(e, true, RSP, RSP, 8);
	EMIT(e, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3);
}

static const uint8_t caller_saved[] = { RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11 };

/* Calls fn(b, site, address), which leaves by the stub `leaving` or goes on at bt.target. */
static void make_call(struct bt *b, struct emit *e, unsigned address, uint64_t fn, uint32_t leaving)
{
	uint8_t *leave;

	emit_lea(e, true, RSP, RSP, -128 - 8);
	for (unsigned n = 0; n < ARRAY_SIZE(caller_saved); n++) {
		if (caller_saved[n] >= 8)
			emit8(e, 0x41);
		emit8(e, 0x50 | (caller_saved[n] & 7));
	}
	emit_store_gs(e, R13, GS(r13));
	emit_store_gs(e, R14, GS(r14));
	emit_store_gs(e, R15, GS(r15));
	emit_store_gs(e, R15, GS(fill_site));
	emit_mov_imm64(e, RDI, (uintptr_t)b);
	emit_mov_rr(e, RSI, R15);
	emit_mov_rr(e, RDX, address);
	emit_mov_imm64(e, RAX, fn);
	EMIT(e, 0xff, 0xd0); /* call rax */
	EMIT(e, 0x85, 0xc0); /* test eax, eax */
	for (unsigned n = ARRAY_SIZE(caller_saved); n-- > 0;) {
		if (caller_saved[n] >= 8)
			emit8(e, 0x41);
		emit8(e, 0x58 | (caller_saved[n] & 7));
	}
	emit_lea(e, true, RSP, RSP, 128 + 8);
	emit_load_gs(e, R13, GS(r13));
	emit_load_gs(e, R14, GS(r14));
	leave = emit_jcc_later(e, 5);
	EMIT(e, 0x65, 0xff, 0x24, 0x25); /* jmp gs:[target] */
	emit32(e, GS(target));
	emit_here(e, leave);
	emit_load_gs(e, R15, GS(r15));
	emit_jmp(e, leaving);
}

/* Calls bt_light() with all registers in struct bt. */
static void make_light(struct bt *b, struct emit *e)
{
	uint8_t *leave, *jump;

	store_registers(e);
	emit_store_gs(e, R13, GS(r13));
	emit_store_gs(e, R14, GS(r14));
	emit_store_gs(e, R15, GS(r15));
	emit_store_gs(e, R15, GS(fill_site));
	EMIT(e, 0x48, 0x8b, 0x44, 0x24, 0xf8); /* mov rax, [rsp - 8] */
	emit_store_gs(e, RAX, GS(slot));
	emit_mov_imm64(e, RDI, (uintptr_t)b);
	emit_mov_rr(e, RSI, R15);
	emit_mov_imm64(e, RAX, (uintptr_t)bt_light);
	EMIT(e, 0xff, 0xd0);                   /* call rax */
	EMIT(e, 0x83, 0xf8, LIGHT_LEAVE);      /* cmp eax, */
	emit_load_gs(e, RAX, GS(slot));        /* R15 stays the site: signal.c looks at it */
	EMIT(e, 0x48, 0x89, 0x44, 0x24, 0xf8); /* mov [rsp - 8], rax */
	load_registers(e);
	emit_load_gs(e, R13, GS(r13));
	emit_load_gs(e, R14, GS(r14));
	emit_load_gs(e, R15, GS(r15));
	leave = emit_jcc_later(e, 4);
	jump = emit_jcc_later(e, 7);
	EMIT(e, 0x65, 0xff, 0x24, 0x25); /* jmp gs:[target] */
	emit32(e, GS(target));
	emit_here(e, leave);
	emit_jmp(e, b->cache->stub_site);
	emit_here(e, jump);
	emit_jmp(e, b->cache->stub_indirect);
}

/*
 * The stack has moved to another page: takes that one's entry for writes, and tries again. For what
 * is not in the TLB, and for a range on two pages, goes on in the stub of bt_fill(). The tag is
 * read once, for another vCPU may take it away (world.c).
 */
static void make_take_stack(struct bt *b, struct emit *e, unsigned mode, unsigned reg)
{
	size_t tags = GS(tlb) + (mode * 2u + BT_WRITE) * sizeof(b->tlb[0][0]);
	size_t stack = GS(stack) + mode * sizeof(b->stack[0]);
	uint8_t *miss, *there;

	emit_store_gs(e, reg, GS(stack_va));
	EMIT(e, 0x45, 0x89, 0xc7 | (reg & 7) << 3, 0x41, 0xc1, 0xef, 8); /* mov r15d, reg; shr 8 */
	EMIT(e, 0x41, 0x81, 0xe7);                                       /* and r15d, */
	emit32(e, (BT_TLB_ENTRIES - 1) * sizeof(struct bt_tlb_entry));
	EMIT(e, 0x49, 0x81, 0xe0 | (reg & 7)); /* and reg, ~0xfff */
	emit32(e, (uint32_t)PAGE_MASK);
	emit_gs_indexed(e, 0x3b, reg, R15, tags + offsetof(struct bt_tlb_entry, tag));
	miss = emit_jcc_later(e, 5);
	emit_gs(e, true, 0x3b, reg, stack + offsetof(struct bt_tlb_entry, tag));
	there = emit_jcc_later(e, 4);
	emit_store_gs(e, reg, stack + offsetof(struct bt_tlb_entry, tag));
	emit_gs_indexed(e, 0x8b, reg, R15, tags + offsetof(struct bt_tlb_entry, host));
	emit_store_gs(e, reg, stack + offsetof(struct bt_tlb_entry, host));
	emit_load_gs(e, reg, GS(stack_va));
	emit_load_gs(e, R15, GS(fill_site));
	emit_gs(e, true, 0x03, R15, GS(meta));
	EMIT(e, 0x45, 0x8b, 0xbf); /* mov r15d, [r15 + retry] */
	emit32(e, offsetof(struct bt_site, retry));
	emit_gs(e, true, 0x03, R15, GS(exec));
	EMIT(e, 0x41, 0xff, 0xe7); /* jmp r15 */
	emit_here(e, miss);
	emit_here(e, there);
	emit_load_gs(e, reg, GS(stack_va));
	emit_load_gs(e, R15, GS(fill_site));
	emit_jmp(e, b->cache->stub_fill[reg == R13]);
}

/* In two parts: where R15 is the site, which signal.c looks at, and where it is not. */
static void make_stack(struct bt *b, struct emit *e)
{
	struct bt_cache *c = b->cache;
	uint8_t *body[MMU_MODES][2];

	for (unsigned mode = 0; mode < MMU_MODES; mode++)
		for (unsigned n = 0; n < 2; n++) {
			c->stub_stack[mode][n] = emit_offset(e);
			emit_store_gs(e, R15, GS(fill_site));
			body[mode][n] = emit_jmp_later(e);
		}
	c->site_end = emit_offset(e);
	for (unsigned mode = 0; mode < MMU_MODES; mode++)
		for (unsigned n = 0; n < 2; n++) {
			emit_here(e, body[mode][n]);
			make_take_stack(b, e, mode, n ? R13 : R14);
		}
}

void stubs_make(struct bt *b)
{
	struct bt_cache *c = b->cache;
	struct emit e = { .p = c->write + 64, .base = c->write };

	c->enter = (bt_enter_fn)(uintptr_t)(c->exec + emit_offset(&e));
	make_enter(&e);
	c->stub_link = emit_offset(&e);
	make_leave(&e, BT_LINK);
	c->stub_indirect = emit_offset(&e);
	make_leave(&e, BT_INDIRECT);
	c->stub_site = emit_offset(&e);
	make_leave(&e, BT_SITE);
	c->stub_fill[0] = emit_offset(&e);
	make_call(b, &e, R14, (uintptr_t)bt_fill, c->stub_site);
	c->stub_fill[1] = emit_offset(&e);
	make_call(b, &e, R13, (uintptr_t)bt_fill, c->stub_site);
	c->stub_lookup = emit_offset(&e);
	make_call(b, &e, R14, (uintptr_t)bt_lookup, c->stub_indirect);
	c->stub_light = emit_offset(&e);
	make_light(b, &e);
	make_stack(b, &e);
	c->stubs_end = emit_offset(&e);
}

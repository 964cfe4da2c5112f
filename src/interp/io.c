/*
 * IN, OUT, INS, OUTS: permission (SDM 1 19.5), then an EXIT_PIO for each access.
 *
 * A REP that is not done goes on by leaving RIP on the instruction, so that events are served
 * between iterations; each call makes at most REP_CHUNK of them.
 */
#include "interp/access.h"
#include "interp/debug.h"
#include "interp/system.h"

#define REP_CHUNK     32
#define TSS_IOMAP     102 /* offset of the I/O map's own offset */
#define TSS_MIN_LIMIT 103

/* Two bytes are read always, because a port's bits may lie in both. */
static void check_bitmap(struct cpu *c, uint16_t port, unsigned size)
{
	const struct segment *tr = &c->seg[SEG_TR];
	uint32_t at, bits, mask = (1u << size) - 1;

	if (!(tr->attr & TYPE_32) || tr->limit < TSS_MIN_LIMIT)
		cpu_raise(c, EXC_GP, 0);
	at = (uint32_t)mmu_load_system(c, tr->base + TSS_IOMAP, 2) + port / 8;
	if (at + 1 > tr->limit)
		cpu_raise(c, EXC_GP, 0);
	bits = (uint32_t)mmu_load_system(c, tr->base + at, 2);
	if (bits >> (port % 8) & mask)
		cpu_raise(c, EXC_GP, 0);
}

static void check_port(struct cpu *c, uint16_t port, unsigned size)
{
	if (cpu_protected(c) && (cpu_v86(c) || c->cpl > cpu_iopl(c)))
		check_bitmap(c, port, size);
}

static uint64_t port_access(struct cpu *c, uint16_t port, unsigned size, bool write, uint64_t value)
{
	struct exit e = {
		.reason = EXIT_PIO,
		.io = { .addr = port, .value = value, .size = (uint8_t)size, .write = write }
	};

	debug_check_io(c, port, size);
	c->ops->exit(c, &e);
	return e.io.value;
}

/* aux2: the port is in DX, else in imm. */
static uint16_t port_of(const struct cpu *c, const struct insn *i)
{
	return i->aux2 ? (uint16_t)c->rdx : (uint8_t)i->imm;
}

static void op_in(struct cpu *c, const struct insn *i)
{
	uint16_t port = port_of(c, i);

	check_port(c, port, i->opsize);
	reg_set(c, R_RAX, i->opsize, port_access(c, port, i->opsize, false, 0));
}

static void op_out(struct cpu *c, const struct insn *i)
{
	uint16_t port = port_of(c, i);

	check_port(c, port, i->opsize);
	port_access(c, port, i->opsize, true, reg_get(c, R_RAX, i->opsize));
}

static void set_port_operand(struct insn *i, const ZydisDecodedOperand *port,
                             const ZydisDecodedOperand *value)
{
	i->aux2 = port->type == ZYDIS_OPERAND_TYPE_REGISTER;
	i->opsize = (uint8_t)(value->size / 8);
}

insn_fn io_pick_in(const struct op_decode *d, struct insn *i)
{
	set_port_operand(i, &d->op[1], &d->op[0]);
	return op_in;
}

insn_fn io_pick_out(const struct op_decode *d, struct insn *i)
{
	set_port_operand(i, &d->op[0], &d->op[1]);
	return op_out;
}

/* An index register moves by the operand size, in the width of the address size. */
static void advance(struct cpu *c, const struct insn *i, unsigned reg)
{
	int64_t step = c->rflags & RFLAGS_DF ? -(int64_t)i->opsize : i->opsize;

	reg_set(c, reg, i->asize, c->gpr[reg] + (uint64_t)step);
}

static void ins_once(struct cpu *c, const struct insn *i)
{
	uint64_t off = reg_get(c, R_RDI, i->asize);
	gva_t va = access_linear(c, SEG_ES, off, i->opsize, true);

	mmu_probe(c, va, i->opsize, MMU_WRITE, SEG_ES);
	store_size(c, va, i->opsize, port_access(c, (uint16_t)c->rdx, i->opsize, false, 0), SEG_ES);
	advance(c, i, R_RDI);
}

static void outs_once(struct cpu *c, const struct insn *i)
{
	uint64_t off = reg_get(c, R_RSI, i->asize);
	gva_t va = access_linear(c, i->seg, off, i->opsize, false);

	port_access(c, (uint16_t)c->rdx, i->opsize, true, load_size(c, va, i->opsize, i->seg));
	advance(c, i, R_RSI);
}

static void repeat(struct cpu *c, const struct insn *i, insn_fn once)
{
	unsigned chunk = c->rflags & RFLAGS_TF ? 1 : REP_CHUNK;

	check_port(c, (uint16_t)c->rdx, i->opsize);
	if (!(i->flags & (INSN_REP | INSN_REPNE))) {
		once(c, i);
		return;
	}
	c->rflags &= ~RFLAGS_RF;
	/* One element even under attention, which may be for an interrupt that IF holds back. */
	for (unsigned n = 0; reg_get(c, R_RCX, i->asize); n++) {
		if (n == chunk ||
		    (n && atomic_load_explicit(&c->attention, memory_order_relaxed))) {
			op_again(c, i);
			return;
		}
		once(c, i);
		reg_set(c, R_RCX, i->asize, c->rcx - 1);
	}
}

static void op_ins(struct cpu *c, const struct insn *i)
{
	repeat(c, i, ins_once);
}

static void op_outs(struct cpu *c, const struct insn *i)
{
	repeat(c, i, outs_once);
}

insn_fn io_pick_string(const struct op_decode *d, struct insn *i)
{
	bool in = true;

	switch (d->z->mnemonic) {
	case ZYDIS_MNEMONIC_OUTSB:
		in = false;
		/* fall through */
	case ZYDIS_MNEMONIC_INSB:
		i->opsize = 1;
		break;
	case ZYDIS_MNEMONIC_OUTSW:
		in = false;
		/* fall through */
	case ZYDIS_MNEMONIC_INSW:
		i->opsize = 2;
		break;
	case ZYDIS_MNEMONIC_OUTSD:
		in = false;
		/* fall through */
	default:
		i->opsize = 4;
		break;
	}
	for (unsigned n = 0; n < d->z->operand_count && !in; n++)
		if (d->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			i->seg = (uint8_t)ZydisRegisterGetId(d->op[n].mem.segment);
	return in ? op_ins : op_outs;
}

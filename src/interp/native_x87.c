/*
 * x87 arithmetic: FXRSTOR of the guest's registers, the instruction, FXSAVE. Nothing can trap,
 * because FXSAVE does not wait: an unmasked exception stays pending in the status word, and the
 * next waiting instruction raises #MF here (check_x87).
 *
 * The pointers to the last instruction and operand are not what the host would record (those are
 * addresses of our stub), so they are kept by hand. As the SDM says for current processors (SDM 1
 * 8.1.8), FIP and FDP follow every non-control instruction, the opcode only an unmasked exception.
 */
#include <string.h>
#include "cpu/cpuid.h"
#include "interp/native.h"

/* Exceptions that keep an instruction from storing its result when unmasked: all but precision. */
#define FSW_SUPPRESS 0x001f

/* Our own code runs with the C ABI's control word and an empty stack. EMMS is a hundred times
 * faster than FNINIT, but it waits, and leaves the control word. */
static inline void leave_x87(struct cpu *c)
{
	if (unlikely(*fpu_fcw(c) != FCW_INIT || (*fpu_fsw(c) & FSW_ES)))
		asm volatile("fninit");
	else
		asm volatile("emms");
}

static inline void run_x87(struct cpu *c, const struct insn *i, const struct native_op *op,
                           struct native_frame *f, void *mem)
{
	struct fpu_pointers p = *fpu_pointers(c);
	uint16_t opcode = *fpu_fop(c);

	op->code(f, mem, c->fpu.area, NULL, NULL, NULL);
	p.ip = c->rip - i->len;
	if (unlikely(fpu_pending(c)))
		opcode = (i->aux & 7) << 8 | i->aux2;
	*fpu_pointers(c) = p;
	*fpu_fop(c) = opcode;
	leave_x87(c);
}

static void x87_registers(struct cpu *c, const struct insn *i)
{
	check_x87(c);
	run_x87(c, i, native_op(i), native_frame(c), NULL);
}

static void x87_flags(struct cpu *c, const struct insn *i)
{
	struct native_frame *f = native_frame(c);

	check_x87(c);
	f->rflags = RFLAGS_1 | RFLAGS_IF | flags_get_arith(c);
	run_x87(c, i, native_op(i), f, NULL);
	if (native_op(i)->form.flags & FORM_FLAGS)
		flags_set_arith(c, f->rflags);
}

static void x87_load(struct cpu *c, const struct insn *i)
{
	unsigned size = native_op(i)->form.mem_size;
	uint64_t dp = access_offset(c, i);
	void *mem;

	check_x87(c);
	mem = native_read(c, access_ea(c, i, size, false), size, i->seg);
	run_x87(c, i, native_op(i), native_frame(c), mem);
	fpu_pointers(c)->dp = dp;
}

static bool store_suppressed(struct cpu *c)
{
	return *fpu_fsw(c) & ~*fpu_fcw(c) & FSW_SUPPRESS;
}

/* On Intel's processors an exception that suppresses the store comes before any fault of memory, on
 * AMD's after. True when it did: the instruction is over. */
static bool excepted_first(struct cpu *c, const struct insn *i, uint64_t dp)
{
	struct fpu before = c->fpu;

	run_x87(c, i, native_op(i), native_frame(c), native_frame(c)->bounce);
	if (!store_suppressed(c)) {
		c->fpu = before;
		return false;
	}
	fpu_pointers(c)->dp = dp;
	return true;
}

static void x87_store(struct cpu *c, const struct insn *i)
{
	unsigned size = native_op(i)->form.mem_size;
	struct native_frame *f = native_frame(c);
	uint64_t dp = access_offset(c, i);
	void *to;
	gva_t va;

	check_x87(c);
	if (unlikely(~*fpu_fcw(c) & FSW_SUPPRESS) && !cpuid_is_amd(c->cpuid) &&
	    excepted_first(c, i, dp))
		return;
	va = access_ea(c, i, size, true);
	to = native_write(c, va, size, i->seg);
	run_x87(c, i, native_op(i), f, f->bounce);
	fpu_pointers(c)->dp = dp;
	if (unlikely(store_suppressed(c)))
		return;
	if (likely(to != NULL))
		memcpy(to, f->bounce, size);
	else
		native_write_out(c, va, f->bounce, size, i->seg);
}

static insn_fn choose(const struct native_form *f)
{
	if (f->flags & FORM_STORE)
		return x87_store;
	if (f->mem_size)
		return x87_load;
	return f->flags & (FORM_FLAGS | FORM_FLAGS_IN) ? x87_flags : x87_registers;
}

insn_fn native_pick_x87(const struct op_decode *d, struct insn *i)
{
	const ZydisDecodedInstruction *z = d->z;
	struct native_form f;
	const struct native_op *op;

	if (!native_offers(d->c, z->meta.isa_set))
		return NULL;
	native_encode_x87(d, &f);
	op = native_find(d->c, &f);
	if (!op) {
		i->flags |= INSN_END;
		return native_no_room;
	}
	i->imm = (int64_t)(uintptr_t)op;
	i->aux = z->opcode;
	i->aux2 = z->raw.modrm.mod << 6 | z->raw.modrm.reg << 3 | z->raw.modrm.rm;
	return choose(&f);
}

/*
 * x87, MMX, SSE and AVX on the host CPU. Private to src/interp; native_stub.c tells how it works.
 */
#pragma once

#include "interp/fpu.h"
#include "interp/ops.h"
#include "interp/state.h"

/* What a stub reads and writes besides vector registers and memory; native_stub.c knows the
 * offsets. */
struct native_frame {
	uint64_t rax, rdx, rcx; /* general registers of the instruction, in and out */
	uint64_t rflags;
	uint32_t mxcsr;      /* the guest's, in and out */
	uint32_t mxcsr_host; /* what our own code runs with */
	bool faulted;        /* the SIGFPE handler left the stub early */
	uintptr_t code, code_end;
	uint8_t bounce[128]
	        __attribute__((aligned(64))); /* for operands that cannot be touched in place */
};

/* v0..v3: where the registers of the slots live. mem: host address of the memory operand. */
typedef void (*native_code)(struct native_frame *f, void *mem, void *v0, void *v1, void *v2,
                            void *v3);

enum native_kind { SLOT_NONE, SLOT_MMX, SLOT_XMM, SLOT_YMM };
#define NATIVE_SLOTS 4

struct native_slot {
	uint8_t kind;
	uint8_t host; /* register number that the encoding names */
	bool load, store;
};

/* All that tells one stub from another; compared as bytes. */
struct native_form {
	uint8_t bytes[16]; /* the normalised instruction */
	uint8_t len;
	uint8_t mem_size;  /* bytes, 0 without memory operand */
	uint8_t mem_align; /* bytes that an address must be a multiple of, or 0 */
	uint8_t pad;
	uint32_t flags; /* FORM_* */
	struct native_slot slot[NATIVE_SLOTS];
};
#define FORM_LOAD     BIT(0) /* reads its memory operand */
#define FORM_STORE    BIT(1) /* writes it */
#define FORM_GPR_IN   BIT(2) /* RAX of the frame is a source */
#define FORM_GPR_OUT  BIT(3)
#define FORM_LENGTHS  BIT(4) /* RAX and RDX are sources: PCMPESTRx */
#define FORM_RCX_OUT  BIT(5) /* PCMPxSTRI */
#define FORM_FLAGS    BIT(6) /* writes RFLAGS */
#define FORM_FLAGS_IN BIT(7)
#define FORM_MXCSR    BIT(8) /* rounds, or raises SIMD exceptions */
#define FORM_VEX      BIT(9)
#define FORM_SSE      BIT(10) /* names an XMM register in a legacy encoding */
#define FORM_MMX      BIT(11) /* makes the x87 registers MMX registers */
#define FORM_X87      BIT(12)

struct native_op {
	struct native_form form;
	native_code code;
};

/* The operation of an instruction that a native pick function has accepted. */
static inline const struct native_op *native_op(const struct insn *i)
{
	return (const struct native_op *)(uintptr_t)i->imm;
}

int native_new(struct cpu *c);
void native_free(struct native *n);
struct native_frame *native_frame(const struct cpu *c);
/* Fills a table by ISA set from the CPUID model: native_pick.c. */
void native_list_offers(const struct cpu *c, bool offers[ZYDIS_ISA_SET_MAX_VALUE + 1]);
/* Whether the guest's CPU has the instruction set extension. */
bool native_offers(const struct cpu *c, ZydisISASet set);
/* The operation for a form, made when it is new; NULL when there is no room: use native_no_room. */
const struct native_op *native_find(struct cpu *c, const struct native_form *f);
/* Drops all operations and decoded instructions, then executes the instruction again. */
void native_no_room(struct cpu *c, const struct insn *i);
/*
 * Runs a stub with the guest's MXCSR; true when an unmasked SIMD exception left it with nothing but
 * the MXCSR flags changed.
 */
bool native_run_trapping(const struct native_op *op, struct native_frame *f, void *mem, void *v0,
                         void *v1, void *v2, void *v3);

/* native_encode.c: the form of a decoded instruction; false when it cannot be expressed. */
bool native_encode(const struct op_decode *d, struct native_form *f, struct insn *i);
void native_encode_x87(const struct op_decode *d, struct native_form *f);

/* native.c: run a stub. Registers only (rr) or one memory source (rm); any does the rest. */
void native_sse_rr(struct cpu *c, const struct insn *i);
void native_sse_rm(struct cpu *c, const struct insn *i);
void native_sse_rr_rounding(struct cpu *c, const struct insn *i);
void native_sse_rm_rounding(struct cpu *c, const struct insn *i);
void native_avx_rr(struct cpu *c, const struct insn *i);
void native_avx_rm(struct cpu *c, const struct insn *i);
void native_avx_rr_rounding(struct cpu *c, const struct insn *i);
void native_avx_rm_rounding(struct cpu *c, const struct insn *i);
void native_any(struct cpu *c, const struct insn *i);
void native_convert_store(struct cpu *c, const struct insn *i);

/* native_pick.c, native_move.c, native_mask.c, native_x87.c: choose an instruction's routine. */
insn_fn native_pick_vector(const struct op_decode *d, struct insn *i);
insn_fn native_pick_movsd(const struct op_decode *d, struct insn *i);
insn_fn native_pick_cmpsd(const struct op_decode *d, struct insn *i);
insn_fn native_pick_move(const struct op_decode *d, struct insn *i);
insn_fn native_pick_masked(const struct op_decode *d, struct insn *i);
insn_fn native_pick_gather(const struct op_decode *d, struct insn *i);
insn_fn native_pick_x87(const struct op_decode *d, struct insn *i);
insn_fn native_pick_maskmov(const struct op_decode *d, struct insn *i);
insn_fn native_pick_vzero(const struct op_decode *d, struct insn *i);

/*
 * Guest registers in memory. A slot number counts 16-byte units from the x87 registers: MMn is n
 * (once TOP is 0), XMMn is 8 + n.
 */
#define SLOT_OF_XMM 8
_Static_assert(FPU_XMM == FPU_ST + 16 * SLOT_OF_XMM, "slots are contiguous");

static inline uint8_t *fpu_slot(struct cpu *c, unsigned slot)
{
	return c->fpu.area + FPU_ST + 16 * slot;
}

/* MMX instructions see the physical registers: TOP becomes 0 and all of them valid. */
void native_enter_mmx(struct cpu *c);

/* Where to read a memory operand: guest memory, or the bounce buffer filled from it. */
void *native_read_slow(struct cpu *c, gva_t va, unsigned size, unsigned seg);
/* Where to write one: guest memory, or NULL when native_write_out has to carry it there; a fault
 * has been raised by then either way. */
void *native_write_slow(struct cpu *c, gva_t va, unsigned size, unsigned seg);
void native_write_out(struct cpu *c, gva_t va, const void *data, unsigned size, unsigned seg);

static inline void check_align(struct cpu *c, gva_t va, unsigned align)
{
	if (unlikely(align && (va & (align - 1))))
		cpu_raise(c, EXC_GP, 0);
}
static inline void *native_read(struct cpu *c, gva_t va, unsigned size, unsigned seg)
{
	const struct tlb_entry *t = access_tlb(c, va);

	if (likely(t->read == access_tag(c, va, size)))
		return (void *)(va + t->addend);
	return native_read_slow(c, va, size, seg);
}
static inline void *native_write(struct cpu *c, gva_t va, unsigned size, unsigned seg)
{
	const struct tlb_entry *t = access_tlb(c, va);

	if (likely(t->write == access_tag(c, va, size))) {
		access_check_code(c, va + t->addend);
		return (void *)(va + t->addend);
	}
	return native_write_slow(c, va, size, seg);
}

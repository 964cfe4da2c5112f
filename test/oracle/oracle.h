/*
 * The host CPU as oracle: what the generator, the two sides and the comparison share.
 *
 * A case is a sequence of instructions with the state it starts from. A batch of cases is run by a
 * `side`: the host CPU in a sandboxed child (native.c), or one of our engines (engine.c). Both map
 * the same memory at the same addresses, start each case from its state, and stop it by the
 * exception that ends it: the breakpoint after the last instruction, or a fault on the way. The
 * outcome is the state at that exception as its handler sees it.
 */
#pragma once

#include <Zydis/Zydis.h>
#include "base/base.h"
#include "cpu/cpu.h"

#define ORACLE_BATCH 64
#define ORACLE_INSNS 16 /* in a sequence, at most */

/* A slot holds the longest sequence and its breakpoint. It is no divisor of the page size, so that
 * some slots lie across a page boundary. */
#define ORACLE_SLOT 272

/* Guest virtual addresses, below 2 GiB so that every addressing form reaches them. All around each
 * area is unmapped. */
#define ORACLE_CODE        0x10000000ull /* read and execute */
#define ORACLE_CODE_BYTES  (5 * PAGE_SIZE)
#define ORACLE_DATA        0x20000000ull /* read and write, then one page read-only */
#define ORACLE_DATA_BYTES  (2 * PAGE_SIZE)
#define ORACLE_RODATA      (ORACLE_DATA + ORACLE_DATA_BYTES)
#define ORACLE_STACK       0x30000000ull
#define ORACLE_STACK_BYTES (2 * PAGE_SIZE)
/* A byte that loops count down; it is beyond what RSP and RBP reach. */
#define ORACLE_COUNTER (ORACLE_STACK + ORACLE_STACK_BYTES - 64)
_Static_assert(ORACLE_BATCH *ORACLE_SLOT <= ORACLE_CODE_BYTES, "slots fit the code area");

/* Segment selectors as Linux has them, so that reading CS and SS agrees. */
#define ORACLE_USER_CS 0x33
#define ORACLE_USER_SS 0x2b

/* Outcomes that are not exceptions. */
enum { ORACLE_SYSCALL = 0x100, ORACLE_HUNG, ORACLE_DIED };

struct oracle_state {
	uint64_t gpr[16];
	uint64_t rip, rflags, fs_base, gs_base;
	/* Of an outcome: the exception, its error code, CR2 for a page fault; or ORACLE_*. */
	uint64_t cr2;
	uint32_t vector, error;
	struct fpu fpu;
};

struct oracle_memory {
	uint8_t data[ORACLE_DATA_BYTES];
	uint8_t stack[ORACLE_STACK_BYTES];
};

struct oracle_batch {
	unsigned nr;
	uint8_t code[ORACLE_CODE_BYTES];
	uint8_t rodata[PAGE_SIZE];
	struct oracle_memory initial; /* every case of the batch starts from it */
	struct oracle_state in[ORACLE_BATCH];
};

struct oracle_outcome {
	struct oracle_state out[ORACLE_BATCH];
	struct oracle_memory memory[ORACLE_BATCH];
};

/* One of the two sides of the comparison. */
struct oracle_side;
struct oracle_side_ops {
	const char *name;
	/* Runs the batch. The result is the side's own, valid until the next call; NULL when the
	 * side broke down for a reason on our side, which it has printed. */
	const struct oracle_outcome *(*run)(struct oracle_side *s, const struct oracle_batch *b);
	void (*free)(struct oracle_side *s);
};
struct oracle_side {
	const struct oracle_side_ops *ops;
};

/* 0 or -errno, with a message on stderr. */
int oracle_native_new(struct oracle_side **out);
/* -ENOTSUP, said on stderr, when this host has no such engine or not the classes for it. */
int oracle_engine_new(struct oracle_side **out, const char *engine, unsigned classes);
/* User code may use RDFSBASE and its like: the engine's CR4 must agree. */
bool oracle_host_has_fsgsbase(void);

/* The one call that a test of an engine needs: runs the batch and returns what came out. */
static inline const struct oracle_outcome *oracle_run_engine(struct oracle_side *s,
                                                             const struct oracle_batch *b)
{
	return s->ops->run(s, b);
}

enum oracle_class { CLASS_INTEGER, CLASS_X87, CLASS_SSE, CLASS_AVX, CLASS_COUNT };
extern const char *const oracle_class_name[CLASS_COUNT];

/* What the generator knows about an instruction it made. */
struct oracle_insn {
	ZydisMnemonic mnemonic;
	enum oracle_class class;
	uint8_t offset; /* in the sequence */
	uint8_t len;
	/* Flags without a defined value before this instruction executes, RFLAGS_*. The entry one
	 * past the last instruction holds those that are undefined at the end. */
	uint32_t undefined;
};
struct oracle_sequence {
	unsigned nr;
	bool loop; /* the last two instructions count down and jump back to the start */
	uint8_t bytes[ORACLE_SLOT];
	struct oracle_insn insn[ORACLE_INSNS + 1];
};

struct oracle_rng {
	uint64_t s;
};
uint64_t rng_next(struct oracle_rng *r);
/* 0..n-1 */
static inline uint32_t rng_below(struct oracle_rng *r, uint32_t n)
{
	return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}
static inline bool rng_chance(struct oracle_rng *r, unsigned percent)
{
	return rng_below(r, 100) < percent;
}

/* generate.c: a sequence of instructions of the classes in the mask, for execution at address. */
struct oracle_generator {
	struct oracle_rng rng;
	unsigned classes; /* mask of BIT(CLASS_*) */
	ZydisDecoder decoder;
};
void oracle_generate(struct oracle_generator *g, uint64_t address, struct oracle_sequence *seq);

/* state.c: a state to start from, and memory, full of the values that make trouble. */
void oracle_random_state(struct oracle_rng *r, struct oracle_state *s);
void oracle_random_memory(struct oracle_rng *r, struct oracle_memory *m, uint8_t rodata[PAGE_SIZE]);

/* compare.c */
enum {
	DIFF_GPR = 1,
	DIFF_RIP = 2,
	DIFF_FLAGS = 4,
	DIFF_EXCEPTION = 8, /* vector, error code, CR2 */
	DIFF_X87 = 16,
	DIFF_SSE = 32, /* XMM, YMM, MXCSR */
	DIFF_MEMORY = 64,
	DIFF_BASES = 128,
};
/* The engine's own host stands between it and the CPU: KVM without virtualization hardware, which
 * emulates what faults in ring 3, and loses RFLAGS.NT there. */
void oracle_host_emulates(void);
/* Did the case end, on the CPU, where such a host would have looked at the instruction? */
bool oracle_is_emulated(const struct oracle_state *native);
bool oracle_may_set_nt(void); /* else NT is not to be set in ring 3 */
/* The DIFF_* bits in which two outcomes differ, except in undefined flags. */
unsigned oracle_compare(const struct oracle_state *a, const struct oracle_memory *ma,
                        const struct oracle_state *b, const struct oracle_memory *mb,
                        uint32_t undefined);
/* Why the difference of one instruction is allowed, or NULL. */
const char *oracle_excuse(const struct oracle_state *in, const ZydisDecodedInstruction *z,
                          const ZydisDecodedOperand *op, unsigned diff,
                          const struct oracle_state *native, const struct oracle_state *engine);
void oracle_print_difference(const struct oracle_state *a, const struct oracle_memory *ma,
                             const struct oracle_state *b, const struct oracle_memory *mb,
                             uint32_t undefined);

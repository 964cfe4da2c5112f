/*
 * The x86-64 instruction set as data: what a translator has to know of an instruction that Zydis
 * has decoded. In the terms of Popek and Goldberg, instructions of class ISA_PLAIN and ISA_VECTOR
 * are innocuous; ISA_OTHER holds those that are privileged, that depend on or change the machine's
 * mode or resources, and those too rare to be worth telling apart.
 */
#pragma once

#include <Zydis/Zydis.h>
#include "base/base.h"

enum isa_class {
	ISA_OTHER,
	ISA_OTHER_END, /* the same, and what follows is seldom next */
	ISA_PLAIN,     /* general registers, at most one memory operand, flags */
	ISA_DIVIDE,    /* the same, and may raise #DE */
	ISA_VECTOR,    /* SSE and AVX registers, too; the caller checks that the CPU has them */
	ISA_NOTHING,   /* no effect */
	ISA_LEA,
	ISA_PUSH,
	ISA_POP,
	ISA_LEAVE,
	ISA_CALL,
	ISA_JMP,
	ISA_JCC,
	ISA_JCXZ, /* by RCX or ECX, as LOOP */
	ISA_LOOP,
	ISA_RET,
	ISA_CLI,
	ISA_STI,
	ISA_STAC,
	ISA_CLAC,
	ISA_SWAPGS,
	ISA_PUSHF,
	ISA_POPF,
	ISA_CLD,
	ISA_MOVS, /* repeated, as STOS */
	ISA_STOS,
	ISA_SYSCALL,
	ISA_SYSRET,
	ISA_RDTSC,
	ISA_RDTSCP,
	ISA_BASE, /* RDFSBASE and its like */
	ISA_RDPKRU,
	ISA_FROM_SEGMENT, /* MOV of a segment register to a general one */
	ISA_X87, /* registers, at most one memory operand; no change of masks or of all state */
	ISA_FLDCW,
	ISA_BIT, /* BT and its like, in memory, by a register */
};

enum isa_class isa_class(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op);

/* Arithmetic flags, as RFLAGS has them. */
#define ISA_FLAGS 0x8d5u
struct isa_flags {
	uint32_t reads;  /* or leaves some as they are while it writes others */
	bool reads_cf;   /* reads or leaves only CF, and writes all others */
	bool writes_all; /* whatever the operands, to a value or an undefined one */
	bool writes;
};
struct isa_flags isa_flags(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op);

/* SETcc or CMOVcc? */
bool isa_is_conditional(const ZydisDecodedInstruction *z);

/* Condition code of a Jcc, SETcc or CMOVcc: the low bits of its opcode. */
static inline unsigned isa_condition(const ZydisDecodedInstruction *z)
{
	return z->opcode & 15;
}

/* Bytes that the address of a vector instruction's memory operand must be a multiple of, 0 if any
 * will do (SDM 1 14.9). */
unsigned isa_alignment(const ZydisDecodedInstruction *z, unsigned size);

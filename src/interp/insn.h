/*
 * A decoded instruction, and the contract of the routines that execute one.
 *
 * decode.c turns bytes into a struct insn by Zydis and picks `fn`; a block is an array of them.
 * When fn runs, cpu->rip is already the address of the next instruction; cpu->cur is the
 * instruction. A routine that changes what the rest of the block was decoded for (RIP, mode,
 * paging, privilege, interrupt flag) must be decoded with INSN_END, so that it is the block's last.
 */
#pragma once

#include "cpu/cpu.h"

typedef void (*insn_fn)(struct cpu *c, const struct insn *i);

/* Byte registers AH, CH, DH, BH are numbers 16 to 19 in a byte operand. */
struct insn {
	insn_fn fn;
	int64_t imm;  /* immediate sign extended to 64 bits; branch displacement; far pointer offset
	               */
	int32_t disp; /* of the memory operand */
	uint8_t len;  /* bytes, 1..15 */
	uint8_t dst;  /* first register operand: number 0..15 (see above for bytes) */
	uint8_t src;  /* second register operand */
	uint8_t base, index,
	        scale; /* memory operand: gpr numbers or GPR_ZERO, GPR_RIP; scale is a shift 0..3 */
	uint8_t seg;   /* enum seg of the memory operand */
	uint8_t opsize; /* operand size in bytes: 1, 2, 4, 8 */
	uint8_t asize;  /* address size in bytes: 2, 4, 8 */
	uint8_t flags;  /* INSN_* */
	uint8_t aux;    /* what the routine wants: condition, shift kind, register number of a third
	                   operand */
	uint8_t aux2;
};
_Static_assert(sizeof(struct insn) == 32, "two instructions to a cache line");

#define INSN_MEM   0x01 /* has a memory operand (in dst's or src's place) */
#define INSN_LOCK  0x02
#define INSN_REP   0x04 /* F3 */
#define INSN_REPNE 0x08 /* F2 */
#define INSN_SLOW  0x10 /* effective address needs the segment base, a limit check or truncation */
#define INSN_END   0x20 /* last of its block */
#define INSN_REX   0x40

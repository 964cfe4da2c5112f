/*
 * Instructions that share a mnemonic with a common one: far JMP, CALL and RET, and MOV, PUSH and
 * POP of segment, control and debug registers. Private to src/interp.
 */
#pragma once

#include "interp/ops.h"

/* The routine for one of those forms, with INSN_END set where it is due; NULL for every other form
 * of these mnemonics (near branches, general registers). */
insn_fn far_pick(const struct op_decode *d, struct insn *i);

/* By mnemonic, for far_pick(). */
insn_fn segment_pick(const struct op_decode *d,
                     struct insn *i); /* MOV, PUSH, POP of a segment register */
insn_fn segment_pick_far(const struct op_decode *d, struct insn *i); /* LDS, LES, LFS, LGS, LSS */
insn_fn crmove_pick(const struct op_decode *d, struct insn *i);      /* MOV of CRn and DRn */

/* The selector of the far pointer in memory that i names; its offset goes to *off. */
uint16_t far_load_pointer(struct cpu *c, const struct insn *i, uint64_t *off);

/* The software interrupts and returns that ops_far lists. */
void op_iret(struct cpu *c, const struct insn *i);
void op_syscall(struct cpu *c, const struct insn *i);
void op_sysret(struct cpu *c, const struct insn *i);
void op_sysenter(struct cpu *c, const struct insn *i);
void op_sysexit(struct cpu *c, const struct insn *i);

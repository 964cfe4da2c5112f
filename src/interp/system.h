/* The routines that the table in system.c lists from its sister files. Private to src/interp. */
#pragma once

#include "interp/segment.h"

/* #GP(0) unless CPL is 0. */
static inline void require_cpl0(struct cpu *c)
{
	if (c->cpl != 0)
		cpu_raise(c, EXC_GP, 0);
}
/* UMIP: #GP(0) for SGDT, SIDT, SLDT, STR and SMSW outside CPL 0 (SDM 3A 2.5). */
static inline void require_no_umip(struct cpu *c)
{
	if (c->cpl != 0 && c->cr4 & CR4_UMIP)
		cpu_raise(c, EXC_GP, 0);
}

/* crmove.c */
void op_clts(struct cpu *c, const struct insn *i);
void op_lmsw(struct cpu *c, const struct insn *i);
void op_smsw(struct cpu *c, const struct insn *i);

/* desctable.c */
void op_lgdt(struct cpu *c, const struct insn *i);
void op_lidt(struct cpu *c, const struct insn *i);
void op_sgdt(struct cpu *c, const struct insn *i);
void op_sidt(struct cpu *c, const struct insn *i);
void op_lldt(struct cpu *c, const struct insn *i);
void op_ltr(struct cpu *c, const struct insn *i);
void op_sldt(struct cpu *c, const struct insn *i);
void op_str(struct cpu *c, const struct insn *i);
void op_lar(struct cpu *c, const struct insn *i);
void op_lsl(struct cpu *c, const struct insn *i);
void op_verr(struct cpu *c, const struct insn *i);
void op_verw(struct cpu *c, const struct insn *i);
void op_arpl(struct cpu *c, const struct insn *i);

/* io.c */
insn_fn io_pick_in(const struct op_decode *d, struct insn *i);
insn_fn io_pick_out(const struct op_decode *d, struct insn *i);
insn_fn io_pick_string(const struct op_decode *d, struct insn *i);

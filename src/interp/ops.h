/*
 * The table that joins mnemonics to routines: one row an instruction, each file of routines exports
 * its rows, decode.c fills the operands and calls pick (or takes fn).
 *
 * Operands as decode.c leaves them in struct insn, by position: a register that is operand 0 goes
 * to dst, operand 1 to src, operand 2 to aux, operand 3 to aux2 (general, segment, control, debug,
 * vector and x87 registers by their number; AH..BH 16..19); a memory operand sets INSN_MEM and
 * base/index/scale/disp/seg in whichever position it stands; an immediate goes to imm. opsize is
 * the effective operand size in bytes.
 *
 * A mnemonic may have rows in two tables (MOV of general and of control registers): the later table
 * is asked first, and a pick that returns NULL passes the question on; nobody's answer is #UD.
 */
#pragma once

#include <Zydis/Zydis.h>
#include "interp/insn.h"

struct op_decode {
	struct cpu *c;
	const ZydisDecodedInstruction *z;
	const ZydisDecodedOperand *op; /* all of them, z->operand_count; visible ones first */
	const uint8_t *bytes;
};

struct op_row {
	ZydisMnemonic mnemonic;
	uint8_t flags;                                              /* INSN_END and others to set */
	insn_fn fn;                                                 /* or NULL: */
	insn_fn (*pick)(const struct op_decode *d, struct insn *i); /* NULL from it: #UD */
};

/* Each ends with a row whose fn and pick are NULL. */
extern const struct op_row ops_alu[];
extern const struct op_row ops_shift[];
extern const struct op_row ops_muldiv[];
extern const struct op_row ops_bits[];
extern const struct op_row ops_bcd[];
extern const struct op_row ops_move[];
extern const struct op_row ops_stack[];
extern const struct op_row ops_string[];
extern const struct op_row ops_control[]; /* near branches */
extern const struct op_row ops_far[];     /* far transfers, INT, IRET, SYSCALL */
extern const struct op_row ops_system[];  /* CR, DR, MSR, descriptor tables, I/O, HLT, CPUID ... */
extern const struct op_row ops_fpu[];     /* FXSAVE, XSAVE, LDMXCSR, EMMS ... */
extern const struct op_row ops_native[];  /* x87, SSE, AVX: run on the host */

/* Which of two operands is what: Register, Memory, Immediate. */
enum op_form { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORMS };
enum op_form op_form(const struct op_decode *d);

/* Raise #UD. */
void op_undefined(struct cpu *c, const struct insn *i);

/* string.c: leaves a repeated instruction unfinished; it goes on from its registers when RIP, which
 * stays on it, is reached again. RF is set meanwhile, so that a breakpoint on it does not hit twice
 * (SDM 3B 17.3.1.1). */
void op_again(struct cpu *c, const struct insn *i);

/* event.c: delivery of exceptions and interrupts. soft: INT n, INT3, INTO (checks DPL; RIP pushed
 * is cpu->rip); otherwise a fault or an external event. May raise a nested fault. */
enum event_kind { EVENT_FAULT, EVENT_EXTERNAL, EVENT_SOFT, EVENT_SOFT_INT1 };
void event_deliver(struct cpu *c, unsigned vector, bool has_error, uint32_t error,
                   enum event_kind kind);

/* segment.c: what far transfers and segment loads share. */
struct descriptor {
	uint32_t lo, hi;
};
/* Reads the descriptor of a selector from GDT or LDT; false when outside the table's limit. */
bool descriptor_read(struct cpu *c, uint16_t sel, struct descriptor *d);
void segment_from_descriptor(struct segment *s, uint16_t sel, const struct descriptor *d);
/* MOV/POP to ES, SS, DS, FS, GS with all checks; raises. */
void segment_load(struct cpu *c, unsigned seg, uint16_t sel);
/* task.c: hardware task switch (32-bit TSS and 16-bit TSS). */
enum task_reason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_GATE };
void task_switch(struct cpu *c, uint16_t tss_sel, enum task_reason why, bool has_error,
                 uint32_t error);

/* Sets CPL and everything that hangs on it (the TLB in force). */
void cpu_set_cpl(struct cpu *c, unsigned cpl);

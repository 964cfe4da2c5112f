/*
 * Segments, descriptors and stacks as far transfers and event delivery need them. Private to
 * src/interp. Descriptor fields as in SDM 3A figure 3-8, `hi` being its second doubleword.
 */
#pragma once

#include "interp/ops.h"

#define DESC_TYPE(d) ((d)->hi >> 8 & 0xf)
#define DESC_DPL(d)  ((d)->hi >> 13 & 3)
#define DESC_S       BIT(12)
#define DESC_P       BIT(15)
#define DESC_L       BIT(21)
#define DESC_DB      BIT(22)
#define DESC_G       BIT(23)

/* System descriptor types, SDM 3A table 3-2. */
enum {
	TYPE_TSS16 = 1,
	TYPE_LDT = 2,
	TYPE_TSS16_BUSY = 3,
	TYPE_CALL16 = 4,
	TYPE_TASK_GATE = 5,
	TYPE_INT16 = 6,
	TYPE_TRAP16 = 7,
	TYPE_TSS32 = 9,
	TYPE_TSS32_BUSY = 11,
	TYPE_CALL32 = 12,
	TYPE_INT32 = 14,
	TYPE_TRAP32 = 15,
};
#define TYPE_BUSY BIT(1)
#define TYPE_32   BIT(3) /* of TSS and gates: 32-bit form */

static inline bool desc_is_code(const struct descriptor *d)
{
	return d->hi & DESC_S && d->hi & BIT(11);
}
static inline bool desc_is_conforming(const struct descriptor *d)
{
	return desc_is_code(d) && d->hi & BIT(10);
}
static inline bool desc_is_writable(const struct descriptor *d)
{
	return d->hi & DESC_S && !(d->hi & BIT(11)) && d->hi & BIT(9);
}
static inline bool desc_is_readable(const struct descriptor *d)
{
	return d->hi & DESC_S && (!(d->hi & BIT(11)) || d->hi & BIT(9));
}
static inline bool selector_is_null(uint16_t sel)
{
	return !(sel & 0xfffc);
}
static inline bool cpu_protected(const struct cpu *c)
{
	return c->cr0 & CR0_PE;
}
static inline bool cpu_v86(const struct cpu *c)
{
	return c->rflags & RFLAGS_VM;
}
/* Neither descriptor tables nor privilege: real or virtual-8086 mode. */
static inline bool cpu_real_or_v86(const struct cpu *c)
{
	return !cpu_protected(c) || cpu_v86(c);
}
static inline unsigned cpu_iopl(const struct cpu *c)
{
	return c->rflags >> 12 & 3;
}

/* A fault that names a selector; sets EXT while an event is being delivered. */
_Noreturn void segment_raise(struct cpu *c, int vector, uint16_t sel);

uint32_t descriptor_base(const struct descriptor *d);
/* Linear address of a descriptor; false when outside its table or, for size 16, when it would leave
 * it. */
bool descriptor_locate(struct cpu *c, uint16_t sel, unsigned size, gva_t *va);
/* The upper half of the base of a 16-byte descriptor; raises #GP(sel) when it is malformed. */
uint32_t descriptor_read_upper(struct cpu *c, uint16_t sel);
/* Sets the accessed bit of a code or data descriptor, in memory and in *d. */
void descriptor_set_accessed(struct cpu *c, uint16_t sel, struct descriptor *d);

/* Loads a real-mode or virtual-8086 segment. */
void segment_load_real(struct cpu *c, unsigned seg, uint16_t sel);
void segment_load_v86(struct cpu *c, unsigned seg, uint16_t sel);
void segment_load_null(struct cpu *c, unsigned seg, uint16_t sel);
/* A flat 4 GiB segment, as SYSCALL and its kin load them without reading a descriptor. */
struct segment segment_flat(uint16_t sel, uint32_t attr);
#define ATTR_FLAT_CODE64 0xa09bu
#define ATTR_FLAT_CODE32 0xc09bu
#define ATTR_FLAT_DATA   0xc093u

/* Reads and checks the descriptor of a new SS for privilege cpl; faults are `vector` (#GP or #TS),
 * or #SS when not present. */
void stack_segment_read(struct cpu *c, uint16_t sel, unsigned cpl, int vector, struct segment *out);

/* Commits a transfer: CS with RPL = cpl, RIP, CPL and all that follows from them. */
void code_enter(struct cpu *c, const struct segment *cs, uint64_t rip, unsigned cpl);
/* #GP(0) when rip lies outside the segment, or is not canonical in 64-bit mode. */
void code_check_rip(struct cpu *c, const struct segment *cs, uint64_t rip);
static inline bool code_is_64(const struct cpu *c, const struct segment *cs)
{
	return cpu_long_mode(c) && cs->attr & SEG_L;
}

/* A stack in the making: what is pushed reaches memory, SS:rSP change only at stack_commit(). */
struct stack {
	struct segment ss;
	uint64_t sp;
	unsigned cpl;  /* that the pushes run at */
	bool wide;     /* 64-bit: no segment, no limit */
	uint16_t name; /* selector for the error code of #SS: 0 for the stack in use */
};
struct stack stack_current(const struct cpu *c);
void stack_store(struct cpu *c, struct stack *s, unsigned size, uint64_t value);
void stack_commit(struct cpu *c, const struct stack *s);
/* The stack that the TSS has for an inner privilege level (SDM 3A 7.2.1, 7.7). */
struct stack stack_from_tss(struct cpu *c, unsigned cpl);
/* rSP := value, as wide as the stack segment says. */
void stack_set_pointer(struct cpu *c, uint64_t value);
/* After a return to an outer level: data segments that the new level may not use become null. */
void segments_drop_inner(struct cpu *c);

/* RFLAGS from POPF, IRET or a task switch: takes the bits in mask, tells the MMU about AC. */
void flags_load(struct cpu *c, uint64_t value, uint64_t mask);

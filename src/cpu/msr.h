/*
 * Model-specific registers: one table says which exist, for which vendor, and what a write may
 * hold.
 */
#pragma once

#include "cpu/cpu.h"

#define MSR_TSC          0x10
#define MSR_EFER         0xc0000080
#define MISC_ENABLE_FAST BIT(0)
#define DEBUGCTL_LBR     BIT(0)
#define DEBUGCTL_BTF     BIT(1)
/* Fast strings on; branch trace storage and PEBS unavailable (SDM 4, IA32_MISC_ENABLE). */
#define MISC_ENABLE_DEFAULT (MISC_ENABLE_FAST | BIT(11) | BIT(12))
/* EFER.AIBRSE: automatic IBRS (AMD APM 2, 3.1.7). Means nothing to an interpreter, but is kept. */
#define EFER_AIBRSE BIT(21)

enum msr_result {
	MSR_OK,
	MSR_FAULT,  /* raise #GP(0) */
	MSR_PAGING, /* done, and address translation changed: the caller tells the MMU */
};

/* RDMSR and WRMSR by a caller that has checked CPL. Registers that the machine keeps (local APIC,
 * PV clock) are asked for through cpu->ops->exit(). */
enum msr_result msr_read(struct cpu *c, uint32_t index, uint64_t *value);
enum msr_result msr_write(struct cpu *c, uint32_t index, uint64_t value);

/* True when the address is canonical for the linear width in force (SDM 1 3.3.7.1). */
static inline bool msr_canonical(const struct cpu *c, uint64_t va)
{
	unsigned shift = c->cr4 & CR4_LA57 ? 7 : 16;

	return (uint64_t)((int64_t)(va << shift) >> shift) == va;
}

/* From any thread: the local APIC's timer asks too. */
static inline uint64_t cpu_tsc(const struct cpu *c)
{
	return clock_tsc() + (uint64_t)__atomic_load_n(&c->msr.tsc_offset, __ATOMIC_RELAXED);
}

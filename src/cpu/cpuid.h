/*
 * What CPUID says: a model is a list of leaves built once for a machine, and a query adds the few
 * bits that depend on the vCPU's state.
 */
#pragma once

#include "cpu/cpu.h"

#define CPUID_PHYS_BITS 40 /* width of a guest physical address */

struct cpuid_model;

/*
 * Builds the model `name` ("host": what the host has and we execute) for a package of vcpus
 * single-thread cores. 0, -EINVAL with a line in err when the name is unknown or vcpus is out of
 * 1..256, or -ENOMEM. Immutable afterwards and shared by all vCPUs.
 */
int cpuid_model_new(struct cpuid_model **out, const char *name, unsigned vcpus, uint64_t tsc_hz,
                    char *err, size_t err_size);
void cpuid_model_free(struct cpuid_model *m);

/* EAX, EBX, ECX, EDX; all zero for leaves that do not exist. Leaf 1's APIC bit is set: the caller
 * clears it when the local APIC is disabled. */
void cpuid_query(const struct cpu *c, uint32_t leaf, uint32_t sub, uint32_t out[4]);

/* Facts that MSRs derive from the model; false and 0 without one. */
bool cpuid_is_amd(const struct cpuid_model *m);
uint64_t cpuid_microcode(const struct cpuid_model *m);  /* as IA32_BIOS_SIGN_ID reads */
uint64_t cpuid_base_ratio(const struct cpuid_model *m); /* TSC frequency in units of 100 MHz */

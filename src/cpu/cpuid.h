/*
 * What CPUID says: a model is a list of leaves built once for a machine, and a query adds the few
 * bits that depend on the vCPU's state.
 */
#pragma once

#include "cpu/cpu.h"

#define CPUID_PHYS_BITS 40 /* width of a guest physical address */

#define CPUID_MAX_LEAVES   64
#define CPUID_OFFER_LEAVES 128

struct cpuid_model;

struct cpuid_leaf {
	uint32_t leaf, sub;
	uint32_t r[4]; /* EAX, EBX, ECX, EDX */
};

/* What an engine other than our own code can execute: CPUID as it would answer itself. */
struct cpuid_offer {
	const char *engine; /* for messages */
	unsigned nr;
	struct cpuid_leaf leaf[CPUID_OFFER_LEAVES];
	uint64_t arch_capabilities; /* IA32_ARCH_CAPABILITIES */
	bool steal_time;            /* KVM's MSR for it */
};

/*
 * Builds the model `name` for a package of vcpus single-thread cores: "host" has everything that
 * the host, the engine and we know of; a named one exactly the features of its list. offer is the
 * engine's, NULL for the software engines. 0; -EINVAL with a line in err when the name is unknown
 * or vcpus is out of 1..256; -ENOTSUP with a line that names the features that the engine has not;
 * or -ENOMEM. Immutable afterwards and shared by all vCPUs.
 */
int cpuid_model_new(struct cpuid_model **out, const char *name, const struct cpuid_offer *offer,
                    unsigned vcpus, uint64_t tsc_hz, char *err, size_t err_size);
void cpuid_model_free(struct cpuid_model *m);
/* The names, NULL after the last. */
const char *cpuid_model_name(unsigned n);

/* The leaves of the model, one after the other, with what is the vCPU's own filled in; the bits
 * that change while it runs are as they are now. */
unsigned cpuid_count(const struct cpuid_model *m);
struct cpuid_leaf cpuid_leaf_of(const struct cpu *c, unsigned n);
/* Leaves whose answer depends on ECX; the others ignore it. */
bool cpuid_has_subleaves(uint32_t leaf);

/* EAX, EBX, ECX, EDX; all zero for leaves that do not exist. Leaf 1's APIC bit is set: the caller
 * clears it when the local APIC is disabled. */
void cpuid_query(const struct cpu *c, uint32_t leaf, uint32_t sub, uint32_t out[4]);

/* Facts that MSRs derive from the model; false and 0 without one. */
bool cpuid_is_amd(const struct cpuid_model *m);
uint64_t cpuid_arch_capabilities(const struct cpuid_model *m);
uint64_t cpuid_microcode(const struct cpuid_model *m);  /* as IA32_BIOS_SIGN_ID reads */
uint64_t cpuid_base_ratio(const struct cpuid_model *m); /* TSC frequency in units of 100 MHz */

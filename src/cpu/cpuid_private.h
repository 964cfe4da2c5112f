/* Shared by cpuid.c (leaves) and cpuid_features.c (which feature bits to show). */
#pragma once

#include "cpu/cpuid.h"

enum { EAX, EBX, ECX, EDX };

/* Lists of features, each holding the one before it. */
enum cpuid_level { LEVEL_HOST, LEVEL_V1, LEVEL_V2, LEVEL_V3, LEVEL_V4 };

struct cpuid_model {
	bool amd;
	enum cpuid_level level;
	const struct cpuid_offer *offer; /* only while it is being built */
	uint64_t arch_capabilities;
	unsigned vcpus;
	unsigned id_bits; /* of the APIC id that number cores: ceil(log2(vcpus)) */
	uint64_t tsc_hz;
	unsigned nr;
	struct cpuid_leaf leaf[CPUID_MAX_LEAVES];
};

/* What the host itself answers; zeros past its highest leaf. */
void cpuid_host(uint32_t leaf, uint32_t sub, uint32_t r[4]);
/* What the engine's offer says, or the host; zeros for what it does not have. */
void cpuid_offered(const struct cpuid_offer *offer, uint32_t leaf, uint32_t sub, uint32_t r[4]);
/* The feature bits of one output register of the model. */
uint32_t cpuid_features(const struct cpuid_model *m, uint32_t leaf, uint32_t sub, unsigned reg);
/* Names of what the model's list has and its engine has not, with commas between; how many. */
unsigned cpuid_missing(const struct cpuid_model *m, char *buf, size_t size);

/* Shared by cpuid.c (leaves) and cpuid_features.c (which feature bits to show). */
#pragma once

#include "cpu/cpuid.h"

enum { EAX, EBX, ECX, EDX };

#define CPUID_MAX_LEAVES 64

struct cpuid_leaf {
	uint32_t leaf, sub;
	uint32_t r[4];
};

struct cpuid_model {
	bool amd;
	unsigned vcpus;
	unsigned id_bits; /* of the APIC id that number cores: ceil(log2(vcpus)) */
	uint64_t tsc_hz;
	unsigned nr;
	struct cpuid_leaf leaf[CPUID_MAX_LEAVES];
};

/* What the host itself answers; zeros past its highest leaf. */
void cpuid_host(uint32_t leaf, uint32_t sub, uint32_t r[4]);
/* The feature bits of one output register for a host of this vendor. */
uint32_t cpuid_features(uint32_t leaf, uint32_t sub, unsigned reg, bool amd);

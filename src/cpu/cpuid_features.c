/*
 * Which feature bits a guest sees. What is not in the table is hidden; among the hidden on purpose:
 * AVX-512, AMX, XOP, FMA4, 3DNow!, MPX, TSX, CET and MOVDIR64B (not executed), SVM, VMX, SMX
 * (nothing to nest), performance counters, IBS, PT, OSVW (their MSRs do not exist), CLZERO and
 * MISALIGNSSE (quirks of one vendor that nobody needs).
 *
 * Sources: SDM volume 2A CPUID, AMD APM volume 3 appendix E.
 */
#include "cpu/cpuid_private.h"

enum show {
	HOST,  /* executed on the host's own unit, so only where the host has it */
	OURS,  /* means what our C code says, whatever the host is */
	AMD,   /* ours, and only AMD's leaves have it */
	INTEL, /* ours, and only Intel's leaves have it */
	AMD_HOST,
};

struct feature {
	uint32_t leaf;
	uint8_t sub, reg, bit;
	enum show show;
	const char *name;
};

static const struct feature features[] = {
	{ 0x1, 0, EDX, 0, OURS, "fpu" },
	{ 0x1, 0, EDX, 1, OURS, "vme: virtual-8086 extensions" },
	{ 0x1, 0, EDX, 2, OURS, "de: I/O breakpoints" },
	{ 0x1, 0, EDX, 3, OURS, "pse: 4 MiB pages" },
	{ 0x1, 0, EDX, 4, OURS, "tsc" },
	{ 0x1, 0, EDX, 5, OURS, "msr" },
	{ 0x1, 0, EDX, 6, OURS, "pae" },
	{ 0x1, 0, EDX, 7, OURS, "mce: CR4.MCE and #MC, with no banks" },
	{ 0x1, 0, EDX, 8, OURS, "cx8" },
	{ 0x1, 0, EDX, 9, OURS, "apic" },
	{ 0x1, 0, EDX, 11, OURS, "sep: SYSENTER" },
	{ 0x1, 0, EDX, 12, OURS, "mtrr" },
	{ 0x1, 0, EDX, 13, OURS, "pge: global pages" },
	{ 0x1, 0, EDX, 14, OURS, "mca" },
	{ 0x1, 0, EDX, 15, OURS, "cmov" },
	{ 0x1, 0, EDX, 16, OURS, "pat" },
	{ 0x1, 0, EDX, 17, OURS, "pse36" },
	{ 0x1, 0, EDX, 19, OURS, "clflush" },
	{ 0x1, 0, EDX, 23, HOST, "mmx" },
	{ 0x1, 0, EDX, 24, HOST, "fxsr" },
	{ 0x1, 0, EDX, 25, HOST, "sse" },
	{ 0x1, 0, EDX, 26, HOST, "sse2" },
	{ 0x1, 0, EDX, 27, OURS, "ss: self snoop" },

	{ 0x1, 0, ECX, 0, HOST, "sse3" },
	{ 0x1, 0, ECX, 1, HOST, "pclmulqdq" },
	{ 0x1, 0, ECX, 3, HOST, "monitor: MWAIT returns at once, leaf 5 offers no C-states" },
	{ 0x1, 0, ECX, 9, HOST, "ssse3" },
	{ 0x1, 0, ECX, 12, HOST, "fma" },
	{ 0x1, 0, ECX, 13, OURS, "cx16" },
	{ 0x1, 0, ECX, 17, OURS, "pcid" },
	{ 0x1, 0, ECX, 19, HOST, "sse4.1" },
	{ 0x1, 0, ECX, 20, HOST, "sse4.2" },
	{ 0x1, 0, ECX, 21, OURS, "x2apic" },
	{ 0x1, 0, ECX, 22, OURS, "movbe" },
	{ 0x1, 0, ECX, 23, HOST, "popcnt" },
	{ 0x1, 0, ECX, 24, OURS, "tsc_deadline_timer" },
	{ 0x1, 0, ECX, 25, HOST, "aes" },
	{ 0x1, 0, ECX, 26, OURS, "xsave" },
	{ 0x1, 0, ECX, 28, HOST, "avx" },
	{ 0x1, 0, ECX, 29, HOST, "f16c" },
	{ 0x1, 0, ECX, 30, HOST, "rdrand" },
	{ 0x1, 0, ECX, 31, OURS, "hypervisor" },

	{ 0x6, 0, EAX, 2, OURS, "arat: the APIC timer never stops" },

	{ 0x7, 0, EBX, 0, OURS, "fsgsbase" },
	{ 0x7, 0, EBX, 1, OURS, "tsc_adjust" },
	{ 0x7, 0, EBX, 3, HOST, "bmi1" },
	{ 0x7, 0, EBX, 5, HOST, "avx2" },
	{ 0x7, 0, EBX, 6, HOST, "fdp_excptn_only" },
	{ 0x7, 0, EBX, 7, OURS, "smep" },
	{ 0x7, 0, EBX, 8, HOST, "bmi2" },
	{ 0x7, 0, EBX, 9, OURS, "erms: REP MOVSB is one memcpy" },
	{ 0x7, 0, EBX, 10, OURS, "invpcid" },
	{ 0x7, 0, EBX, 13, HOST, "fcs and fds are zero" },
	{ 0x7, 0, EBX, 18, HOST, "rdseed" },
	{ 0x7, 0, EBX, 19, HOST, "adx" },
	{ 0x7, 0, EBX, 20, OURS, "smap" },
	{ 0x7, 0, EBX, 23, HOST, "clflushopt" },
	{ 0x7, 0, EBX, 24, HOST, "clwb" },
	{ 0x7, 0, EBX, 29, HOST, "sha" },

	{ 0x7, 0, ECX, 2, OURS, "umip" },
	{ 0x7, 0, ECX, 3, OURS, "pku" },
	{ 0x7, 0, ECX, 8, HOST, "gfni" },
	{ 0x7, 0, ECX, 9, HOST, "vaes" },
	{ 0x7, 0, ECX, 10, HOST, "vpclmulqdq" },
	{ 0x7, 0, ECX, 16, OURS, "la57" },
	{ 0x7, 0, ECX, 22, OURS, "rdpid" },

	{ 0x7, 0, EDX, 4, OURS, "fsrm: short REP MOVSB is fast too" },
	{ 0x7, 0, EDX, 26, INTEL, "spec_ctrl: IBRS and IBPB" },
	{ 0x7, 0, EDX, 27, INTEL, "stibp" },
	{ 0x7, 0, EDX, 29, INTEL, "arch_capabilities" },
	{ 0x7, 0, EDX, 31, INTEL, "ssbd" },

	{ 0x7, 1, EAX, 4, HOST, "avx_vnni" },

	{ 0xd, 1, EAX, 0, OURS, "xsaveopt" },
	{ 0xd, 1, EAX, 1, OURS, "xsavec" },
	{ 0xd, 1, EAX, 2, OURS, "xgetbv1" },
	{ 0xd, 1, EAX, 3, OURS, "xsaves" },

	{ 0x80000001, 0, EDX, 11, OURS, "syscall" },
	{ 0x80000001, 0, EDX, 20, OURS, "nx" },
	{ 0x80000001, 0, EDX, 22, AMD_HOST, "mmxext" },
	{ 0x80000001, 0, EDX, 25, AMD_HOST, "fxsr_opt" },
	{ 0x80000001, 0, EDX, 26, OURS, "pdpe1gb" },
	{ 0x80000001, 0, EDX, 27, OURS, "rdtscp" },
	{ 0x80000001, 0, EDX, 29, OURS, "lm" },

	{ 0x80000001, 0, ECX, 0, OURS, "lahf_lm" },
	{ 0x80000001, 0, ECX, 5, HOST, "abm: LZCNT" },
	{ 0x80000001, 0, ECX, 6, AMD_HOST, "sse4a" },
	{ 0x80000001, 0, ECX, 8, OURS, "3dnowprefetch" },
	{ 0x80000001, 0, ECX, 22, AMD, "topoext" },

	{ 0x80000007, 0, EDX, 8, OURS, "invariant tsc" },

	{ 0x80000008, 0, EBX, 2, AMD_HOST, "xsaveerptr" },
	{ 0x80000008, 0, EBX, 12, AMD, "ibpb" },
	{ 0x80000008, 0, EBX, 14, AMD, "ibrs" },
	{ 0x80000008, 0, EBX, 15, AMD, "stibp" },
	{ 0x80000008, 0, EBX, 17, AMD, "stibp always on" },
	{ 0x80000008, 0, EBX, 26, AMD, "ssb_no: no speculative store bypass" },
	{ 0x80000008, 0, EBX, 27, AMD, "cppc: the one level there is; Linux misses it on Zen 5" },
	{ 0x80000008, 0, EBX, 29, AMD, "btc_no: no branch type confusion (retbleed)" },

	{ 0x80000021, 0, EAX, 2, AMD, "lfence serialises" },
	{ 0x80000021, 0, EAX, 5, AMD, "verw_clear: nothing is left in buffers" },
	{ 0x80000021, 0, EAX, 6, AMD, "a null selector clears the base" },
	{ 0x80000021, 0, EAX, 8, AMD, "autoibrs: no retpolines needed" },
	{ 0x80000021, 0, EAX, 29, AMD, "srso_no" },
	{ 0x80000021, 0, EAX, 30, AMD, "srso_user_kernel_no" },
	{ 0x80000021, 0, ECX, 1, AMD, "tsa_sq_no" },
	{ 0x80000021, 0, ECX, 2, AMD, "tsa_l1_no" },
};

/* Bits of leaf 1 EDX that AMD repeats in 0x80000001 EDX. */
#define AMD_REPEATED 0x0183f3ffu

static bool shown(const struct feature *f, bool amd, const uint32_t host[4])
{
	bool host_has = host[f->reg] & BIT(f->bit);

	switch (f->show) {
	case HOST:
		return host_has;
	case OURS:
		return true;
	case AMD:
		return amd;
	case INTEL:
		return !amd;
	case AMD_HOST:
		return amd && host_has;
	}
	return false;
}

uint32_t cpuid_features(uint32_t leaf, uint32_t sub, unsigned reg, bool amd)
{
	uint32_t host[4], bits = 0;

	cpuid_host(leaf, sub, host);
	for (size_t n = 0; n < ARRAY_SIZE(features); n++) {
		const struct feature *f = &features[n];

		if (f->leaf == leaf && f->sub == sub && f->reg == reg && shown(f, amd, host))
			bits |= (uint32_t)BIT(f->bit);
	}
	if (amd && leaf == 0x80000001 && reg == EDX)
		bits |= cpuid_features(1, 0, EDX, amd) & AMD_REPEATED;
	return bits;
}

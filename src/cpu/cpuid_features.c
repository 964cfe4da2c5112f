/*
 * Which feature bits a guest sees. What is not in the table is hidden; among the hidden on purpose:
 * AMX, XOP, FMA4, 3DNow!, MPX, TSX, CET and MOVDIR64B (not executed), SVM, VMX, SMX (nothing to
 * nest), performance counters, IBS, PT, OSVW (their MSRs do not exist), CLZERO and
 * MISALIGNSSE (quirks of one vendor that nobody needs).
 *
 * The software engines have what `show` says. An engine with an offer of its own, KVM, has what it
 * offers. `level` is the named model that the feature belongs to: the levels of the x86-64 psABI,
 * supplement 1.0 section 3.1.1, and with the first of them what a PC's kernel takes for granted.
 *
 * Sources: SDM volume 2A CPUID, AMD APM volume 3 appendix E.
 */
#include "cpu/cpuid_private.h"

#include <stdio.h>
#include <string.h>

enum show {
	HOST,  /* executed on the host's own unit, so only where the host has it */
	OURS,  /* means what our C code says, whatever the host is */
	AMD,   /* ours, and only AMD's leaves have it */
	INTEL, /* ours, and only Intel's leaves have it */
	AMD_HOST,
	ENGINE, /* not for our C code: only an engine with an offer of its own can have it */
};

struct feature {
	uint32_t leaf;
	uint8_t sub, reg, bit;
	enum show show;
	const char *name; /* and, after a colon, why */
	enum cpuid_level level;
};

static const struct feature features[] = {
	{ 0x1, 0, EDX, 0, OURS, "fpu", LEVEL_V1 },
	{ 0x1, 0, EDX, 1, OURS, "vme: virtual-8086 extensions", LEVEL_HOST },
	{ 0x1, 0, EDX, 2, OURS, "de: I/O breakpoints", LEVEL_V1 },
	{ 0x1, 0, EDX, 3, OURS, "pse: 4 MiB pages", LEVEL_V1 },
	{ 0x1, 0, EDX, 4, OURS, "tsc", LEVEL_V1 },
	{ 0x1, 0, EDX, 5, OURS, "msr", LEVEL_V1 },
	{ 0x1, 0, EDX, 6, OURS, "pae", LEVEL_V1 },
	{ 0x1, 0, EDX, 7, OURS, "mce: CR4.MCE and #MC, with no banks", LEVEL_V1 },
	{ 0x1, 0, EDX, 8, OURS, "cx8", LEVEL_V1 },
	{ 0x1, 0, EDX, 9, OURS, "apic", LEVEL_V1 },
	{ 0x1, 0, EDX, 11, OURS, "sep: SYSENTER", LEVEL_V1 },
	{ 0x1, 0, EDX, 12, OURS, "mtrr", LEVEL_V1 },
	{ 0x1, 0, EDX, 13, OURS, "pge: global pages", LEVEL_V1 },
	{ 0x1, 0, EDX, 14, OURS, "mca", LEVEL_V1 },
	{ 0x1, 0, EDX, 15, OURS, "cmov", LEVEL_V1 },
	{ 0x1, 0, EDX, 16, OURS, "pat", LEVEL_V1 },
	{ 0x1, 0, EDX, 17, OURS, "pse36", LEVEL_V1 },
	{ 0x1, 0, EDX, 19, OURS, "clflush", LEVEL_V1 },
	{ 0x1, 0, EDX, 23, HOST, "mmx", LEVEL_V1 },
	{ 0x1, 0, EDX, 24, HOST, "fxsr", LEVEL_V1 },
	{ 0x1, 0, EDX, 25, HOST, "sse", LEVEL_V1 },
	{ 0x1, 0, EDX, 26, HOST, "sse2", LEVEL_V1 },
	{ 0x1, 0, EDX, 27, OURS, "ss: self snoop", LEVEL_HOST },

	{ 0x1, 0, ECX, 0, HOST, "sse3", LEVEL_V2 },
	{ 0x1, 0, ECX, 1, HOST, "pclmulqdq", LEVEL_HOST },
	{ 0x1, 0, ECX, 3, HOST, "monitor: MWAIT returns at once, leaf 5 offers no C-states",
	  LEVEL_HOST },
	{ 0x1, 0, ECX, 9, HOST, "ssse3", LEVEL_V2 },
	{ 0x1, 0, ECX, 12, HOST, "fma", LEVEL_V3 },
	{ 0x1, 0, ECX, 13, OURS, "cx16", LEVEL_V2 },
	{ 0x1, 0, ECX, 17, OURS, "pcid", LEVEL_HOST },
	{ 0x1, 0, ECX, 19, HOST, "sse4.1", LEVEL_V2 },
	{ 0x1, 0, ECX, 20, HOST, "sse4.2", LEVEL_V2 },
	{ 0x1, 0, ECX, 21, OURS, "x2apic", LEVEL_V1 },
	{ 0x1, 0, ECX, 22, OURS, "movbe", LEVEL_V3 },
	{ 0x1, 0, ECX, 23, HOST, "popcnt", LEVEL_V2 },
	{ 0x1, 0, ECX, 24, OURS, "tsc_deadline_timer", LEVEL_V1 },
	{ 0x1, 0, ECX, 25, HOST, "aes", LEVEL_HOST },
	{ 0x1, 0, ECX, 26, OURS, "xsave", LEVEL_V3 },
	{ 0x1, 0, ECX, 28, HOST, "avx", LEVEL_V3 },
	{ 0x1, 0, ECX, 29, HOST, "f16c", LEVEL_V3 },
	{ 0x1, 0, ECX, 30, HOST, "rdrand", LEVEL_HOST },
	{ 0x1, 0, ECX, 31, OURS, "hypervisor", LEVEL_V1 },

	{ 0x6, 0, EAX, 2, OURS, "arat: the APIC timer never stops", LEVEL_V1 },

	{ 0x7, 0, EBX, 0, OURS, "fsgsbase", LEVEL_HOST },
	{ 0x7, 0, EBX, 1, OURS, "tsc_adjust", LEVEL_V1 },
	{ 0x7, 0, EBX, 3, HOST, "bmi1", LEVEL_V3 },
	{ 0x7, 0, EBX, 5, HOST, "avx2", LEVEL_V3 },
	{ 0x7, 0, EBX, 6, HOST, "fdp_excptn_only", LEVEL_HOST },
	{ 0x7, 0, EBX, 7, OURS, "smep", LEVEL_HOST },
	{ 0x7, 0, EBX, 8, HOST, "bmi2", LEVEL_V3 },
	{ 0x7, 0, EBX, 9, OURS, "erms: REP MOVSB is one memcpy", LEVEL_HOST },
	{ 0x7, 0, EBX, 10, OURS, "invpcid", LEVEL_HOST },
	{ 0x7, 0, EBX, 13, HOST, "fcs and fds are zero", LEVEL_HOST },
	{ 0x7, 0, EBX, 16, ENGINE, "avx512f", LEVEL_V4 },
	{ 0x7, 0, EBX, 17, ENGINE, "avx512dq", LEVEL_V4 },
	{ 0x7, 0, EBX, 18, HOST, "rdseed", LEVEL_HOST },
	{ 0x7, 0, EBX, 19, HOST, "adx", LEVEL_HOST },
	{ 0x7, 0, EBX, 20, OURS, "smap", LEVEL_HOST },
	{ 0x7, 0, EBX, 21, ENGINE, "avx512ifma", LEVEL_HOST },
	{ 0x7, 0, EBX, 23, HOST, "clflushopt", LEVEL_HOST },
	{ 0x7, 0, EBX, 24, HOST, "clwb", LEVEL_HOST },
	{ 0x7, 0, EBX, 28, ENGINE, "avx512cd", LEVEL_V4 },
	{ 0x7, 0, EBX, 29, HOST, "sha", LEVEL_HOST },
	{ 0x7, 0, EBX, 30, ENGINE, "avx512bw", LEVEL_V4 },
	{ 0x7, 0, EBX, 31, ENGINE, "avx512vl", LEVEL_V4 },

	{ 0x7, 0, ECX, 1, ENGINE, "avx512vbmi", LEVEL_HOST },
	{ 0x7, 0, ECX, 2, OURS, "umip", LEVEL_HOST },
	{ 0x7, 0, ECX, 3, OURS, "pku", LEVEL_HOST },
	{ 0x7, 0, ECX, 6, ENGINE, "avx512vbmi2", LEVEL_HOST },
	{ 0x7, 0, ECX, 8, HOST, "gfni", LEVEL_HOST },
	{ 0x7, 0, ECX, 9, HOST, "vaes", LEVEL_HOST },
	{ 0x7, 0, ECX, 10, HOST, "vpclmulqdq", LEVEL_HOST },
	{ 0x7, 0, ECX, 11, ENGINE, "avx512vnni", LEVEL_HOST },
	{ 0x7, 0, ECX, 12, ENGINE, "avx512bitalg", LEVEL_HOST },
	{ 0x7, 0, ECX, 14, ENGINE, "avx512vpopcntdq", LEVEL_HOST },
	{ 0x7, 0, ECX, 16, OURS, "la57", LEVEL_HOST },
	{ 0x7, 0, ECX, 22, OURS, "rdpid", LEVEL_HOST },

	{ 0x7, 0, EDX, 4, OURS, "fsrm: short REP MOVSB is fast too", LEVEL_HOST },
	{ 0x7, 0, EDX, 26, INTEL, "spec_ctrl: IBRS and IBPB", LEVEL_HOST },
	{ 0x7, 0, EDX, 27, INTEL, "stibp", LEVEL_HOST },
	{ 0x7, 0, EDX, 29, INTEL, "arch_capabilities", LEVEL_HOST },
	{ 0x7, 0, EDX, 31, INTEL, "ssbd", LEVEL_HOST },

	{ 0x7, 1, EAX, 4, HOST, "avx_vnni", LEVEL_HOST },

	{ 0xd, 1, EAX, 0, OURS, "xsaveopt", LEVEL_HOST },
	{ 0xd, 1, EAX, 1, OURS, "xsavec", LEVEL_HOST },
	{ 0xd, 1, EAX, 2, OURS, "xgetbv1", LEVEL_HOST },
	{ 0xd, 1, EAX, 3, OURS, "xsaves", LEVEL_HOST },

	{ 0x80000001, 0, EDX, 11, OURS, "syscall", LEVEL_V1 },
	{ 0x80000001, 0, EDX, 20, OURS, "nx", LEVEL_V1 },
	{ 0x80000001, 0, EDX, 22, AMD_HOST, "mmxext", LEVEL_HOST },
	{ 0x80000001, 0, EDX, 25, AMD_HOST, "fxsr_opt", LEVEL_HOST },
	{ 0x80000001, 0, EDX, 26, OURS, "pdpe1gb", LEVEL_HOST },
	{ 0x80000001, 0, EDX, 27, OURS, "rdtscp", LEVEL_HOST },
	{ 0x80000001, 0, EDX, 29, OURS, "lm", LEVEL_V1 },

	{ 0x80000001, 0, ECX, 0, OURS, "lahf_lm", LEVEL_V2 },
	{ 0x80000001, 0, ECX, 5, HOST, "abm: LZCNT", LEVEL_V3 },
	{ 0x80000001, 0, ECX, 6, AMD_HOST, "sse4a", LEVEL_HOST },
	{ 0x80000001, 0, ECX, 8, OURS, "3dnowprefetch", LEVEL_HOST },
	{ 0x80000001, 0, ECX, 22, AMD, "topoext", LEVEL_HOST },

	{ 0x80000007, 0, EDX, 8, OURS, "invariant tsc", LEVEL_V1 },

	{ 0x80000008, 0, EBX, 2, AMD_HOST, "xsaveerptr", LEVEL_HOST },
	{ 0x80000008, 0, EBX, 12, AMD, "ibpb", LEVEL_HOST },
	{ 0x80000008, 0, EBX, 14, AMD, "ibrs", LEVEL_HOST },
	{ 0x80000008, 0, EBX, 15, AMD, "stibp", LEVEL_HOST },
	{ 0x80000008, 0, EBX, 17, AMD, "stibp always on", LEVEL_HOST },
	{ 0x80000008, 0, EBX, 26, AMD, "ssb_no: no speculative store bypass", LEVEL_HOST },
	{ 0x80000008, 0, EBX, 27, AMD, "cppc: the one level there is; Linux misses it on Zen 5",
	  LEVEL_HOST },
	{ 0x80000008, 0, EBX, 29, AMD, "btc_no: no branch type confusion (retbleed)", LEVEL_HOST },

	{ 0x80000021, 0, EAX, 2, AMD, "lfence serialises", LEVEL_HOST },
	{ 0x80000021, 0, EAX, 5, AMD, "verw_clear: nothing is left in buffers", LEVEL_HOST },
	{ 0x80000021, 0, EAX, 6, AMD, "a null selector clears the base", LEVEL_HOST },
	{ 0x80000021, 0, EAX, 8, AMD, "autoibrs: no retpolines needed", LEVEL_HOST },
	{ 0x80000021, 0, EAX, 29, AMD, "srso_no", LEVEL_HOST },
	{ 0x80000021, 0, EAX, 30, AMD, "srso_user_kernel_no", LEVEL_HOST },
	{ 0x80000021, 0, ECX, 1, AMD, "tsa_sq_no", LEVEL_HOST },
	{ 0x80000021, 0, ECX, 2, AMD, "tsa_l1_no", LEVEL_HOST },
};

/* Bits of leaf 1 EDX that AMD repeats in 0x80000001 EDX. */
#define AMD_REPEATED 0x0183f3ffu

void cpuid_offered(const struct cpuid_offer *offer, uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	if (!offer) {
		cpuid_host(leaf, sub, r);
		return;
	}
	memset(r, 0, 4 * sizeof(*r));
	for (unsigned n = 0; n < offer->nr; n++)
		if (offer->leaf[n].leaf == leaf && offer->leaf[n].sub == sub)
			memcpy(r, offer->leaf[n].r, 4 * sizeof(*r));
}

/* Does the engine have it? */
static bool is_had(const struct cpuid_model *m, const struct feature *f, const uint32_t answer[4])
{
	bool offered = answer[f->reg] & BIT(f->bit);

	switch (f->show) {
	case HOST:
	case ENGINE:
		return offered && (m->offer || f->show == HOST);
	case OURS:
		return offered || !m->offer;
	case AMD:
		return m->amd && (offered || !m->offer);
	case INTEL:
		return !m->amd && (offered || !m->offer);
	case AMD_HOST:
		return m->amd && offered;
	}
	return false;
}

static bool is_wanted(const struct cpuid_model *m, const struct feature *f)
{
	return m->level == LEVEL_HOST || (f->level && f->level <= m->level);
}

/* KVM does not pass on what it makes itself for every guest. */
static bool is_given(const struct feature *f)
{
	return f->leaf == 1 && f->reg == ECX && f->bit == 31; /* hypervisor */
}

uint32_t cpuid_features(const struct cpuid_model *m, uint32_t leaf, uint32_t sub, unsigned reg)
{
	uint32_t answer[4], bits = 0;

	cpuid_offered(m->offer, leaf, sub, answer);
	for (size_t n = 0; n < ARRAY_SIZE(features); n++) {
		const struct feature *f = &features[n];

		if (f->leaf == leaf && f->sub == sub && f->reg == reg && is_wanted(m, f) &&
		    (is_given(f) || is_had(m, f, answer)))
			bits |= (uint32_t)BIT(f->bit);
	}
	if (m->amd && leaf == 0x80000001 && reg == EDX)
		bits |= cpuid_features(m, 1, 0, EDX) & AMD_REPEATED;
	return bits;
}

unsigned cpuid_missing(const struct cpuid_model *m, char *buf, size_t size)
{
	unsigned nr = 0;
	size_t len = 0;

	buf[0] = '\0';
	for (size_t n = 0; n < ARRAY_SIZE(features); n++) {
		const struct feature *f = &features[n];
		uint32_t answer[4];
		int add;

		if (m->level == LEVEL_HOST || !is_wanted(m, f) || is_given(f))
			continue;
		cpuid_offered(m->offer, f->leaf, f->sub, answer);
		if (is_had(m, f, answer))
			continue;
		add = snprintf(buf + len, size - len, "%s%.*s", nr++ ? ", " : "",
		               (int)strcspn(f->name, ":"), f->name);
		len = add < 0 || (size_t)add >= size - len ? size - 1 : len + (size_t)add;
	}
	return nr;
}

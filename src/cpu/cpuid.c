/*
 * The leaves of the "host" model. Identity (vendor, family, brand, caches) is the host's, but see
 * signature(); features are cpuid_features.c's; topology is ours: N cores of one thread in one
 * package, APIC ids 0 to N-1, told alike by leaves 1, 4 and 0xb and by AMD's 0x80000008, 0x8000001d
 * and 0x8000001e.
 *
 * Time: the crystal of leaf 0x15 runs at 1 GHz, as our local APIC's timer does, and the ratio makes
 * the TSC frequency of it; the hypervisor leaves of Linux's Documentation/virt/kvm/x86/cpuid.rst
 * say the same in kHz.
 */
#include "cpu/cpuid_private.h"

#include <assert.h>
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/xsave.h"

#define MAX_VCPUS 256

#define LEAF1_ECX_OSXSAVE   BIT(27)
#define LEAF1_ECX_XSAVE     BIT(26)
#define LEAF1_EDX_HTT       BIT(28)
#define LEAF1_ECX_AVX       BIT(28)
#define LEAF7_EBX_AVX512F   BIT(16)
#define LEAF7_ECX_PKU       BIT(3)
#define LEAF7_ECX_OSPKE     BIT(4)
#define EXT1_ECX_CMP_LEGACY BIT(1)

#define SKYLAKE          0x506e3u
#define CRYSTAL_HZ       1000000000u
#define APIC_KHZ         1000000u
#define KVM_LEAF         0x40000000u
#define KVM_TIME_LEAF    0x40000010u
#define KVM_CLOCKSOURCE  BIT(0)
#define KVM_CLOCKSOURCE2 BIT(3)
#define KVM_STEAL_TIME   BIT(5)
#define KVM_CLOCK_STABLE BIT(24)

/*
 * IA32_ARCH_CAPABILITIES (SDM 4): no guest instruction runs speculatively on guest-chosen paths,
 * for the interpreter runs none of them. RDCL_NO, IBRS_ALL, SKIP_L1DFL, SSB_NO, MDS_NO,
 * IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO,
 * ITS_NO.
 */
#define ARCH_CAPABILITIES                                                                   \
	(BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | \
	 BIT(15) | BIT(20) | BIT(24) | BIT(26) | BIT(27) | BIT(62))

void cpuid_host(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	if (leaf > __get_cpuid_max(leaf & 0xc0000000u, NULL))
		memset(r, 0, 4 * sizeof(*r));
	else
		__cpuid_count(leaf, sub, r[EAX], r[EBX], r[ECX], r[EDX]);
}

static uint32_t *add_leaf(struct cpuid_model *m, uint32_t leaf, uint32_t sub)
{
	struct cpuid_leaf *l = &m->leaf[m->nr++];

	assert(m->nr <= CPUID_MAX_LEAVES);
	*l = (struct cpuid_leaf){ .leaf = leaf, .sub = sub };
	return l->r;
}

static uint32_t *add_values(struct cpuid_model *m, uint32_t leaf, uint32_t sub, uint32_t a,
                            uint32_t b, uint32_t c, uint32_t d)
{
	uint32_t *r = add_leaf(m, leaf, sub);

	r[EAX] = a;
	r[EBX] = b;
	r[ECX] = c;
	r[EDX] = d;
	return r;
}

static uint32_t *add_host(struct cpuid_model *m, uint32_t leaf, uint32_t sub)
{
	uint32_t *r = add_leaf(m, leaf, sub);

	cpuid_host(leaf, sub, r);
	return r;
}

/* A leaf that holds nothing but feature bits. */
static uint32_t *add_features(struct cpuid_model *m, uint32_t leaf, uint32_t sub)
{
	uint32_t *r = add_leaf(m, leaf, sub);

	for (unsigned reg = EAX; reg <= EDX; reg++)
		r[reg] = cpuid_features(m, leaf, sub, reg);
	return r;
}

static const uint32_t *find_leaf(const struct cpuid_model *m, uint32_t leaf, uint32_t sub)
{
	for (unsigned n = 0; n < m->nr; n++)
		if (m->leaf[n].leaf == leaf && m->leaf[n].sub == sub)
			return m->leaf[n].r;
	return NULL;
}

/*
 * Family, model and stepping. An Intel processor with AVX-512 is shown as the youngest one without
 * it that has no extension the host may lack: Skylake, 06_5EH. There are programs that go by the
 * model and not by the features, first of all those with clones of functions that GCC chooses among
 * ("arch=skylake-avx512"): on the host's own model they execute AVX-512, which we hide.
 */
static uint32_t signature(const struct cpuid_model *m)
{
	uint32_t host[4], features[4];

	cpuid_host(1, 0, host);
	cpuid_host(7, 0, features);
	if (m->amd || !(features[EBX] & LEAF7_EBX_AVX512F))
		return host[EAX];
	return cpuid_features(m, 7, 0, EBX) & LEAF7_EBX_AVX512F ? host[EAX] : SKYLAKE;
}

static void add_basic(struct cpuid_model *m)
{
	uint32_t host[4], *r;

	r = add_host(m, 0, 0);
	r[EAX] = 0x16;
	cpuid_host(1, 0, host);
	r = add_features(m, 1, 0);
	r[EAX] = signature(m);
	r[EBX] = (host[EBX] & 0xff00) | (1u << m->id_bits) << 16; /* CLFLUSH size, id space */
	if (m->vcpus > 1)
		r[EDX] |= LEAF1_EDX_HTT;
	if (!m->amd)
		add_host(m, 2, 0);
	/* 64-byte monitor lines, MWAIT extensions enumerated, no C-states: idle loops take HLT. */
	if (find_leaf(m, 1, 0)[ECX] & BIT(3))
		add_values(m, 5, 0, 64, 64, 1, 0);
	add_features(m, 6, 0);
	add_features(m, 7, 0)[EAX] = 1; /* highest sub-leaf */
	add_features(m, 7, 1);
}

/* The cache leaves (4, and AMD's 0x8000001d) with sharing as our topology has it: what the host
 * shares at level 3 is the whole package's, everything below belongs to one core. */
static void add_caches(struct cpuid_model *m, uint32_t leaf)
{
	for (uint32_t sub = 0; sub < 8; sub++) {
		uint32_t *r = add_host(m, leaf, sub);
		uint32_t level = (r[EAX] >> 5) & 7;
		uint32_t sharing = level >= 3 ? (1u << m->id_bits) - 1 : 0;

		if (!(r[EAX] & 0x1f))
			break;
		r[EAX] = (r[EAX] & 0x3fff) | sharing << 14;
		if (leaf == 4)
			r[EAX] |= ((1u << m->id_bits) - 1) << 26;
	}
}

/* Extended topology; EDX (the x2APIC id) is added per vCPU. */
static void add_topology(struct cpuid_model *m)
{
	enum { LEVEL_SMT = 1 << 8, LEVEL_CORE = 2 << 8 };

	add_values(m, 0xb, 0, 0, 1, LEVEL_SMT, 0);
	add_values(m, 0xb, 1, m->id_bits, m->vcpus, LEVEL_CORE | 1, 0);
	add_values(m, 0xb, 2, 0, 0, 2, 0);
}

static uint64_t xcr0_supported(const struct cpuid_model *m)
{
	uint64_t xcr0 = XCR0_X87 | XCR0_SSE;

	if (find_leaf(m, 1, 0)[ECX] & LEAF1_ECX_AVX)
		xcr0 |= XCR0_AVX;
	if (find_leaf(m, 7, 0)[ECX] & LEAF7_ECX_PKU)
		xcr0 |= XCR0_PKRU;
	if (find_leaf(m, 7, 0)[EBX] & LEAF7_EBX_AVX512F)
		xcr0 |= XCR0_AVX512;
	return xcr0;
}

/* Bytes of the XSAVE area for the components in mask, standard or compacted (SDM 1 13.4.3). */
static uint32_t xsave_size(uint64_t mask, bool compacted)
{
	uint32_t end = XSAVE_EXTENDED;

	for (size_t n = 0; n < ARRAY_SIZE(xsave_components); n++) {
		const struct xsave_component *x = &xsave_components[n];

		if (mask & BIT(x->bit))
			end = (compacted ? end : x->offset) + x->size;
	}
	return end;
}

/* The CPU itself lays out the area of a guest that it runs. */
static void add_xsave_offered(struct cpuid_model *m, uint64_t xcr0)
{
	uint32_t end = XSAVE_EXTENDED, *top = add_values(m, 0xd, 0, (uint32_t)xcr0, 0, 0, 0);

	add_features(m, 0xd, 1);
	for (unsigned bit = 2; bit < 32; bit++) {
		uint32_t r[4];

		if (!(xcr0 & BIT(bit)))
			continue;
		cpuid_offered(m->offer, 0xd, bit, r);
		add_values(m, 0xd, bit, r[EAX], r[EBX], r[ECX], 0);
		if (r[EAX] + r[EBX] > end)
			end = r[EAX] + r[EBX];
	}
	top[EBX] = top[ECX] = end;
}

static void add_xsave(struct cpuid_model *m)
{
	uint64_t xcr0 = xcr0_supported(m);
	uint32_t end = xsave_size(xcr0, false);

	if (!(find_leaf(m, 1, 0)[ECX] & LEAF1_ECX_XSAVE))
		return;
	if (m->offer) {
		add_xsave_offered(m, xcr0);
		return;
	}
	add_values(m, 0xd, 0, (uint32_t)xcr0, end, end, 0);
	add_features(m, 0xd, 1);
	for (size_t n = 0; n < ARRAY_SIZE(xsave_components); n++) {
		const struct xsave_component *x = &xsave_components[n];

		if (xcr0 & BIT(x->bit))
			add_values(m, 0xd, x->bit, x->size, x->offset, 0, 0);
	}
}

static void add_time(struct cpuid_model *m)
{
	uint32_t khz = (uint32_t)(m->tsc_hz / 1000), mhz = khz / 1000;

	add_values(m, 0x15, 0, CRYSTAL_HZ / 1000, khz, CRYSTAL_HZ, 0);
	add_values(m, 0x16, 0, mhz, mhz, 100, 0);
	add_values(m, KVM_TIME_LEAF, 0, khz, APIC_KHZ, 0, 0);
}

static void add_hypervisor(struct cpuid_model *m)
{
	uint32_t *r = add_leaf(m, KVM_LEAF, 0);

	r[EAX] = KVM_TIME_LEAF;
	memcpy(&r[EBX], "KVMKVMKVM\0\0\0", 12);
	r = add_leaf(m, KVM_LEAF + 1, 0);
	r[EAX] = KVM_CLOCKSOURCE | KVM_CLOCKSOURCE2 | KVM_CLOCK_STABLE;
	if (m->level == LEVEL_HOST && m->offer && m->offer->steal_time)
		r[EAX] |= KVM_STEAL_TIME;
}

static void add_extended(struct cpuid_model *m)
{
	uint32_t host[4], *r;

	r = add_host(m, 0x80000000, 0);
	r[EAX] = m->amd ? 0x80000021 : 0x80000008;
	cpuid_host(0x80000001, 0, host);
	r = add_features(m, 0x80000001, 0);
	if (m->amd) {
		r[EAX] = host[EAX];
		r[EBX] = host[EBX];
		if (m->vcpus > 1)
			r[ECX] |= EXT1_ECX_CMP_LEGACY;
	}
	for (uint32_t leaf = 0x80000002; leaf <= 0x80000006; leaf++)
		add_host(m, leaf, 0); /* brand string, legacy cache descriptions */
	add_features(m, 0x80000007, 0);
	r = add_features(m, 0x80000008, 0);
	r[EAX] = 57 << 8 | CPUID_PHYS_BITS;
	if (m->amd)
		r[ECX] = m->id_bits << 12 | (m->vcpus - 1);
}

static void add_amd(struct cpuid_model *m)
{
	add_host(m, 0x80000019, 0); /* TLBs for 1 GiB pages */
	add_host(m, 0x8000001a, 0); /* width of the SIMD units */
	add_caches(m, 0x8000001d);
	add_leaf(m, 0x8000001e, 0);
	add_features(m, 0x80000021, 0);
}

static void build_leaves(struct cpuid_model *m)
{
	add_basic(m);
	if (!m->amd)
		add_caches(m, 4);
	add_topology(m);
	add_xsave(m);
	add_time(m);
	add_hypervisor(m);
	add_extended(m);
	if (m->amd)
		add_amd(m);
}

static bool host_is_amd(void)
{
	uint32_t r[4];
	char vendor[12];

	cpuid_host(0, 0, r);
	memcpy(vendor, &r[EBX], 4);
	memcpy(vendor + 4, &r[EDX], 4);
	memcpy(vendor + 8, &r[ECX], 4);
	return !memcmp(vendor, "AuthenticAMD", 12) || !memcmp(vendor, "HygonGenuine", 12);
}

/* Names that --cpu knows. */
static const struct {
	const char *name;
	enum cpuid_level level;
} models[] = {
	{ "host", LEVEL_HOST },    { "x86-64-v1", LEVEL_V1 }, { "x86-64-v2", LEVEL_V2 },
	{ "x86-64-v3", LEVEL_V3 }, { "x86-64-v4", LEVEL_V4 },
};

const char *cpuid_model_name(unsigned n)
{
	return n < ARRAY_SIZE(models) ? models[n].name : NULL;
}

static int unknown_name(const char *name, char *err, size_t err_size)
{
	size_t len =
	        (size_t)snprintf(err, err_size, "CPU model \"%s\" is unknown; there are", name);

	for (size_t n = 0; n < ARRAY_SIZE(models) && len < err_size; n++)
		len += (size_t)snprintf(err + len, err_size - len, "%s %s", n ? "," : "",
		                        models[n].name);
	return -EINVAL;
}

static int check_features(const struct cpuid_model *m, const char *name, char *err, size_t err_size)
{
	char missing[256];

	if (!cpuid_missing(m, missing, sizeof(missing)))
		return 0;
	snprintf(err, err_size, "CPU model \"%s\": %s %s not %s", name,
	         m->offer ? m->offer->engine : "software", "has", missing);
	return -ENOTSUP;
}

int cpuid_model_new(struct cpuid_model **out, const char *name, const struct cpuid_offer *offer,
                    unsigned vcpus, uint64_t tsc_hz, char *err, size_t err_size)
{
	struct cpuid_model *m;
	size_t n = 0;
	int rc;

	while (n < ARRAY_SIZE(models) && strcmp(models[n].name, name))
		n++;
	if (n == ARRAY_SIZE(models))
		return unknown_name(name, err, err_size);
	if (vcpus < 1 || vcpus > MAX_VCPUS) {
		snprintf(err, err_size, "%u vCPUs: a CPU model has 1 to %d", vcpus, MAX_VCPUS);
		return -EINVAL;
	}
	m = calloc(1, sizeof(*m));
	if (!m) {
		snprintf(err, err_size, "no memory for CPU model \"%s\"", name);
		return -ENOMEM;
	}
	m->amd = host_is_amd();
	m->level = models[n].level;
	m->offer = offer;
	m->arch_capabilities = offer ? offer->arch_capabilities : ARCH_CAPABILITIES;
	m->vcpus = vcpus;
	m->tsc_hz = tsc_hz;
	while ((1u << m->id_bits) < vcpus)
		m->id_bits++;
	rc = check_features(m, name, err, err_size);
	if (rc) {
		cpuid_model_free(m);
		return rc;
	}
	build_leaves(m);
	m->offer = NULL;
	*out = m;
	return 0;
}

void cpuid_model_free(struct cpuid_model *m)
{
	free(m);
}

/* The bits that follow the vCPU's identity and control registers. */
static void add_state(const struct cpu *c, uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	switch (leaf) {
	case 1:
		r[EBX] |= c->id << 24;
		if (c->cr4 & CR4_OSXSAVE)
			r[ECX] |= LEAF1_ECX_OSXSAVE;
		break;
	case 7:
		if (sub == 0 && c->cr4 & CR4_PKE)
			r[ECX] |= LEAF7_ECX_OSPKE;
		break;
	case 0xb:
		r[EDX] = c->id;
		break;
	case 0xd:
		if (sub == 0)
			r[EBX] = xsave_size(c->xcr0, false);
		else if (sub == 1)
			r[EBX] = xsave_size(c->xcr0 | c->msr.xss, true);
		break;
	case 0x8000001e:
		r[EAX] = c->id;
		r[EBX] = c->id & 0xff; /* core; one thread a core */
		break;
	}
}

bool cpuid_has_subleaves(uint32_t leaf)
{
	return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x8000001d;
}

void cpuid_query(const struct cpu *c, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	uint32_t wanted = cpuid_has_subleaves(leaf) ? sub : 0;
	const uint32_t *r = find_leaf(c->cpuid, leaf, wanted);

	if (!r) {
		/* Past the last topology level: level number and id, as SDM 2A says for 0xb. */
		memset(out, 0, 4 * sizeof(*out));
		if (leaf == 0xb) {
			out[ECX] = sub & 0xff;
			out[EDX] = c->id;
		}
		return;
	}
	memcpy(out, r, 4 * sizeof(*out));
	add_state(c, leaf, sub, out);
}

unsigned cpuid_count(const struct cpuid_model *m)
{
	return m->nr;
}

struct cpuid_leaf cpuid_leaf_of(const struct cpu *c, unsigned n)
{
	struct cpuid_leaf l = c->cpuid->leaf[n];

	add_state(c, l.leaf, l.sub, l.r);
	return l;
}

uint64_t cpuid_arch_capabilities(const struct cpuid_model *m)
{
	return m ? m->arch_capabilities : 0;
}

bool cpuid_is_amd(const struct cpuid_model *m)
{
	return m && m->amd;
}

/*
 * The newest revision that could exist, since errata that microcode mends are not ours. AMD numbers
 * revisions since Zen by family, model and stepping, with the count in the low byte.
 */
uint64_t cpuid_microcode(const struct cpuid_model *m)
{
	uint32_t sig = m ? find_leaf(m, 1, 0)[EAX] : 0;

	if (!cpuid_is_amd(m))
		return BIT(32);
	return (sig >> 20 & 0xff) << 24 | (sig >> 16 & 0xf) << 20 | (sig >> 4 & 0xf) << 12 |
	       (sig & 0xf) << 8 | 0xff;
}

uint64_t cpuid_base_ratio(const struct cpuid_model *m)
{
	return m ? m->tsc_hz / 100000000 : 0;
}

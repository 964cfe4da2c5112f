/*
 * The table of MSRs. A row covers a run of `count` registers and says how they are kept:
 *
 *   FIELD    a 64-bit field of struct cpu at `offset`; a write must lie within `mask`, and pass
 * `check` FIXED    reads as `value`; writes are accepted and ignored RDONLY   reads as `value`;
 * writes raise #GP COMMAND  write only, within `mask`; does nothing (predictor and cache commands)
 *   MACHINE  kept outside the vCPU; an EXIT_MSR asks
 *   CUSTOM   has functions
 *
 * What is not here raises #GP, as on hardware. Sources: SDM volume 4, AMD APM volume 2 appendix A,
 * Linux's Documentation/virt/kvm/x86/msr.rst for 0x11, 0x12 and 0x4b564dxx.
 */
#include "cpu/msr.h"

#include "cpu/cpuid.h"

enum msr_kind { FIELD, FIXED, RDONLY, COMMAND, MACHINE, CUSTOM };
enum msr_vendor { ANY, INTEL, AMD };

struct msr_row {
	uint32_t first, count;
	const char *name;
	enum msr_kind kind;
	enum msr_vendor vendor;
	size_t offset;
	uint64_t mask, value;
	bool (*check)(const struct cpu *c, uint32_t index, uint64_t value);
	uint64_t (*read)(struct cpu *c, uint32_t index);
	enum msr_result (*write)(struct cpu *c, uint32_t index, uint64_t value);
};

/* Memory types that MTRRs and PAT may hold: UC, WC, WT, WP, WB, and for PAT UC- (SDM 3A 11.11). */
#define MTRR_TYPES 0x73u
#define PAT_TYPES  0xf3u

static bool types_valid(uint64_t value, unsigned bytes, uint32_t allowed)
{
	for (unsigned n = 0; n < bytes; n++, value >>= 8)
		if ((value & 0xff) > 7 || !(allowed & BIT(value & 7)))
			return false;
	return true;
}

static bool check_canonical(const struct cpu *c, uint32_t index, uint64_t value)
{
	return msr_canonical(c, value);
}

static bool check_pat(const struct cpu *c, uint32_t index, uint64_t value)
{
	return types_valid(value, 8, PAT_TYPES);
}

static bool check_mtrr_fixed(const struct cpu *c, uint32_t index, uint64_t value)
{
	return types_valid(value, 8, MTRR_TYPES);
}

static bool check_mtrr_default(const struct cpu *c, uint32_t index, uint64_t value)
{
	return types_valid(value, 1, MTRR_TYPES);
}

/* Even registers hold base and type, odd ones mask and valid bit (SDM 3A 11.11.2.3). */
static bool check_mtrr_phys(const struct cpu *c, uint32_t index, uint64_t value)
{
	if (index & 1)
		return !(value & 0x7ff);
	return !(value & 0xf00) && types_valid(value, 1, MTRR_TYPES);
}

static uint64_t read_tsc(struct cpu *c, uint32_t index)
{
	return cpu_tsc(c);
}

/* Both registers show the same adjustment (SDM 3B 17.17.3). The monitor is to look: the deadline of
 * the local APIC's timer and the page of the PV clock are derived from the offset. */
static void move_tsc(struct cpu *c, uint64_t delta)
{
	__atomic_store_n(&c->msr.tsc_offset, (int64_t)((uint64_t)c->msr.tsc_offset + delta),
	                 __ATOMIC_RELAXED);
	c->msr.tsc_adjust += delta;
	cpu_raise_attention(c, ATTN_KICK);
}

static enum msr_result write_tsc(struct cpu *c, uint32_t index, uint64_t value)
{
	move_tsc(c, value - cpu_tsc(c));
	return MSR_OK;
}

static uint64_t read_tsc_adjust(struct cpu *c, uint32_t index)
{
	return c->msr.tsc_adjust;
}

static enum msr_result write_tsc_adjust(struct cpu *c, uint32_t index, uint64_t value)
{
	move_tsc(c, value - c->msr.tsc_adjust);
	return MSR_OK;
}

static uint64_t read_efer(struct cpu *c, uint32_t index)
{
	return c->efer;
}

/* SDM 3A 9.8.5: LME is frozen while paging is on; LMA follows CR0.PG and cannot be written. */
static enum msr_result write_efer(struct cpu *c, uint32_t index, uint64_t value)
{
	uint64_t known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

	if (cpuid_is_amd(c->cpuid))
		known |= EFER_FFXSR | EFER_AIBRSE;
	if (value & ~known)
		return MSR_FAULT;
	if ((value ^ c->efer) & EFER_LME && c->cr0 & CR0_PG)
		return MSR_FAULT;
	value = (value & ~EFER_LMA) | (c->efer & EFER_LMA);
	if (value == c->efer)
		return MSR_OK;
	c->efer = value;
	return MSR_PAGING;
}

static uint64_t read_arch_capabilities(struct cpu *c, uint32_t index)
{
	return cpuid_arch_capabilities(c->cpuid);
}

static uint64_t read_microcode(struct cpu *c, uint32_t index)
{
	return cpuid_microcode(c->cpuid);
}

static uint64_t read_platform_info(struct cpu *c, uint32_t index)
{
	return cpuid_base_ratio(c->cpuid) << 8; /* bits 15:8, units of 100 MHz */
}

/* Loading microcode (BIOS_UPDT_TRIG) and clearing the signature before CPUID both do nothing here.
 */
static enum msr_result write_ignored(struct cpu *c, uint32_t index, uint64_t value)
{
	return MSR_OK;
}

#define CPU(member)   .offset = offsetof(struct cpu, member)
#define PHYS_MASK     (BIT(CPUID_PHYS_BITS) - 1)
#define ALL_BITS      UINT64_MAX
#define MTRR_CAP      0x508      /* 8 variable ranges, fixed ranges, write combining */
#define SPEC_CTRL_ALL 0x7        /* IBRS, STIBP, SSBD */
#define FEAT_LOCKED   1          /* IA32_FEATURE_CONTROL: locked, VMX off */
#define HWCR_TSC_P0   BIT(24)    /* TscFreqSel: the TSC counts at the P0 frequency */
#define DE_CFG_LFENCE BIT(1)     /* LFENCE serialises */
#define VM_CR_LOCKED  0x18       /* SVMDIS and LOCK */
#define CPPC_LEVELS   0x64646464 /* highest, nominal, lowest of any use, lowest: all the same */

/* Sorted by index; find_row() bisects. */
static const struct msr_row msr_table[] = {
	{ 0x10, 1, "TSC", .kind = CUSTOM, .read = read_tsc, .write = write_tsc },
	{ 0x11, 2, "KVM_WALL_CLOCK_OLD", .kind = MACHINE },
	{ 0x17, 1, "PLATFORM_ID", .kind = RDONLY, .vendor = INTEL },
	{ 0x1b, 1, "APIC_BASE", .kind = MACHINE },
	{ 0x3a, 1, "FEATURE_CONTROL", .kind = RDONLY, .vendor = INTEL, .value = FEAT_LOCKED },
	{ 0x3b, 1, "TSC_ADJUST", .kind = CUSTOM, .read = read_tsc_adjust,
	  .write = write_tsc_adjust },
	{ 0x48, 1, "SPEC_CTRL", .kind = FIELD, CPU(msr.spec_ctrl), .mask = SPEC_CTRL_ALL },
	{ 0x49, 1, "PRED_CMD", .kind = COMMAND, .mask = 1 },
	{ 0x79, 1, "BIOS_UPDT_TRIG", .kind = COMMAND, .vendor = INTEL, .mask = ALL_BITS },
	{ 0x8b, 1, "BIOS_SIGN_ID", .kind = CUSTOM, .read = read_microcode, .write = write_ignored },
	{ 0xce, 1, "PLATFORM_INFO", .kind = CUSTOM, .vendor = INTEL, .read = read_platform_info },
	{ 0xfe, 1, "MTRRCAP", .kind = RDONLY, .value = MTRR_CAP },
	{ 0x10a, 1, "ARCH_CAPABILITIES", .kind = CUSTOM, .vendor = INTEL,
	  .read = read_arch_capabilities },
	{ 0x10b, 1, "FLUSH_CMD", .kind = COMMAND, .mask = 1 },
	{ 0x140, 1, "MISC_FEATURES_ENABLES", .kind = FIXED, .vendor = INTEL },
	{ 0x174, 1, "SYSENTER_CS", .kind = FIELD, CPU(msr.sysenter_cs), .mask = ALL_BITS },
	{ 0x175, 1, "SYSENTER_ESP", .kind = FIELD, CPU(msr.sysenter_esp), .mask = ALL_BITS,
	  .check = check_canonical },
	{ 0x176, 1, "SYSENTER_EIP", .kind = FIELD, CPU(msr.sysenter_eip), .mask = ALL_BITS,
	  .check = check_canonical },
	{ 0x179, 1, "MCG_CAP", .kind = RDONLY },
	{ 0x17a, 1, "MCG_STATUS", .kind = FIELD, CPU(msr.mcg_status), .mask = 7 },
	{ 0x198, 1, "PERF_STATUS", .kind = FIXED, .vendor = INTEL },
	{ 0x1a0, 1, "MISC_ENABLE", .kind = FIELD, .vendor = INTEL, CPU(msr.misc_enable),
	  .mask = ALL_BITS },
	{ 0x1d9, 1, "DEBUGCTL", .kind = FIELD, CPU(msr.debugctl),
	  .mask = DEBUGCTL_LBR | DEBUGCTL_BTF },
	{ 0x1db, 4, "LBR_FROM_TO", .kind = FIXED },
	{ 0x200, 16, "MTRR_PHYS", .kind = FIELD, CPU(msr.mtrr_phys), .mask = PHYS_MASK,
	  .check = check_mtrr_phys },
	{ 0x250, 1, "MTRR_FIX64K", .kind = FIELD, CPU(msr.mtrr_fix[0]), .mask = ALL_BITS,
	  .check = check_mtrr_fixed },
	{ 0x258, 2, "MTRR_FIX16K", .kind = FIELD, CPU(msr.mtrr_fix[1]), .mask = ALL_BITS,
	  .check = check_mtrr_fixed },
	{ 0x268, 8, "MTRR_FIX4K", .kind = FIELD, CPU(msr.mtrr_fix[3]), .mask = ALL_BITS,
	  .check = check_mtrr_fixed },
	{ 0x277, 1, "PAT", .kind = FIELD, CPU(msr.pat), .mask = ALL_BITS, .check = check_pat },
	{ 0x2ff, 1, "MTRR_DEF_TYPE", .kind = FIELD, CPU(msr.mtrr_def_type), .mask = 0xcff,
	  .check = check_mtrr_default },
	{ 0x6e0, 1, "TSC_DEADLINE", .kind = MACHINE },
	{ 0x800, 0x100, "X2APIC", .kind = MACHINE },
	{ 0xda0, 1, "XSS", .kind = FIELD, CPU(msr.xss), .mask = 0 },
	{ 0x4b564d00, 0x100, "KVM", .kind = MACHINE },
	{ 0xc0000080, 1, "EFER", .kind = CUSTOM, .read = read_efer, .write = write_efer },
	{ 0xc0000081, 1, "STAR", .kind = FIELD, CPU(msr.star), .mask = ALL_BITS },
	{ 0xc0000082, 1, "LSTAR", .kind = FIELD, CPU(msr.lstar), .mask = ALL_BITS,
	  .check = check_canonical },
	{ 0xc0000083, 1, "CSTAR", .kind = FIELD, CPU(msr.cstar), .mask = ALL_BITS,
	  .check = check_canonical },
	{ 0xc0000084, 1, "FMASK", .kind = FIELD, CPU(msr.fmask), .mask = UINT32_MAX },
	{ 0xc0000100, 1, "FS_BASE", .kind = FIELD, CPU(seg[SEG_FS].base), .mask = ALL_BITS,
	  .check = check_canonical },
	{ 0xc0000101, 1, "GS_BASE", .kind = FIELD, CPU(seg[SEG_GS].base), .mask = ALL_BITS,
	  .check = check_canonical },
	{ 0xc0000102, 1, "KERNEL_GS_BASE", .kind = FIELD, CPU(msr.kernel_gs_base), .mask = ALL_BITS,
	  .check = check_canonical },
	{ 0xc0000103, 1, "TSC_AUX", .kind = FIELD, CPU(msr.tsc_aux), .mask = UINT32_MAX },
	{ 0xc0010010, 1, "SYSCFG", .kind = FIXED, .vendor = AMD },
	{ 0xc0010015, 1, "HWCR", .kind = FIXED, .vendor = AMD, .value = HWCR_TSC_P0 },
	{ 0xc001001a, 1, "TOP_MEM", .kind = FIXED, .vendor = AMD },
	{ 0xc001001d, 1, "TOP_MEM2", .kind = FIXED, .vendor = AMD },
	{ 0xc001001f, 1, "NB_CFG", .kind = FIXED, .vendor = AMD },
	{ 0xc0010020, 1, "PATCH_LOADER", .kind = COMMAND, .vendor = AMD, .mask = ALL_BITS },
	{ 0xc0010055, 1, "INT_PENDING", .kind = FIXED, .vendor = AMD },
	{ 0xc0010058, 1, "MMIO_CONF_BASE", .kind = FIXED, .vendor = AMD },
	{ 0xc0010114, 1, "VM_CR", .kind = FIXED, .vendor = AMD, .value = VM_CR_LOCKED },
	{ 0xc0010117, 1, "VM_HSAVE_PA", .kind = FIXED, .vendor = AMD },
	{ 0xc0010140, 2, "OSVW", .kind = RDONLY, .vendor = AMD },
	{ 0xc00102b0, 1, "CPPC_CAPABILITY_1", .kind = RDONLY, .vendor = AMD, .value = CPPC_LEVELS },
	{ 0xc00102b1, 1, "CPPC_ENABLE", .kind = FIXED, .vendor = AMD },
	{ 0xc00102b2, 1, "CPPC_CAPABILITY_2", .kind = RDONLY, .vendor = AMD, .value = CPPC_LEVELS },
	{ 0xc00102b3, 1, "CPPC_REQUEST", .kind = FIXED, .vendor = AMD },
	{ 0xc00102b4, 1, "CPPC_STATUS", .kind = RDONLY, .vendor = AMD },
	{ 0xc0011020, 4, "LS_CFG", .kind = FIXED, .vendor = AMD }, /* to BU_CFG2 */
	{ 0xc0011029, 1, "DE_CFG", .kind = FIXED, .vendor = AMD, .value = DE_CFG_LFENCE },
	{ 0xc001102a, 1, "BU_CFG2", .kind = FIXED, .vendor = AMD },
};

static const struct msr_row *find_row(const struct cpu *c, uint32_t index)
{
	size_t lo = 0, hi = ARRAY_SIZE(msr_table);

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct msr_row *r = &msr_table[mid];

		if (index < r->first) {
			hi = mid;
		} else if (index - r->first >= r->count) {
			lo = mid + 1;
		} else {
			bool amd = cpuid_is_amd(c->cpuid);

			return r->vendor == ANY || (r->vendor == AMD) == amd ? r : NULL;
		}
	}
	return NULL;
}

static enum msr_result ask_machine(struct cpu *c, uint32_t index, bool write, uint64_t *value)
{
	struct exit e = { .reason = EXIT_MSR,
		          .msr = { .index = index, .write = write, .value = *value } };

	c->ops->exit(c, &e);
	*value = e.msr.value;
	return e.msr.fault ? MSR_FAULT : MSR_OK;
}

static uint64_t *field_of(struct cpu *c, const struct msr_row *r, uint32_t index)
{
	return (uint64_t *)((char *)c + r->offset) + (index - r->first);
}

enum msr_result msr_read(struct cpu *c, uint32_t index, uint64_t *value)
{
	const struct msr_row *r = find_row(c, index);

	*value = 0;
	if (!r)
		return MSR_FAULT;
	switch (r->kind) {
	case FIELD:
		*value = *field_of(c, r, index);
		return MSR_OK;
	case FIXED:
	case RDONLY:
		*value = r->value;
		return MSR_OK;
	case COMMAND:
		return MSR_FAULT;
	case MACHINE:
		return ask_machine(c, index, false, value);
	case CUSTOM:
		*value = r->read(c, index);
		return MSR_OK;
	}
	return MSR_FAULT;
}

static enum msr_result write_field(struct cpu *c, const struct msr_row *r, uint32_t index,
                                   uint64_t value)
{
	if (value & ~r->mask || (r->check && !r->check(c, index, value)))
		return MSR_FAULT;
	*field_of(c, r, index) = value;
	return MSR_OK;
}

enum msr_result msr_write(struct cpu *c, uint32_t index, uint64_t value)
{
	const struct msr_row *r = find_row(c, index);

	if (!r)
		return MSR_FAULT;
	switch (r->kind) {
	case FIELD:
		return write_field(c, r, index, value);
	case FIXED:
		return MSR_OK;
	case COMMAND:
		return value & ~r->mask ? MSR_FAULT : MSR_OK;
	case MACHINE:
		return ask_machine(c, index, true, &value);
	case CUSTOM:
		return r->write ? r->write(c, index, value) : MSR_FAULT;
	case RDONLY:
		break;
	}
	return MSR_FAULT;
}

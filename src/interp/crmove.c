/*
 * Control and debug registers: MOV, LMSW, SMSW, CLTS, and what a change of paging or mode must
 * satisfy (SDM 2B MOV to/from CRn; 3A 2.5, 4.1, 9.8.5).
 */
#include "cpu/cpuid.h"
#include "interp/access.h"
#include "interp/far.h"
#include "interp/system.h"

#define CR0_WRITABLE \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR0_PAGING (CR0_PG | CR0_WP | CR0_PE) /* a change empties the TLB */
#define CR4_VALID                                                                                 \
	(CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | \
	 CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_LA57 | CR4_FSGSBASE | CR4_PCIDE |           \
	 CR4_OSXSAVE | CR4_SMEP | CR4_SMAP | CR4_PKE)
#define CR4_PAGING \
	(CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE)
#define CR4_PDPTE \
	(CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP) /* a change reloads PDPTEs, SDM 3A 4.4.1 */
#define CR3_NOFLUSH BIT(63)

#define DR6_FIXED    0xffff0ff0ull
#define DR6_WRITABLE 0xe00full
#define DR6_BD       BIT(13)
#define DR7_FIXED    0x400ull
#define DR7_WRITABLE 0xffff23ffull
#define DR7_GD       BIT(13)

static void raise_gp0(struct cpu *c)
{
	cpu_raise(c, EXC_GP, 0);
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return cr0 & CR0_PG && cr4 & CR4_PAE && !(efer & EFER_LMA);
}

static void load_pdptes(struct cpu *c, uint64_t cr3)
{
	if (!mmu_load_pdptes(c, cr3))
		raise_gp0(c);
}

/* Paging is being turned on with EFER.LME: long mode begins. */
static void check_enter_long(struct cpu *c)
{
	if (!(c->cr4 & CR4_PAE) || c->seg[SEG_CS].attr & SEG_L)
		raise_gp0(c);
	if (!(c->seg[SEG_TR].attr & TYPE_32))
		raise_gp0(c);
}

static void write_cr0(struct cpu *c, uint64_t value)
{
	uint64_t changed, efer = c->efer;

	if (value >> 32 || (value & CR0_PG && !(value & CR0_PE)) ||
	    (value & CR0_NW && !(value & CR0_CD)))
		raise_gp0(c);
	value = (value & CR0_WRITABLE) | CR0_ET;
	changed = value ^ c->cr0;
	if (changed & CR0_PG && value & CR0_PG && efer & EFER_LME) {
		check_enter_long(c);
		efer |= EFER_LMA;
	} else if (changed & CR0_PG && !(value & CR0_PG)) {
		if (c->mode == MODE_64 || c->cr4 & CR4_PCIDE)
			raise_gp0(c);
		efer &= ~EFER_LMA;
	}
	if (changed & (CR0_PG | CR0_CD | CR0_NW) && pae_paging(value, c->cr4, efer))
		load_pdptes(c, c->cr3);
	c->cr0 = value;
	c->efer = efer;
	if (changed & CR0_PAGING) {
		cpu_update_mode(c);
		mmu_flush_all(c);
	} else if (changed & CR0_AM) {
		mmu_update_mode(c);
	}
}

static void write_cr3(struct cpu *c, uint64_t value)
{
	uint64_t reserved = ~(BIT(CPUID_PHYS_BITS) - 1);

	if (c->cr4 & CR4_PCIDE)
		reserved &= ~CR3_NOFLUSH;
	if (cpu_long_mode(c) && value & reserved)
		raise_gp0(c);
	if (pae_paging(c->cr0, c->cr4, c->efer))
		load_pdptes(c, value);
	mmu_set_cr3(c, value);
}

static void write_cr4(struct cpu *c, uint64_t value)
{
	uint64_t changed = value ^ c->cr4;

	if (value & ~CR4_VALID)
		raise_gp0(c);
	if (cpu_long_mode(c) && (!(value & CR4_PAE) || changed & CR4_LA57))
		raise_gp0(c);
	if (changed & value & CR4_PCIDE && (!cpu_long_mode(c) || c->cr3 & 0xfff))
		raise_gp0(c);
	if (changed & CR4_PDPTE && pae_paging(c->cr0, value, c->efer))
		load_pdptes(c, c->cr3);
	c->cr4 = value;
	if (changed & CR4_PAGING)
		mmu_flush_all(c);
}

static uint64_t access_tpr(struct cpu *c, bool write, uint64_t value)
{
	struct exit e = { .reason = EXIT_TPR, .tpr = { .value = (uint8_t)value, .write = write } };

	if (value > 15)
		raise_gp0(c);
	c->ops->exit(c, &e);
	return e.tpr.value;
}

static unsigned register_size(const struct cpu *c)
{
	return c->mode == MODE_64 ? 8 : 4;
}

static bool control_register_exists(unsigned n)
{
	return n == 0 || n == 2 || n == 3 || n == 4 || n == 8;
}

static void op_mov_from_cr(struct cpu *c, const struct insn *i)
{
	uint64_t value;

	require_cpl0(c);
	switch (i->src) {
	case 0:
		value = c->cr0;
		break;
	case 2:
		value = c->cr2;
		break;
	case 3:
		value = c->cr3;
		break;
	case 4:
		value = c->cr4;
		break;
	default:
		value = access_tpr(c, false, 0);
		break;
	}
	reg_set(c, i->dst, register_size(c), value);
}

static void op_mov_to_cr(struct cpu *c, const struct insn *i)
{
	uint64_t value = reg_get(c, i->src, register_size(c));

	require_cpl0(c);
	switch (i->dst) {
	case 0:
		write_cr0(c, value);
		break;
	case 2:
		c->cr2 = value;
		break;
	case 3:
		write_cr3(c, value);
		break;
	case 4:
		write_cr4(c, value);
		break;
	default:
		access_tpr(c, true, value);
		break;
	}
}

void op_clts(struct cpu *c, const struct insn *i)
{
	require_cpl0(c);
	c->cr0 &= ~CR0_TS;
}

/* Sets PE but cannot clear it (SDM 2A LMSW). */
void op_lmsw(struct cpu *c, const struct insn *i)
{
	uint64_t low;

	require_cpl0(c);
	low = i->flags & INSN_MEM ? load16(c, access_ea(c, i, 2, false), i->seg) : c->gpr[i->dst];
	write_cr0(c, (c->cr0 & ~(CR0_MP | CR0_EM | CR0_TS)) | (low & 0xf));
}

void op_smsw(struct cpu *c, const struct insn *i)
{
	require_no_umip(c);
	if (i->flags & INSN_MEM)
		store16(c, access_ea(c, i, 2, true), (uint16_t)c->cr0, i->seg);
	else
		reg_set(c, i->dst, i->opsize, c->cr0);
}

/* DR4 and DR5 are DR6 and DR7, or undefined under CR4.DE (SDM 3B 17.2.2). */
static unsigned check_debug_register(struct cpu *c, unsigned n)
{
	if (n == 4 || n == 5) {
		if (c->cr4 & CR4_DE)
			cpu_raise(c, EXC_UD, 0);
		n += 2;
	}
	require_cpl0(c);
	if (c->dr7 & DR7_GD) {
		c->dr7 &= ~DR7_GD;
		c->dr6 |= DR6_BD;
		cpu_raise(c, EXC_DB, 0);
	}
	return n;
}

static void op_mov_from_dr(struct cpu *c, const struct insn *i)
{
	unsigned n = check_debug_register(c, i->src);
	uint64_t value = n == 6 ? c->dr6 : n == 7 ? c->dr7 : c->dr[n];

	reg_set(c, i->dst, register_size(c), value);
}

static void op_mov_to_dr(struct cpu *c, const struct insn *i)
{
	unsigned n = check_debug_register(c, i->dst);
	uint64_t value = reg_get(c, i->src, register_size(c));

	if (n >= 6 && value >> 32)
		raise_gp0(c);
	if (n == 6) {
		c->dr6 = DR6_FIXED | (value & DR6_WRITABLE);
	} else if (n == 7) {
		c->dr7 = DR7_FIXED | (value & DR7_WRITABLE);
		mmu_flush_all(c);
	} else {
		c->dr[n] = value;
	}
}

static ZydisRegisterClass class_of(const ZydisDecodedOperand *op)
{
	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return ZYDIS_REGCLASS_INVALID;
	return ZydisRegisterGetClass(op->reg.value);
}

insn_fn crmove_pick(const struct op_decode *d, struct insn *i)
{
	ZydisRegisterClass to = class_of(&d->op[0]), from = class_of(&d->op[1]);

	if (from == ZYDIS_REGCLASS_CONTROL)
		return control_register_exists(i->src) ? op_mov_from_cr : op_undefined;
	if (from == ZYDIS_REGCLASS_DEBUG)
		return i->src < 8 ? op_mov_from_dr : op_undefined;
	if (to != ZYDIS_REGCLASS_CONTROL && to != ZYDIS_REGCLASS_DEBUG)
		return NULL;
	i->flags |= INSN_END;
	if (to == ZYDIS_REGCLASS_CONTROL)
		return control_register_exists(i->dst) ? op_mov_to_cr : op_undefined;
	return i->dst < 8 ? op_mov_to_dr : op_undefined;
}

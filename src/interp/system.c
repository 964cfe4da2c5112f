/*
 * System instructions that need no file of their own, and the table of all of them. The checks are
 * in the order that the manual gives (SDM 2, each instruction's "Exceptions" section): #UD, then
 * #GP, then memory.
 */
#include <emmintrin.h>
#include <sched.h>
#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "interp/access.h"
#include "interp/far.h"
#include "interp/state.h"
#include "interp/system.h"

#define APIC_BASE_MSR    0x1b
#define APIC_BASE_ENABLE BIT(11)
#define LEAF1_EDX_APIC   BIT(9)

#define PAUSES_PER_YIELD 64

static void op_nop(struct cpu *c, const struct insn *i)
{
}

/* A CPU that waits for another lets it run: there may be fewer CPUs in the host than in the guest,
 * and the other may be the holder of a lock that does not get to give it back. */
static void op_pause(struct cpu *c, const struct insn *i)
{
	if (++c->interp->pauses % PAUSES_PER_YIELD == 0)
		sched_yield();
}

/* Each fence is the host's own: MFENCE orders what our accesses do to guest memory, LFENCE also
 * keeps the host from reading the TSC ahead. */
static void op_lfence(struct cpu *c, const struct insn *i)
{
	_mm_lfence();
}

static void op_mfence(struct cpu *c, const struct insn *i)
{
	_mm_mfence();
}

static void op_sfence(struct cpu *c, const struct insn *i)
{
	_mm_sfence();
}

/* Cache flushes are loads as far as protection goes; there is no cache to flush. */
static void op_clflush(struct cpu *c, const struct insn *i)
{
	mmu_probe(c, access_ea(c, i, 1, false), 1, MMU_READ, i->seg);
}

static void op_wbinvd(struct cpu *c, const struct insn *i)
{
	require_cpl0(c);
}

static void op_hlt(struct cpu *c, const struct insn *i)
{
	require_cpl0(c);
	c->exit->reason = EXIT_HLT;
	interp_leave(c);
}

static void op_monitor(struct cpu *c, const struct insn *i)
{
	uint64_t off = i->asize == 8 ? c->rax : i->asize == 4 ? (uint32_t)c->rax : (uint16_t)c->rax;
	unsigned seg = i->flags & INSN_MEM ? i->seg : SEG_DS;

	if (c->cpl != 0)
		cpu_raise(c, EXC_UD, 0);
	if ((uint32_t)c->rcx)
		cpu_raise(c, EXC_GP, 0);
	mmu_probe(c, access_linear(c, seg, off, 1, false), 1, MMU_READ, seg);
}

/* Returning at once is always allowed, and a store to the monitored line needs no watching then. */
static void op_mwait(struct cpu *c, const struct insn *i)
{
	if (c->cpl != 0)
		cpu_raise(c, EXC_UD, 0);
	if ((uint32_t)c->rcx & ~1u)
		cpu_raise(c, EXC_GP, 0);
}

/* CLI and STI touch VIF instead of IF for virtual-8086 code under CR4.VME and for CPL 3 under
 * CR4.PVI (SDM 3A 20.3, 20.4); true when so, #GP(0) when neither is allowed. */
static bool uses_virtual_if(struct cpu *c)
{
	bool v86 = cpu_v86(c);

	if (cpu_iopl(c) >= c->cpl)
		return false;
	if (v86 ? !(c->cr4 & CR4_VME) : c->cpl != 3 || !(c->cr4 & CR4_PVI))
		cpu_raise(c, EXC_GP, 0);
	return true;
}

static void op_cli(struct cpu *c, const struct insn *i)
{
	c->rflags &= ~(cpu_protected(c) && uses_virtual_if(c) ? RFLAGS_VIF : RFLAGS_IF);
}

static void op_sti(struct cpu *c, const struct insn *i)
{
	if (cpu_protected(c) && uses_virtual_if(c)) {
		if (c->rflags & RFLAGS_VIP)
			cpu_raise(c, EXC_GP, 0);
		c->rflags |= RFLAGS_VIF;
		return;
	}
	c->shadow = !(c->rflags & RFLAGS_IF);
	c->rflags |= RFLAGS_IF;
}

static void set_ac(struct cpu *c, bool ac)
{
	if (c->cpl != 0)
		cpu_raise(c, EXC_UD, 0);
	c->rflags = ac ? c->rflags | RFLAGS_AC : c->rflags & ~RFLAGS_AC;
	mmu_update_mode(c);
}

static void op_clac(struct cpu *c, const struct insn *i)
{
	set_ac(c, false);
}

static void op_stac(struct cpu *c, const struct insn *i)
{
	set_ac(c, true);
}

static void op_invlpg(struct cpu *c, const struct insn *i)
{
	gva_t va;

	require_cpl0(c);
	/* No access is made: a non-canonical address is no fault but does nothing. */
	va = access_offset(c, i);
	if (c->mode != MODE_64 || i->seg >= SEG_FS)
		va += c->seg[i->seg].base;
	if (access_canonical(c, va))
		mmu_invlpg(c, c->mode == MODE_64 ? va : (uint32_t)va);
}

static void op_invpcid(struct cpu *c, const struct insn *i)
{
	uint64_t type, pcid, va;
	gva_t at;

	if (cpu_real_or_v86(c) && cpu_protected(c))
		cpu_raise(c, EXC_GP, 0);
	require_cpl0(c);
	type = reg_get(c, i->dst, c->mode == MODE_64 ? 8 : 4);
	at = access_ea(c, i, 16, false);
	pcid = load64(c, at, i->seg);
	va = load64(c, at + 8, i->seg);
	if (type > 3 || pcid >> 12 || (type < 2 && pcid && !(c->cr4 & CR4_PCIDE)) ||
	    (type == 0 && !access_canonical(c, va)))
		cpu_raise(c, EXC_GP, 0);
	mmu_invpcid(c, (unsigned)type, (unsigned)pcid, va);
}

static void op_rdmsr(struct cpu *c, const struct insn *i)
{
	uint64_t value;

	require_cpl0(c);
	if (msr_read(c, (uint32_t)c->rcx, &value) == MSR_FAULT)
		cpu_raise(c, EXC_GP, 0);
	c->rax = (uint32_t)value;
	c->rdx = value >> 32;
}

static void op_wrmsr(struct cpu *c, const struct insn *i)
{
	uint64_t value = (uint32_t)c->rax | c->rdx << 32;

	require_cpl0(c);
	switch (msr_write(c, (uint32_t)c->rcx, value)) {
	case MSR_FAULT:
		cpu_raise(c, EXC_GP, 0);
	case MSR_PAGING:
		cpu_update_mode(c);
		mmu_flush_all(c);
		break;
	case MSR_OK:
		break;
	}
}

static void require_tsc(struct cpu *c)
{
	if (c->cpl != 0 && c->cr4 & CR4_TSD)
		cpu_raise(c, EXC_GP, 0);
}

/* The guest's earlier accesses are over by then, as on a CPU that does not run far ahead; else a
 * TSC read under a lock could be older than one read under it before, on another vCPU. */
static void op_rdtsc(struct cpu *c, const struct insn *i)
{
	uint64_t tsc;

	require_tsc(c);
	_mm_lfence();
	tsc = cpu_tsc(c);
	c->rax = (uint32_t)tsc;
	c->rdx = tsc >> 32;
}

static void op_rdtscp(struct cpu *c, const struct insn *i)
{
	op_rdtsc(c, i);
	c->rcx = (uint32_t)c->msr.tsc_aux;
}

/* CPUID offers no performance counters, so every counter number is invalid. */
static void op_rdpmc(struct cpu *c, const struct insn *i)
{
	cpu_raise(c, EXC_GP, 0);
}

static void op_rdpid(struct cpu *c, const struct insn *i)
{
	c->gpr[i->dst] = (uint32_t)c->msr.tsc_aux;
}

static bool apic_enabled(struct cpu *c)
{
	uint64_t base;

	return msr_read(c, APIC_BASE_MSR, &base) != MSR_OK || base & APIC_BASE_ENABLE;
}

static void op_cpuid(struct cpu *c, const struct insn *i)
{
	uint32_t leaf = (uint32_t)c->rax, r[4];

	cpuid_query(c, leaf, (uint32_t)c->rcx, r);
	if (leaf == 1 && !apic_enabled(c))
		r[3] &= ~(uint32_t)LEAF1_EDX_APIC;
	c->rax = r[0];
	c->rbx = r[1];
	c->rcx = r[2];
	c->rdx = r[3];
}

/* CF says whether a number came; the other flags are cleared. */
static void return_random(struct cpu *c, const struct insn *i, uint64_t value, bool ok)
{
	reg_set(c, i->dst, i->opsize, ok ? value : 0);
	flags_set_arith(c, ok ? RFLAGS_CF : 0);
}

static void op_rdrand(struct cpu *c, const struct insn *i)
{
	uint64_t value;
	bool ok;

	__asm__ volatile("rdrand %0" : "=r"(value), "=@ccc"(ok));
	return_random(c, i, value, ok);
}

static void op_rdseed(struct cpu *c, const struct insn *i)
{
	uint64_t value;
	bool ok;

	__asm__ volatile("rdseed %0" : "=r"(value), "=@ccc"(ok));
	return_random(c, i, value, ok);
}

/* Random numbers come from the host, so only where the model (and so the host) has them. */
static insn_fn pick_random(const struct op_decode *d, struct insn *i)
{
	bool seed = d->z->mnemonic == ZYDIS_MNEMONIC_RDSEED;
	uint32_t r[4];

	cpuid_query(d->c, seed ? 7 : 1, 0, r);
	if (seed)
		return r[1] & BIT(18) ? op_rdseed : NULL;
	return r[2] & BIT(30) ? op_rdrand : NULL;
}

static void op_swapgs(struct cpu *c, const struct insn *i)
{
	uint64_t base = c->seg[SEG_GS].base;

	if (c->mode != MODE_64)
		cpu_raise(c, EXC_UD, 0);
	require_cpl0(c);
	c->seg[SEG_GS].base = c->msr.kernel_gs_base;
	c->msr.kernel_gs_base = base;
}

static void require_fsgsbase(struct cpu *c)
{
	if (c->mode != MODE_64 || !(c->cr4 & CR4_FSGSBASE))
		cpu_raise(c, EXC_UD, 0);
}

/* 64 bits with REX.W, else 32: a 66 prefix changes nothing. */
static unsigned base_size(const struct insn *i)
{
	return i->opsize == 8 ? 8 : 4;
}

static void read_base(struct cpu *c, const struct insn *i, unsigned seg)
{
	require_fsgsbase(c);
	reg_set(c, i->dst, base_size(i), c->seg[seg].base);
}

static void write_base(struct cpu *c, const struct insn *i, unsigned seg)
{
	uint64_t value = reg_get(c, i->dst, base_size(i));

	require_fsgsbase(c);
	if (!access_canonical(c, value))
		cpu_raise(c, EXC_GP, 0);
	c->seg[seg].base = value;
}

static void op_rdfsbase(struct cpu *c, const struct insn *i)
{
	read_base(c, i, SEG_FS);
}

static void op_rdgsbase(struct cpu *c, const struct insn *i)
{
	read_base(c, i, SEG_GS);
}

static void op_wrfsbase(struct cpu *c, const struct insn *i)
{
	write_base(c, i, SEG_FS);
}

static void op_wrgsbase(struct cpu *c, const struct insn *i)
{
	write_base(c, i, SEG_GS);
}

/* Protection keys for user pages (SDM 2B "RDPKRU", "WRPKRU"). */
static void op_rdpkru(struct cpu *c, const struct insn *i)
{
	if (!(c->cr4 & CR4_PKE))
		cpu_raise(c, EXC_UD, 0);
	if ((uint32_t)c->rcx)
		cpu_raise(c, EXC_GP, 0);
	c->rax = c->pkru;
	c->rdx = 0;
}

static void op_wrpkru(struct cpu *c, const struct insn *i)
{
	if (!(c->cr4 & CR4_PKE))
		cpu_raise(c, EXC_UD, 0);
	if ((uint32_t)c->rcx || (uint32_t)c->rdx)
		cpu_raise(c, EXC_GP, 0);
	if (c->pkru == (uint32_t)c->rax)
		return;
	c->pkru = (uint32_t)c->rax;
	mmu_flush_data(c);
}

const struct op_row ops_system[] = {
	{ ZYDIS_MNEMONIC_ARPL, 0, op_arpl, NULL },
	{ ZYDIS_MNEMONIC_CLAC, 0, op_clac, NULL },
	{ ZYDIS_MNEMONIC_CLFLUSH, 0, op_clflush, NULL },
	{ ZYDIS_MNEMONIC_CLFLUSHOPT, 0, op_clflush, NULL },
	{ ZYDIS_MNEMONIC_CLI, 0, op_cli, NULL },
	{ ZYDIS_MNEMONIC_CLTS, INSN_END, op_clts, NULL },
	{ ZYDIS_MNEMONIC_CLWB, 0, op_clflush, NULL },
	{ ZYDIS_MNEMONIC_CPUID, INSN_END, op_cpuid, NULL },
	{ ZYDIS_MNEMONIC_ENDBR32, 0, op_nop, NULL },
	{ ZYDIS_MNEMONIC_ENDBR64, 0, op_nop, NULL },
	{ ZYDIS_MNEMONIC_HLT, INSN_END, op_hlt, NULL },
	{ ZYDIS_MNEMONIC_IN, INSN_END, NULL, io_pick_in },
	{ ZYDIS_MNEMONIC_INSB, INSN_END, NULL, io_pick_string },
	{ ZYDIS_MNEMONIC_INSD, INSN_END, NULL, io_pick_string },
	{ ZYDIS_MNEMONIC_INSW, INSN_END, NULL, io_pick_string },
	{ ZYDIS_MNEMONIC_INVD, INSN_END, op_wbinvd, NULL },
	{ ZYDIS_MNEMONIC_INVLPG, INSN_END, op_invlpg, NULL },
	{ ZYDIS_MNEMONIC_INVPCID, INSN_END, op_invpcid, NULL },
	{ ZYDIS_MNEMONIC_LAR, 0, op_lar, NULL },
	{ ZYDIS_MNEMONIC_LFENCE, 0, op_lfence, NULL },
	{ ZYDIS_MNEMONIC_LGDT, INSN_END, op_lgdt, NULL },
	{ ZYDIS_MNEMONIC_LIDT, INSN_END, op_lidt, NULL },
	{ ZYDIS_MNEMONIC_LLDT, INSN_END, op_lldt, NULL },
	{ ZYDIS_MNEMONIC_LMSW, INSN_END, op_lmsw, NULL },
	{ ZYDIS_MNEMONIC_LSL, 0, op_lsl, NULL },
	{ ZYDIS_MNEMONIC_LTR, INSN_END, op_ltr, NULL },
	{ ZYDIS_MNEMONIC_MFENCE, 0, op_mfence, NULL },
	{ ZYDIS_MNEMONIC_MONITOR, 0, op_monitor, NULL },
	{ ZYDIS_MNEMONIC_MWAIT, INSN_END, op_mwait, NULL },
	{ ZYDIS_MNEMONIC_OUT, INSN_END, NULL, io_pick_out },
	{ ZYDIS_MNEMONIC_OUTSB, INSN_END, NULL, io_pick_string },
	{ ZYDIS_MNEMONIC_OUTSD, INSN_END, NULL, io_pick_string },
	{ ZYDIS_MNEMONIC_OUTSW, INSN_END, NULL, io_pick_string },
	{ ZYDIS_MNEMONIC_PAUSE, INSN_END, op_pause, NULL },
	{ ZYDIS_MNEMONIC_PREFETCH, 0, op_nop, NULL },
	{ ZYDIS_MNEMONIC_PREFETCHNTA, 0, op_nop, NULL },
	{ ZYDIS_MNEMONIC_PREFETCHT0, 0, op_nop, NULL },
	{ ZYDIS_MNEMONIC_PREFETCHT1, 0, op_nop, NULL },
	{ ZYDIS_MNEMONIC_PREFETCHT2, 0, op_nop, NULL },
	{ ZYDIS_MNEMONIC_PREFETCHW, 0, op_nop, NULL },
	{ ZYDIS_MNEMONIC_PREFETCHWT1, 0, op_nop, NULL },
	{ ZYDIS_MNEMONIC_RDFSBASE, 0, op_rdfsbase, NULL },
	{ ZYDIS_MNEMONIC_RDGSBASE, 0, op_rdgsbase, NULL },
	{ ZYDIS_MNEMONIC_RDMSR, INSN_END, op_rdmsr, NULL },
	{ ZYDIS_MNEMONIC_RDPID, 0, op_rdpid, NULL },
	{ ZYDIS_MNEMONIC_RDPKRU, 0, op_rdpkru, NULL },
	{ ZYDIS_MNEMONIC_RDPMC, 0, op_rdpmc, NULL },
	{ ZYDIS_MNEMONIC_RDRAND, 0, NULL, pick_random },
	{ ZYDIS_MNEMONIC_RDSEED, 0, NULL, pick_random },
	{ ZYDIS_MNEMONIC_RDSSPD, 0, op_nop, NULL }, /* without shadow stacks */
	{ ZYDIS_MNEMONIC_RDSSPQ, 0, op_nop, NULL },
	{ ZYDIS_MNEMONIC_RDTSC, 0, op_rdtsc, NULL },
	{ ZYDIS_MNEMONIC_RDTSCP, 0, op_rdtscp, NULL },
	{ ZYDIS_MNEMONIC_SFENCE, 0, op_sfence, NULL },
	{ ZYDIS_MNEMONIC_SGDT, 0, op_sgdt, NULL },
	{ ZYDIS_MNEMONIC_SIDT, 0, op_sidt, NULL },
	{ ZYDIS_MNEMONIC_SLDT, 0, op_sldt, NULL },
	{ ZYDIS_MNEMONIC_SMSW, 0, op_smsw, NULL },
	{ ZYDIS_MNEMONIC_STAC, 0, op_stac, NULL },
	{ ZYDIS_MNEMONIC_WRPKRU, 0, op_wrpkru, NULL },
	{ ZYDIS_MNEMONIC_STI, INSN_END, op_sti, NULL },
	{ ZYDIS_MNEMONIC_STR, 0, op_str, NULL },
	{ ZYDIS_MNEMONIC_SWAPGS, 0, op_swapgs, NULL },
	{ ZYDIS_MNEMONIC_VERR, 0, op_verr, NULL },
	{ ZYDIS_MNEMONIC_VERW, 0, op_verw, NULL },
	{ ZYDIS_MNEMONIC_WBINVD, INSN_END, op_wbinvd, NULL },
	{ ZYDIS_MNEMONIC_WRFSBASE, 0, op_wrfsbase, NULL },
	{ ZYDIS_MNEMONIC_WRGSBASE, 0, op_wrgsbase, NULL },
	{ ZYDIS_MNEMONIC_WRMSR, INSN_END, op_wrmsr, NULL },
	{ 0, 0, NULL, NULL },
};

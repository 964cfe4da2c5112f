/*
 * Fast system calls: SYSCALL, SYSRET, SYSENTER, SYSEXIT. They load flat segments without reading
 * descriptors. Where the vendors differ, the vendor that CPUID shows decides: AMD has SYSCALL in
 * compatibility and legacy mode and no SYSENTER in long mode; Intel the other way round.
 */
#include "cpu/cpuid.h"
#include "interp/access.h"
#include "interp/far.h"
#include "interp/segment.h"
#include "interp/state.h"

#define DPL3 (3u << 5)
/* RFLAGS bits that SYSRET takes from R11 (SDM 2B SYSRET): all defined ones but RF and VM. */
#define SYSRET_FLAGS 0x3c7fd7ull

static void require_syscall(struct cpu *c)
{
	if (!(c->efer & EFER_SCE))
		cpu_raise(c, EXC_UD, 0);
	if (c->mode != MODE_64 && (!cpuid_is_amd(c->cpuid) || !cpu_protected(c)))
		cpu_raise(c, EXC_UD, 0);
}

void op_syscall(struct cpu *c, const struct insn *i)
{
	uint16_t sel = (uint16_t)(c->msr.star >> 32) & 0xfffc;
	bool lm = cpu_long_mode(c);
	struct segment cs = segment_flat(sel, lm ? ATTR_FLAT_CODE64 : ATTR_FLAT_CODE32);
	uint64_t flags, target;

	require_syscall(c);
	c->rcx = c->mode == MODE_64 ? c->rip : (uint32_t)c->rip;
	if (lm) {
		flags = cpu_get_rflags(c) & ~RFLAGS_RF;
		c->r11 = flags;
		c->interp->soft_event = c->msr.fmask & RFLAGS_TF; /* then no single-step trap */
		cpu_set_rflags(c, flags & ~c->msr.fmask);
		target = c->mode == MODE_64 ? c->msr.lstar : c->msr.cstar;
	} else {
		c->rflags &= ~(RFLAGS_IF | RFLAGS_VM | RFLAGS_RF);
		target = (uint32_t)c->msr.star;
	}
	c->seg[SEG_SS] = segment_flat((uint16_t)(sel + 8), ATTR_FLAT_DATA);
	code_enter(c, &cs, target, 0);
}

void op_sysret(struct cpu *c, const struct insn *i)
{
	bool to64 = i->opsize == 8;
	uint16_t base = (uint16_t)(c->msr.star >> 48);
	uint16_t sel = (uint16_t)((to64 ? base + 16 : base) | 3);
	struct segment cs = segment_flat(sel, (to64 ? ATTR_FLAT_CODE64 : ATTR_FLAT_CODE32) | DPL3);

	require_syscall(c);
	if (c->cpl != 0)
		cpu_raise(c, EXC_GP, 0);
	if (to64 && !access_canonical(c, c->rcx))
		cpu_raise(c, EXC_GP, 0);
	if (cpu_long_mode(c))
		cpu_set_rflags(c, c->r11 & SYSRET_FLAGS);
	else
		c->rflags |= RFLAGS_IF;
	c->seg[SEG_SS] = segment_flat((uint16_t)((base + 8) | 3), ATTR_FLAT_DATA | DPL3);
	code_enter(c, &cs, to64 ? c->rcx : (uint32_t)c->rcx, 3);
}

static void require_sysenter(struct cpu *c)
{
	if (cpuid_is_amd(c->cpuid) && cpu_long_mode(c))
		cpu_raise(c, EXC_UD, 0);
	if (!cpu_protected(c) || selector_is_null((uint16_t)c->msr.sysenter_cs))
		cpu_raise(c, EXC_GP, 0);
}

void op_sysenter(struct cpu *c, const struct insn *i)
{
	uint16_t sel = (uint16_t)c->msr.sysenter_cs & 0xfffc;
	bool lm = cpu_long_mode(c);
	struct segment cs = segment_flat(sel, lm ? ATTR_FLAT_CODE64 : ATTR_FLAT_CODE32);

	require_sysenter(c);
	c->rflags &= ~(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
	c->seg[SEG_SS] = segment_flat((uint16_t)(sel + 8), ATTR_FLAT_DATA);
	c->rsp = lm ? c->msr.sysenter_esp : (uint32_t)c->msr.sysenter_esp;
	code_enter(c, &cs, lm ? c->msr.sysenter_eip : (uint32_t)c->msr.sysenter_eip, 0);
}

void op_sysexit(struct cpu *c, const struct insn *i)
{
	bool to64 = i->opsize == 8;
	uint16_t sel = (uint16_t)((c->msr.sysenter_cs + (to64 ? 32 : 16)) | 3);
	struct segment cs = segment_flat(sel, (to64 ? ATTR_FLAT_CODE64 : ATTR_FLAT_CODE32) | DPL3);

	require_sysenter(c);
	if (c->cpl != 0)
		cpu_raise(c, EXC_GP, 0);
	if (to64 && (!access_canonical(c, c->rdx) || !access_canonical(c, c->rcx)))
		cpu_raise(c, EXC_GP, 0);
	c->seg[SEG_SS] = segment_flat((uint16_t)(sel + 8), ATTR_FLAT_DATA | DPL3);
	c->rsp = to64 ? c->rcx : (uint32_t)c->rcx;
	code_enter(c, &cs, to64 ? c->rdx : (uint32_t)c->rdx, 3);
}

/*
 * A vCPU's state between struct cpu and KVM: general registers, segments, control registers, MSRs,
 * x87 and vector state, debug registers, events, MP state, the TSC's offset.
 *
 * kvm_fetch() fills struct cpu, kvm_push() is its inverse; both move everything, so that a machine
 * can be saved on this engine and go on on another. An event that KVM was about to deliver becomes
 * cpu->event. INT n, INT3 and INTO are not kept: RIP is still at them and they are executed again.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include "cpu/cpuid.h"
#include "cpu/flags.h"
#include "cpu/msr.h"
#include "cpu/xsave.h"
#include "device/lapic.h"
#include "interp/ops.h"
#include "mmu/mmu.h"

#define XCR0_LEGACY (XCR0_X87 | XCR0_SSE)

static int call(const struct kvm_vcpu *k, unsigned long request, void *arg)
{
	return ioctl(k->fd, request, arg) < 0 ? -errno : 0;
}

/* ---- general registers ---- */

static int fetch_regs(struct kvm_vcpu *k)
{
	struct cpu *c = k->cpu;
	struct kvm_regs r;
	int rc = call(k, KVM_GET_REGS, &r);

	if (rc)
		return rc;
	c->rax = r.rax, c->rcx = r.rcx, c->rdx = r.rdx, c->rbx = r.rbx;
	c->rsp = r.rsp, c->rbp = r.rbp, c->rsi = r.rsi, c->rdi = r.rdi;
	c->r8 = r.r8, c->r9 = r.r9, c->r10 = r.r10, c->r11 = r.r11;
	c->r12 = r.r12, c->r13 = r.r13, c->r14 = r.r14, c->r15 = r.r15;
	c->rip = r.rip;
	cpu_set_rflags(c, r.rflags);
	return 0;
}

static int push_regs(struct kvm_vcpu *k)
{
	const struct cpu *c = k->cpu;
	struct kvm_regs r = {
		.rax = c->rax,
		.rcx = c->rcx,
		.rdx = c->rdx,
		.rbx = c->rbx,
		.rsp = c->rsp,
		.rbp = c->rbp,
		.rsi = c->rsi,
		.rdi = c->rdi,
		.r8 = c->r8,
		.r9 = c->r9,
		.r10 = c->r10,
		.r11 = c->r11,
		.r12 = c->r12,
		.r13 = c->r13,
		.r14 = c->r14,
		.r15 = c->r15,
		.rip = c->rip,
		.rflags = cpu_get_rflags(c),
	};

	return call(k, KVM_SET_REGS, &r);
}

/* ---- segments and control registers ---- */

static void segment_from_kvm(struct segment *s, const struct kvm_segment *k)
{
	*s = (struct segment){
		.base = k->base,
		.limit = k->limit,
		.sel = k->selector,
		.attr = (uint32_t)(k->type | k->s << 4 | k->dpl << 5 | k->present << 7 |
		                   k->avl << 12 | k->l << 13 | k->db << 14 | k->g << 15 |
		                   k->unusable << 16),
	};
}

static void segment_to_kvm(struct kvm_segment *k, const struct segment *s)
{
	*k = (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->sel,
		.type = s->attr & SEG_TYPE,
		.s = s->attr >> 4 & 1,
		.dpl = SEG_DPL(s->attr),
		.present = s->attr >> 7 & 1,
		.avl = s->attr >> 12 & 1,
		.l = s->attr >> 13 & 1,
		.db = s->attr >> 14 & 1,
		.g = s->attr >> 15 & 1,
		.unusable = s->attr >> 16 & 1,
	};
}

/* The same fields, in the same order, begin both of KVM's structures. */
_Static_assert(offsetof(struct kvm_sregs, apic_base) == offsetof(struct kvm_sregs2, apic_base),
               "struct kvm_sregs2 is struct kvm_sregs up to apic_base");

static const size_t segment_at[SEG_COUNT] = {
	[SEG_ES] = offsetof(struct kvm_sregs2, es),    [SEG_CS] = offsetof(struct kvm_sregs2, cs),
	[SEG_SS] = offsetof(struct kvm_sregs2, ss),    [SEG_DS] = offsetof(struct kvm_sregs2, ds),
	[SEG_FS] = offsetof(struct kvm_sregs2, fs),    [SEG_GS] = offsetof(struct kvm_sregs2, gs),
	[SEG_LDTR] = offsetof(struct kvm_sregs2, ldt), [SEG_TR] = offsetof(struct kvm_sregs2, tr),
};

static int get_sregs(struct kvm_vcpu *k, struct kvm_sregs2 *s)
{
	struct kvm_sregs old;
	int rc;

	if (k->vm->offers.sregs2)
		return call(k, KVM_GET_SREGS2, s);
	rc = call(k, KVM_GET_SREGS, &old);
	memcpy(s, &old, offsetof(struct kvm_sregs, apic_base) + sizeof(old.apic_base));
	s->flags = 0;
	return rc;
}

static int set_sregs(struct kvm_vcpu *k, const struct kvm_sregs2 *s)
{
	struct kvm_sregs old = { 0 };

	if (k->vm->offers.sregs2)
		return call(k, KVM_SET_SREGS2, (void *)s);
	memcpy(&old, s, offsetof(struct kvm_sregs, apic_base) + sizeof(old.apic_base));
	return call(k, KVM_SET_SREGS, &old);
}

static void fetch_pdptes(struct cpu *c, const struct kvm_sregs2 *s)
{
	if (s->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
		memcpy(c->pdpte, s->pdptrs, sizeof(c->pdpte));
	else if (c->cr0 & CR0_PG && c->cr4 & CR4_PAE && !cpu_long_mode(c))
		mmu_load_pdptes(c, c->cr3);
}

static int fetch_sregs(struct kvm_vcpu *k)
{
	struct cpu *c = k->cpu;
	struct kvm_sregs2 s;
	int rc = get_sregs(k, &s);

	if (rc)
		return rc;
	for (unsigned n = 0; n < SEG_COUNT; n++)
		segment_from_kvm(&c->seg[n], (struct kvm_segment *)((char *)&s + segment_at[n]));
	c->gdtr = (struct dtable){ s.gdt.base, s.gdt.limit };
	c->idtr = (struct dtable){ s.idt.base, s.idt.limit };
	c->cr0 = s.cr0;
	c->cr2 = s.cr2;
	c->cr3 = s.cr3;
	c->cr4 = s.cr4;
	c->efer = s.efer;
	fetch_pdptes(c, &s);
	k->cr8 = s.cr8;
	k->apic_base = s.apic_base;
	/* SDM 3C 24.4.1: the CPL is the DPL of SS. */
	c->cpl = c->rflags & RFLAGS_VM ? 3 : (uint8_t)SEG_DPL(c->seg[SEG_SS].attr);
	return 0;
}

/* What of the APIC is in these registers: ours, or what the kernel's had. */
static void find_apic(struct kvm_vcpu *k)
{
	struct lapic *l = k->cpu->lapic;

	if (!l) {
		k->apic_base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (k->cpu->id ? 0 : APIC_BASE_BSP);
		k->cr8 = 0;
		return;
	}
	if (k->vm->irqchip.kind != IRQCHIP_OWN) {
		k->lapic_due = lapic_take_loaded(l) || k->lapic_due;
		if (!k->lapic_due)
			return;
	}
	lapic_read_msr(l, MSR_APIC_BASE, &k->apic_base);
	k->cr8 = lapic_get_tpr(l);
}

static int push_sregs(struct kvm_vcpu *k)
{
	const struct cpu *c = k->cpu;
	struct segment ss = c->seg[SEG_SS];
	struct kvm_sregs2 s;

	find_apic(k);
	s = (struct kvm_sregs2){
		.gdt = { .base = c->gdtr.base, .limit = c->gdtr.limit },
		.idt = { .base = c->idtr.base, .limit = c->idtr.limit },
		.cr0 = c->cr0,
		.cr2 = c->cr2,
		.cr3 = c->cr3,
		.cr4 = c->cr4,
		.efer = c->efer,
		.cr8 = k->cr8,
		.apic_base = k->apic_base,
	};
	if (c->cpl != 3 || !(c->rflags & RFLAGS_VM))
		ss.attr = (ss.attr & ~(3u << 5)) | (uint32_t)c->cpl << 5;
	for (unsigned n = 0; n < SEG_COUNT; n++)
		segment_to_kvm((struct kvm_segment *)((char *)&s + segment_at[n]),
		               n == SEG_SS ? &ss : &c->seg[n]);
	if (c->cr0 & CR0_PG && c->cr4 & CR4_PAE && !cpu_long_mode(c)) {
		s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
		memcpy(s.pdptrs, c->pdpte, sizeof(s.pdptrs));
	}
	return set_sregs(k, &s);
}

/* ---- x87 and vectors ---- */

/* Components behind the legacy region: where struct cpu has them. */
static const struct {
	uint8_t bit;
	uint16_t size;
	size_t at;
} components[] = {
	{ 2, 256, offsetof(struct cpu, fpu.area) + FPU_YMMH },
	{ 5, 64, offsetof(struct cpu, fpu_wide.opmask) },
	{ 6, 512, offsetof(struct cpu, fpu_wide.upper) },
	{ 7, 1024, offsetof(struct cpu, fpu_wide.high) },
	{ 9, 4, offsetof(struct cpu, pkru) },
};

/* The host's own layout, which is the one of KVM's structure; 0 when it has no such component. */
static uint32_t component_offset(const struct engine_vm *vm, unsigned bit)
{
	for (unsigned n = 0; n < vm->features.nr; n++)
		if (vm->features.leaf[n].leaf == 0xd && vm->features.leaf[n].sub == bit)
			return vm->features.leaf[n].r[1];
	return 0;
}

static uint8_t *component(const struct kvm_vcpu *k, unsigned n)
{
	uint32_t off = component_offset(k->vm, components[n].bit);

	if (!(k->xcr0_mask & BIT(components[n].bit)) || !off ||
	    off + components[n].size > k->vm->xsave_bytes)
		return NULL;
	return (uint8_t *)k->xsave + off;
}

static int fetch_fpu(struct kvm_vcpu *k)
{
	struct cpu *c = k->cpu;
	int rc = call(k, k->vm->offers.xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, k->xsave);

	if (rc)
		return rc;
	memcpy(c->fpu.area, k->xsave, XSAVE_XSTATE_BV);
	for (unsigned n = 0; n < ARRAY_SIZE(components); n++) {
		const uint8_t *p = component(k, n);

		if (p)
			memcpy((char *)c + components[n].at, p, components[n].size);
	}
	return 0;
}

static int push_fpu(struct kvm_vcpu *k)
{
	const struct cpu *c = k->cpu;
	uint64_t header[8] = { XCR0_LEGACY };

	memset(k->xsave, 0, k->vm->xsave_bytes);
	memcpy(k->xsave, c->fpu.area, XSAVE_XSTATE_BV);
	for (unsigned n = 0; n < ARRAY_SIZE(components); n++) {
		uint8_t *p = component(k, n);

		if (!p)
			continue;
		memcpy(p, (const char *)c + components[n].at, components[n].size);
		header[0] |= BIT(components[n].bit);
	}
	memcpy((uint8_t *)k->xsave + XSAVE_XSTATE_BV, header, sizeof(header));
	return call(k, KVM_SET_XSAVE, k->xsave);
}

/* Models without XSAVE have no XCR0. */
static bool has_xcr0(const struct kvm_vcpu *k)
{
	return k->vm->offers.xcrs && k->xcr0_mask & ~XCR0_LEGACY;
}

static int fetch_xcr0(struct kvm_vcpu *k)
{
	struct kvm_xcrs x;
	int rc = has_xcr0(k) ? call(k, KVM_GET_XCRS, &x) : 0;

	for (unsigned n = 0; !rc && has_xcr0(k) && n < x.nr_xcrs; n++)
		if (x.xcrs[n].xcr == 0)
			k->cpu->xcr0 = x.xcrs[n].value;
	return rc;
}

static int push_xcr0(struct kvm_vcpu *k)
{
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = k->cpu->xcr0 } } };

	return has_xcr0(k) ? call(k, KVM_SET_XCRS, &x) : 0;
}

/* ---- MSRs ---- */

enum { GUEST_READS = 1, GUEST_WRITES = 2, GUEST = 3, OF_APIC = 4 };
#define NOT_KEPT SIZE_MAX

/* Those that are KVM's. at: its place in struct cpu, NOT_KEPT for one that another call carries or
 * that keeps nothing. access: what the guest does without us. */
static const struct {
	uint32_t index;
	uint8_t access;
	size_t at;
} msrs[] = {
	{ 0x10, GUEST_READS, NOT_KEPT }, /* TSC: a write is ours, and moves the offset */
	{ 0x1b, GUEST | OF_APIC, NOT_KEPT },
	{ 0x48, GUEST, offsetof(struct cpu, msr.spec_ctrl) },
	{ 0x49, GUEST, NOT_KEPT },
	{ 0x10b, GUEST, NOT_KEPT },
	{ 0x174, GUEST, offsetof(struct cpu, msr.sysenter_cs) },
	{ 0x175, GUEST, offsetof(struct cpu, msr.sysenter_esp) },
	{ 0x176, GUEST, offsetof(struct cpu, msr.sysenter_eip) },
	{ 0x1d9, GUEST, offsetof(struct cpu, msr.debugctl) },
	{ 0x277, GUEST, offsetof(struct cpu, msr.pat) },
	{ 0x6e0, GUEST | OF_APIC, NOT_KEPT },
	{ 0xda0, GUEST, offsetof(struct cpu, msr.xss) },
	{ 0xc0000080, GUEST, NOT_KEPT },
	{ 0xc0000081, GUEST, offsetof(struct cpu, msr.star) },
	{ 0xc0000082, GUEST, offsetof(struct cpu, msr.lstar) },
	{ 0xc0000083, GUEST, offsetof(struct cpu, msr.cstar) },
	{ 0xc0000084, GUEST, offsetof(struct cpu, msr.fmask) },
	{ 0xc0000100, GUEST, NOT_KEPT },
	{ 0xc0000101, GUEST, NOT_KEPT },
	{ 0xc0000102, GUEST, offsetof(struct cpu, msr.kernel_gs_base) },
	{ 0xc0000103, GUEST, offsetof(struct cpu, msr.tsc_aux) },
	{ 0x4b564d03, GUEST, offsetof(struct cpu, msr.steal_time) },
};
_Static_assert(ARRAY_SIZE(msrs) <= KVM_MAX_MSRS, "room for the rows that a host knows");

#define FILTER_MSRS 0x1000 /* in one map */

/* Bits of a map: 1 for what the guest may do. */
static void fill_map(const struct engine_vm *vm, uint32_t base, uint8_t access, uint8_t *map)
{
	for (size_t n = 0; n < ARRAY_SIZE(msrs); n++) {
		uint32_t off = msrs[n].index - base;

		if (off >= FILTER_MSRS || !(msrs[n].access & access))
			continue;
		if (msrs[n].access & OF_APIC && vm->irqchip.kind == IRQCHIP_OWN)
			continue;
		map[off / 8] |= (uint8_t)BIT(off % 8);
	}
}

int kvm_set_msr_filter(struct engine_vm *vm)
{
	static const uint32_t base[] = { 0, 0xc0000000, 0x4b564000 };
	static const struct {
		uint32_t flag;
		uint8_t access;
	} way[] = { { KVM_MSR_FILTER_READ, GUEST_READS }, { KVM_MSR_FILTER_WRITE, GUEST_WRITES } };
	uint8_t map[ARRAY_SIZE(base)][ARRAY_SIZE(way)][FILTER_MSRS / 8] = { 0 };
	struct kvm_msr_filter f = { .flags = KVM_MSR_FILTER_DEFAULT_DENY };
	unsigned nr = 0;
	int rc;

	for (size_t b = 0; b < ARRAY_SIZE(base); b++)
		for (size_t w = 0; w < ARRAY_SIZE(way); w++) {
			fill_map(vm, base[b], way[w].access, map[b][w]);
			f.ranges[nr++] = (struct kvm_msr_filter_range){
				.flags = way[w].flag,
				.nmsrs = FILTER_MSRS,
				.base = base[b],
				.bitmap = map[b][w],
			};
		}
	rc = kvm_enable(vm->fd, KVM_CAP_X86_USER_SPACE_MSR,
	                KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
	                        KVM_MSR_EXIT_REASON_FILTER,
	                0);
	if (!rc && ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &f) < 0)
		rc = -errno;
	return rc;
}

struct msr_block {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[KVM_MAX_MSRS];
};

/* KVM_GET_MSRS and KVM_SET_MSRS say how many they did. */
static int call_msrs(struct kvm_vcpu *k, unsigned long request, struct msr_block *b)
{
	int done = ioctl(k->fd, request, b);

	if (done < 0)
		return -errno;
	return (unsigned)done == b->head.nmsrs ? 0 : -EIO;
}

static void name_msrs(const struct kvm_vcpu *k, struct msr_block *b)
{
	*b = (struct msr_block){ .head.nmsrs = k->nr_msrs };
	for (unsigned n = 0; n < k->nr_msrs; n++)
		b->entry[n].index = msrs[k->msr_row[n]].index;
}

static uint64_t *msr_field(struct kvm_vcpu *k, unsigned n)
{
	return (uint64_t *)((char *)k->cpu + msrs[k->msr_row[n]].at);
}

static int fetch_msrs(struct kvm_vcpu *k)
{
	struct msr_block b;
	int rc;

	name_msrs(k, &b);
	rc = call_msrs(k, KVM_GET_MSRS, &b);
	for (unsigned n = 0; !rc && n < k->nr_msrs; n++)
		*msr_field(k, n) = b.entry[n].data;
	return rc;
}

static int push_msrs(struct kvm_vcpu *k)
{
	struct msr_block b;

	name_msrs(k, &b);
	for (unsigned n = 0; n < k->nr_msrs; n++)
		b.entry[n].data = *msr_field(k, n);
	return call_msrs(k, KVM_SET_MSRS, &b);
}

/* A host without the feature behind an MSR does not know it. */
static void find_msrs(struct kvm_vcpu *k)
{
	for (size_t n = 0; n < ARRAY_SIZE(msrs); n++) {
		struct msr_block b = { .head.nmsrs = 1, .entry[0].index = msrs[n].index };

		if (msrs[n].at != NOT_KEPT && !call_msrs(k, KVM_GET_MSRS, &b) &&
		    !call_msrs(k, KVM_SET_MSRS, &b))
			k->msr_row[k->nr_msrs++] = (uint8_t)n;
	}
}

int kvm_set_tsc_offset(struct kvm_vcpu *k)
{
	int64_t offset = k->cpu->msr.tsc_offset;
	struct kvm_device_attr a = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)&offset,
	};
	struct msr_block b = { .head.nmsrs = 1, .entry[0].index = MSR_TSC };
	int rc;

	if (k->tsc_set && k->tsc_offset == offset)
		return 0;
	if (k->vm->offers.tsc_offset) {
		rc = call(k, KVM_SET_DEVICE_ATTR, &a);
	} else {
		b.entry[0].data = cpu_tsc(k->cpu);
		rc = call_msrs(k, KVM_SET_MSRS, &b);
	}
	k->tsc_offset = offset;
	k->tsc_set = !rc;
	return rc;
}

/* ---- debug registers ---- */

static int fetch_debug(struct kvm_vcpu *k)
{
	struct kvm_debugregs d;
	int rc = call(k, KVM_GET_DEBUGREGS, &d);

	if (rc)
		return rc;
	for (unsigned n = 0; n < 4; n++)
		k->cpu->dr[n] = d.db[n];
	k->cpu->dr6 = d.dr6;
	k->cpu->dr7 = d.dr7;
	return 0;
}

static int push_debug(struct kvm_vcpu *k)
{
	const struct cpu *c = k->cpu;
	struct kvm_debugregs d = { .dr6 = (uint32_t)c->dr6, .dr7 = (uint32_t)c->dr7 };

	for (unsigned n = 0; n < 4; n++)
		d.db[n] = c->dr[n];
	return call(k, KVM_SET_DEBUGREGS, &d);
}

/* ---- events ---- */

static void keep_event(struct cpu *c, uint8_t vector, bool external, bool has_error, uint32_t error)
{
	c->event.vector = vector;
	c->event.external = external;
	c->event.has_error = has_error;
	c->event.error = error;
	cpu_raise_attention(c, ATTN_EVENT);
}

static int fetch_events(struct kvm_vcpu *k)
{
	struct kvm_vcpu_events e = { 0 };
	struct cpu *c = k->cpu;
	int rc = call(k, KVM_GET_VCPU_EVENTS, &e);

	if (rc)
		return rc;
	c->shadow = e.interrupt.shadow;
	c->nmi_masked = e.nmi.masked;
	atomic_fetch_and(&c->attention, ~ATTN_EVENT);
	if ((e.exception.injected || e.exception.pending) && e.exception.nr != EXC_BP &&
	    e.exception.nr != EXC_OF)
		keep_event(c, e.exception.nr, false, e.exception.has_error_code,
		           e.exception.error_code);
	else if (e.nmi.injected)
		keep_event(c, EXC_NMI, true, false, 0);
	else if (e.interrupt.injected && !e.interrupt.soft)
		keep_event(c, e.interrupt.nr, true, false, 0);
	if (e.nmi.pending)
		cpu_raise_attention(c, ATTN_NMI);
	return 0;
}

static void put_event(struct cpu *c, struct kvm_vcpu_events *e)
{
	if (!(atomic_fetch_and(&c->attention, ~ATTN_EVENT) & ATTN_EVENT))
		return;
	if (!c->event.external) {
		e->exception.injected = 1;
		e->exception.nr = c->event.vector;
		e->exception.has_error_code = c->event.has_error;
		e->exception.error_code = c->event.error;
	} else if (c->event.vector == EXC_NMI) {
		e->nmi.injected = 1;
	} else {
		e->interrupt.injected = 1;
		e->interrupt.nr = c->event.vector;
	}
}

static int push_events(struct kvm_vcpu *k)
{
	struct cpu *c = k->cpu;
	struct kvm_vcpu_events e = {
		.flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING,
		.interrupt.shadow = c->shadow ? KVM_X86_SHADOW_INT_STI : 0,
		.nmi.masked = c->nmi_masked,
	};

	put_event(c, &e);
	if (k->vm->irqchip.kind != IRQCHIP_OWN)
		e.nmi.pending = !!(atomic_fetch_and(&c->attention, ~ATTN_NMI) & ATTN_NMI);
	return call(k, KVM_SET_VCPU_EVENTS, &e);
}

/* ---- how it waits, with an APIC in the kernel ---- */

static int fetch_mp_state(struct kvm_vcpu *k)
{
	struct kvm_mp_state s;
	int rc;

	if (k->vm->irqchip.kind == IRQCHIP_OWN)
		return 0;
	rc = call(k, KVM_GET_MP_STATE, &s);
	if (rc)
		return rc;
	if (s.mp_state == KVM_MP_STATE_RUNNABLE || s.mp_state == KVM_MP_STATE_SIPI_RECEIVED)
		k->cpu->mp_state = MP_RUNNABLE;
	else
		k->cpu->mp_state = s.mp_state == KVM_MP_STATE_HALTED ? MP_HALTED : MP_WAIT_SIPI;
	return 0;
}

static int push_mp_state(struct kvm_vcpu *k)
{
	static const uint32_t state[] = {
		[MP_RUNNABLE] = KVM_MP_STATE_RUNNABLE,
		[MP_HALTED] = KVM_MP_STATE_HALTED,
		[MP_WAIT_SIPI] = KVM_MP_STATE_INIT_RECEIVED,
	};
	struct kvm_mp_state s = { .mp_state = state[k->cpu->mp_state] };

	return k->vm->irqchip.kind == IRQCHIP_OWN ? 0 : call(k, KVM_SET_MP_STATE, &s);
}

/* ---- all of it ---- */

typedef int (*move_fn)(struct kvm_vcpu *k);

static int move_all(struct kvm_vcpu *k, const move_fn *part)
{
	int rc = 0;

	for (; *part && !rc; part++)
		rc = (*part)(k);
	return rc;
}

int kvm_fetch(struct kvm_vcpu *k)
{
	/* Segments after the flags, for the CPL. */
	static const move_fn parts[] = { fetch_regs,     fetch_sregs,  fetch_xcr0,
		                         fetch_fpu,      fetch_msrs,   fetch_debug,
		                         fetch_mp_state, fetch_events, NULL };
	int rc;

	if (!k->in_kvm)
		return 0;
	rc = move_all(k, parts);
	k->count[KVM_COUNT_FETCHES]++;
	k->in_kvm = rc;
	cpu_update_mode(k->cpu);
	mmu_flush_all(k->cpu);
	mmu_update_mode(k->cpu);
	return rc;
}

int kvm_push(struct kvm_vcpu *k)
{
	/* CR4.OSXSAVE before XCR0; setting registers drops events. */
	static const move_fn parts[] = { push_sregs,         push_xcr0,     push_fpu,
		                         push_msrs,          push_regs,     push_debug,
		                         kvm_push_lapic,     push_mp_state, push_events,
		                         kvm_set_tsc_offset, NULL };
	int rc;

	if (k->in_kvm)
		return 0;
	rc = move_all(k, parts);
	k->count[KVM_COUNT_PUSHES]++;
	k->in_kvm = !rc;
	k->tpr_stale = true;
	return rc;
}

int kvm_init_state(struct kvm_vcpu *k)
{
	const struct cpuid_model *m = k->cpu->cpuid;

	k->xcr0_mask = XCR0_LEGACY;
	for (unsigned n = 0; n < cpuid_count(m); n++) {
		struct cpuid_leaf l = cpuid_leaf_of(k->cpu, n);

		if (l.leaf == 0xd && l.sub == 0)
			k->xcr0_mask |= l.r[0];
	}
	find_msrs(k);
	return 0;
}

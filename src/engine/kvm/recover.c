/*
 * What KVM cannot finish. Some instructions have to be emulated by the host's kernel - an access to
 * a device, real mode on CPUs that cannot run it, on some hosts all of ring 0 - and its emulator
 * does not know all of them. It then gives up with the state as it was before the instruction; our
 * interpreter executes that one, and KVM goes on behind it.
 *
 * Port, memory and MSR accesses of that instruction go the interpreter's way, to the dispatcher.
 * What belongs to interrupt controllers inside the kernel the dispatcher cannot reach, so MSRs of
 * those are KVM's (see exit_in_insn()), and their memory is an error that names the way out.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include "device/ioapic.h"
#include "device/lapic.h"
#include "interp/interp.h"
#include "mem/mem.h"
#include "mmu/mmu.h"

/* ---- controllers in the kernel ---- */

static void access_kernel_msr(struct kvm_vcpu *k, struct exit *e)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = e->msr.index, .data = e->msr.value } };

	e->msr.fault = ioctl(k->fd, e->msr.write ? KVM_SET_MSRS : KVM_GET_MSRS, &m) != 1;
	if (!e->msr.write)
		e->msr.value = m.entry.data;
}

static bool is_apic_msr(uint32_t index)
{
	return index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE ||
	       (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST);
}

/* Our chips' registers are not the ones in force. */
static bool is_kernel_page(const struct kvm_vcpu *k, gpa_t gpa)
{
	gpa_t page = gpa & PAGE_MASK;

	return page == (k->apic_base & PAGE_MASK) ||
	       (k->vm->irqchip.kind == IRQCHIP_KERNEL && page == IOAPIC_DEFAULT_BASE);
}

static void exit_in_insn(struct cpu *c, struct exit *e)
{
	struct kvm_vcpu *k = c->kvm;

	if (e->reason == EXIT_MSR && is_apic_msr(e->msr.index)) {
		access_kernel_msr(k, e);
	} else if (e->reason == EXIT_TPR) {
		if (e->tpr.write)
			k->cr8 = e->tpr.value;
		else
			e->tpr.value = (uint8_t)k->cr8;
	} else if (e->reason == EXIT_MMIO && is_kernel_page(k, e->io.addr)) {
		kvm_fail(k, c->exit,
		         "an instruction that KVM cannot emulate accesses the kernel's interrupt "
		         "controller; --irqchip own goes around that");
		interp_leave(c);
	} else {
		k->machine_ops->exit(c, e);
	}
}

static const struct cpu_ops ops_in_insn = { .exit = exit_in_insn };

/* ---- the instruction ---- */

/* The dirty log hears of every write. */
static void note_write(struct cpu *c, uint8_t *host, unsigned len)
{
	mem_wrote(c->mem, host, len);
}

static int prepare(struct kvm_vcpu *k)
{
	struct cpu *c = k->cpu;
	int rc = kvm_fetch(k);

	if (!rc && !c->interp)
		rc = interp_new(c);
	/* Without that offer KVM has #UD wait beside telling us. */
	if (!rc && !k->vm->offers.exit_on_emulation_failure && !c->event.external &&
	    c->event.vector == EXC_UD)
		atomic_fetch_and(&c->attention, ~ATTN_EVENT);
	c->mmu->writing = c->mem->dirty ? note_write : NULL;
	mmu_update_mode(c);
	return rc;
}

/* True after a fault, which the next call has to deliver. */
static __attribute__((noinline)) bool finish_until_fault(struct cpu *c, bool faulted, bool *more)
{
	if (__builtin_setjmp(c->jmp))
		return true;
	if (faulted)
		*more = interp_caught(c);
	else
		interp_finish(c);
	return false;
}

/* False when *c->exit is filled. */
static bool execute(struct cpu *c)
{
	bool more = true;

	for (bool faulted = false; finish_until_fault(c, faulted, &more);)
		faulted = true;
	return more;
}

bool kvm_recover(struct kvm_vcpu *k, struct exit *e)
{
	struct cpu *c = k->cpu;
	int rc = prepare(k);
	bool more;

	if (rc)
		return kvm_fail(k, e, "an instruction that KVM cannot emulate: %s", strerror(-rc));
	k->count[KVM_COUNT_RECOVERED]++;
	c->exit = e;
	k->machine_ops = c->ops;
	if (k->vm->irqchip.kind != IRQCHIP_OWN)
		c->ops = &ops_in_insn;
	more = execute(c);
	c->ops = k->machine_ops;
	mmu_report_stores(c);
	return more;
}

/*
 * What KVM_RUN came back for: a table by exit reason. Accesses are answered in place through the
 * dispatcher, as the software engines do it, and run() goes on; the other reasons end it.
 */
#include "engine/kvm/kvm.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "cpu/msr.h"
#include "device/lapic.h"

typedef bool (*exit_fn)(struct kvm_vcpu *k, struct exit *e);

bool kvm_fail(struct kvm_vcpu *k, struct exit *e, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(k->text, sizeof(k->text), fmt, ap);
	va_end(ap);
	e->reason = EXIT_ERROR;
	e->text = k->text;
	return false;
}

static void ask(struct kvm_vcpu *k, struct exit *x)
{
	k->cpu->ops->exit(k->cpu, x);
}

/* INS and OUTS arrive as many at once. */
static bool handle_io(struct kvm_vcpu *k, struct exit *e)
{
	struct kvm_run *run = k->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	k->unfinished = true;
	for (uint32_t n = 0; n < run->io.count; n++, data += run->io.size) {
		struct exit x = { .reason = EXIT_PIO };

		x.io.addr = run->io.port;
		x.io.size = run->io.size;
		x.io.write = run->io.direction == KVM_EXIT_IO_OUT;
		if (x.io.write)
			memcpy(&x.io.value, data, run->io.size);
		ask(k, &x);
		if (!x.io.write)
			memcpy(data, &x.io.value, run->io.size);
	}
	return true;
}

static bool is_one_access(unsigned len)
{
	return len == 1 || len == 2 || len == 4 || len == 8;
}

static void access_mmio(struct kvm_vcpu *k, uint64_t addr, uint8_t *data, unsigned len, bool write)
{
	struct exit x = { .reason = EXIT_MMIO };

	x.io.addr = addr;
	x.io.size = (uint8_t)len;
	x.io.write = write;
	if (write)
		memcpy(&x.io.value, data, len);
	ask(k, &x);
	if (!write)
		memcpy(data, &x.io.value, len);
}

static bool handle_mmio(struct kvm_vcpu *k, struct exit *e)
{
	struct kvm_run *run = k->run;
	unsigned len = run->mmio.len, each = is_one_access(len) ? len : 1;

	k->unfinished = true;
	k->tpr_stale = true;
	for (unsigned n = 0; n < len; n += each)
		access_mmio(k, run->mmio.phys_addr + n, run->mmio.data + n, each,
		            run->mmio.is_write);
	return true;
}

/* A write of the APIC base shows in CPUID, which KVM keeps. */
static bool after_msr_write(struct kvm_vcpu *k, struct exit *e, uint32_t index)
{
	int rc = kvm_set_tsc_offset(k);

	k->tpr_stale = true;
	if (!rc && index == MSR_APIC_BASE) {
		kvm_complete(k);
		rc = kvm_fetch(k);
	}
	return !rc || kvm_fail(k, e, "after a write of MSR 0x%x: %s", index, strerror(-rc));
}

static bool handle_rdmsr(struct kvm_vcpu *k, struct exit *e)
{
	uint64_t value = 0;

	k->unfinished = true;
	k->run->msr.error = msr_read(k->cpu, k->run->msr.index, &value) != MSR_OK;
	k->run->msr.data = value;
	return true;
}

static bool handle_wrmsr(struct kvm_vcpu *k, struct exit *e)
{
	uint32_t index = k->run->msr.index;

	k->unfinished = true;
	k->run->msr.error = msr_write(k->cpu, index, k->run->msr.data) == MSR_FAULT;
	return after_msr_write(k, e, index);
}

/* The CPU's flags decide how the monitor lets it sleep. */
static bool handle_hlt(struct kvm_vcpu *k, struct exit *e)
{
	int rc = kvm_fetch(k);

	if (rc)
		return kvm_fail(k, e, "reading the state of a halted vCPU: %s", strerror(-rc));
	e->reason = EXIT_HLT;
	return false;
}

static bool handle_shutdown(struct kvm_vcpu *k, struct exit *e)
{
	e->reason = EXIT_SHUTDOWN;
	return false;
}

/* An EOI that our own I/O APIC waits for. */
static bool handle_eoi(struct kvm_vcpu *k, struct exit *e)
{
	struct exit x = { .reason = EXIT_EOI, .vector = k->run->eoi.vector };

	ask(k, &x);
	return true;
}

static bool handle_ring_full(struct kvm_vcpu *k, struct exit *e)
{
	int rc = kvm_drain_rings(k->vm);

	return !rc || kvm_fail(k, e, "emptying the dirty rings: %s", strerror(-rc));
}

/* A window for interrupts has opened, a task priority was lowered: the loop looks at both. */
static bool handle_nothing(struct kvm_vcpu *k, struct exit *e)
{
	return true;
}

static bool handle_fail_entry(struct kvm_vcpu *k, struct exit *e)
{
	return kvm_fail(k, e, "the CPU refused the guest's state, reason 0x%llx",
	                (unsigned long long)k->run->fail_entry.hardware_entry_failure_reason);
}

static bool handle_internal_error(struct kvm_vcpu *k, struct exit *e)
{
	if (k->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
		return kvm_recover(k, e);
	return kvm_fail(k, e, "internal error %u of KVM", k->run->internal.suberror);
}

static const exit_fn routine[] = {
	[KVM_EXIT_IO] = handle_io,
	[KVM_EXIT_MMIO] = handle_mmio,
	[KVM_EXIT_X86_RDMSR] = handle_rdmsr,
	[KVM_EXIT_X86_WRMSR] = handle_wrmsr,
	[KVM_EXIT_HLT] = handle_hlt,
	[KVM_EXIT_SHUTDOWN] = handle_shutdown,
	[KVM_EXIT_IRQ_WINDOW_OPEN] = handle_nothing,
	[KVM_EXIT_IOAPIC_EOI] = handle_eoi,
	[KVM_EXIT_DIRTY_RING_FULL] = handle_ring_full,
	[KVM_EXIT_SET_TPR] = handle_nothing,
	[KVM_EXIT_INTR] = handle_nothing,
	[KVM_EXIT_FAIL_ENTRY] = handle_fail_entry,
	[KVM_EXIT_INTERNAL_ERROR] = handle_internal_error,
};

bool kvm_handle_exit(struct kvm_vcpu *k, struct exit *e)
{
	uint32_t reason = k->run->exit_reason;

	if (reason >= ARRAY_SIZE(routine) || !routine[reason])
		return kvm_fail(k, e, "KVM came back with reason %u, which we do not know", reason);
	return routine[reason](k, e);
}

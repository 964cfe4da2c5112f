/*
 * Looking at a machine: names, statistics, the crash report. Nothing here changes it.
 */
#include "base/resident.h"
#include "monitor/report.h"
#include "monitor/vm_private.h"

const char *vm_reason(const struct vm *vm)
{
	return vm->group.reason;
}

const char *vm_outcome_name(enum vm_outcome outcome)
{
	static const char *const name[VM_OUTCOMES] = {
		[VM_RUNNING] = "running",     [VM_POWEROFF] = "poweroff",
		[VM_CRASHED] = "crashed",     [VM_REBOOTED] = "rebooted",
		[VM_EXIT_PORT] = "exit-port", [VM_TIMEOUT] = "timeout",
		[VM_STOPPED] = "stopped",     [VM_HOST_ERROR] = "host-error",
		[VM_PAUSED] = "paused",
	};

	return (unsigned)outcome < VM_OUTCOMES ? name[outcome] : "?";
}

const char *vm_exit_name(enum exit_reason reason)
{
	static const char *const name[EXIT_REASONS] = {
		[EXIT_NONE] = "none", [EXIT_PIO] = "pio",           [EXIT_MMIO] = "mmio",
		[EXIT_MSR] = "msr",   [EXIT_INTACK] = "intack",     [EXIT_TPR] = "tpr",
		[EXIT_EOI] = "eoi",   [EXIT_KICK] = "kick",         [EXIT_HLT] = "hlt",
		[EXIT_INIT] = "init", [EXIT_SHUTDOWN] = "shutdown", [EXIT_ERROR] = "error",
	};

	return (unsigned)reason < EXIT_REASONS ? name[reason] : "?";
}

static void add_cpu_stats(struct vm_stats *s, const struct cpu_stats *c, uint64_t start_ns)
{
	s->insns += c->insns;
	s->blocks += c->blocks;
	s->tlb_misses += c->tlb_misses;
	s->interrupts += c->interrupts;
	for (unsigned i = 0; i < ARRAY_SIZE(s->exceptions); i++)
		s->exceptions[i] += c->exceptions[i];
	for (unsigned i = 0; i < EXIT_REASONS; i++)
		s->exits[i] += c->exits[i];
	if (c->user_ns && (!s->user_ns || c->user_ns - start_ns < s->user_ns))
		s->user_ns = c->user_ns - start_ns;
}

static void add_balloon_stats(struct vm *vm, struct vm_stats *out)
{
	struct virtio_balloon_info info;

	if (!vm->balloon)
		return;
	virtio_balloon_get_info(vm->balloon, &info);
	out->balloon = true;
	out->balloon_bytes = info.actual;
	out->reported_bytes = info.reported;
	out->guest_free = info.stat[BALLOON_FREE];
	out->guest_available = info.stat[BALLOON_AVAILABLE];
}

void vm_get_stats(struct vm *vm, struct vm_stats *out)
{
	uint64_t end = vm->end_ns ? vm->end_ns : clock_ns();
	uint64_t resident = resident_bytes();

	*out = (struct vm_stats){ .vcpus = vm->group.nr, .reboots = vm->reboots };
	out->run_ns = vm->start_ns ? end - vm->start_ns : 0;
	for (unsigned i = 0; i < vm->group.nr; i++)
		add_cpu_stats(out, &vm->group.vcpu[i]->cpu.stats, vm->start_ns);
	out->guest_resident = mem_resident(vm->mem);
	if (resident > out->guest_resident)
		out->host_resident = resident - out->guest_resident;
	out->kernel_doorbells = vm->board->pci.shortcuts.doorbells;
	out->kernel_messages = vm->board->pci.shortcuts.messages;
	add_balloon_stats(vm, out);
}

void vm_count(struct vm *vm, engine_count_fn fn, void *opaque)
{
	for (unsigned i = 0; vm->group.engine->count && i < vm->group.nr; i++)
		vm->group.engine->count(&vm->group.vcpu[i]->cpu, fn, opaque);
}

size_t vm_report(struct vm *vm, char *buf, size_t size)
{
	size_t len = 0;

	for (unsigned i = 0; i < vm->group.nr && len + 1 < size; i++)
		len += report_cpu(&vm->group.vcpu[i]->cpu, buf + len, size - len);
	return len;
}

/*
 * One virtual machine: its parts, put together and taken apart, and the run from start to outcome.
 *
 * Locks: none of its own. The vCPUs have the group's lock (vcpu.c gives the order of all), the
 * devices the bus lock, under which they call the functions of `host_ops` below. Who calls
 * vm_wait() restarts the machine, and does so while every vCPU stands still; only the devices'
 * timers may run meanwhile, under the bus lock.
 *
 * Order of construction: memory and the CPU model, the board with its firmware tables, the vCPUs,
 * the kernel. vm_free() goes the other way and copes with any prefix of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpuid.h"
#include "machine/loader.h"
#include "monitor/vm_private.h"

_Static_assert(VM_MAX_VCPUS <= BOARD_MAX_CPUS, "the board has a local APIC for each");

/* What the board asks of the monitor; board.h says with which locks. */

static void raise_attention(void *opaque, unsigned cpu, uint32_t attention, uint8_t sipi_vector)
{
	struct vm *vm = opaque;

	vcpu_raise_startup(vm->group.vcpu[cpu], attention, sipi_vector);
}

static void request_reset(void *opaque)
{
	struct vm *vm = opaque;

	vcpu_group_stop(&vm->group, VM_REBOOTED, 0, "the guest asked for a reset");
}

static void request_poweroff(void *opaque)
{
	struct vm *vm = opaque;

	vcpu_group_stop(&vm->group, VM_POWEROFF, 0, "the guest switched itself off");
}

static void request_exit(void *opaque, int status)
{
	struct vm *vm = opaque;
	unsigned byte = (unsigned)status >> 1; /* the port makes it odd, see exit_port.h */

	vcpu_group_stop(&vm->group, VM_EXIT_PORT, byte, "the guest wrote 0x%x to the exit port",
	                byte);
}

static void put_debug(void *opaque, const uint8_t *buf, size_t n)
{
	const struct vm_console *c = &((struct vm *)opaque)->config.console;

	for (size_t i = 0; c->debug && i < n; i++)
		c->debug(c->opaque, buf[i]);
}

static int grant_range(void *opaque, enum board_resource kind, uint64_t base, uint64_t len,
                       const char *owner, char *err, size_t errlen)
{
	static const enum resource resource[] = {
		[BOARD_PAGES] = RES_PAGES,
		[BOARD_PORTS] = RES_PORTS,
		[BOARD_IRQ] = RES_IRQ,
	};
	struct vm *vm = opaque;

	return alloc_grant(&vm->alloc, resource[kind], base, len, owner, err, errlen);
}

static const struct board_host_ops host_ops = {
	.raise = raise_attention,
	.reset = request_reset,
	.poweroff = request_poweroff,
	.exit = request_exit,
	.debug = put_debug,
	.grant = grant_range,
};

/* Construction. */

static int check_config(const struct vm_config *c, char *err, size_t errlen)
{
	if (!c->kernel)
		snprintf(err, errlen, "no kernel given");
	else if (!c->engine)
		snprintf(err, errlen, "no engine given");
	else if (c->vcpus < 1 || c->vcpus > VM_MAX_VCPUS)
		snprintf(err, errlen, "vcpus: %u is not in 1..%d", c->vcpus, VM_MAX_VCPUS);
	else if (c->nr_modules > VM_MAX_MODULES)
		snprintf(err, errlen, "modules: %u given, at most %d are possible", c->nr_modules,
		         VM_MAX_MODULES);
	else if (c->memory < MEM_MIN_BYTES || c->memory > MEM_MAX_BYTES)
		snprintf(err, errlen, "memory: %" PRIu64 " bytes are not in %llu MiB..%llu GiB",
		         c->memory, MEM_MIN_BYTES / MiB, MEM_MAX_BYTES / GiB);
	else if (c->memory % PAGE_SIZE)
		snprintf(err, errlen, "memory: %" PRIu64 " bytes are not a multiple of %llu",
		         c->memory, PAGE_SIZE);
	else
		return 0;
	return -EINVAL;
}

/* The message of a step that has none of its own. */
static int fail(int rc, const char *what, char *err, size_t errlen)
{
	if (rc)
		snprintf(err, errlen, "%s: %s", what, strerror(-rc));
	return rc;
}

static int open_engine(struct vm *vm, char *err, size_t errlen)
{
	const struct engine_vm_ops *ops = vm->config.engine->vm;
	struct engine_machine machine = {
		.mem = vm->mem,
		.vcpus = vm->config.vcpus,
		.options = &vm->config.engine_options,
		.private_gpa = GPA_ENGINE,
	};

	return ops ? ops->open(&vm->engine_vm, &machine, err, errlen) : 0;
}

static const struct cpuid_offer *engine_offer(const struct vm *vm)
{
	return vm->engine_vm ? vm->config.engine->vm->offer(vm->engine_vm) : NULL;
}

static const struct irqchip *engine_irqchip(const struct vm *vm)
{
	return vm->engine_vm ? vm->config.engine->vm->irqchip(vm->engine_vm) : NULL;
}

static const struct doorbells *engine_doorbells(const struct vm *vm)
{
	return vm->engine_vm ? vm->config.engine->vm->doorbells(vm->engine_vm) : NULL;
}

static int make_resources(struct vm *vm, char *err, size_t errlen)
{
	const struct vm_config *c = &vm->config;
	int rc;

	rc = fail(loop_new(&vm->loop), "event loop", err, errlen);
	if (rc)
		return rc;
	rc = mem_new(&vm->mem, c->memory);
	if (rc) {
		snprintf(err, errlen, "memory: the host cannot give %" PRIu64 " bytes: %s",
		         c->memory, strerror(-rc));
		return rc;
	}
	vm->tsc_hz = clock_tsc_hz();
	rc = open_engine(vm, err, errlen);
	if (rc)
		return rc;
	return cpuid_model_new(&vm->cpuid, c->cpu ? c->cpu : "host", engine_offer(vm), c->vcpus,
	                       vm->tsc_hz, err, errlen);
}

/* After the board, whose ROM has cut RAM into banks: no chip may lie over any of them. */
static int grant_ram(struct vm *vm, char *err, size_t errlen)
{
	int rc = 0;

	for (unsigned i = 0; i < vm->mem->nr_banks && !rc; i++) {
		const struct mem_bank *b = &vm->mem->bank[i];

		rc = alloc_grant(&vm->alloc, RES_PAGES, b->base, b->size,
		                 b->readonly ? "ROM" : "RAM", err, errlen);
	}
	return rc;
}

static int make_board(struct vm *vm, char *err, size_t errlen)
{
	struct board_config config = {
		.mem = vm->mem,
		.loop = vm->loop,
		.vcpus = vm->config.vcpus,
		.tsc_hz = vm->tsc_hz,
		.testdev = vm->config.testdev,
		.irqchip = engine_irqchip(vm),
		.doorbells = engine_doorbells(vm),
		.uart = serial_backend(&vm->serial),
		.host = &host_ops,
		.opaque = vm,
	};
	int rc;

	alloc_init(&vm->alloc);
	rc = board_new(&vm->board, &config, err, errlen);
	if (rc)
		return rc;
	vm->serial.uart = &vm->board->uart;
	vm->serial.console = vm->config.console;
	rc = grant_ram(vm, err, errlen);
	return rc ? rc : plug_devices(vm, err, errlen);
}

static int make_vcpus(struct vm *vm, char *err, size_t errlen)
{
	struct vcpu_group *g = &vm->group;
	struct vcpu_config config = {
		.nr = vm->config.vcpus,
		.engine = vm->config.engine,
		.options = &vm->config.engine_options,
		.engine_vm = vm->engine_vm,
		.mem = vm->mem,
		.model = vm->cpuid,
	};
	int rc = vm->engine_vm ? vm->config.engine->vm->map(vm->engine_vm) : 0;

	if (!rc)
		rc = vcpu_group_init(g, &config);
	if (rc)
		return fail(rc, vm->config.engine->name, err, errlen);
	g->board = vm->board;
	g->waits_inside = board_irqchip(vm->board) != IRQCHIP_OWN;
	g->reset_on_triple_fault = vm->config.reset_on_triple_fault;
	for (unsigned i = 0; i < g->nr; i++)
		g->vcpu[i]->lapic = board_attach_cpu(vm->board, &g->vcpu[i]->cpu);
	return 0;
}

/* The kernel's chips as ours are after a reset. */
static int set_chips(struct vm *vm)
{
	if (board_irqchip(vm->board) != IRQCHIP_KERNEL)
		return 0;
	return vm->config.engine->vm->chips_in(vm->engine_vm, &vm->board->pic, &vm->board->ioapic);
}

/* The kernel in memory and every vCPU where firmware would leave it. */
static int load(struct vm *vm, char *err, size_t errlen)
{
	const struct vm_config *c = &vm->config;
	struct loader_args args = {
		.kernel = c->kernel,
		.initrd = c->initrd,
		.cmdline = c->append,
		.modules = c->module,
		.nr_modules = c->nr_modules,
		.rsdp = vm->board->rsdp,
		.guest_decompresses = c->guest_decompresses,
	};
	struct loader_result entry;
	int rc = loader_load(vm->mem, &args, &entry, err, errlen);

	if (rc)
		return rc;
	rc = set_chips(vm);
	if (rc)
		return fail(rc, "interrupt controllers", err, errlen);
	for (unsigned i = 0; i < vm->group.nr; i++) {
		vcpu_reset(vm->group.vcpu[i]);
		loader_setup_mtrrs(&vm->group.vcpu[i]->cpu);
	}
	loader_setup_cpu(&entry, &vm->group.vcpu[0]->cpu);
	log_info("%s: %s, entered at 0x%" PRIx64, c->kernel, entry.format, entry.entry);
	return 0;
}

static void make_pause(struct vm *vm)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&vm->pause_ends, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&vm->pause_lock, NULL);
}

int vm_new(struct vm **out, const struct vm_config *config, char *err, size_t errlen)
{
	struct vm *vm;
	int rc = check_config(config, err, errlen);

	if (rc)
		return rc;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return fail(-ENOMEM, "machine", err, errlen);
	vm->config = *config;
	make_pause(vm);
	rc = make_resources(vm, err, errlen);
	if (!rc)
		rc = make_board(vm, err, errlen);
	if (!rc)
		rc = make_vcpus(vm, err, errlen);
	if (!rc)
		rc = load(vm, err, errlen);
	if (rc) {
		vm_free(vm);
		return rc;
	}
	*out = vm;
	return 0;
}

/* First the vCPUs' threads, which use the devices; then the devices, whose timers wake vCPUs; then
 * the vCPUs and what both used. */
void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	vcpu_group_end(&vm->group);
	board_free(vm->board);
	unplug_backends(vm);
	loop_free(vm->loop);
	vcpu_group_fini(&vm->group);
	if (vm->engine_vm)
		vm->config.engine->vm->close(vm->engine_vm);
	cpuid_model_free(vm->cpuid);
	mem_free(vm->mem);
	pthread_cond_destroy(&vm->pause_ends);
	pthread_mutex_destroy(&vm->pause_lock);
	free(vm);
}

/* The run. */

/* From one moment on: all TSCs zero, system time zero. */
static void start_clocks(struct vm *vm)
{
	int64_t offset = -(int64_t)clock_tsc();

	for (unsigned i = 0; i < vm->group.nr; i++)
		vm->group.vcpu[i]->cpu.msr.tsc_offset = offset;
	pvclock_init(&vm->group.clock, vm->tsc_hz);
}

static void resume(struct vm *vm)
{
	start_clocks(vm);
	vcpu_group_resume(&vm->group);
	if (vm->stop_wanted)
		vm_stop(vm);
}

int vm_start(struct vm *vm)
{
	int rc = loop_start(vm->loop);

	if (!rc)
		rc = vcpu_group_start(&vm->group);
	if (rc)
		return rc;
	vm->start_ns = clock_ns();
	resume(vm);
	return 0;
}

void vm_stop(struct vm *vm)
{
	vm->stop_wanted = true;
	vcpu_group_stop(&vm->group, VM_STOPPED, 0, "stopped");
	pthread_mutex_lock(&vm->pause_lock);
	pthread_cond_broadcast(&vm->pause_ends);
	pthread_mutex_unlock(&vm->pause_lock);
}

/* Pauses. */

void vm_continue(struct vm *vm)
{
	pthread_mutex_lock(&vm->pause_lock);
	vm->continue_wanted = vm->paused;
	pthread_cond_broadcast(&vm->pause_ends);
	pthread_mutex_unlock(&vm->pause_lock);
}

/* Sleeps until the pause ends: true when the machine is to go on. */
static bool wait_in_pause(struct vm *vm, uint64_t deadline_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(deadline_ns / 1000000000),
		               .tv_nsec = (long)(deadline_ns % 1000000000) };
	bool go_on;
	int rc = 0;

	pthread_mutex_lock(&vm->pause_lock);
	while (!vm->continue_wanted && !vm->stop_wanted && rc != ETIMEDOUT) {
		if (deadline_ns)
			rc = pthread_cond_timedwait(&vm->pause_ends, &vm->pause_lock, &ts);
		else
			pthread_cond_wait(&vm->pause_ends, &vm->pause_lock);
	}
	go_on = vm->continue_wanted && !vm->stop_wanted;
	vm->paused = vm->continue_wanted = false;
	pthread_mutex_unlock(&vm->pause_lock);
	return go_on;
}

/* True when the machine runs again; else its outcome is that of whatever ended the pause. */
static bool pause_machine(struct vm *vm, uint64_t deadline_ns)
{
	struct vcpu_group *g = &vm->group;

	pthread_mutex_lock(&vm->pause_lock);
	vm->paused = true; /* whoever hears of it may let the machine go on at once */
	pthread_mutex_unlock(&vm->pause_lock);
	if (vm->config.paused)
		vm->config.paused(vm->config.paused_opaque, g->reason);
	if (wait_in_pause(vm, deadline_ns)) {
		vcpu_group_resume(g);
		board_resume(vm->board);
		return true;
	}
	g->outcome = vm->stop_wanted ? VM_STOPPED : VM_TIMEOUT;
	snprintf(g->reason, sizeof(g->reason), "%s",
	         vm->stop_wanted ? "stopped" : "the deadline passed");
	return false;
}

bool vm_press_power(struct vm *vm)
{
	bool listens;

	bus_lock(&vm->board->bus);
	listens = acpi_pm_press_power(&vm->board->pm);
	bus_unlock(&vm->board->bus);
	return listens;
}

static int restart(struct vm *vm)
{
	char err[sizeof(vm->group.reason)];
	int rc;

	board_stop(vm->board); /* before its memory is anybody else's */
	rc = fail(mem_clear(vm->mem), "memory", err, sizeof(err));
	if (!rc) {
		board_reset(vm->board);
		rc = load(vm, err, sizeof(err));
	}
	if (rc) {
		vm->group.outcome = VM_HOST_ERROR;
		snprintf(vm->group.reason, sizeof(vm->group.reason), "%s", err);
		return rc;
	}
	vm->reboots++;
	resume(vm);
	return 0;
}

/* After every vCPU stands still: true when they run again. */
static bool goes_on(struct vm *vm, uint64_t deadline_ns)
{
	if (vm->group.outcome == VM_PAUSED)
		return pause_machine(vm, deadline_ns);
	return vm->group.outcome == VM_REBOOTED && !vm->config.exit_on_reboot && !restart(vm);
}

enum vm_outcome vm_wait(struct vm *vm, uint64_t deadline_ns, unsigned *status)
{
	struct vcpu_group *g = &vm->group;

	do {
		if (vcpu_group_wait(g, deadline_ns))
			continue;
		vcpu_group_stop(g, VM_TIMEOUT, 0, "the deadline passed");
		vcpu_group_wait(g, 0);
	} while (goes_on(vm, deadline_ns));
	if (!vm->end_ns)
		vm->end_ns = clock_ns();
	if (status)
		*status = g->status;
	return g->outcome;
}

/* The serial port. */

size_t vm_serial_input(struct vm *vm, const uint8_t *buf, size_t n)
{
	size_t taken;

	bus_lock(&vm->board->bus);
	taken = uart_receive(&vm->board->uart, buf, n);
	bus_unlock(&vm->board->bus);
	return taken;
}

void vm_serial_resume(struct vm *vm)
{
	bus_lock(&vm->board->bus);
	serial_resume(&vm->serial);
	bus_unlock(&vm->board->bus);
}

size_t vm_port_input(struct vm *vm, unsigned port, const uint8_t *buf, size_t n)
{
	return virtio_console_input(vm->console, port, buf, n);
}

void vm_port_resume(struct vm *vm, unsigned port)
{
	virtio_console_resume(vm->console);
}

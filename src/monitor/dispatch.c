/*
 * The dispatcher: one entry point for every exit, a table that finds the routine, and the short
 * loop that runs a vCPU.
 *
 * Exits arrive on two paths and mean the same on both. A software engine answers port, memory and
 * MSR accesses in the middle of an instruction, through cpu_ops.exit(), because starting the
 * instruction over would cost more than executing it; the others end run() and come from the loop.
 * No routine decides what happens next: it changes the vCPU's state (mp_state, the group's state),
 * and vcpu_prepare() acts on that before guest code runs again.
 *
 * Locks: a routine is called with none held. The bus takes its own; a LAPIC too.
 */
#include "monitor/dispatch.h"

#include <assert.h>

#include "device/lapic.h"
#include "machine/board.h"

typedef void (*dispatch_fn)(struct vcpu *v, struct exit *e);

/* All ones in size bytes: what a bus gives when nothing answers. */
static uint64_t open_bus(unsigned size)
{
	return UINT64_MAX >> (64 - 8 * size);
}

static void access_bus(struct vcpu *v, enum bus_space space, struct exit *e)
{
	struct bus *bus = &v->group->board->bus;

	if (e->io.write)
		bus_write(bus, space, e->io.addr, e->io.size, e->io.value);
	else if (!bus_read(bus, space, e->io.addr, e->io.size, &e->io.value))
		e->io.value = open_bus(e->io.size);
}

static void handle_pio(struct vcpu *v, struct exit *e)
{
	access_bus(v, BUS_PIO, e);
}

/* The local APIC's page lies before the bus, for each vCPU sees its own (SDM 3A 11.4.1). */
static void handle_mmio(struct vcpu *v, struct exit *e)
{
	uint64_t off = e->io.addr & ~PAGE_MASK;

	if (!lapic_decodes(v->lapic, e->io.addr))
		access_bus(v, BUS_MMIO, e);
	else if (e->io.write)
		lapic_write(v->lapic, off, e->io.size, e->io.value);
	else
		e->io.value = lapic_read(v->lapic, off, e->io.size);
}

static bool is_lapic_msr(uint32_t index)
{
	return index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE ||
	       (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST);
}

static void handle_msr(struct vcpu *v, struct exit *e)
{
	uint32_t index = e->msr.index;

	if (is_lapic_msr(index))
		e->msr.fault = e->msr.write ? lapic_write_msr(v->lapic, index, e->msr.value)
		                            : lapic_read_msr(v->lapic, index, &e->msr.value);
	else if (e->msr.write)
		e->msr.fault = !pvclock_write_msr(&v->group->clock, &v->clock, &v->cpu, index,
		                                  e->msr.value);
	else
		e->msr.fault = !pvclock_read_msr(&v->clock, index, &e->msr.value);
}

static void handle_intack(struct vcpu *v, struct exit *e)
{
	/* Only the PICs are ours then. */
	if (board_irqchip(v->group->board) != IRQCHIP_OWN) {
		e->vector = board_ack_pic(v->group->board);
		return;
	}
	e->vector = lapic_ack(v->lapic);
	if (e->vector < 0 && lapic_accepts_extint(v->lapic))
		e->vector = board_ack_pic(v->group->board);
}

static void handle_tpr(struct vcpu *v, struct exit *e)
{
	if (e->tpr.write)
		lapic_set_tpr(v->lapic, e->tpr.value);
	else
		e->tpr.value = lapic_get_tpr(v->lapic);
}

static void handle_eoi(struct vcpu *v, struct exit *e)
{
	board_end_of_interrupt(v->group->board, (uint8_t)e->vector);
}

/* Reasons for which the loop is the answer. */
static void handle_nothing(struct vcpu *v, struct exit *e)
{
}

static void handle_hlt(struct vcpu *v, struct exit *e)
{
	v->cpu.mp_state = MP_HALTED;
}

static void handle_shutdown(struct vcpu *v, struct exit *e)
{
	if (v->group->reset_on_triple_fault)
		vcpu_group_stop(v->group, VM_REBOOTED, 0, "triple fault on vCPU %u", v->cpu.id);
	else
		vcpu_group_stop(v->group, VM_CRASHED, 0, "triple fault on vCPU %u", v->cpu.id);
}

static void handle_init(struct vcpu *v, struct exit *e)
{
	vcpu_receive_init(v);
}

static void handle_error(struct vcpu *v, struct exit *e)
{
	vcpu_group_stop(v->group, VM_HOST_ERROR, 0, "vCPU %u: engine %s cannot go on: %s",
	                v->cpu.id, v->group->engine->name, e->text);
}

static const dispatch_fn routine[EXIT_REASONS] = {
	[EXIT_NONE] = handle_nothing,  [EXIT_PIO] = handle_pio,
	[EXIT_MMIO] = handle_mmio,     [EXIT_MSR] = handle_msr,
	[EXIT_INTACK] = handle_intack, [EXIT_TPR] = handle_tpr,
	[EXIT_EOI] = handle_eoi,       [EXIT_KICK] = handle_nothing,
	[EXIT_HLT] = handle_hlt,       [EXIT_SHUTDOWN] = handle_shutdown,
	[EXIT_INIT] = handle_init,     [EXIT_ERROR] = handle_error,
};

static void dispatch_exit(struct cpu *c, struct exit *e)
{
	assert(e->reason < EXIT_REASONS);
	c->stats.exits[e->reason]++;
	routine[e->reason](c->host, e);
}

const struct cpu_ops dispatch_cpu_ops = { .exit = dispatch_exit };

/* The guest can move its TSC without an exit; what was derived from it follows here. */
static void follow_tsc(struct vcpu *v)
{
	if (likely(v->tsc_offset == v->cpu.msr.tsc_offset))
		return;
	v->tsc_offset = v->cpu.msr.tsc_offset;
	lapic_tsc_changed(v->lapic);
	pvclock_tsc_changed(&v->group->clock, &v->clock, &v->cpu);
}

void dispatch_run(struct vcpu *v)
{
	const struct engine_ops *engine = v->group->engine;
	struct exit e;

	vcpu_state_changed(v);
	while (vcpu_prepare(v)) {
		e.reason = EXIT_NONE;
		engine->run(&v->cpu, &e);
		dispatch_exit(&v->cpu, &e);
		follow_tsc(v);
	}
	engine->sync_out(&v->cpu);
}

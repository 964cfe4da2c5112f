/*
 * vCPUs as threads: their life cycle, halting and waking, and stopping them all together.
 * Private to src/monitor/.
 */
#pragma once

#include <pthread.h>

#include "cpu/cpu.h"
#include "engine/engine.h"
#include "monitor/pvclock.h"
#include "monitor/vm.h"

struct lapic;
struct board;

struct vcpu {
	struct cpu cpu;
	struct vcpu_group *group;
	struct lapic *lapic;
	struct pvclock_vcpu clock;
	int64_t tsc_offset; /* that the LAPIC and the clock page were last told of */
	pthread_t thread;
	bool started;
	bool created;            /* the engine holds something for it */
	_Atomic uint32_t asleep; /* futex word: 1 while the thread sleeps or is about to */
	uint32_t wake_mask; /* attention bits that end a sleep from which interrupts cannot wake */
};

enum group_state { GROUP_STOPPED, GROUP_RUNNING, GROUP_STOPPING, GROUP_ENDING };

/* All vCPUs of a machine. vcpu.c draws the state machine. */
struct vcpu_group {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* state or parked; timed waits use CLOCK_MONOTONIC */
	_Atomic enum group_state state;
	unsigned nr;
	unsigned parked; /* threads that stand still */
	unsigned dead;   /* threads asleep that no interrupt can wake */
	struct vcpu *vcpu[VM_MAX_VCPUS];
	const struct engine_ops *engine;
	struct board *board;
	struct pvclock clock;
	bool waits_inside; /* halted vCPUs, and those to be started, wait in the engine's run() */
	bool reset_on_triple_fault;

	/* Of the last run; written once on the way to GROUP_STOPPING. */
	enum vm_outcome outcome;
	unsigned status; /* exit port */
	char reason[160];
};

struct vcpu_config {
	unsigned nr;
	const struct engine_ops *engine;
	const struct engine_options *options;
	struct engine_vm *engine_vm;
	struct mem *mem;
	const struct cpuid_model *model;
};
/* The vCPUs, zeroed but for ids and links, with their engine state. 0 or -errno; fini is safe after
 * failure. */
int vcpu_group_init(struct vcpu_group *g, const struct vcpu_config *config);
/* Ends and joins the threads, if there are any; other threads may still call vcpu_raise(). */
void vcpu_group_end(struct vcpu_group *g);
void vcpu_group_fini(struct vcpu_group *g); /* ends it first if need be */

int vcpu_group_start(struct vcpu_group *g); /* makes the threads, which stand still */
/* Lets every vCPU run from its struct cpu; only while the group stands still. */
void vcpu_group_resume(struct vcpu_group *g);
/* Asks all to stop and records why; the first caller wins. Never waits: device routines call it. */
void vcpu_group_stop(struct vcpu_group *g, enum vm_outcome outcome, unsigned status,
                     const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Sleeps until all stand still (true) or clock_ns() passes deadline_ns (false; 0: no deadline). */
bool vcpu_group_wait(struct vcpu_group *g, uint64_t deadline_ns);

/* To power-on state; the first vCPU runnable, the others waiting for SIPI. Guest memory may have
 * changed as well. Only while it stands still. */
void vcpu_reset(struct vcpu *v);

/* From any thread: sets attention bits and wakes the thread if it sleeps. */
void vcpu_raise(struct vcpu *v, uint32_t attention);
/* The same with INIT and SIPI among them; a SIPI starts execution at vector << 12. */
void vcpu_raise_startup(struct vcpu *v, uint32_t attention, uint8_t sipi_vector);

/* On the vCPU's own thread. */
/* Handles INIT and SIPI and sleeps while halted. True: run guest code. False: the group is
 * stopping. */
bool vcpu_prepare(struct vcpu *v);
void vcpu_receive_init(struct vcpu *v);
/* struct cpu was written to from outside: what others derived from it follows. */
void vcpu_state_changed(struct vcpu *v);

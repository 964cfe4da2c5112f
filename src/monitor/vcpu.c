/*
 * vCPUs as threads.
 *
 * Locks, in the order in which they are taken:
 *
 *   bus.lock      every device; taken by the bus, and by timers on the event loop
 *   lapic lock    one local APIC
 *   group.lock    state, parked, dead, outcome of the group, and vcpu.wake_mask. A leaf: nothing is
 *                 called with it held, so that a device routine may stop the machine.
 *
 * A sleeping vCPU holds none, and a wake-up takes none: see "Sleeping" below.
 *
 * The group:
 *
 *                 vcpu_group_resume()          vcpu_group_stop(), once
 *       STOPPED ----------------------> RUNNING ----------------------> STOPPING
 *          ^                                                               |
 *          +---------------------------------------------------------------+
 *                vcpu_group_wait() finds that the last thread has parked
 *
 * and from anywhere to ENDING by vcpu_group_end(). A thread runs guest code only in RUNNING;
 * otherwise it finishes the instruction it is at, parks on `changed`, and its struct cpu is
 * anybody's to read.
 *
 * A vCPU (cpu.mp_state, owned by the thread):
 *
 *       WAIT_SIPI --SIPI--> RUNNABLE --HLT--> HALTED --interrupt, NMI--> RUNNABLE
 *           ^                  |                 |
 *           +-------INIT-------+-------INIT------+
 *
 * Sleeping. A waker sets attention, then reads asleep. A sleeper sets asleep, then reads attention.
 * Both pairs are sequentially consistent, so at least one of the two sees the other's store: either
 * the sleeper finds the bit, or the waker finds it asleep, clears the word and wakes the futex; and
 * the kernel does not put a thread to sleep whose word has been cleared. Hence no wake-up is lost
 * and none needs a lock.
 *
 * Dead machines. A vCPU that waits for SIPI, or that is halted with interrupts off, can be woken
 * only by what another vCPU sends it, unless the guest has wired a line of the board to NMI. When
 * all of them sleep like that, and nothing that would wake one is on its way, none will ever run
 * again.
 * The last to fall asleep finds out: a waker that is itself awake is not counted, a waker that fell
 * asleep did so after setting the attention bit that the check reads, and a sleeper clears the bits
 * only after it has stopped being counted.
 */
#include "monitor/vcpu.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "device/lapic.h"
#include "machine/board.h"
#include "mmu/mmu.h"
#include "monitor/dispatch.h"

/* Sleeping and waking. */

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void vcpu_raise(struct vcpu *v, uint32_t attention)
{
	const struct engine_ops *engine = v->group->engine;

	cpu_raise_attention(&v->cpu, attention);
	if (engine->notify)
		engine->notify(&v->cpu);
	if (atomic_load(&v->asleep) && atomic_exchange(&v->asleep, 0))
		futex_wake(&v->asleep);
}

void vcpu_raise_startup(struct vcpu *v, uint32_t attention, uint8_t sipi_vector)
{
	if (attention & ATTN_SIPI)
		__atomic_store_n(&v->cpu.sipi_vector, sipi_vector, __ATOMIC_RELAXED);
	/* KICK brings a running vCPU here first, where an INIT and the SIPI that follows it are
	 * told apart, and a SIPI is dropped that nobody waits for. */
	if (attention & (ATTN_INIT | ATTN_SIPI))
		attention |= ATTN_KICK;
	vcpu_raise(v, attention);
}

/* Until one of the attention bits is set, or for no reason: the caller looks again. */
static void sleep_until(struct vcpu *v, uint32_t mask)
{
	atomic_store(&v->asleep, 1);
	while (!(atomic_load(&v->cpu.attention) & mask) && atomic_load(&v->asleep))
		futex_wait(&v->asleep, 1);
	atomic_store(&v->asleep, 0);
}

/* What may end the present wait of a vCPU that is not runnable. */
static uint32_t wake_mask(const struct cpu *c)
{
	uint32_t mask = ATTN_KICK | ATTN_INIT;

	if (c->mp_state == MP_WAIT_SIPI)
		return mask | ATTN_SIPI;
	if (!c->nmi_masked)
		mask |= ATTN_NMI;
	if (c->rflags & RFLAGS_IF)
		mask |= ATTN_INTR;
	return mask;
}

static bool is_dead_locked(const struct vcpu_group *g)
{
	if (g->dead < g->nr)
		return false;
	for (unsigned i = 0; i < g->nr; i++)
		if (atomic_load(&g->vcpu[i]->cpu.attention) & g->vcpu[i]->wake_mask)
			return false;
	return true;
}

/* A sleep that only another vCPU can end. */
static void sleep_dead(struct vcpu *v, uint32_t mask)
{
	struct vcpu_group *g = v->group;
	bool dead;

	pthread_mutex_lock(&g->lock);
	v->wake_mask = mask;
	g->dead++;
	dead = is_dead_locked(g);
	pthread_mutex_unlock(&g->lock);
	/* Only vCPUs can change the wiring, and they all sleep. */
	if (dead && !board_sends_nmi(g->board))
		vcpu_group_stop(g, VM_CRASHED, 0,
		                "every vCPU is halted with interrupts off or waits to be started");
	sleep_until(v, mask);
	pthread_mutex_lock(&g->lock);
	g->dead--;
	pthread_mutex_unlock(&g->lock);
}

/* INIT and SIPI. */

void vcpu_state_changed(struct vcpu *v)
{
	struct cpu *c = &v->cpu;

	cpu_update_mode(c);
	mmu_flush_all(c);
	v->group->engine->sync_in(c);
}

static bool is_bsp(const struct vcpu *v)
{
	return v->cpu.id == 0;
}

void vcpu_receive_init(struct vcpu *v)
{
	struct cpu *c = &v->cpu;

	v->group->engine->sync_out(c);
	cpu_init_signal(c);
	/* The bootstrap processor starts over at the reset vector (SDM 3A 9.4.2). */
	c->mp_state = is_bsp(v) ? MP_RUNNABLE : MP_WAIT_SIPI;
	lapic_init_signal(v->lapic);
	vcpu_state_changed(v);
}

static void receive_sipi(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	uint8_t vector = __atomic_load_n(&c->sipi_vector, __ATOMIC_RELAXED);

	if (c->mp_state != MP_WAIT_SIPI)
		return;
	v->group->engine->sync_out(c);
	c->seg[SEG_CS].sel = (uint16_t)(vector << 8);
	c->seg[SEG_CS].base = (uint64_t)vector << 12;
	c->rip = 0;
	c->mp_state = MP_RUNNABLE;
	vcpu_state_changed(v);
}

/* Takes what is not the engine's from attention. KICK is cleared before the caller reads the state
 * of the group, and vcpu_group_stop() sets them in the opposite order. */
static void take_signals(struct vcpu *v)
{
	const uint32_t ours = ATTN_KICK | ATTN_INIT | ATTN_SIPI;
	uint32_t attention;

	if (!(atomic_load(&v->cpu.attention) & ours))
		return;
	attention = atomic_fetch_and(&v->cpu.attention, ~ours);
	if (attention & ATTN_INIT)
		vcpu_receive_init(v);
	if (attention & ATTN_SIPI)
		receive_sipi(v);
}

/* Whether something ends HLT (SDM 2A HLT). ATTN_INTR may be stale: it is cleared before the
 * controller is asked, and set again if there is an interrupt, so that one raised meanwhile is not
 * missed. */
static bool is_woken(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	uint32_t attention = atomic_load(&c->attention);

	if (attention & ATTN_NMI && !c->nmi_masked)
		return true;
	if (!(attention & ATTN_INTR) || !(c->rflags & RFLAGS_IF))
		return false;
	atomic_fetch_and(&c->attention, ~ATTN_INTR);
	if (!lapic_has_interrupt(v->lapic))
		return false;
	cpu_raise_attention(c, ATTN_INTR);
	return true;
}

bool vcpu_prepare(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	uint32_t mask;

	for (;;) {
		take_signals(v);
		if (atomic_load(&v->group->state) != GROUP_RUNNING)
			return false;
		if (c->mp_state == MP_HALTED && is_woken(v))
			c->mp_state = MP_RUNNABLE;
		if (c->mp_state == MP_RUNNABLE || v->group->waits_inside)
			return true;
		mask = wake_mask(c);
		if (mask & ATTN_INTR)
			sleep_until(v, mask);
		else
			sleep_dead(v, mask);
	}
}

void vcpu_reset(struct vcpu *v)
{
	struct cpu *c = &v->cpu;

	cpu_reset(c);
	atomic_store(&c->attention, 0);
	c->mp_state = is_bsp(v) ? MP_RUNNABLE : MP_WAIT_SIPI;
	pvclock_reset(&v->clock);
	v->group->engine->invalidate(c);
}

/* Threads. */

/* Stands still until the group runs; false when the thread is to end. */
static bool park(struct vcpu *v)
{
	struct vcpu_group *g = v->group;
	enum group_state state;

	pthread_mutex_lock(&g->lock);
	g->parked++;
	pthread_cond_broadcast(&g->changed);
	while ((state = g->state) == GROUP_STOPPED || state == GROUP_STOPPING)
		pthread_cond_wait(&g->changed, &g->lock);
	g->parked--;
	pthread_mutex_unlock(&g->lock);
	return state == GROUP_RUNNING;
}

static void *run_thread(void *arg)
{
	struct vcpu *v = arg;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", v->cpu.id);
	pthread_setname_np(pthread_self(), name);
	while (park(v))
		dispatch_run(v);
	return NULL;
}

/* Signals are for the process's main thread, save those that our own instructions cause. */
static void block_signals(sigset_t *old)
{
	static const int ours[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
	sigset_t set;

	sigfillset(&set);
	for (unsigned i = 0; i < ARRAY_SIZE(ours); i++)
		sigdelset(&set, ours[i]);
	pthread_sigmask(SIG_SETMASK, &set, old);
}

int vcpu_group_start(struct vcpu_group *g)
{
	sigset_t old;
	int rc = 0;

	block_signals(&old);
	for (unsigned i = 0; i < g->nr && !rc; i++) {
		struct vcpu *v = g->vcpu[i];

		rc = -pthread_create(&v->thread, NULL, run_thread, v);
		v->started = !rc;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	/* vcpu_group_resume() may count on all of them standing still. */
	pthread_mutex_lock(&g->lock);
	while (!rc && g->parked < g->nr)
		pthread_cond_wait(&g->changed, &g->lock);
	pthread_mutex_unlock(&g->lock);
	return rc;
}

void vcpu_group_resume(struct vcpu_group *g)
{
	pthread_mutex_lock(&g->lock);
	assert(g->state == GROUP_STOPPED && g->parked == g->nr);
	g->outcome = VM_RUNNING;
	g->status = 0;
	g->reason[0] = '\0';
	g->state = GROUP_RUNNING;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
}

static void kick_all(struct vcpu_group *g)
{
	for (unsigned i = 0; i < g->nr; i++) {
		g->engine->kick(&g->vcpu[i]->cpu);
		vcpu_raise(g->vcpu[i], ATTN_KICK);
	}
}

void vcpu_group_stop(struct vcpu_group *g, enum vm_outcome outcome, unsigned status,
                     const char *fmt, ...)
{
	bool first;
	va_list ap;

	pthread_mutex_lock(&g->lock);
	first = g->state == GROUP_RUNNING;
	if (first) {
		g->outcome = outcome;
		g->status = status;
		va_start(ap, fmt);
		vsnprintf(g->reason, sizeof(g->reason), fmt, ap);
		va_end(ap);
		g->state = GROUP_STOPPING;
		/* A vCPU that has not left park() since the resume never leaves it now: the waiter
		 * must look by itself. */
		pthread_cond_broadcast(&g->changed);
	}
	pthread_mutex_unlock(&g->lock);
	if (first)
		kick_all(g);
}

bool vcpu_group_wait(struct vcpu_group *g, uint64_t deadline_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(deadline_ns / 1000000000),
		.tv_nsec = (long)(deadline_ns % 1000000000),
	};
	int rc = 0;

	pthread_mutex_lock(&g->lock);
	while (g->state == GROUP_RUNNING || (g->state == GROUP_STOPPING && g->parked < g->nr)) {
		if (rc == ETIMEDOUT)
			break;
		if (deadline_ns)
			rc = pthread_cond_timedwait(&g->changed, &g->lock, &ts);
		else
			pthread_cond_wait(&g->changed, &g->lock);
	}
	if (g->state == GROUP_STOPPING && g->parked == g->nr)
		g->state = GROUP_STOPPED;
	rc = g->state == GROUP_STOPPED;
	pthread_mutex_unlock(&g->lock);
	return rc;
}

/* The group's own life. */

static int new_vcpu(struct vcpu_group *g, unsigned id, const struct vcpu_config *config)
{
	struct vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ull);
	int rc;

	if (!v)
		return -ENOMEM;
	*v = (struct vcpu){ .group = g };
	v->cpu.id = id;
	v->cpu.cpuid = config->model;
	v->cpu.ops = &dispatch_cpu_ops;
	v->cpu.host = v;
	v->cpu.mem = config->mem;
	v->cpu.options = config->options;
	v->cpu.engine_vm = config->engine_vm;
	v->cpu.nr_cpus = config->nr;
	g->vcpu[g->nr++] = v;
	rc = mmu_new(&v->cpu);
	if (!rc)
		rc = g->engine->create(&v->cpu);
	v->created = !rc;
	return rc;
}

static int init_locks(struct vcpu_group *g)
{
	pthread_condattr_t attr;
	int rc = -pthread_condattr_init(&attr);

	if (rc)
		return rc;
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	rc = -pthread_cond_init(&g->changed, &attr);
	pthread_condattr_destroy(&attr);
	if (!rc)
		pthread_mutex_init(&g->lock, NULL); /* cannot fail with default attributes */
	return rc;
}

int vcpu_group_init(struct vcpu_group *g, const struct vcpu_config *config)
{
	int rc;

	*g = (struct vcpu_group){ .engine = config->engine };
	assert(config->nr >= 1 && config->nr <= VM_MAX_VCPUS);
	rc = init_locks(g);
	for (unsigned i = 0; i < config->nr && !rc; i++)
		rc = new_vcpu(g, i, config);
	return rc;
}

void vcpu_group_end(struct vcpu_group *g)
{
	if (!g->engine)
		return;
	pthread_mutex_lock(&g->lock);
	g->state = GROUP_ENDING;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
	kick_all(g);
	for (unsigned i = 0; i < g->nr; i++) {
		if (g->vcpu[i]->started)
			pthread_join(g->vcpu[i]->thread, NULL);
		g->vcpu[i]->started = false;
	}
}

void vcpu_group_fini(struct vcpu_group *g)
{
	if (!g->engine)
		return;
	vcpu_group_end(g);
	for (unsigned i = 0; i < g->nr; i++) {
		if (g->vcpu[i]->created)
			g->engine->destroy(&g->vcpu[i]->cpu);
		mmu_free(&g->vcpu[i]->cpu);
		free(g->vcpu[i]);
	}
	pthread_cond_destroy(&g->changed);
	pthread_mutex_destroy(&g->lock);
	*g = (struct vcpu_group){ 0 };
}

/*
 * A vCPU's thread in KVM_RUN: the loop, interrupts into it, and kicks.
 *
 * Kicks. A waker sets cpu->attention, then reads `running`; the vCPU sets `running`, clears
 * immediate_exit, then reads attention, all sequentially consistent. So either the vCPU sees the
 * attention, or the waker sees it running and sets immediate_exit, with which KVM_RUN returns
 * before it enters the guest, and sends a signal, which brings it back when it is inside already.
 * The signal's handler does nothing.
 */
#include <signal.h> /* first: its PF_W is another */
#undef PF_W

#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "device/lapic.h"
#include "interp/interp.h"
#include "mmu/mmu.h"

#define SIGNAL_KICK (SIGRTMIN + 5)

/* ---- kicks ---- */

static void handle_signal(int sig)
{
}

static void install_handler(void)
{
	struct sigaction sa = { .sa_handler = handle_signal }; /* no SA_RESTART */

	sigaction(SIGNAL_KICK, &sa, NULL);
}

/* The monitor's threads have all but a few signals blocked. */
static void enter_thread(struct kvm_vcpu *k)
{
	sigset_t set;

	if (k->thread_known && k->tid == gettid())
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGNAL_KICK);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	k->tid = gettid();
	k->thread_known = true;
}

void kvm_notify(struct cpu *c)
{
	struct kvm_vcpu *k = c->kvm;

	if (!atomic_load(&k->running))
		return;
	__atomic_store_n(&k->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_tgkill, getpid(), k->tid, SIGNAL_KICK);
}

static void kick(struct cpu *c)
{
	cpu_raise_attention(c, ATTN_KICK);
	kvm_notify(c);
}

/* ---- interrupts, with our own APIC, or in split mode of our own PICs ---- */

static int inject_interrupt(struct kvm_vcpu *k)
{
	struct cpu *c = k->cpu;
	struct exit x = { .reason = EXIT_INTACK, .vector = -1 };
	struct kvm_interrupt irq;

	if (k->vm->irqchip.kind == IRQCHIP_SPLIT && !atomic_load(&k->vm->pic_intr)) {
		atomic_fetch_and(&c->attention, ~ATTN_INTR);
		return 0;
	}
	if (!k->run->ready_for_interrupt_injection) {
		k->run->request_interrupt_window = 1;
		return 0;
	}
	/* As in the interpreter: the bit stays until the controller has nothing left. */
	atomic_fetch_and(&c->attention, ~ATTN_INTR);
	c->ops->exit(c, &x);
	if (x.vector < 0)
		return 0;
	cpu_raise_attention(c, ATTN_INTR);
	c->stats.interrupts++;
	k->run->ready_for_interrupt_injection = 0;
	k->run->request_interrupt_window = 1;
	irq.irq = (uint32_t)x.vector;
	return ioctl(k->fd, KVM_INTERRUPT, &irq) < 0 ? -errno : 0;
}

static int inject_nmi(struct kvm_vcpu *k)
{
	atomic_fetch_and(&k->cpu->attention, ~ATTN_NMI);
	return ioctl(k->fd, KVM_NMI, 0) < 0 ? -errno : 0;
}

/* False when *e is filled. */
static bool serve_attention(struct kvm_vcpu *k, struct exit *e)
{
	struct cpu *c = k->cpu;
	uint32_t attention = atomic_load(&c->attention);
	int rc = 0;

	k->run->request_interrupt_window = 0;
	if (attention & ATTN_KICK) {
		atomic_fetch_and(&c->attention, ~ATTN_KICK);
		e->reason = EXIT_KICK;
		return false;
	}
	if (attention & ATTN_INIT) {
		atomic_fetch_and(&c->attention, ~(ATTN_INIT | ATTN_SIPI));
		e->reason = EXIT_INIT;
		return false;
	}
	if (attention & ATTN_NMI)
		rc = inject_nmi(k);
	if (attention & ATTN_INTR && !rc)
		rc = inject_interrupt(k);
	return !rc || kvm_fail(k, e, "injecting an interrupt: %s", strerror(-rc));
}

/* Our APIC's task priority is the CPU's CR8. */
static void load_tpr(struct kvm_vcpu *k)
{
	if (k->cpu->lapic && k->tpr_stale)
		k->run->cr8 = lapic_get_tpr(k->cpu->lapic);
	k->tpr_stale = false;
}

static void store_tpr(struct kvm_vcpu *k, uint64_t before)
{
	if (k->cpu->lapic && k->run->cr8 != before)
		lapic_set_tpr(k->cpu->lapic, (uint8_t)k->run->cr8);
}

/* ---- the loop ---- */

/* KVM_RUN; 0, also when it was interrupted, or -errno. */
static int run_once(struct kvm_vcpu *k)
{
	uint64_t cr8;
	int rc;

	if (k->vm->irqchip.kind == IRQCHIP_OWN)
		load_tpr(k);
	cr8 = k->run->cr8;
	k->run->exit_reason = KVM_EXIT_INTR;
	rc = ioctl(k->fd, KVM_RUN, 0) < 0 ? -errno : 0;
	k->count[KVM_COUNT_RUNS]++;
	k->unfinished = false;
	if (k->vm->irqchip.kind == IRQCHIP_OWN)
		store_tpr(k, cr8);
	k->count[KVM_COUNT_KICKS] += rc == -EINTR;
	if (rc == -EINTR || rc == -EAGAIN) {
		k->run->exit_reason = KVM_EXIT_INTR;
		rc = 0;
	}
	return rc;
}

static bool turn(struct kvm_vcpu *k, struct exit *e)
{
	int rc = kvm_push(k);
	bool more;

	if (rc)
		return kvm_fail(k, e, "KVM does not take the vCPU's state: %s", strerror(-rc));
	atomic_store(&k->running, true);
	__atomic_store_n(&k->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	more = !atomic_load(&k->cpu->attention) || serve_attention(k, e);
	if (more)
		rc = run_once(k);
	atomic_store(&k->running, false);
	if (!rc)
		rc = kvm_drain_early(k);
	if (!more)
		return false;
	if (rc)
		return kvm_fail(k, e, "KVM_RUN: %s", strerror(-rc));
	return kvm_handle_exit(k, e);
}

static void kvm_engine_run(struct cpu *c, struct exit *e)
{
	struct kvm_vcpu *k = c->kvm;

	enter_thread(k);
	while (turn(k, e))
		;
}

/* An access may be one of several parts of an instruction; each part is an exit. */
void kvm_complete(struct kvm_vcpu *k)
{
	struct exit e;

	while (k->unfinished) {
		k->run->immediate_exit = 1;
		if (run_once(k) || k->run->exit_reason == KVM_EXIT_INTR)
			return;
		kvm_handle_exit(k, &e);
	}
}

/* ---- life ---- */

static void sync_out(struct cpu *c)
{
	struct kvm_vcpu *k = c->kvm;
	int rc;

	kvm_complete(k);
	rc = kvm_fetch(k);
	if (!rc && k->vm->irqchip.kind != IRQCHIP_OWN && !k->lapic_due)
		rc = kvm_fetch_lapic(k);
	if (rc)
		log_error("kvm: reading the state of vCPU %u: %s", c->id, strerror(-rc));
}

static void sync_in(struct cpu *c)
{
	struct kvm_vcpu *k = c->kvm;

	kvm_complete(k);
	k->in_kvm = false;
}

static void invalidate(struct cpu *c)
{
	if (c->interp)
		interp_flush(c);
}

static void destroy(struct cpu *c)
{
	struct kvm_vcpu *k = c->kvm;

	interp_free(c);
	if (!k)
		return;
	kvm_unmap_ring(k);
	if (k->run)
		munmap(k->run, k->vm->run_bytes);
	if (k->fd >= 0)
		close(k->fd);
	k->vm->vcpu[c->id] = NULL;
	free(k->xsave);
	free(k);
	c->kvm = NULL;
}

static int open_vcpu(struct kvm_vcpu *k)
{
	struct engine_vm *vm = k->vm;
	void *run;

	k->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)k->cpu->id);
	if (k->fd < 0)
		return -errno;
	run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
	if (run == MAP_FAILED)
		return -errno;
	k->run = run;
	k->xsave = calloc(1, vm->xsave_bytes);
	return k->xsave ? kvm_map_ring(k) : -ENOMEM;
}

static int create(struct cpu *c)
{
	struct engine_vm *vm = c->engine_vm;
	struct kvm_vcpu *k = calloc(1, sizeof(*k));
	int rc;

	if (!k)
		return -ENOMEM;
	*k = (struct kvm_vcpu){ .cpu = c, .vm = vm, .fd = -1 };
	c->kvm = k;
	c->fault.vector = c->delivering = -1;
	install_handler();
	rc = open_vcpu(k);
	if (!rc)
		rc = kvm_set_cpuid(k);
	if (!rc)
		rc = kvm_init_state(k);
	if (rc)
		destroy(c);
	else
		vm->vcpu[c->id] = k;
	return rc;
}

static void count(struct cpu *c, engine_count_fn fn, void *opaque)
{
	static const char *const name[KVM_COUNTERS] = {
		[KVM_COUNT_RUNS] = "runs",
		[KVM_COUNT_RECOVERED] = "interpreted",
		[KVM_COUNT_KICKS] = "kicks",
		[KVM_COUNT_PUSHES] = "state_pushes",
		[KVM_COUNT_FETCHES] = "state_fetches",
	};

	for (unsigned n = 0; n < KVM_COUNTERS; n++)
		fn(opaque, NULL, name[n], c->kvm->count[n]);
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.what = "hardware virtualization through the host's /dev/kvm",
	.create = create,
	.destroy = destroy,
	.run = kvm_engine_run,
	.kick = kick,
	.notify = kvm_notify,
	.sync_out = sync_out,
	.sync_in = sync_in,
	.invalidate = invalidate,
	.count = count,
	.vm = &kvm_vm_ops,
};

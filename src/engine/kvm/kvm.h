/*
 * The engine "kvm": guest code runs on the CPU's own virtualization, through Linux's /dev/kvm.
 * Private to this folder.
 *
 * Where the state is. KVM holds a vCPU's registers while it runs and for as long afterwards as
 * nobody asks: `in_kvm` says that KVM's are the valid ones, and sync_out() fetches them into struct
 * cpu. Otherwise struct cpu's are, and the next run() pushes them. An access to a port, device or
 * MSR that KVM reported completes at the next KVM_RUN, so the registers are only whole after that:
 * `unfinished` is the memory of it.
 *
 * MSRs. KVM keeps those that the CPU itself acts on (state.c has the table). All others, and the
 * writes that would move the TSC, come to us and are answered by src/cpu/msr.c, as on every engine.
 *
 * The PV clock is the monitor's, as on every engine; the guest's TSC is the host's plus an offset,
 * which is the offset of struct cpu.
 */
#pragma once

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>
#include "cpu/cpu.h"
#include "engine/engine.h"

#define KVM_MAX_VCPUS 16
#define KVM_MAX_MSRS  32

/* What this host's KVM offers beyond what we require. */
struct kvm_offers {
	bool exit_on_emulation_failure;
	bool readonly_mem, manual_dirty, dirty_ring;
	bool xsave2, xcrs, sregs2, tsc_offset, steal_time;
	bool irqchip, split_irqchip, irqfd, ioeventfd, signal_msi;
	bool coalesced_pio, coalesced_mmio;
};

#define KVM_MSI_FIRST 40 /* irqchip.c has the map of what comes before */
#define KVM_ROUTES    (KVM_MSI_FIRST + 256)
struct kvm_routes {
	pthread_mutex_t lock;
	bool used[KVM_ROUTES];
	int fd[KVM_ROUTES];        /* of a device's message, -1: the number is free */
	bool attached[KVM_ROUTES]; /* fd is KVM's */
	struct kvm_irq_routing_entry entry[KVM_ROUTES];
};

struct engine_vm {
	int dev, fd;
	struct mem *mem;
	unsigned vcpus;
	gpa_t private_gpa;
	struct kvm_offers offers;
	struct cpuid_offer features;
	size_t run_bytes, xsave_bytes;
	struct irqchip irqchip;
	struct kvm_routes routes;
	_Atomic bool pic_intr; /* split mode: level of the PICs' output */
	struct kvm_vcpu *vcpu[KVM_MAX_VCPUS];
	struct doorbells doorbells;
	/* The dirty log; dirty.c has the lock block. */
	pthread_mutex_t dirty_lock;
	bool dirty_on, dirty_ring, dirty_lost;
	uint64_t *dirty; /* collected from rings before anybody asked */
};

enum kvm_counter {
	KVM_COUNT_RUNS,
	KVM_COUNT_RECOVERED,
	KVM_COUNT_KICKS,
	KVM_COUNT_PUSHES,
	KVM_COUNT_FETCHES,
	KVM_COUNTERS
};

struct kvm_vcpu {
	struct cpu *cpu;
	struct engine_vm *vm;
	int fd;
	struct kvm_run *run;
	struct kvm_xsave *xsave; /* vm->xsave_bytes */
	bool in_kvm;
	bool unfinished;
	uint64_t apic_base, cr8; /* of the kernel's APIC, when state was last fetched or set */
	bool lapic_due;          /* cpu->lapic has a state that the kernel's is to take */
	bool tpr_stale;          /* the task priority of our APIC may have changed */
	bool thread_known;
	pid_t tid;
	_Atomic bool running; /* in, or about to enter, KVM_RUN: a kick needs a signal */
	const struct cpu_ops *machine_ops; /* cpu->ops, which is recover.c's meanwhile */
	uint64_t xcr0_mask;                /* components that the guest's CPU model has */
	unsigned nr_msrs;                  /* rows of state.c's table that this KVM knows */
	uint8_t msr_row[KVM_MAX_MSRS];
	int64_t tsc_offset; /* as KVM has it */
	bool tsc_set;
	struct kvm_dirty_gfn *ring;
	uint32_t ring_at; /* next entry to look at */
	uint64_t count[KVM_COUNTERS];
	char text[160]; /* of the EXIT_ERROR that ended run() */
};

/* vm.c */
extern const struct engine_vm_ops kvm_vm_ops;

/* host.c: /dev/kvm and what it offers. A descriptor, or -errno with a line in err. */
int kvm_open_host(char *err, size_t errlen);
/* Fails, with a line, when something is missing that we cannot do without. */
int kvm_read_offers(int dev, struct kvm_offers *o, char *err, size_t errlen);
bool kvm_has(int fd, long cap);
int kvm_enable(int fd, uint32_t cap, uint64_t arg0, uint64_t arg1);

/* state.c. 0 or -errno. */
int kvm_init_state(struct kvm_vcpu *k); /* once, after the CPU model is set */
int kvm_push(struct kvm_vcpu *k);
int kvm_fetch(struct kvm_vcpu *k);
/* Tells KVM's filter which MSRs are KVM's; once for a machine. */
int kvm_set_msr_filter(struct engine_vm *vm);
/* The guest has moved its TSC: cpu->msr.tsc_offset counts from now on. */
int kvm_set_tsc_offset(struct kvm_vcpu *k);

/* irqchip.c: makes what was asked for; an entry of the table of routes. */
int kvm_make_irqchip(struct engine_vm *vm, const struct engine_options *options, char *err,
                     size_t errlen);
int kvm_set_msi_route(struct engine_vm *vm, unsigned gsi, uint64_t addr, uint32_t data, bool used);

/* chips.c */
int kvm_fetch_lapic(struct kvm_vcpu *k);
int kvm_push_lapic(struct kvm_vcpu *k);
int kvm_chips_out(struct engine_vm *vm, struct pic *pic, struct ioapic *ioapic);
int kvm_chips_in(struct engine_vm *vm, const struct pic *pic, const struct ioapic *ioapic);

/* dirty.c */
#define KVM_RING_ENTRIES 4096
int kvm_dirty_init(struct engine_vm *vm, const struct engine_options *options, char *err,
                   size_t errlen);
void kvm_dirty_fini(struct engine_vm *vm);
int kvm_map_ring(struct kvm_vcpu *k);
void kvm_unmap_ring(struct kvm_vcpu *k);
int kvm_dirty_start(struct engine_vm *vm);
int kvm_dirty_stop(struct engine_vm *vm);
int kvm_dirty_take(struct engine_vm *vm, uint64_t *bitmap);
/* A vCPU's ring is full. 0 or -errno. */
int kvm_drain_rings(struct engine_vm *vm);
/* After an exit: empties the rings if this vCPU's is half full. */
int kvm_drain_early(struct kvm_vcpu *k);
/* vm.c: the slot of a bank anew, with flags. */
int kvm_set_slot(struct engine_vm *vm, unsigned slot, uint32_t flags);

/* doorbell.c */
void kvm_init_doorbells(struct engine_vm *vm);

/* exits.c: does what the exit asks. False when *e is filled and run() is to end. */
bool kvm_handle_exit(struct kvm_vcpu *k, struct exit *e);
/* Ends run() with an error; false, for the caller to return. */
bool kvm_fail(struct kvm_vcpu *k, struct exit *e, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/* vcpu.c: brings a vCPU back that runs, from any thread. */
void kvm_notify(struct cpu *c);
/* Has KVM finish what the last exit began, so that its registers are whole. */
void kvm_complete(struct kvm_vcpu *k);

/* recover.c: the interpreter executes the instruction at RIP. As kvm_handle_exit(). */
bool kvm_recover(struct kvm_vcpu *k, struct exit *e);

/* features.c: what KVM says of CPUID; the model that a vCPU gets. */
int kvm_read_features(int dev, struct cpuid_offer *out, bool steal_time);
int kvm_set_cpuid(struct kvm_vcpu *k);

/*
 * One virtual machine, from configuration to outcome: what the command line (and later the daemon)
 * uses. A machine is made by vm_new(), runs from vm_start() until vm_wait() names its outcome, and
 * can be looked at (vm_get_stats, vm_report) until vm_free().
 *
 * Threads: vm_wait() belongs to one thread at a time, which also performs the reboots of a machine
 * that may reboot. vm_stop() and the serial functions may be called from any thread, but not from a
 * signal handler: take signals with signalfd. The callbacks of vm_console run on the machine's own
 * threads with the bus locked: they must not block, nor call back into this interface.
 */
#pragma once

#include "base/base.h"
#include "block/block.h"
#include "cpu/exit.h"
#include "engine/engine.h"

#define VM_MAX_VCPUS    16
#define VM_MAX_MODULES  16
#define VM_MAX_DISKS    16
#define VM_MAX_PORTS    8
#define VM_MAX_NETS     8
#define VM_MAX_SHARES   8
#define VM_REPORT_BYTES (256 * KiB) /* enough for any vm_report() */

struct vm;
struct engine_ops;

/* How a run ended. */
enum vm_outcome {
	VM_RUNNING,
	VM_POWEROFF,   /* the guest switched itself off */
	VM_CRASHED,    /* triple fault, or no vCPU can ever run again */
	VM_REBOOTED,   /* the guest asked for a reset, under exit_on_reboot */
	VM_EXIT_PORT,  /* the guest wrote its own status to the exit port */
	VM_TIMEOUT,    /* vm_wait()'s deadline passed */
	VM_STOPPED,    /* vm_stop() */
	VM_HOST_ERROR, /* the engine or the host gave up; vm_reason() says why */
	VM_PAUSED,     /* never of vm_wait(), within which a machine is paused */
	VM_OUTCOMES
};

/* The serial port's other end, and the debug console's. Every callback may be NULL. */
struct vm_console {
	/* Takes up to n bytes and returns how many; after less than n, call vm_serial_resume() when
	 * there is room again. */
	size_t (*output)(void *opaque, const uint8_t *buf, size_t n);
	/* vm_serial_input() will accept bytes again. */
	void (*input_room)(void *opaque);
	/* One byte written to the debug port 0xe9; lost if it cannot be taken. */
	void (*debug)(void *opaque, uint8_t byte);
	void *opaque;
};

/* What a watchdog's time being over means. */
enum vm_watchdog { VM_WATCHDOG_NONE, VM_WATCHDOG_RESET, VM_WATCHDOG_POWEROFF, VM_WATCHDOG_PAUSE };

enum vm_disk_bus { VM_DISK_VIRTIO, VM_DISK_NVME };

struct vm_disk {
	const char *path;
	struct block_options options;
	const char *serial; /* at most VM_SERIAL_BYTES, or NULL */
	enum vm_disk_bus bus;
	bool pause_when_full; /* pause when the host has no room for a write, else report an error
	                       */
};
#define VM_SERIAL_BYTES 20

/* A port of the virtio console: the first is a console, others are found by name. */
struct vm_port {
	const char *name;
	struct vm_console console; /* its debug() is not used */
};

/* Strings must outlive the machine, which reads its files again when it reboots. */
struct vm_config {
	const char *kernel;                 /* path: bzImage, ELF with a PVH note, or multiboot */
	const char *initrd;                 /* path or NULL */
	const char *append;                 /* kernel command line or NULL */
	const char *cpu;                    /* CPUID model, NULL for what the host has */
	const char *module[VM_MAX_MODULES]; /* "PATH [ARGUMENTS]", multiboot only */
	unsigned nr_modules;
	uint64_t memory; /* bytes; see mem.h for the limits */
	unsigned vcpus;  /* 1..VM_MAX_VCPUS */
	const struct engine_ops *engine;
	struct engine_options engine_options;
	bool guest_decompresses;    /* a bzImage's own decompressor runs instead of ours */
	bool exit_on_reboot;        /* else a reset restarts the machine within vm_wait() */
	bool reset_on_triple_fault; /* treat shutdown as a reset request instead of a crash */
	bool testdev;               /* add the devices of QEMU's pc-testdev */
	bool rng;                   /* a source of entropy */
	struct vm_disk disk[VM_MAX_DISKS];
	unsigned nr_disks;
	struct vm_port port[VM_MAX_PORTS];
	unsigned nr_ports; /* 0: no virtio console */
	enum vm_watchdog watchdog;
	bool balloon;
	uint64_t balloon_keep; /* bytes that it leaves to the guest, at most `memory` */
	/* As --net, --share and --vsock have it; vsock may be NULL. */
	const char *net[VM_MAX_NETS], *share[VM_MAX_SHARES], *vsock;
	unsigned nr_nets, nr_shares;
	struct vm_console console;
	/* The machine is paused, and why; on the thread in vm_wait(). May be NULL. */
	void (*paused)(void *opaque, const char *reason);
	void *paused_opaque;
};

/* 0 or -errno, with one line in err that names the thing, the value and the limit. */
int vm_new(struct vm **out, const struct vm_config *config, char *err, size_t errlen);
void vm_free(struct vm *vm); /* stops it first if need be; safe on NULL */

/* 0 or -errno: makes the threads and lets the vCPUs go. Once. */
int vm_start(struct vm *vm);

/*
 * Sleeps until the machine has an outcome and every vCPU stands still. deadline_ns: clock_ns() time
 * after which it is stopped with VM_TIMEOUT, 0 for never. *status (may be NULL) gets the byte
 * written to the exit port. Call it again and it gives the same answer.
 */
enum vm_outcome vm_wait(struct vm *vm, uint64_t deadline_ns, unsigned *status);

/* Ends the run with VM_STOPPED unless it has an outcome already. Does not wait. */
void vm_stop(struct vm *vm);

/* Lets a paused machine go on; nothing happens to others. */
void vm_continue(struct vm *vm);

/* Presses the power button, whereupon a guest that listens to it (true) shuts itself down. */
bool vm_press_power(struct vm *vm);

/* In words, why the run ended: "triple fault on vCPU 0". Valid until vm_free() or a restart. */
const char *vm_reason(const struct vm *vm);
const char *vm_outcome_name(enum vm_outcome outcome);

/* Bytes for the guest's serial port; returns how many were accepted. Once 0..n-1 were, input_room()
 * follows. */
size_t vm_serial_input(struct vm *vm, const uint8_t *buf, size_t n);
/* The console's output() can take bytes again. */
void vm_serial_resume(struct vm *vm);
/* The same for a port of the virtio console. */
size_t vm_port_input(struct vm *vm, unsigned port, const uint8_t *buf, size_t n);
void vm_port_resume(struct vm *vm, unsigned port);

struct vm_stats {
	uint64_t run_ns;  /* since vm_start(), or until the outcome */
	uint64_t user_ns; /* from vm_start() to the first instruction at CPL 3; 0 if there was none
	                   */
	uint64_t insns;   /* this and the following: sums over all vCPUs */
	uint64_t blocks;
	uint64_t tlb_misses;
	uint64_t interrupts;
	uint64_t exceptions[32];
	uint64_t exits[EXIT_REASONS]; /* vm_exit_name() names them */
	uint64_t reboots;
	/* What devices and guest had of each other through the host's kernel, without an exit. */
	uint64_t kernel_doorbells, kernel_messages;
	uint64_t guest_resident; /* bytes of guest RAM that the host has populated */
	uint64_t host_resident;  /* bytes of the process beyond guest RAM */
	unsigned vcpus;
	/* Of the balloon, if there is one. */
	bool balloon;
	uint64_t balloon_bytes;   /* in it */
	uint64_t reported_bytes;  /* of free pages that came back by reports, all in all */
	uint64_t guest_free;      /* what the guest says; UINT64_MAX when it has not */
	uint64_t guest_available; /* the same of what it could free */
};

/* Exact once vm_wait() has returned; approximate while the machine runs. */
void vm_get_stats(struct vm *vm, struct vm_stats *out);
/* The engine's counters, a call for each vCPU and counter. */
void vm_count(struct vm *vm, engine_count_fn fn, void *opaque);
const char *vm_exit_name(enum exit_reason reason);

/* For a crash: registers, code and stack of every vCPU. Only after vm_wait(). Returns the length,
 * always terminated and never more than size - 1. */
size_t vm_report(struct vm *vm, char *buf, size_t size);

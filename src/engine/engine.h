/*
 * Engines: ways to run guest code, behind one const table.
 *
 * struct cpu is the reference state whenever no run() is in progress on it. run() and the sync
 * functions are called on the vCPU's thread; kick() from any.
 */
#pragma once

#include "bus/doorbell.h"
#include "bus/irqchip.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"

/* What a user may ask of an engine; those that it does not concern ignore it. */
struct engine_options {
	const char *trace;   /* file for the disassembly of what is translated, or NULL */
	bool perf_map;       /* name translated code for perf in /tmp/perf-PID.map */
	uint64_t code_cache; /* bytes for all vCPUs together, 0 for the default */
	bool check;          /* compare every block with the interpreter, stop at a difference */
	/* Of an engine that can use the host kernel's interrupt controllers: which, or with
	 * irqchip_any the first that the kernel offers. */
	bool irqchip_any;
	enum irqchip_kind irqchip;
	bool dirty_ring; /* a ring of each vCPU tells which pages were written, not a bitmap */
};
#define ENGINE_CODE_CACHE     (64 * MiB)
#define ENGINE_CODE_CACHE_MIN (1 * MiB)
#define ENGINE_CODE_CACHE_MAX (1024 * MiB)

/* Takes a counter: a name, within a group or NULL. */
typedef void (*engine_count_fn)(void *opaque, const char *group, const char *name, uint64_t n);

/*
 * An engine's part that belongs to the whole machine rather than to one vCPU, for engines that have
 * one. The functions are called while no vCPU runs, unless it says otherwise.
 */
struct engine_vm; /* the engine's own */

struct pic;    /* device/pic.h */
struct ioapic; /* device/ioapic.h */

struct engine_machine {
	struct mem *mem;
	unsigned vcpus;
	const struct engine_options *options;
	gpa_t private_gpa; /* ENGINE_PRIVATE_BYTES below 4 GiB that hold neither RAM nor a chip */
};
#define ENGINE_PRIVATE_BYTES (4 * PAGE_SIZE)

struct engine_vm_ops {
	/* 0, or -errno with a line in err; before the vCPUs' create(). */
	int (*open)(struct engine_vm **out, const struct engine_machine *machine, char *err,
	            size_t errlen);
	void (*close)(struct engine_vm *vm); /* after their destroy(); safe on NULL */
	/* Which features the machine's CPU model can have. */
	const struct cpuid_offer *(*offer)(const struct engine_vm *vm);
	/* Whose interrupt controllers it has; with the kernel's, vCPUs wait inside run(). */
	const struct irqchip *(*irqchip)(struct engine_vm *vm);
	/* The banks of memory have their places. 0 or -errno. */
	int (*map)(struct engine_vm *vm);
	/* IRQCHIP_KERNEL: the state of its PICs and I/O APIC, to and from the board's. 0 or -errno.
	 * (Local APICs are part of a vCPU's state.) */
	int (*chips_out)(struct engine_vm *vm, struct pic *pic, struct ioapic *ioapic);
	int (*chips_in)(struct engine_vm *vm, const struct pic *pic, const struct ioapic *ioapic);
	/*
	 * The dirty log. take() adds the RAM pages written since start() or the last take(), by the
	 * guest or by the host, to a bitmap of mem_dirty_words() words; it may be called while
	 * vCPUs run, by one thread at a time. 0 or -errno.
	 */
	int (*dirty_start)(struct engine_vm *vm);
	int (*dirty_take)(struct engine_vm *vm, uint64_t *bitmap);
	int (*dirty_stop)(struct engine_vm *vm);
	/* Doorbells that the host's kernel answers, or NULL where it cannot. */
	const struct doorbells *(*doorbells)(struct engine_vm *vm);
};

struct engine_ops {
	const char *name;
	const char *what;             /* one line for --help */
	int (*create)(struct cpu *c); /* 0 or -errno */
	void (*destroy)(struct cpu *c);
	void (*run)(struct cpu *c, struct exit *e); /* returns only with an exit */
	void (*kick)(struct cpu *c);                /* makes run() return EXIT_KICK soon */
	void (*notify)(
	        struct cpu *c); /* after attention was set: run() looks at it soon; or NULL */
	void (*sync_out)(struct cpu *c);   /* engine -> struct cpu */
	void (*sync_in)(struct cpu *c);    /* struct cpu -> engine */
	void (*invalidate)(struct cpu *c); /* forget everything derived from guest memory */
	void (*count)(struct cpu *c, engine_count_fn fn, void *opaque); /* for --stats, or NULL */
	const struct engine_vm_ops *vm;                                 /* or NULL */
};

extern const struct engine_ops engine_interp, engine_bt, engine_kvm;
/* bt needs XSAVE of the host. */
bool engine_bt_runs_here(void);

/* What an instruction takes on this host's KVM, in picoseconds; 0 where it does not run. */
struct engine_kvm_speed {
	uint64_t ring0_ps, ring3_ps;
};
#define ENGINE_KVM_SLOW_PS 100000 /* above this the host's kernel emulates: bt is faster */
/* Measures, in less than a millisecond or two; ring 3 only if asked. -errno with a line in err when
 * KVM cannot be used at all. Opens and closes /dev/kvm once. */
int engine_kvm_probe(bool ring3, struct engine_kvm_speed *out, char *err, size_t errlen);
/* Names and values of what the host's KVM offers. Nothing when it cannot be used. */
typedef void (*engine_describe_fn)(void *opaque, const char *name, const char *value);
void engine_kvm_describe(engine_describe_fn fn, void *opaque);

/* By name, or NULL. */
const struct engine_ops *engine_find(const char *name);
/* The fastest that runs on this host, by measuring. why, unless NULL, gets the reason in words. */
const struct engine_ops *engine_auto(char *why, size_t size);
/* The table, for listings; NULL terminated. */
extern const struct engine_ops *const engine_table[];

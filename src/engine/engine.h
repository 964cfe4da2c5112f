/*
 * Engines: ways to run guest code, behind one const table.
 *
 * struct cpu is the reference state whenever no run() is in progress on it. run() and the sync
 * functions are called on the vCPU's thread; kick() from any.
 */
#pragma once

#include "cpu/cpu.h"

/* What a user may ask of an engine that translates; others ignore it. */
struct engine_options {
	const char *trace;   /* file for the disassembly of what is translated, or NULL */
	bool perf_map;       /* name translated code for perf in /tmp/perf-PID.map */
	uint64_t code_cache; /* bytes for all vCPUs together, 0 for the default */
	bool check;          /* compare every block with the interpreter, stop at a difference */
};
#define ENGINE_CODE_CACHE     (64 * MiB)
#define ENGINE_CODE_CACHE_MIN (1 * MiB)
#define ENGINE_CODE_CACHE_MAX (1024 * MiB)

/* Takes a counter: a name, within a group or NULL. */
typedef void (*engine_count_fn)(void *opaque, const char *group, const char *name, uint64_t n);

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
};

extern const struct engine_ops engine_interp, engine_bt;
/* bt needs XSAVE of the host. */
bool engine_bt_runs_here(void);

/* By name, or NULL. */
const struct engine_ops *engine_find(const char *name);
/* The fastest that runs on this host. */
const struct engine_ops *engine_auto(void);
/* The table, for listings; NULL terminated. */
extern const struct engine_ops *const engine_table[];

/*
 * Engines: ways to run guest code, behind one const table.
 *
 * struct cpu is the reference state whenever no run() is in progress on it. run() and the sync
 * functions are called on the vCPU's thread; kick() from any.
 */
#pragma once

#include "cpu/cpu.h"

struct engine_ops {
	const char *name;
	const char *what;             /* one line for --help */
	int (*create)(struct cpu *c); /* 0 or -errno */
	void (*destroy)(struct cpu *c);
	void (*run)(struct cpu *c, struct exit *e); /* returns only with an exit */
	void (*kick)(struct cpu *c);                /* makes run() return EXIT_KICK soon */
	void (*notify)(struct cpu *c); /* after attention was set: run() looks at it soon; or NULL */
	void (*sync_out)(struct cpu *c);            /* engine -> struct cpu */
	void (*sync_in)(struct cpu *c);             /* struct cpu -> engine */
	void (*invalidate)(struct cpu *c); /* forget everything derived from guest memory */
};

extern const struct engine_ops engine_interp, engine_bt;

/* By name, or NULL. */
const struct engine_ops *engine_find(const char *name);
/* The table, for listings; NULL terminated. */
extern const struct engine_ops *const engine_table[];

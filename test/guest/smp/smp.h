/*
 * Guests on several CPUs. smp_start() brings every CPU up by INIT and SIPI; each then waits for
 * work, with interrupts on.
 *
 * The functions given to smp_run() run on all CPUs at once and are told which they are; it returns
 * when all are done. Checks (ok() and its like) are CPU 0's alone.
 */
#pragma once

#include "device.h"

/* CPUs that came, CPU 0 included. Those that do not come within 5 s are missed for good. */
unsigned smp_start(void);
unsigned smp_cpus(void); /* by fw_cfg: how many there should be */

typedef void (*smp_fn)(unsigned cpu);
void smp_run(smp_fn fn);                 /* on all */
void smp_begin(unsigned cpu, smp_fn fn); /* on one other, without waiting */
bool smp_wait(unsigned cpu);             /* until it is done; false after 20 s */

/* INIT, then SIPI twice. Its stack and its work begin anew. */
void smp_boot(unsigned cpu);
bool smp_is_up(unsigned cpu);

/* All CPUs that call wait for the last of n. */
struct barrier {
	volatile unsigned arrived, turn;
};
void barrier_wait(struct barrier *b, unsigned n);

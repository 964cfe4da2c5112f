/*
 * The interpreter's public face: execute decoded instructions on a struct cpu, deliver events.
 *
 * Faults leave a routine by longjmp: cpu_raise() records the exception in cpu->fault and jumps
 * to the run loop, which puts RIP back on the faulting instruction and delivers. So the one rule
 * that every routine obeys: change no architectural state before the last access that can fault, or
 * change only what is right to have changed (a REP iteration that completed).
 */
#pragma once

#include "cpu/cpu.h"

int interp_new(struct cpu *c);
void interp_free(struct cpu *c);

/*
 * Runs until there is a reason to leave, which is written to *e. Called on the vCPU's own thread.
 * EXIT_PIO, EXIT_MMIO, EXIT_MSR, EXIT_INTACK and EXIT_TPR go to cpu->ops->exit() on the way.
 */
void interp_run(struct cpu *c, struct exit *e);

/* Executes exactly one instruction (or delivers one event). False when *e has been filled. */
bool interp_step(struct cpu *c, struct exit *e);

/*
 * The parts of interp_run(), for an engine with a loop of its own around them. One turn of the
 * loop: events first, then a block, or one instruction; false when *e is filled. The caller has set
 * cpu->exit and cpu->jmp, and calls interp_caught() when a jump arrives there: it delivers the
 * fault, and is false when run() is to end.
 */
bool interp_turn(struct cpu *c, struct exit *e, bool single);
bool interp_caught(struct cpu *c);
/*
 * As interp_turn() for one instruction when no event is due, with the decoded instruction kept for
 * the next time: *kept is filled when its fn is NULL, by the bytes at RIP, which the caller knows
 * not to change. Forget it when interp_generation() changes.
 */
struct insn;
void interp_execute(struct cpu *c, struct insn *kept);
unsigned interp_generation(const struct cpu *c);
/*
 * For an engine that has come upon an instruction that it cannot execute: the event that was on its
 * way, if any, and that instruction; no other event is looked at. As interp_turn() in everything
 * else.
 */
void interp_finish(struct cpu *c);
/* Single step or breakpoints: every instruction has to be looked at by itself. */
bool interp_must_trace(const struct cpu *c);

/* Ends run() with an exit that has been written to *c->exit. */
_Noreturn void interp_leave(struct cpu *c);

/* Drops every decoded instruction. */
void interp_flush(struct cpu *c);

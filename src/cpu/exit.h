/*
 * Why a vCPU stopped running guest code. Engines fill one; the dispatcher (src/monitor/dispatch.c)
 * routes it. A software engine that needs the answer in the middle of an instruction hands the
 * exit to cpu->ops->exit() and goes on; the others are returned from engine_ops.run().
 */
#pragma once

#include "base/base.h"

enum exit_reason {
	EXIT_NONE,
	/* Answered in place, through cpu_ops.exit(). */
	EXIT_PIO,  /* .io: port access */
	EXIT_MMIO, /* .io: an access to a guest physical address that is not RAM */
	EXIT_MSR,  /* .msr: an MSR that the vCPU does not keep itself (APIC base, x2APIC, PV clock)
	            */
	EXIT_INTACK, /* .vector: the interrupt to deliver, or -1 */
	EXIT_TPR,    /* .tpr: CR8 */
	EXIT_EOI, /* .vector: a level-triggered interrupt ended at a local APIC that is not ours */
	/* Returned from run(). */
	EXIT_KICK,     /* somebody asked through kick() */
	EXIT_HLT,      /* HLT or MWAIT with nothing pending */
	EXIT_SHUTDOWN, /* triple fault */
	EXIT_INIT,     /* INIT received: the vCPU now waits for SIPI */
	EXIT_ERROR,    /* the engine cannot go on; .text says why */
	EXIT_REASONS
};

struct exit {
	enum exit_reason reason;
	union {
		struct {
			uint64_t addr; /* port or gpa */
			uint64_t value;
			uint8_t size; /* bytes: 1, 2, 4, 8 */
			bool write;
		} io;
		struct {
			uint32_t index;
			bool write;
			bool fault; /* set by the handler: raise #GP(0) */
			uint64_t value;
		} msr;
		struct {
			uint8_t value; /* 0..15 */
			bool write;
		} tpr;
		int vector;
		const char *text;
	};
};

/*
 * The dispatcher: the single entry point of every exit. Private to src/monitor/.
 */
#pragma once

#include "monitor/vcpu.h"

/* What a vCPU's engine reaches the machine through. c->host is the struct vcpu. */
extern const struct cpu_ops dispatch_cpu_ops;

/* Runs the vCPU on its own thread until its group is to stop. */
void dispatch_run(struct vcpu *v);

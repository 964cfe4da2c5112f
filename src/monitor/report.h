/*
 * The crash report: what a developer of the guest wants to see of every vCPU. Private to
 * src/monitor/.
 */
#pragma once

#include "cpu/cpu.h"

/* Appends registers, code at RIP and a backtrace of c to buf[0..size); returns bytes written
 * (without the NUL, at most size - 1). The vCPU must stand still. Guest memory is read as a
 * debugger does. */
size_t report_cpu(struct cpu *c, char *buf, size_t size);

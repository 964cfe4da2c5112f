/*
 * A child process in which others' code reads what nobody vouches for: from confine_enter() on it
 * can use the descriptors that it has, and memory, and end. It can open, start or reach nothing.
 */
#pragma once

#include "base/base.h"

struct confine_limits {
	uint64_t memory;      /* bytes that it may map beyond what it has */
	uint64_t file;        /* bytes that a file may grow to */
	unsigned cpu_seconds; /* for the whole process */
};

/*
 * For the whole process and for good, whatever threads it has. A system call that is not allowed
 * ends it by SIGSYS, a file that is too long by SIGXFSZ, time by SIGXCPU; memory beyond the limit
 * is not there. 0 or -errno.
 */
int confine_enter(const struct confine_limits *limits);

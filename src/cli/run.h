/*
 * What `trapeze run` was asked for, between the option table, the run itself and its statistics.
 */
#pragma once

#include "base/base.h"
#include "monitor/vm.h"

struct run_options {
	struct vm_config vm;
	const char *serial;
	/* Of the virtio console: for each port of vm.port where its bytes go. */
	const char *port[VM_MAX_PORTS];
	char *port_text[VM_MAX_PORTS]; /* into which names and these point */
	const char *stats;             /* path or NULL */
	uint64_t timeout_ns;           /* 0: none */
	bool help;
	char *disk_text[VM_MAX_DISKS]; /* into which vm.disk points */
};

/* Sets the defaults, then what the command line says. 0 or -EINVAL, logged. */
int run_parse(struct run_options *opts, int argc, char **argv);
void run_print_help(void);
/* Adds a disk: PATH[,KEY[=VALUE]]... 0 or -EINVAL, logged. */
int run_parse_disk(struct run_options *opts, const char *text);
/* What the options own; after the machine is gone. */
void run_free_options(struct run_options *opts);

/* Checks, before the guest starts, that path can be written: 0 or -errno, logged. */
int stats_prepare(const char *path);
/* Writes how the run went as JSON, whole or not at all. 0 or -errno, logged. */
int stats_write(const char *path, struct vm *vm, const struct run_options *opts,
                enum vm_outcome outcome, int status);

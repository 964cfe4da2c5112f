/*
 * What `trapeze run` was asked for, between the option table, the run itself and its statistics.
 */
#pragma once

#include "base/base.h"
#include "monitor/vm.h"

#define RUN_FD_PATH 32

/* What was taken out of an image, by paths of open descriptors; 0: none. */
struct run_boot {
	int kernel_fd, initrd_fd;
	char kernel[RUN_FD_PATH], initrd[RUN_FD_PATH];
};

struct run_options {
	struct vm_config vm;
	const char *serial;
	/* Of the virtio console: for each port of vm.port where its bytes go. */
	const char *port[VM_MAX_PORTS];
	char *port_text[VM_MAX_PORTS]; /* into which names and these point */
	const char *stats;             /* path or NULL */
	uint64_t timeout_ns;           /* 0: none */
	bool help;
	bool image; /* vm.disk[0] is to be booted from */
	struct run_boot boot;
	char *disk_text[VM_MAX_DISKS]; /* into which vm.disk points */
};

/* Sets the defaults, then what the command line says. 0 or -EINVAL, logged. */
int run_parse(struct run_options *opts, int argc, char **argv);
void run_print_help(void);
/* Adds a disk: PATH[,KEY[=VALUE]]..., as `option` says. 0 or -EINVAL, logged. */
int run_parse_disk(struct run_options *opts, const char *option, const char *text);
/* The same of the disk to boot from. */
int run_parse_image(struct run_options *opts, const char *text);
/* Finds what --image has to boot, where nothing else was given. 0 or -errno, logged. */
int run_prepare_image(struct run_options *opts);
void run_free_boot(struct run_boot *b);
/* What the options own; after the machine is gone. */
void run_free_options(struct run_options *opts);

/* Checks, before the guest starts, that path can be written: 0 or -errno, logged. */
int stats_prepare(const char *path);
/* Writes how the run went as JSON, whole or not at all. 0 or -errno, logged. */
int stats_write(const char *path, struct vm *vm, const struct run_options *opts,
                enum vm_outcome outcome, int status);

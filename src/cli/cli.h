/*
 * The command. Private to this folder: the verbs, and what they share.
 */
#pragma once

#include "base/base.h"

/* What the shell learns from `trapeze run`; the manual page has the same table. */
enum cli_status {
	CLI_OK = 0,      /* the guest powered off, or the user ended it */
	CLI_ERROR = 1,   /* usage, or the host refused something */
	CLI_CRASHED = 2, /* triple fault, dead CPUs */
	CLI_REBOOTED = 3,
	CLI_TIMEOUT = 4,
};

struct cli_verb {
	const char *name;
	const char *alias;                  /* the spelling as an option, or NULL */
	const char *what;                   /* one line for help */
	int (*main)(int argc, char **argv); /* argv[0] is the verb; returns an exit status */
};

int cli_run(int argc, char **argv);
int cli_info(int argc, char **argv);
int cli_image(int argc, char **argv);

/*
 * Between console.c, which moves bytes, and console_open.c, which finds something to move them to.
 */
#pragma once

#include <pthread.h>

#include "base/loop.h"
#include "cli/console.h"

#define CONSOLE_OUT_BYTES (64 * KiB)
#define CONSOLE_IN_BYTES  256

/* One direction. O_NONBLOCK belongs to the open file, which we may share with other processes; a
 * descriptor that could not be reopened for ourselves gets its flags back at the end. */
struct console_end {
	int fd;            /* -1: closed */
	int restore_flags; /* -1: nothing to restore */
};

struct console_backend {
	const char *name;
	const char *arg; /* what follows "NAME:", or NULL */
	/* Fills the ends, or the fields for peers. 0 or -errno, logged. */
	int (*open)(struct console *c, const char *arg);
};

struct console {
	struct loop *loop;
	const char *option; /* "--serial", for messages */
	const char *what;   /* its value; points into the configuration */
	bool terminal;      /* input is the user's keyboard */
	struct timer work;  /* armed to have the loop's thread serve the console */

	/* Backends whose other side comes and goes. next_peer() gives a descriptor or -1. */
	int (*next_peer)(struct console *c);
	int peer_source;   /* listening socket or pty master; -1 */
	uint64_t poll_ns;  /* how often to ask for one; 0 when peer_source tells by itself */
	char *socket_path; /* to be removed at the end */

	pthread_mutex_t guest_lock;
	struct console_guest guest;
	bool attached;

	struct console_end in;
	uint8_t in_buf[CONSOLE_IN_BYTES];
	size_t in_at, in_len;
	bool escape; /* Ctrl-A was the last key */

	pthread_mutex_t out_lock;
	struct console_end out;
	uint8_t *out_buf; /* a ring */
	size_t out_at, out_len;
	bool flush_soon; /* the timer is armed to write what is buffered */
	bool stalled;    /* the guest was refused and waits for output_room() */
	int out_error;   /* errno to be dealt with by the loop's thread */
	bool failed;     /* and dealt with */
};

/* By the name before ':'; *arg is what follows it. NULL and logged when there is none. */
const struct console_backend *console_find_backend(const char *option, const char *spec,
                                                   const char **arg);

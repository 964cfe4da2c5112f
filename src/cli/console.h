/*
 * The host's end of the guest's serial port, or a port of its virtio console: a terminal, a file, a
 * unix socket, a pseudoterminal or nothing.
 *
 * Guest to host, bytes go through a bounded buffer. When the host side does not keep up the buffer
 * fills, console_write() takes less, the UART reports itself busy and the guest waits: nothing is
 * lost and nothing grows. Host to guest, bytes stay in the host's descriptor until the UART has
 * room.
 *
 * Threads: console_write() and console_resume() come from the machine's threads with the bus
 * locked, so they never block and never call back into the machine. Everything else runs on the
 * loop's thread. struct console has two locks; see console.c.
 */
#pragma once

#include "base/base.h"

struct loop;
struct console;

enum console_event {
	CONSOLE_QUIT,   /* the user typed Ctrl-A x */
	CONSOLE_STATUS, /* Ctrl-A s */
	CONSOLE_POWER,  /* Ctrl-A p */
	CONSOLE_GO_ON,  /* Ctrl-A c */
	CONSOLE_FAILED, /* the host side is gone for good; logged */
};

/* The guest's side, called on the loop's thread. */
struct console_guest {
	size_t (*input)(void *opaque, const uint8_t *buf, size_t n); /* returns how many it took */
	void (*output_room)(void *opaque); /* after console_write() took less than it was given */
	void (*event)(void *opaque, enum console_event event);
	void *opaque;
};

/* Makes what spec says: "stdio", "file:PATH", "unix:PATH", "pty" or "none". option ("--serial") is
 * for messages. -EINVAL or another -errno, logged; then nothing is left behind. */
int console_new(struct console **out, struct loop *loop, const char *option, const char *spec);
/* Only after loop_free(). Removes a socket that it made; safe on NULL. */
void console_free(struct console *c);

/* From here on the guest gets bytes; until console_detach() returns. */
void console_attach(struct console *c, const struct console_guest *guest);
void console_detach(struct console *c);

/* Takes up to n bytes of guest output and says how many. */
size_t console_write(struct console *c, const uint8_t *buf, size_t n);
/* The guest has room for input again. */
void console_resume(struct console *c);

/* Our own words to the user, between the guest's; dropped when there is no room. */
void console_print(struct console *c, const char *text);
/* Waits until buffered output is out, timeout_ns at most. */
void console_drain(struct console *c, uint64_t timeout_ns);

/* Hand the terminal to the guest, and take it back. */
void console_enter(struct console *c);
void console_leave(struct console *c);

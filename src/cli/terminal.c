#include "cli/terminal.h"

#include <signal.h>
#include <termios.h>
#include <unistd.h>

static struct {
	volatile sig_atomic_t raw;
	int fd;
	struct termios saved;
} terminal;

/*
 * In raw mode every key is a byte for the guest, Ctrl-C, Ctrl-Z and Ctrl-S included, and the
 * guest's own terminal driver does the echo and turns line feeds into CR LF.
 */
bool terminal_make_raw(int fd)
{
	struct termios raw;
	pid_t foreground = tcgetpgrp(fd); /* -1 when it is not our controlling terminal */

	if (terminal.raw)
		return true;
	if (foreground != -1 && foreground != getpgrp())
		return false;
	if (tcgetattr(fd, &terminal.saved))
		return false;
	raw = terminal.saved;
	cfmakeraw(&raw);
	terminal.fd = fd;
	terminal.raw = true; /* first: a crash in between restores what is still in force */
	if (tcsetattr(fd, TCSANOW, &raw))
		terminal.raw = false;
	return terminal.raw;
}

void terminal_restore(void)
{
	if (!terminal.raw)
		return;
	tcsetattr(terminal.fd, TCSANOW, &terminal.saved);
	terminal.raw = false;
}

static void die_restored(int sig)
{
	terminal_restore();
	/* SA_RESETHAND has put the default action back: this is the end, with the right status. */
	raise(sig);
}

void terminal_catch_crashes(void)
{
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGSYS, SIGTRAP };
	struct sigaction sa = { .sa_handler = die_restored, .sa_flags = SA_RESETHAND | SA_NODEFER };

	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
		sigaction(fatal[i], &sa, NULL);
}

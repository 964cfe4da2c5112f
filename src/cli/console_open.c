/*
 * The kinds of host ends that --serial and its like can name, one row and one function each.
 */
#include "cli/console_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/unix_socket.h"

#define PTY_POLL_NS 250000000ull

/*
 * An open file of our own for descriptor fd, so that O_NONBLOCK on it does not surprise the shell
 * or the other end of a pipeline. Sockets and other users' files cannot be reopened; for those it
 * is set on the shared one, and taken back at the end. -errno when even that fails.
 */
static int open_own(struct console_end *end, int fd, int access)
{
	char path[32];
	struct stat st;
	int flags;

	if (fstat(fd, &st))
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	/* Regular files are never waited for, and a second open would lose their position. */
	if (!S_ISREG(st.st_mode)) {
		end->fd = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (end->fd >= 0)
			return 0;
		if (errno == ENXIO && S_ISFIFO(st.st_mode))
			return -EPIPE;
	}
	end->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (end->fd < 0)
		return -errno;
	flags = fcntl(fd, F_GETFL);
	if (!S_ISREG(st.st_mode) && !(flags & O_NONBLOCK)) {
		end->restore_flags = flags;
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	}
	return 0;
}

static bool can(int fd, int access)
{
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && ((flags & O_ACCMODE) == access || (flags & O_ACCMODE) == O_RDWR);
}

static int open_stdio(struct console *c, const char *arg)
{
	int rc = can(STDOUT_FILENO, O_WRONLY) ? open_own(&c->out, STDOUT_FILENO, O_WRONLY) : -EBADF;

	if (rc) {
		log_error("%s stdio: cannot write to standard output: %s", c->option,
		          strerror(-rc));
		return rc;
	}
	/* Without an input the guest just hears nothing. */
	if (can(STDIN_FILENO, O_RDONLY) && !open_own(&c->in, STDIN_FILENO, O_RDONLY))
		c->terminal = isatty(c->in.fd);
	return 0;
}

static int open_file(struct console *c, const char *path)
{
	c->out.fd =
	        open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
	if (c->out.fd < 0) {
		int rc = -errno;

		log_error("%s file:%s: %s", c->option, path, strerror(-rc));
		return rc;
	}
	return 0;
}

static int accept_client(struct console *c)
{
	return accept4(c->peer_source, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static int open_unix(struct console *c, const char *path)
{
	char err[256];
	int fd = unix_socket_listen(path, SOCK_STREAM, 1);

	if (fd < 0) {
		unix_socket_explain(path, fd, err, sizeof(err));
		log_error("%s unix:%s", c->option, err);
		return fd;
	}
	c->next_peer = accept_client;
	c->peer_source = fd;
	c->socket_path = strdup(path);
	if (c->socket_path)
		return 0;
	unlink(path);
	return -ENOMEM;
}

/* A pty has no event for "somebody opened the other side": while nobody has, POLLHUP is up. */
static int probe_pty(struct console *c)
{
	struct pollfd p = { .fd = c->peer_source };

	if (poll(&p, 1, 0) < 0 || p.revents & POLLHUP)
		return -1;
	return fcntl(c->peer_source, F_DUPFD_CLOEXEC, 3);
}

static int make_pty(struct console *c, char *name, size_t size)
{
	struct termios raw;
	int slave, rc;

	c->peer_source = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (c->peer_source < 0 || grantpt(c->peer_source) || unlockpt(c->peer_source))
		return -errno;
	rc = ptsname_r(c->peer_source, name, size);
	if (rc)
		return -rc;
	/* Raw, for the guest has a terminal driver of its own. Closing it raises the hang-up that
	 * probe_pty() watches. */
	slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		return -errno;
	rc = tcgetattr(slave, &raw) ? -errno : 0;
	if (!rc) {
		cfmakeraw(&raw);
		rc = tcsetattr(slave, TCSANOW, &raw) ? -errno : 0;
	}
	close(slave);
	return rc;
}

static int open_pty(struct console *c, const char *arg)
{
	char name[64];
	int rc;

	c->next_peer = probe_pty;
	c->poll_ns = PTY_POLL_NS;
	rc = make_pty(c, name, sizeof(name));
	if (rc)
		log_error("%s pty: %s", c->option, strerror(-rc));
	else
		fprintf(stderr, "trapeze: %s at %s\n",
		        strcmp(c->option, "--serial") ? c->option : "serial port", name);
	return rc;
}

static int open_none(struct console *c, const char *arg)
{
	return 0;
}

static const struct console_backend backends[] = {
	{ "stdio", NULL, open_stdio }, { "file", "PATH", open_file }, { "unix", "PATH", open_unix },
	{ "pty", NULL, open_pty },     { "none", NULL, open_none },
};

const struct console_backend *console_find_backend(const char *option, const char *spec,
                                                   const char **arg)
{
	for (size_t i = 0; i < ARRAY_SIZE(backends); i++) {
		const struct console_backend *b = &backends[i];
		size_t len = strlen(b->name);

		if (strncmp(spec, b->name, len) || (spec[len] && spec[len] != ':'))
			continue;
		*arg = spec[len] == ':' ? spec + len + 1 : NULL;
		if (b->arg && (!*arg || !**arg)) {
			log_error("%s %s: needs a path, %s:%s", option, spec, b->name, b->arg);
			return NULL;
		}
		if (!b->arg && *arg) {
			log_error("%s %s: %s takes no argument", option, spec, b->name);
			return NULL;
		}
		return b;
	}
	log_error("%s %s: not one of stdio, file:PATH, unix:PATH, pty, none", option, spec);
	return NULL;
}

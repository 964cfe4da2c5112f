/*
 * Moves bytes between the guest's serial port and whatever console_open.c found.
 *
 * Everything that happens on the loop's thread is one function, serve(): take a peer if one waits,
 * flush output, deliver input. Whoever has a reason (an epoll event, room in the UART, an error
 * seen on a vCPU's thread) makes it run; running it once too often is harmless. Descriptors are
 * registered once, edge triggered: after EAGAIN there will be an event, and a hang-up is told only
 * once.
 *
 * Locks, in order: guest_lock (attached, guest; held while the guest's side is called, so that
 * console_detach() can promise that no call is left) < bus.lock < out_lock (out*, stalled, failed;
 * a leaf). The input side belongs to the loop's thread alone.
 */
#include "cli/console_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "cli/terminal.h"

#define FLUSH_BYTES  4096       /* written at once when so many have come together */
#define FLUSH_NS     2000000ull /* or else after this time */
#define KEY_ESCAPE   0x01       /* Ctrl-A */
#define INPUT_ROUNDS 16         /* reads before others on the loop get their turn */

static const char help_text[] = "\n"
                                "Ctrl-A x       end the machine\n"
                                "Ctrl-A s       print its status\n"
                                "Ctrl-A p       press its power button\n"
                                "Ctrl-A c       let it go on after a pause\n"
                                "Ctrl-A Ctrl-A  send Ctrl-A\n"
                                "Ctrl-A ?       this help\n";

static void send_event(struct console *c, enum console_event event)
{
	pthread_mutex_lock(&c->guest_lock);
	if (c->attached)
		c->guest.event(c->guest.opaque, event);
	pthread_mutex_unlock(&c->guest_lock);
}

static void request_service(struct console *c)
{
	timer_arm(&c->work, clock_ns());
}

/* Output. */

static size_t put_locked(struct console *c, const uint8_t *buf, size_t n)
{
	size_t room = CONSOLE_OUT_BYTES - c->out_len;
	size_t end = (c->out_at + c->out_len) % CONSOLE_OUT_BYTES;
	size_t first;

	if (n > room)
		n = room;
	first = n < CONSOLE_OUT_BYTES - end ? n : CONSOLE_OUT_BYTES - end;
	memcpy(c->out_buf + end, buf, first);
	memcpy(c->out_buf, buf + first, n - first);
	c->out_len += n;
	return n;
}

/* As much as the host takes now. An error is remembered for the loop's thread. */
static void flush_locked(struct console *c)
{
	while (c->out_len && c->out.fd >= 0 && !c->out_error) {
		size_t n = CONSOLE_OUT_BYTES - c->out_at;
		ssize_t done;

		if (n > c->out_len)
			n = c->out_len;
		done = write(c->out.fd, c->out_buf + c->out_at, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0) {
			c->out_error = errno == EAGAIN ? 0 : errno;
			break;
		}
		c->out_at = (c->out_at + (size_t)done) % CONSOLE_OUT_BYTES;
		c->out_len -= (size_t)done;
	}
}

/* Guests write byte by byte: a system call for each would cost more than the byte. */
size_t console_write(struct console *c, const uint8_t *buf, size_t n)
{
	size_t taken = n;
	bool arm = false;

	pthread_mutex_lock(&c->out_lock);
	if (c->out.fd >= 0 && !c->out_error) {
		taken = put_locked(c, buf, n);
		if (c->out_len >= FLUSH_BYTES)
			flush_locked(c);
		taken += put_locked(c, buf + taken, n - taken);
		c->stalled = c->stalled || taken < n;
		/* An error is also a reason for the loop's thread to look. */
		arm = !c->flush_soon && (c->out_len || c->out_error);
		c->flush_soon = c->flush_soon || arm;
	}
	pthread_mutex_unlock(&c->out_lock);
	if (arm)
		timer_arm(&c->work, clock_ns() + FLUSH_NS);
	return taken;
}

void console_print(struct console *c, const char *text)
{
	char buf[1024];
	size_t n = 0;

	for (; *text && n + 2 <= sizeof(buf); text++) {
		if (*text == '\n')
			buf[n++] = '\r';
		buf[n++] = *text;
	}
	pthread_mutex_lock(&c->out_lock);
	if (c->out.fd >= 0 && n <= CONSOLE_OUT_BYTES - c->out_len) {
		put_locked(c, (const uint8_t *)buf, n);
		flush_locked(c);
	}
	pthread_mutex_unlock(&c->out_lock);
}

void console_drain(struct console *c, uint64_t timeout_ns)
{
	uint64_t deadline = clock_ns() + timeout_ns;
	struct pollfd p = { .events = POLLOUT };

	for (;;) {
		bool done;

		pthread_mutex_lock(&c->out_lock);
		flush_locked(c);
		done = !c->out_len || c->out.fd < 0 || c->out_error;
		p.fd = c->out.fd;
		pthread_mutex_unlock(&c->out_lock);
		if (done || clock_ns() >= deadline)
			return;
		poll(&p, 1, 10);
	}
}

/* Ends. */

static void close_end(struct console_end *end)
{
	if (end->fd < 0)
		return;
	if (end->restore_flags >= 0)
		fcntl(end->fd, F_SETFL, end->restore_flags);
	close(end->fd);
	*end = (struct console_end){ -1, -1 };
}

static void close_in(struct console *c)
{
	loop_del_fd(c->loop, c->in.fd);
	close_end(&c->in);
}

static void close_out(struct console *c)
{
	loop_del_fd(c->loop, c->out.fd);
	pthread_mutex_lock(&c->out_lock);
	close_end(&c->out);
	c->out_len = 0;
	c->out_error = 0;
	pthread_mutex_unlock(&c->out_lock);
}

static void serve(void *opaque);

static void on_in(void *opaque, uint32_t events)
{
	serve(opaque);
}

static void on_out(void *opaque, uint32_t events)
{
	struct console *c = opaque;

	pthread_mutex_lock(&c->out_lock);
	if (events & (EPOLLHUP | EPOLLERR) && !c->out_error)
		c->out_error = EPIPE;
	pthread_mutex_unlock(&c->out_lock);
	serve(c);
}

/* Files and /dev/null have no readiness (EPERM): they are always ready, and never say EAGAIN. */
static int watch(struct console *c, int fd, uint32_t events, loop_fd_fn fn)
{
	int rc = fd < 0 ? 0 : loop_add_fd(c->loop, fd, events | EPOLLET, fn, c);

	return rc == -EPERM ? 0 : rc;
}

static int watch_ends(struct console *c)
{
	int rc = watch(c, c->in.fd, EPOLLIN, on_in);

	return rc ? rc : watch(c, c->out.fd, EPOLLOUT, on_out);
}

/* Peers: one at a time, the next when both directions of the last are closed. */
static void take_peer(struct console *c)
{
	int fd, rc;

	if (c->in.fd >= 0 || c->out.fd >= 0)
		return;
	fd = c->next_peer(c);
	if (fd < 0) {
		if (c->poll_ns)
			timer_arm(&c->work, clock_ns() + c->poll_ns);
		return;
	}
	c->in.fd = fd;
	pthread_mutex_lock(&c->out_lock);
	/* Two descriptors, because the loop knows each once. */
	c->out.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	rc = c->out.fd < 0 ? -errno : 0;
	pthread_mutex_unlock(&c->out_lock);
	if (!rc)
		rc = watch_ends(c);
	if (rc) {
		log_warn("%s %s: cannot serve a client: %s", c->option, c->what, strerror(-rc));
		close_in(c);
		close_out(c);
	}
}

static void handle_output_error(struct console *c, int error)
{
	if (c->next_peer) {
		close_out(c);
		return;
	}
	if (c->failed)
		return;
	pthread_mutex_lock(&c->out_lock);
	c->failed = true;
	c->out_len = 0;
	pthread_mutex_unlock(&c->out_lock);
	terminal_restore();
	log_error("%s %s: cannot write: %s", c->option, c->what, strerror(error));
	send_event(c, CONSOLE_FAILED);
}

static void serve_output(struct console *c)
{
	bool wake;
	int error;

	pthread_mutex_lock(&c->out_lock);
	c->flush_soon = false;
	flush_locked(c);
	error = c->out_error;
	pthread_mutex_unlock(&c->out_lock);
	if (error)
		handle_output_error(c, error);

	pthread_mutex_lock(&c->guest_lock);
	pthread_mutex_lock(&c->out_lock);
	wake = c->attached && c->stalled && c->out_len <= CONSOLE_OUT_BYTES / 2;
	if (wake)
		c->stalled = false;
	pthread_mutex_unlock(&c->out_lock);
	if (wake)
		c->guest.output_room(c->guest.opaque);
	pthread_mutex_unlock(&c->guest_lock);
}

/* Input. */

static void handle_escape(struct console *c, uint8_t key)
{
	switch (key) {
	case 'x':
		send_event(c, CONSOLE_QUIT);
		break;
	case 's':
		send_event(c, CONSOLE_STATUS);
		break;
	case 'p':
		send_event(c, CONSOLE_POWER);
		break;
	case 'c':
		send_event(c, CONSOLE_GO_ON);
		break;
	case '?':
	case 'h':
		console_print(c, help_text);
		break;
	}
}

/* Takes the escape sequences out of what the user typed. */
static void filter_keys(struct console *c)
{
	size_t kept = 0;

	for (size_t i = 0; i < c->in_len; i++) {
		uint8_t key = c->in_buf[i];

		if (c->escape && key != KEY_ESCAPE) {
			handle_escape(c, key);
			c->escape = false;
		} else if (!c->escape && key == KEY_ESCAPE) {
			c->escape = true;
		} else {
			c->in_buf[kept++] = key;
			c->escape = false;
		}
	}
	c->in_len = kept;
}

/* True when the guest took everything. */
static bool deliver_input(struct console *c)
{
	pthread_mutex_lock(&c->guest_lock);
	while (c->attached && c->in_at < c->in_len) {
		size_t n =
		        c->guest.input(c->guest.opaque, c->in_buf + c->in_at, c->in_len - c->in_at);
		if (!n)
			break;
		c->in_at += n;
	}
	pthread_mutex_unlock(&c->guest_lock);
	return c->in_at == c->in_len;
}

/* True when there may be more. */
static bool read_input(struct console *c)
{
	ssize_t n = read(c->in.fd, c->in_buf, sizeof(c->in_buf));

	c->in_at = c->in_len = 0;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return errno == EINTR;
	/* The terminal belongs to another process group now: console_enter() comes back here. */
	if (n < 0 && errno == EIO && c->terminal)
		return false;
	if (n <= 0) {
		/* A socket's peer may have finished writing and still read. A pty's is gone. */
		if (n < 0 && c->next_peer)
			close_out(c);
		close_in(c);
		if (c->next_peer)
			request_service(c);
		return false;
	}
	c->in_len = (size_t)n;
	if (c->terminal)
		filter_keys(c);
	return true;
}

static void serve_input(struct console *c)
{
	for (int i = 0; i < INPUT_ROUNDS; i++)
		/* A guest without room calls console_resume() when it has some. */
		if (!deliver_input(c) || c->in.fd < 0 || !read_input(c))
			return;
	request_service(c);
}

static void serve(void *opaque)
{
	struct console *c = opaque;

	if (c->next_peer)
		take_peer(c);
	serve_output(c);
	serve_input(c);
}

void console_resume(struct console *c)
{
	request_service(c);
}

/* Life. */

void console_attach(struct console *c, const struct console_guest *guest)
{
	pthread_mutex_lock(&c->guest_lock);
	c->guest = *guest;
	c->attached = true;
	pthread_mutex_unlock(&c->guest_lock);
	request_service(c);
}

void console_detach(struct console *c)
{
	pthread_mutex_lock(&c->guest_lock);
	c->attached = false;
	pthread_mutex_unlock(&c->guest_lock);
}

void console_enter(struct console *c)
{
	if (c->terminal && terminal_make_raw(c->in.fd))
		request_service(c);
}

void console_leave(struct console *c)
{
	terminal_restore();
}

static struct console *alloc_console(struct loop *loop, const char *option, const char *spec)
{
	struct console *c = calloc(1, sizeof(*c));
	uint8_t *buf = malloc(CONSOLE_OUT_BYTES);

	if (!c || !buf) {
		free(c);
		free(buf);
		return NULL;
	}
	c->loop = loop;
	c->option = option;
	c->what = spec;
	c->in = c->out = (struct console_end){ -1, -1 };
	c->peer_source = -1;
	c->out_buf = buf;
	pthread_mutex_init(&c->guest_lock, NULL);
	pthread_mutex_init(&c->out_lock, NULL);
	timer_init(&c->work, loop, serve, c);
	return c;
}

int console_new(struct console **out, struct loop *loop, const char *option, const char *spec)
{
	const char *arg;
	const struct console_backend *backend = console_find_backend(option, spec, &arg);
	struct console *c;
	int rc;

	if (!backend)
		return -EINVAL;
	c = alloc_console(loop, option, spec);
	if (!c) {
		log_error("%s %s: %s", option, spec, strerror(ENOMEM));
		return -ENOMEM;
	}
	rc = backend->open(c, arg);
	if (rc)
		goto out;
	rc = watch_ends(c);
	if (!rc)
		rc = watch(c, c->peer_source, EPOLLIN, on_in);
	if (rc)
		log_error("%s %s: %s", option, spec, strerror(-rc));
out:
	if (rc)
		console_free(c);
	else
		*out = c;
	return rc;
}

/* The loop is gone, and with it whatever it knew of the timer and the descriptors. */
void console_free(struct console *c)
{
	if (!c)
		return;
	close_end(&c->in);
	close_end(&c->out);
	if (c->peer_source >= 0)
		close(c->peer_source);
	if (c->socket_path)
		unlink(c->socket_path);
	pthread_mutex_destroy(&c->guest_lock);
	pthread_mutex_destroy(&c->out_lock);
	free(c->socket_path);
	free(c->out_buf);
	free(c);
}

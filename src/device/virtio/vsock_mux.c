/*
 * A stream's life:
 *
 *   host connects --> GREETING --CONNECT line--> REQUESTED --RESPONSE--> OPEN
 *   guest's REQUEST --> connect to PATH_PORT -------------------------> OPEN
 *   OPEN --> both directions shut, or RST, or an error of the socket --> gone
 *
 * Invariants: what the guest sends beyond the window that it was told ends the stream, so `kept`
 * never exceeds VSOCK_WINDOW. Packets that tell something of a stream (`owed`) are made when the
 * guest has room, from the state at that time; so they need no queue. Only resets for streams that
 * we do not have are queued, and lost when there are very many: the guest's own timeouts cover
 * that.
 */
#include "device/virtio/vsock_mux.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/unix_socket.h"

#define FIRST_HOST_PORT 0x40000000u
#define GREETING_NS     10000000000ull /* for the CONNECT line, and for the guest's answer */
#define MAX_LINE        32
#define MAX_RESETS      64
#define BATCH           16 /* packets of a stream before the others get their turn */
#define BACKLOG         16

enum state { GREETING, REQUESTED, OPEN };

enum owed {
	OWED_REQUEST = BIT(0),
	OWED_RESPONSE = BIT(1),
	OWED_CREDIT = BIT(2),
	OWED_SHUTDOWN = BIT(3),
	OWED_RST = BIT(4) /* and then the stream goes */
};

struct stream {
	int fd;
	enum state state;
	uint32_t host_port, guest_port;
	uint64_t deadline_ns; /* of all states but OPEN */
	unsigned owed;
	char line[MAX_LINE + 1]; /* while GREETING */
	unsigned line_len;
	/* To the guest. */
	uint32_t guest_window, guest_taken, sent;
	bool host_ended; /* nothing more to read */
	bool host_gone;  /* and nobody to write to */
	/* From the guest. */
	uint32_t received, written, told; /* bytes; `told` of written, in the last packet */
	uint32_t guest_shut;              /* VSOCK_NO_ flags */
	uint8_t *kept;                    /* a ring of VSOCK_WINDOW bytes, or NULL */
	size_t kept_at, kept_len;
};

struct vsock_mux {
	char *path;
	uint32_t cid;
	const struct vsock_mux_ops *ops;
	void *opaque;
	int listener;
	uint32_t next_port;
	struct stream *stream[VSOCK_MAX_STREAMS];
	unsigned nr;
	struct vsock_header reset[MAX_RESETS];
	unsigned nr_resets;
	/* Whose entry an fd of the last prepare is; the listener is NULL. */
	struct stream *polled[VSOCK_MAX_POLL];
	unsigned nr_polled;
	uint8_t buf[VSOCK_MAX_PAYLOAD];
};

/* Streams. */

static struct stream *find(struct vsock_mux *m, uint32_t host_port, uint32_t guest_port)
{
	for (unsigned i = 0; i < m->nr; i++) {
		struct stream *s = m->stream[i];

		if (s->state != GREETING && s->host_port == host_port &&
		    s->guest_port == guest_port)
			return s;
	}
	return NULL;
}

static struct stream *add(struct vsock_mux *m, int fd, enum state state)
{
	struct stream *s = m->nr < VSOCK_MAX_STREAMS ? calloc(1, sizeof(*s)) : NULL;

	if (!s)
		return NULL;
	s->fd = fd;
	s->state = state;
	s->deadline_ns = clock_ns() + GREETING_NS;
	m->stream[m->nr++] = s;
	return s;
}

static void drop(struct vsock_mux *m, struct stream *s)
{
	for (unsigned i = 0; i < m->nr_polled; i++)
		if (m->polled[i] == s)
			m->polled[i] = NULL;
	for (unsigned i = 0; i < m->nr; i++) {
		if (m->stream[i] != s)
			continue;
		m->stream[i] = m->stream[--m->nr];
		break;
	}
	close(s->fd);
	free(s->kept);
	free(s);
}

/* Packets to the guest. */

static struct vsock_header header(const struct vsock_mux *m, const struct stream *s,
                                  enum vsock_op op)
{
	return (struct vsock_header){ .src_cid = VSOCK_HOST_CID,
		                      .dst_cid = m->cid,
		                      .src_port = s->host_port,
		                      .dst_port = s->guest_port,
		                      .type = VSOCK_STREAM,
		                      .op = (uint16_t)op,
		                      .buf_alloc = VSOCK_WINDOW,
		                      .fwd_cnt = s->written };
}

static void put(struct vsock_mux *m, struct stream *s, enum vsock_op op, uint32_t flags)
{
	struct vsock_header h = header(m, s, op);

	h.flags = flags;
	s->told = s->written;
	m->ops->put(m->opaque, &h, NULL);
}

static const struct {
	enum owed bit;
	enum vsock_op op;
} packets[] = {
	/* in this order */
	{ OWED_REQUEST, VSOCK_REQUEST },
	{ OWED_RESPONSE, VSOCK_RESPONSE },
	{ OWED_CREDIT, VSOCK_CREDIT_UPDATE },
	{ OWED_SHUTDOWN, VSOCK_SHUTDOWN },
	{ OWED_RST, VSOCK_RST },
};

/* False when the guest has no room. The stream may be gone after it. */
static bool pay(struct vsock_mux *m, struct stream *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(packets); i++) {
		uint32_t flags = 0;

		if (!(s->owed & packets[i].bit))
			continue;
		if (!m->ops->room(m->opaque))
			return false;
		if (packets[i].op == VSOCK_SHUTDOWN)
			flags = VSOCK_NO_SEND | (s->host_gone ? VSOCK_NO_RECEIVE : 0);
		s->owed &= ~(unsigned)packets[i].bit;
		put(m, s, packets[i].op, flags);
		if (packets[i].bit == OWED_RST) {
			drop(m, s);
			return true;
		}
	}
	return true;
}

static void owe_reset(struct vsock_mux *m, const struct vsock_header *to)
{
	if (m->nr_resets == MAX_RESETS || to->op == VSOCK_RST)
		return;
	m->reset[m->nr_resets++] = (struct vsock_header){ .src_cid = to->dst_cid,
		                                          .dst_cid = to->src_cid,
		                                          .src_port = to->dst_port,
		                                          .dst_port = to->src_port,
		                                          .type = to->type,
		                                          .op = VSOCK_RST };
}

static void pay_all(struct vsock_mux *m)
{
	while (m->nr_resets && m->ops->room(m->opaque))
		m->ops->put(m->opaque, &m->reset[--m->nr_resets], NULL);
	/* Backwards, for a stream that goes has the last one take its place. */
	for (unsigned i = m->nr; i-- > 0;)
		if (m->stream[i]->owed && !pay(m, m->stream[i]))
			return;
}

/* From the guest to the socket. */

static bool is_empty(const struct stream *s)
{
	return !s->kept_len;
}

static void finish_writing(struct stream *s)
{
	if (!is_empty(s) || !(s->guest_shut & VSOCK_NO_SEND))
		return;
	shutdown(s->fd, SHUT_WR);
	if (s->guest_shut == (VSOCK_NO_SEND | VSOCK_NO_RECEIVE))
		s->owed |= OWED_RST;
}

static void socket_failed(struct stream *s)
{
	s->host_ended = s->host_gone = true;
	s->kept_len = 0;
	s->written = s->received;
	s->owed |= OWED_SHUTDOWN;
}

/* Bytes that the socket took; the rest waits. */
static size_t write_some(struct stream *s, const uint8_t *data, size_t len)
{
	ssize_t n = send(s->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		socket_failed(s);
	if (n <= 0)
		return 0;
	s->written += (uint32_t)n;
	if (s->written - s->told >= VSOCK_WINDOW / 4)
		s->owed |= OWED_CREDIT;
	return (size_t)n;
}

static void keep(struct stream *s, const uint8_t *data, size_t len)
{
	if (!s->kept)
		s->kept = malloc(VSOCK_WINDOW);
	if (!s->kept) {
		s->owed |= OWED_RST;
		return;
	}
	assert(s->kept_len + len <= VSOCK_WINDOW);
	for (size_t n; len; len -= n, data += n, s->kept_len += n) {
		size_t at = (s->kept_at + s->kept_len) % VSOCK_WINDOW;

		n = VSOCK_WINDOW - at < len ? VSOCK_WINDOW - at : len;
		memcpy(s->kept + at, data, n);
	}
}

static void write_kept(struct stream *s)
{
	while (s->kept_len) {
		size_t n = VSOCK_WINDOW - s->kept_at;

		n = write_some(s, s->kept + s->kept_at, n < s->kept_len ? n : s->kept_len);
		if (!n)
			return;
		s->kept_at = (s->kept_at + n) % VSOCK_WINDOW;
		s->kept_len -= n;
	}
	finish_writing(s);
}

/* From the socket to the guest. */

static uint32_t credit(const struct stream *s)
{
	uint32_t unread = s->sent - s->guest_taken;

	return unread < s->guest_window ? s->guest_window - unread : 0;
}

static bool may_read(const struct stream *s)
{
	return s->state == OPEN && !s->host_ended && credit(s) &&
	       !(s->guest_shut & VSOCK_NO_RECEIVE) && !(s->owed & (OWED_RESPONSE | OWED_RST));
}

/* False when there is nothing to read, or no room. */
static bool read_some(struct vsock_mux *m, struct stream *s)
{
	size_t room = may_read(s) ? m->ops->room(m->opaque) : 0;
	struct vsock_header h;
	ssize_t n;

	if (!room)
		return false;
	room = room < sizeof(m->buf) ? room : sizeof(m->buf);
	n = recv(s->fd, m->buf, room < credit(s) ? room : credit(s), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n < 0) {
		socket_failed(s);
		return false;
	}
	if (n == 0) {
		s->host_ended = true;
		s->owed |= OWED_SHUTDOWN;
		return false;
	}
	h = header(m, s, VSOCK_RW);
	h.len = (uint32_t)n;
	s->sent += (uint32_t)n;
	s->told = s->written;
	m->ops->put(m->opaque, &h, m->buf);
	return true;
}

/* Programs on the host. */

static void accept_program(struct vsock_mux *m)
{
	int fd = accept4(m->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0 && !add(m, fd, GREETING))
		close(fd);
}

static uint32_t choose_port(struct vsock_mux *m, uint32_t guest_port)
{
	do {
		if (++m->next_port < FIRST_HOST_PORT)
			m->next_port = FIRST_HOST_PORT;
	} while (find(m, m->next_port, guest_port));
	return m->next_port;
}

/* "CONNECT 1234\n" */
static bool parse_line(const char *line, uint32_t *port)
{
	static const char word[] = "CONNECT ";
	unsigned long long n;
	char *end;

	if (strncmp(line, word, sizeof(word) - 1) ||
	    !isdigit((unsigned char)line[sizeof(word) - 1]))
		return false;
	errno = 0;
	n = strtoull(line + sizeof(word) - 1, &end, 10);
	*port = (uint32_t)n;
	return !errno && n < UINT32_MAX && (*end == '\n' || !strcmp(end, "\r\n"));
}

static void greet(struct vsock_mux *m, struct stream *s)
{
	uint32_t port;

	if (!parse_line(s->line, &port)) {
		drop(m, s);
		return;
	}
	s->guest_port = port;
	s->host_port = choose_port(m, port);
	s->state = REQUESTED;
	s->deadline_ns = clock_ns() + GREETING_NS;
	s->owed |= OWED_REQUEST;
}

/* Byte by byte, for what follows the line is the guest's. */
static void read_line(struct vsock_mux *m, struct stream *s)
{
	for (;;) {
		ssize_t n = recv(s->fd, s->line + s->line_len, 1, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0 || s->line_len + 1 == MAX_LINE) {
			drop(m, s);
			return;
		}
		if (s->line[s->line_len++] == '\n') {
			greet(m, s);
			return;
		}
	}
}

/* Packets of the guest. */

static void take_request(struct vsock_mux *m, const struct vsock_header *h)
{
	char path[256];
	struct stream *s;
	int fd = -ENAMETOOLONG;

	if (snprintf(path, sizeof(path), "%s_%u", m->path, h->dst_port) < (int)sizeof(path))
		fd = unix_socket_connect(path, SOCK_STREAM);
	s = fd >= 0 ? add(m, fd, OPEN) : NULL;
	if (!s) {
		if (fd >= 0)
			close(fd);
		owe_reset(m, h);
		return;
	}
	s->host_port = h->dst_port;
	s->guest_port = h->src_port;
	s->guest_window = h->buf_alloc;
	s->guest_taken = h->fwd_cnt;
	s->owed |= OWED_RESPONSE;
}

static void take_response(struct vsock_mux *m, struct stream *s)
{
	char line[MAX_LINE];
	int n = snprintf(line, sizeof(line), "OK %u\n", s->host_port);

	if (s->state != REQUESTED || send(s->fd, line, (size_t)n, MSG_NOSIGNAL) != n) {
		s->owed |= OWED_RST;
		return;
	}
	s->state = OPEN;
}

static void take_data(struct stream *s, const struct vsock_header *h, const uint8_t *data)
{
	size_t n = 0;

	if (s->state != OPEN || s->guest_shut & VSOCK_NO_SEND ||
	    h->len > VSOCK_WINDOW - (s->received - s->written)) {
		s->owed |= OWED_RST;
		return;
	}
	s->received += h->len;
	if (s->host_gone) {
		s->written = s->received;
		return;
	}
	if (is_empty(s))
		n = write_some(s, data, h->len);
	if (n < h->len && !s->host_gone)
		keep(s, data + n, h->len - n);
}

static void take_for(struct vsock_mux *m, struct stream *s, const struct vsock_header *h,
                     const uint8_t *data)
{
	s->guest_window = h->buf_alloc;
	s->guest_taken = h->fwd_cnt;
	switch (h->op) {
	case VSOCK_RESPONSE:
		take_response(m, s);
		break;
	case VSOCK_RST:
		drop(m, s);
		break;
	case VSOCK_SHUTDOWN:
		s->guest_shut |= h->flags & (VSOCK_NO_RECEIVE | VSOCK_NO_SEND);
		finish_writing(s);
		break;
	case VSOCK_RW:
		take_data(s, h, data);
		break;
	case VSOCK_CREDIT_UPDATE:
		break;
	case VSOCK_CREDIT_REQUEST:
		s->owed |= OWED_CREDIT;
		break;
	default: /* REQUEST again, or nonsense */
		s->owed |= OWED_RST;
	}
}

void vsock_mux_take(struct vsock_mux *m, const struct vsock_header *h, const uint8_t *data)
{
	bool ours = h->dst_cid == VSOCK_HOST_CID && h->type == VSOCK_STREAM;
	struct stream *s;

	if (h->src_cid != m->cid)
		return;
	s = ours ? find(m, h->dst_port, h->src_port) : NULL;
	if (s)
		take_for(m, s, h, data);
	else if (ours && h->op == VSOCK_REQUEST)
		take_request(m, h);
	else
		owe_reset(m, h);
	pay_all(m);
}

/* Waiting. */

static short events_for(const struct vsock_mux *m, const struct stream *s, bool room)
{
	short events = 0;

	if (s->state == GREETING || (room && may_read(s)))
		events |= POLLIN;
	if (s->kept_len)
		events |= POLLOUT;
	return events;
}

unsigned vsock_mux_prepare(struct vsock_mux *m, struct pollfd *fds, uint64_t *deadline_ns)
{
	bool room = m->ops->room(m->opaque);
	unsigned nr = 0;

	if (m->nr < VSOCK_MAX_STREAMS) {
		m->polled[nr] = NULL;
		fds[nr++] = (struct pollfd){ .fd = m->listener, .events = POLLIN };
	}
	for (unsigned i = 0; i < m->nr; i++) {
		struct stream *s = m->stream[i];
		short events = events_for(m, s, room);

		if (s->state != OPEN && s->deadline_ns < *deadline_ns)
			*deadline_ns = s->deadline_ns;
		if (!events)
			continue;
		m->polled[nr] = s;
		fds[nr++] = (struct pollfd){ .fd = s->fd, .events = events };
	}
	m->nr_polled = nr;
	return nr;
}

static void serve(struct vsock_mux *m, struct stream *s, short events)
{
	if (s->state == GREETING) {
		read_line(m, s);
		return;
	}
	if (events & POLLOUT)
		write_kept(s);
	/* A program that has closed its socket has left nothing to write to, either. */
	if (events & POLLHUP && s->state == OPEN)
		s->host_gone = true;
	for (unsigned i = 0; i < BATCH && read_some(m, s); i++)
		;
}

static void drop_late(struct vsock_mux *m)
{
	uint64_t now = clock_ns();

	for (unsigned i = m->nr; i-- > 0;) {
		struct stream *s = m->stream[i];

		if (s->state == OPEN || s->deadline_ns > now)
			continue;
		s->deadline_ns = UINT64_MAX;
		if (s->state == REQUESTED)
			s->owed |= OWED_RST;
		else
			drop(m, s);
	}
}

void vsock_mux_dispatch(struct vsock_mux *m, const struct pollfd *fds, unsigned nr)
{
	for (unsigned i = 0; i < nr && i < m->nr_polled; i++) {
		if (!fds[i].revents)
			continue;
		if (fds[i].fd == m->listener)
			accept_program(m);
		else if (m->polled[i])
			serve(m, m->polled[i], fds[i].revents);
	}
	drop_late(m);
	pay_all(m);
}

/* Life. */

int vsock_mux_new(struct vsock_mux **out, const char *path, uint32_t cid,
                  const struct vsock_mux_ops *ops, void *opaque, char *err, size_t errlen)
{
	struct vsock_mux *m = calloc(1, sizeof(*m));
	int rc = m ? 0 : -ENOMEM;

	if (m) {
		m->cid = cid;
		m->ops = ops;
		m->opaque = opaque;
		m->next_port = FIRST_HOST_PORT;
		m->path = strdup(path);
		m->listener = unix_socket_listen(path, SOCK_STREAM, BACKLOG);
		rc = m->listener < 0 ? m->listener : m->path ? 0 : -ENOMEM;
	}
	if (rc) {
		unix_socket_explain(path, rc, err, errlen);
		vsock_mux_free(m);
		return rc;
	}
	*out = m;
	return 0;
}

void vsock_mux_reset(struct vsock_mux *m)
{
	while (m->nr)
		drop(m, m->stream[m->nr - 1]);
	m->nr_resets = 0;
}

void vsock_mux_free(struct vsock_mux *m)
{
	if (!m)
		return;
	vsock_mux_reset(m);
	if (m->listener >= 0) {
		close(m->listener);
		if (m->path)
			unlink(m->path);
	}
	free(m->path);
	free(m);
}

unsigned vsock_mux_streams(const struct vsock_mux *m)
{
	return m->nr;
}

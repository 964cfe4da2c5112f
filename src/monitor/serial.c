#include "monitor/serial.h"

#include <string.h>

/* How many of n bytes the console took; a machine without one swallows all. */
static size_t give(const struct vm_console *c, const uint8_t *buf, size_t n)
{
	size_t taken = c->output ? c->output(c->opaque, buf, n) : n;

	return taken < n ? taken : n;
}

static void put_bytes(void *opaque, const uint8_t *buf, size_t n)
{
	struct serial *s = opaque;
	size_t taken = s->nr_held ? 0 : give(&s->console, buf, n);
	size_t room = sizeof(s->held) - s->nr_held;

	if (taken == n)
		return;
	n -= taken;
	if (n > room) /* a reset of the chip lets it speak out of turn */
		n = room;
	memcpy(s->held + s->nr_held, buf + taken, n);
	s->nr_held += (unsigned)n;
	uart_tx_ready(s->uart, false);
}

static void tell_room(void *opaque)
{
	struct serial *s = opaque;

	if (s->console.input_room)
		s->console.input_room(s->console.opaque);
}

struct uart_backend serial_backend(struct serial *s)
{
	return (struct uart_backend){ .put = put_bytes, .room = tell_room, .opaque = s };
}

void serial_resume(struct serial *s)
{
	size_t taken;

	if (!s->nr_held)
		return;
	taken = give(&s->console, s->held, s->nr_held);
	s->nr_held -= (unsigned)taken;
	memmove(s->held, s->held + taken, s->nr_held);
	if (!s->nr_held)
		uart_tx_ready(s->uart, true);
}

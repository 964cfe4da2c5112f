/* The virtio console: bytes both ways and what holds them up, control messages, resets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "device/virtio/console.h"
#include "virtio_card.h"

#define F_MULTIPORT BIT(1)
#define PORTS       2u
#define QUEUES      (2 * PORTS + 2)
#define BUFFER      (CARD_DATA + 0x1000)
#define INPUT_BYTES 4096u

enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1 };
enum {
	DEVICE_READY,
	PORT_ADD,
	PORT_REMOVE,
	PORT_READY,
	CONSOLE_PORT,
	RESIZE,
	PORT_OPEN,
	PORT_NAME
};

struct message {
	uint32_t port;
	uint16_t event, value;
};

static struct virtio_console *console;
/* The host's end: what came out of each port, how much more it takes, and calls of input_room(). */
static struct end {
	char out[256];
	size_t len, room;
	unsigned rooms;
} ends[PORTS];

static size_t take_output(void *opaque, const uint8_t *buf, size_t n)
{
	struct end *e = opaque;

	if (n > e->room)
		n = e->room;
	assert_true(e->len + n < sizeof(e->out));
	memcpy(e->out + e->len, buf, n);
	e->len += n;
	e->room -= n;
	return n;
}

static void count_room(void *opaque)
{
	((struct end *)opaque)->rooms++;
}

static int begin(void **state)
{
	struct virtio_port_config ports[PORTS] = { { .name = NULL }, { .name = "com.example" } };

	world_begin(false);
	memset(ends, 0, sizeof(ends));
	for (unsigned i = 0; i < PORTS; i++) {
		ends[i].room = SIZE_MAX;
		ports[i].backend =
		        (struct virtio_port_backend){ take_output, count_room, &ends[i] };
	}
	assert_int_equal(
	        virtio_console_add(&console, &world.host, &world.bus, world.mem, ports, PORTS), 0);
	world_plugged();
	return 0;
}

static int end(void **state)
{
	world_end();
	return 0;
}

static uint16_t send_text(unsigned q, const char *text)
{
	memcpy(guest(BUFFER), text, strlen(text));
	return card_send(q, &(struct piece){ BUFFER, (uint32_t)strlen(text), false }, 1);
}

static void send_message(uint32_t port, uint16_t event, uint16_t value)
{
	struct message m = { port, event, value };

	memcpy(guest(BUFFER), &m, sizeof(m));
	card_send(CONTROL_TX, &(struct piece){ BUFFER, sizeof(m), false }, 1);
}

static void give_room(unsigned q, gpa_t at, uint32_t len)
{
	card_send(q, &(struct piece){ at, len, true }, 1);
}

/* Where a chain of the control queue has its buffer. */
static gpa_t message_at(uint32_t id)
{
	return BUFFER + 0x1000 + id * 64;
}

/* The device's next message, 0 if there is none: then the place for it stays. */
static uint32_t next_message(struct message *m, char *name)
{
	uint32_t id, len;

	give_room(CONTROL_RX, message_at(card.next[CONTROL_RX]), 64);
	if (!card_take_used(CONTROL_RX, &id, &len))
		return 0;
	assert_true(len >= sizeof(*m) && len < 64);
	memcpy(m, guest(message_at(id)), sizeof(*m));
	memcpy(name, guest(message_at(id) + sizeof(*m)), len - sizeof(*m));
	name[len - sizeof(*m)] = 0;
	return len;
}

static void expect_message(uint32_t port, uint16_t event, uint16_t value, const char *name)
{
	char got[64];
	struct message m;

	assert_true(next_message(&m, got));
	assert_int_equal(m.port, port);
	assert_int_equal(m.event, event);
	assert_int_equal(m.value, value);
	assert_string_equal(got, name);
}

static size_t input(unsigned port, const char *text)
{
	size_t n = virtio_console_input(console, port, (const uint8_t *)text, strlen(text));

	run_workers();
	return n;
}

static void output_reaches_the_host(void **state)
{
	const struct piece two[] = { { BUFFER + 0x100, 3, false }, { BUFFER + 0x200, 3, false } };
	uint16_t id;

	card_start(0, 2);
	id = send_text(TX0, "hello");
	expect_used(TX0, id, 0);
	assert_string_equal(ends[0].out, "hello");
	memcpy(guest(BUFFER + 0x100), "abc", 3);
	memcpy(guest(BUFFER + 0x200), "def", 3);
	id = card_send(TX0, two, 2);
	expect_used(TX0, id, 0);
	assert_string_equal(ends[0].out, "helloabcdef");
	assert_int_equal(ends[1].len, 0);
}

/* A host that takes less holds the chain, and what follows it. */
static void output_waits_for_the_host(void **state)
{
	uint16_t first, second;

	card_start(0, 2);
	ends[0].room = 2;
	first = send_text(TX0, "hello");
	assert_string_equal(ends[0].out, "he");
	expect_nothing(TX0);
	second = card_send(TX0, &(struct piece){ BUFFER, 1, false }, 1);
	expect_nothing(TX0);
	ends[0].room = SIZE_MAX;
	virtio_console_resume(console);
	run_workers();
	expect_used(TX0, first, 0);
	expect_used(TX0, second, 0);
	assert_string_equal(ends[0].out, "helloh");
}

static void input_reaches_the_guest(void **state)
{
	const struct piece two[] = { { BUFFER, 2, true }, { BUFFER + 0x100, 3, true } };
	uint16_t id;

	card_start(0, 2);
	assert_int_equal(input(0, "abcdefg"), 7); /* before there is a buffer */
	id = card_send(RX0, two, 2);
	expect_used(RX0, id, 5);
	assert_memory_equal(guest(BUFFER), "ab", 2);
	assert_memory_equal(guest(BUFFER + 0x100), "cde", 3);
	id = card_send(RX0, two, 2);
	expect_used(RX0, id, 2);
	assert_memory_equal(guest(BUFFER), "fg", 2);
	id = card_send(RX0, two, 2);
	expect_nothing(RX0);
	assert_int_equal(input(0, "h"), 1);
	expect_used(RX0, id, 1);
	assert_int_equal(ends[0].rooms, 0);
}

/* No more is kept than the buffer has; the host is told when it may go on. */
static void input_waits_for_the_guest(void **state)
{
	static uint8_t bytes[INPUT_BYTES + 1];
	uint8_t *to;

	card_start(0, 2);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 13 / 5);
	assert_int_equal(virtio_console_input(console, 0, bytes, sizeof(bytes)), INPUT_BYTES);
	assert_int_equal(virtio_console_input(console, 0, bytes, 1), 0);
	run_workers();
	assert_int_equal(ends[0].rooms, 0);
	give_room(RX0, BUFFER, 100);
	expect_used(RX0, 0, 100);
	assert_int_equal(ends[0].rooms, 1);
	assert_int_equal(virtio_console_input(console, 0, bytes, 100), 100); /* around the end */
	run_workers();
	give_room(RX0, BUFFER, INPUT_BYTES);
	expect_used(RX0, 1, INPUT_BYTES);
	to = guest(BUFFER);
	assert_memory_equal(to, bytes + 100, INPUT_BYTES - 100);
	assert_memory_equal(to + INPUT_BYTES - 100, bytes, 100);
	assert_int_equal(ends[0].rooms, 1); /* nobody was refused since */
}

static void ports_are_announced(void **state)
{
	char name[64];
	struct message m;

	card_start(F_MULTIPORT, QUEUES);
	assert_int_equal(card_config(4, 4), PORTS);
	send_message(0, DEVICE_READY, 1);
	expect_message(0, PORT_ADD, 1, "");
	expect_message(1, PORT_ADD, 1, "");
	assert_false(next_message(&m, name));
	send_message(0, PORT_READY, 1);
	expect_message(0, CONSOLE_PORT, 1, "");
	send_message(1, PORT_READY, 1);
	expect_message(0, PORT_OPEN, 1, "");
	expect_message(1, PORT_NAME, 1, "com.example");
	expect_message(1, PORT_OPEN, 1, "");
}

/* What comes for a port that nobody in the guest has open waits for that. */
static void a_port_is_opened(void **state)
{
	uint16_t id;

	card_start(F_MULTIPORT, QUEUES);
	assert_int_equal(input(1, "early"), 5);
	give_room(RX1, BUFFER + 0x3000, 64);
	expect_nothing(RX1);
	send_message(1, PORT_OPEN, 1);
	expect_used(RX1, 0, 5);
	assert_memory_equal(guest(BUFFER + 0x3000), "early", 5);
	id = send_text(TX1, "out");
	expect_used(TX1, id, 0);
	assert_string_equal(ends[1].out, "out");
	assert_int_equal(ends[0].len, 0);
	send_message(1, PORT_OPEN, 0);
	give_room(RX1, BUFFER + 0x3000, 64);
	assert_int_equal(input(1, "late"), 4);
	expect_nothing(RX1);
}

/* Messages to no port, of no kind, or cut off; and questions without room for answers. */
static void bad_messages(void **state)
{
	card_start(F_MULTIPORT, QUEUES);
	send_message(PORTS, PORT_READY, 1);
	send_message(UINT32_MAX, PORT_OPEN, 1);
	send_message(0, 999, 1);
	card_send(CONTROL_TX, &(struct piece){ BUFFER, 7, false }, 1);
	for (unsigned i = 0; i < 200; i++)
		send_message(1, PORT_READY, 1);
	assert_int_equal(card_status() & VIRTIO_NEEDS_RESET, 0);
	expect_message(1, PORT_NAME, 1, "com.example");
	expect_message(1, PORT_OPEN, 1, "");
	give_room(CONTROL_RX, BUFFER + 0x1000, 3); /* an answer is cut to what fits */
	expect_used(CONTROL_RX, 2, 3);
}

static void bad_descriptors(void **state)
{
	static const struct piece bad[] = { { 1ull << 40, 5, false }, { 0xe0000, 5, true } };

	for (unsigned i = 0; i < 2; i++) {
		card_start(0, 2);
		assert_int_equal(input(0, "x"), 1);
		card_send(i ? RX0 : TX0, &bad[i], 1);
		assert_true(card_status() & VIRTIO_NEEDS_RESET);
		send_text(TX0, "not sent");
		assert_int_equal(ends[0].len, 0);
		card_write(0x14, 1, 0);
		run_workers();
		assert_int_equal(card_status(), 0);
	}
	card_start(0, 2);
	send_text(TX0, "sent");
	assert_string_equal(ends[0].out, "sent");
}

/* The chain that waits for the host goes back, and none of it is sent later. */
static void a_reset_while_output_waits(void **state)
{
	card_start(0, 2);
	ends[0].room = 2;
	send_text(TX0, "hello");
	card_write(0x14, 1, 0);
	assert_int_not_equal(card_status(), 0);
	run_workers();
	assert_int_equal(card_status(), 0);
	ends[0].room = SIZE_MAX;
	virtio_console_resume(console);
	run_workers();
	assert_string_equal(ends[0].out, "he");
	card_start(0, 2);
	send_text(TX0, "new");
	assert_string_equal(ends[0].out, "henew");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(output_reaches_the_host),
		TEST(output_waits_for_the_host),
		TEST(input_reaches_the_guest),
		TEST(input_waits_for_the_guest),
		TEST(ports_are_announced),
		TEST(a_port_is_opened),
		TEST(bad_messages),
		TEST(bad_descriptors),
		TEST(a_reset_while_output_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

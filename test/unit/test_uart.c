/* The UART as drivers use it; the probing sequences are those of Linux's 8250 driver. */
#include <string.h>

#include "unit.h"
#include "device/uart.h"

#define PORT 0x3f8

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

struct fixture {
	struct bus bus;
	struct uart uart;
	struct test_line line;
	char out[4096];
	size_t n;
	unsigned puts, rooms;
	size_t stop_at; /* the backend says "full" at so many bytes; 0: never */
	const char *in; /* what room() sends on */
};

static void take_output(void *opaque, const uint8_t *buf, size_t n)
{
	struct fixture *f = opaque;

	assert_true(n > 0 && n <= UART_FIFO_SIZE);
	memcpy(f->out + f->n, buf, n);
	f->n += n;
	f->puts++;
	if (f->stop_at && f->n >= f->stop_at)
		uart_tx_ready(&f->uart, false);
}

static void send_input(struct fixture *f)
{
	f->in += uart_receive(&f->uart, (const uint8_t *)f->in, strlen(f->in));
}

static void note_room(void *opaque)
{
	struct fixture *f = opaque;

	f->rooms++;
	if (f->in)
		send_input(f);
}

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	struct uart_backend backend = { .put = take_output, .room = note_room, .opaque = f };

	bus_init(&f->bus);
	uart_init(&f->uart, test_irq(&f->line), backend);
	bus_add(&f->bus, BUS_PIO, PORT, UART_LEN, &uart_ops, &f->uart, "uart");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	bus_fini(&f->bus);
	test_free(f);
	return 0;
}

static uint8_t in(struct fixture *f, unsigned reg)
{
	return inb(&f->bus, (uint16_t)(PORT + reg));
}

static void out(struct fixture *f, unsigned reg, uint8_t value)
{
	outb(&f->bus, (uint16_t)(PORT + reg), value);
}

static void registers_after_reset(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, IER), 0);
	assert_int_equal(in(f, IIR), 0x01);
	assert_int_equal(in(f, LCR), 0);
	assert_int_equal(in(f, MCR), 0);
	assert_int_equal(in(f, LSR), 0x60);
	assert_int_equal(in(f, MSR), 0xb0);
	out(f, SCR, 0xa5);
	out(f, LCR, 0x80);
	out(f, DATA, 0x34);
	out(f, IER, 0x12);
	assert_int_equal(in(f, DATA), 0x34);
	assert_int_equal(in(f, IER), 0x12);
	out(f, LCR, 0x03);
	assert_int_equal(in(f, IER), 0);
	assert_int_equal(in(f, SCR), 0xa5);
	assert_int_equal(f->n, 0);
}

/* autoconfig(): IER keeps four bits, loop-back mirrors the modem lines, IIR shows a 16550A and no
 * more. */
static void linux_finds_a_16550a(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 0);
	assert_int_equal(in(f, IER), 0);
	out(f, IER, 0xff);
	assert_int_equal(in(f, IER), 0x0f);
	out(f, IER, 0);
	out(f, MCR, 0x1a);
	assert_int_equal(in(f, MSR) & 0xf0, 0x90);
	out(f, MCR, 0);
	out(f, FCR, 0x01);
	assert_int_equal(in(f, IIR) >> 6, 3);
	out(f, LCR, 0x80);
	assert_int_not_equal(in(f, IIR), 0); /* zero would be the EFR of a 16650 */
	out(f, LCR, 0xbf);
	assert_int_not_equal(in(f, IIR), 0);
	out(f, LCR, 0xe0);
	assert_int_equal(in(f, IIR) & 0x10, 0); /* EXCR1 of a National SuperIO would follow MCR */
	out(f, LCR, 0x80);
	out(f, FCR, 0x21);
	assert_int_equal(in(f, IIR) & 0x20, 0); /* 64-byte FIFO of a 16750 */
	out(f, LCR, 0);
}

/* serial8250_do_startup(): the interrupt must come back when it is enabled anew. */
static void linux_finds_no_thre_bug(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 0x02);
	assert_int_equal(in(f, IIR) & 0x0f, 0x02);
	assert_int_equal(in(f, IIR) & 0x0f, 0x01); /* shown once */
	out(f, IER, 0);
	out(f, IER, 0x02);
	assert_int_equal(in(f, LSR) & 0x40, 0x40);
	assert_int_equal(in(f, IIR) & 0x0f, 0x02);
}

static void each_byte_sent_is_an_edge(void **state)
{
	struct fixture *f = *state;

	out(f, MCR, 0x08);
	out(f, IER, 0x02);
	assert_int_equal(f->line.rises, 1);
	out(f, DATA, 'h');
	out(f, DATA, 'i');
	assert_int_equal(f->line.rises, 3);
	assert_memory_equal(f->out, "hi", 2);
	in(f, IIR);
	assert_false(f->line.level);
}

static void out2_gates_the_line(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 0x02);
	assert_false(f->line.level);
	out(f, MCR, 0x08);
	assert_true(f->line.level);
	out(f, MCR, 0x18);
	assert_false(f->line.level);
	out(f, MCR, 0x08);
	assert_true(f->line.level);
	bus_lock(&f->bus);
	uart_reset(&f->uart);
	bus_unlock(&f->bus);
	assert_false(f->line.level);
}

static void input_is_lossless(void **state)
{
	struct fixture *f = *state;
	static const char text[] = "the quick brown fox jumps over the lazy dog";
	char got[sizeof(text)] = "";
	size_t n = 0;

	out(f, FCR, 0xc1);
	f->in = text;
	send_input(f);
	assert_int_equal(f->in - text, UART_FIFO_SIZE);
	while (in(f, LSR) & 0x01)
		got[n++] = (char)in(f, DATA);
	assert_string_equal(got, text);
	assert_int_equal(f->rooms, 2);
	assert_int_equal(in(f, DATA), 0);
}

static void one_byte_without_fifo(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(uart_receive(&f->uart, (const uint8_t *)"ab", 2), 1);
	assert_int_equal(uart_receive(&f->uart, (const uint8_t *)"b", 1), 0);
	assert_int_equal(in(f, DATA), 'a');
	assert_int_equal(f->rooms, 1);
	in(f, DATA);
	assert_int_equal(f->rooms, 1); /* told once, asked once */
}

static void receive_interrupts_by_level(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[UART_FIFO_SIZE] = { 0 };

	out(f, MCR, 0x08);
	out(f, FCR, 0x81); /* trigger at 8 */
	out(f, IER, 0x01);
	uart_receive(&f->uart, buf, 3);
	assert_int_equal(in(f, IIR), 0xcc);
	uart_receive(&f->uart, buf, 5);
	assert_int_equal(in(f, IIR), 0xc4);
	assert_true(f->line.level);
	in(f, DATA);
	assert_int_equal(in(f, IIR), 0xcc);
	out(f, FCR, 0x83); /* clears the receiver */
	assert_int_equal(in(f, IIR), 0xc1);
	assert_false(f->line.level);
}

static void loopback_overruns_and_deltas(void **state)
{
	struct fixture *f = *state;

	out(f, MCR, 0x10);
	in(f, MSR);
	out(f, DATA, 'x');
	out(f, DATA, 'y');
	assert_int_equal(f->n, 0);
	assert_int_equal(in(f, LSR), 0x63); /* overrun, and cleared by reading */
	assert_int_equal(in(f, LSR), 0x61);
	assert_int_equal(in(f, DATA), 'x');
	out(f, IER, 0x08);
	out(f, MCR, 0x16);
	assert_int_equal(in(f, IIR), 0x00);
	assert_int_equal(in(f, MSR), 0x51);
	out(f, MCR, 0x12);
	assert_int_equal(in(f, MSR), 0x14); /* RI counts when it ends */
	assert_int_equal(in(f, IIR), 0x01);
	assert_int_equal(uart_receive(&f->uart, (const uint8_t *)"z", 1), 0);
	out(f, MCR, 0);
	assert_int_equal(f->rooms, 1);
}

static void causes_have_priorities(void **state)
{
	struct fixture *f = *state;

	out(f, MCR, 0x10);
	out(f, IER, 0x0f);
	out(f, DATA, 1);
	out(f, DATA, 2);
	out(f, MCR, 0x11);
	assert_int_equal(in(f, IIR), 0x06);
	in(f, LSR);
	assert_int_equal(in(f, IIR), 0x04);
	in(f, DATA);
	assert_int_equal(in(f, IIR), 0x02);
	assert_int_equal(in(f, IIR), 0x00);
	in(f, MSR);
	assert_int_equal(in(f, IIR), 0x01);
}

static void a_full_backend_stops_the_guest(void **state)
{
	struct fixture *f = *state;

	out(f, FCR, 0x01);
	out(f, MCR, 0x08);
	out(f, IER, 0x02);
	f->stop_at = 4;
	for (unsigned i = 0; i < 100000; i++) /* a guest that never looks */
		out(f, DATA, (uint8_t)('a' + i % 26));
	assert_int_equal(f->n, 4);
	assert_int_equal(in(f, LSR) & 0x60, 0);
	assert_int_equal(in(f, IIR), 0xc1);
	assert_false(f->line.level);
	f->stop_at = 0;
	uart_tx_ready(&f->uart, true);
	assert_int_equal(f->n, 4 + UART_FIFO_SIZE);
	assert_memory_equal(f->out, "abcdefghijklmnopqrst", 20);
	assert_int_equal(in(f, LSR) & 0x60, 0x60);
	assert_true(f->line.level);
	assert_int_equal(in(f, IIR), 0xc2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(registers_after_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(linux_finds_a_16550a, setup, teardown),
		cmocka_unit_test_setup_teardown(linux_finds_no_thre_bug, setup, teardown),
		cmocka_unit_test_setup_teardown(each_byte_sent_is_an_edge, setup, teardown),
		cmocka_unit_test_setup_teardown(out2_gates_the_line, setup, teardown),
		cmocka_unit_test_setup_teardown(input_is_lossless, setup, teardown),
		cmocka_unit_test_setup_teardown(one_byte_without_fifo, setup, teardown),
		cmocka_unit_test_setup_teardown(receive_interrupts_by_level, setup, teardown),
		cmocka_unit_test_setup_teardown(loopback_overruns_and_deltas, setup, teardown),
		cmocka_unit_test_setup_teardown(causes_have_priorities, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_backend_stops_the_guest, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The keyboard controller, in the order in which Linux' i8042 driver asks. */
#include "unit.h"
#include "device/i8042.h"

struct fixture {
	struct bus bus;
	struct i8042 kbc;
	struct test_line irq;
	unsigned resets, a20_changes;
	bool a20;
};

static void count_reset(void *opaque)
{
	((struct fixture *)opaque)->resets++;
}

static void note_a20(void *opaque, bool enabled)
{
	struct fixture *f = opaque;

	f->a20 = enabled;
	f->a20_changes++;
}

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	struct i8042_pins pins = {
		.reset = count_reset, .a20 = note_a20, .opaque = f, .kbd_irq = test_irq(&f->irq)
	};

	bus_init(&f->bus);
	i8042_init(&f->kbc, pins);
	bus_add(&f->bus, BUS_PIO, 0x60, 1, &i8042_data_ops, &f->kbc, "data");
	bus_add(&f->bus, BUS_PIO, 0x64, 1, &i8042_command_ops, &f->kbc, "command");
	bus_add(&f->bus, BUS_PIO, 0x92, 1, &i8042_fast_ops, &f->kbc, "fast");
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

/* A command that answers: the byte, or -1 when no answer comes. */
static int ask(struct fixture *f, uint8_t cmd)
{
	outb(&f->bus, 0x64, cmd);
	if (!(inb(&f->bus, 0x64) & 0x01))
		return -1;
	return inb(&f->bus, 0x60);
}

static int ask_with(struct fixture *f, uint8_t cmd, uint8_t data)
{
	outb(&f->bus, 0x64, cmd);
	outb(&f->bus, 0x60, data);
	if (!(inb(&f->bus, 0x64) & 0x01))
		return -1;
	return inb(&f->bus, 0x60);
}

static void an_empty_controller(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(inb(&f->bus, 0x64), 0x14);
	assert_int_equal(ask(f, 0xaa), 0x55);
	assert_int_equal(ask(f, 0xab), 0x00);
	assert_int_equal(ask(f, 0x20), 0x34);
	assert_int_equal(ask_with(f, 0x60, 0x41), -1);
	assert_int_equal(ask(f, 0x20), 0x41);
	assert_int_equal(inb(&f->bus, 0x64) & 0x04, 0); /* the system flag is the command byte's */
	assert_int_equal(ask_with(f, 0x7f, 0x5a), -1);
	assert_int_equal(ask(f, 0x3f), 0x5a);
	outb(&f->bus, 0x60, 0xff); /* reset the keyboard: there is none */
	assert_int_equal(inb(&f->bus, 0x64) & 0x09, 0);
	assert_int_equal(ask(f, 0x99), -1);
}

static void no_auxiliary_port(void **state)
{
	struct fixture *f = *state;

	outb(&f->bus, 0x64, 0xd3);
	outb(&f->bus, 0x60, 0x5a);
	assert_int_equal(inb(&f->bus, 0x64) & 0x21, 0x01); /* the answer is not marked */
	inb(&f->bus, 0x60);
	assert_int_not_equal(ask(f, 0xa9), 0);
	assert_int_equal(ask(f, 0xa7), -1);
	assert_int_equal(ask(f, 0x20) & 0x20, 0x20);
	assert_int_equal(ask(f, 0xa8), -1);
	assert_int_equal(ask(f, 0x20) & 0x20, 0);
}

static void looped_bytes_interrupt(void **state)
{
	struct fixture *f = *state;

	ask_with(f, 0x60, 0x05);
	outb(&f->bus, 0x64, 0xd2);
	outb(&f->bus, 0x60, 0x1c);
	assert_true(f->irq.level);
	assert_int_equal(inb(&f->bus, 0x60), 0x1c);
	assert_false(f->irq.level);
	ask(f, 0xaa);
	assert_int_equal(f->irq.rises, 1); /* answers do not */
}

static void reset_pulses(void **state)
{
	struct fixture *f = *state;

	outb(&f->bus, 0x64, 0xff);
	assert_int_equal(f->resets, 0);
	outb(&f->bus, 0x64, 0xfe);
	assert_int_equal(f->resets, 1);
	ask_with(f, 0xd1, 0xfe);
	assert_int_equal(f->resets, 2);
	outb(&f->bus, 0x92, 0x03);
	assert_int_equal(f->resets, 3);
}

static void a20_gate(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(inb(&f->bus, 0x92), 0x02);
	outb(&f->bus, 0x92, 0x00);
	assert_false(f->a20);
	ask_with(f, 0xd1, 0xdf);
	assert_true(f->a20);
	assert_int_equal(ask(f, 0xd0), 0xcf);
	outb(&f->bus, 0x64, 0xdd);
	assert_false(f->a20);
	assert_int_equal(f->a20_changes, 3);
	i8042_reset(&f->kbc);
	assert_true(f->a20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_empty_controller, setup, teardown),
		cmocka_unit_test_setup_teardown(no_auxiliary_port, setup, teardown),
		cmocka_unit_test_setup_teardown(looped_bytes_interrupt, setup, teardown),
		cmocka_unit_test_setup_teardown(reset_pulses, setup, teardown),
		cmocka_unit_test_setup_teardown(a20_gate, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

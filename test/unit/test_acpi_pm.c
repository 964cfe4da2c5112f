#include "unit.h"
#include "fake_time.h"
#include "device/acpi_pm.h"

#define SEC 1000000000ull
#define EVT (ACPI_PM_BASE + ACPI_PM_EVT)
#define CNT (ACPI_PM_BASE + ACPI_PM_CNT)
#define TMR (ACPI_PM_BASE + ACPI_PM_TMR)
#define GPE (ACPI_PM_BASE + ACPI_PM_GPE0)

struct fixture {
	struct bus bus;
	struct acpi_pm pm;
	struct test_line sci;
	unsigned offs, resets;
};

static void count_off(void *opaque)
{
	((struct fixture *)opaque)->offs++;
}

static void count_reset(void *opaque)
{
	((struct fixture *)opaque)->resets++;
}

static int setup_bits(void **state, unsigned bits)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	struct acpi_pm_callbacks callbacks = { .power_off = count_off,
		                               .reset = count_reset,
		                               .opaque = f };

	bus_init(&f->bus);
	acpi_pm_init(&f->pm, test_irq(&f->sci), callbacks, &f->bus, NULL, bits);
	bus_add(&f->bus, BUS_PIO, ACPI_PM_BASE, ACPI_PM_LEN, &acpi_pm_ops, &f->pm, "acpi");
	bus_add(&f->bus, BUS_PIO, ACPI_RESET_PORT, ACPI_RESET_LEN, &acpi_reset_ops, &f->pm,
	        "reset");
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_bits(state, 24);
}

static int setup32(void **state)
{
	return setup_bits(state, 32);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	acpi_pm_fini(&f->pm);
	bus_fini(&f->bus);
	test_free(f);
	return 0;
}

static void the_timer_counts(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(inl(&f->bus, TMR), 0);
	fake_advance(SEC);
	assert_int_equal(inl(&f->bus, TMR), 3579545);
	assert_int_equal(inb(&f->bus, TMR + 2), 3579545 >> 16);
	outl(&f->bus, TMR, 0x1234);
	assert_int_equal(inl(&f->bus, TMR), 3579545);
	fake_advance(9 * SEC);
	assert_int_equal(inl(&f->bus, TMR), 35795450 & 0xffffff);
}

static void the_timer_has_32_bits(void **state)
{
	struct fixture *f = *state;

	fake_advance(10 * SEC);
	assert_int_equal(inl(&f->bus, TMR), 35795450);
	fake_advance(2000 * SEC);
	assert_int_equal(inl(&f->bus, TMR), (2010ull * 3579545) & 0xffffffff);
}

static void timer_carries_interrupt(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fake_advance(3 * SEC), 0); /* nobody asked */
	assert_int_equal(inl(&f->bus, EVT), 0x00000001);
	outw(&f->bus, EVT, 0x0001);
	outw(&f->bus, EVT + 2, 0x0001);
	assert_false(f->sci.level);
	assert_int_equal(fake_advance(3 * SEC), 1);
	assert_true(f->sci.level);
	outw(&f->bus, EVT, 0x0001);
	assert_false(f->sci.level);
	assert_int_equal(fake_advance(3 * SEC), 1);
	bus_lock(&f->bus);
	acpi_pm_reset(&f->pm);
	bus_unlock(&f->bus);
	assert_false(f->sci.level);
	assert_int_equal(fake_advance(100 * SEC), 0);
}

static void the_power_button_interrupts(void **state)
{
	struct fixture *f = *state;

	acpi_pm_press_power(&f->pm);
	assert_false(f->sci.level);
	assert_int_equal(inb(&f->bus, EVT + 1), 0x01);
	outb(&f->bus, EVT + 3, 0x01);
	assert_true(f->sci.level);
	outb(&f->bus, EVT, 0xff); /* the other byte */
	assert_true(f->sci.level);
	outl(&f->bus, EVT, 0x01000100); /* both registers at once */
	assert_false(f->sci.level);
	assert_int_equal(inl(&f->bus, EVT), 0x01000000);
}

static void general_purpose_events(void **state)
{
	struct fixture *f = *state;

	acpi_pm_raise_gpe(&f->pm, 9);
	assert_int_equal(inl(&f->bus, GPE), 0x0200);
	outb(&f->bus, GPE + 3, 0x02);
	assert_true(f->sci.level);
	outb(&f->bus, GPE + 1, 0x02);
	assert_false(f->sci.level);
}

static void soft_off(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(inb(&f->bus, CNT), 0x01); /* ACPI mode from the start */
	outw(&f->bus, CNT, 0x1400 | 0x2000);       /* a sleep type that is not there */
	assert_int_equal(f->offs, 0);
	outw(&f->bus, CNT, ACPI_PM_SLP_TYP_S5 << 10);
	assert_int_equal(f->offs, 0);
	outw(&f->bus, CNT, ACPI_PM_SLP_TYP_S5 << 10 | 0x2000);
	assert_int_equal(f->offs, 1);
	outb(&f->bus, CNT + 1, 0x20);
	assert_int_equal(f->offs, 2);
	assert_int_equal(inb(&f->bus, CNT + 1), 0); /* SLP_EN reads zero */
}

static void reset_register(void **state)
{
	struct fixture *f = *state;

	outb(&f->bus, ACPI_RESET_PORT, 0x02);
	assert_int_equal(f->resets, 0);
	assert_int_equal(inb(&f->bus, ACPI_RESET_PORT), 0x02);
	outb(&f->bus, ACPI_RESET_PORT, ACPI_RESET_VALUE);
	assert_int_equal(f->resets, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_timer_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(the_timer_has_32_bits, setup32, teardown),
		cmocka_unit_test_setup_teardown(timer_carries_interrupt, setup, teardown),
		cmocka_unit_test_setup_teardown(the_power_button_interrupts, setup, teardown),
		cmocka_unit_test_setup_teardown(general_purpose_events, setup, teardown),
		cmocka_unit_test_setup_teardown(soft_off, setup, teardown),
		cmocka_unit_test_setup_teardown(reset_register, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

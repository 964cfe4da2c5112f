/* The I/O APIC: edge and level pins, remote IRR and EOI, its registers. */
#include "device/ioapic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define CPUS   2
#define MASKED 0x10000
#define LEVEL  0x8000
#define REMOTE 0x4000

static struct fixture {
	struct loop *loop;
	struct lapic_bus bus;
	struct lapic l[CPUS];
	struct ioapic io;
} f;

static void vcpu_raise(void *opaque, uint32_t attention, uint8_t sipi_vector)
{
}

static uint64_t vcpu_tsc(void *opaque)
{
	return clock_ns();
}

static const struct lapic_ops ops = { .raise = vcpu_raise, .guest_tsc = vcpu_tsc };

static void eoi(void *opaque, uint8_t vector)
{
	ioapic_eoi(opaque, vector);
}

static int setup(void **state)
{
	memset(&f, 0, sizeof(f));
	if (loop_new(&f.loop))
		return -1;
	lapic_bus_init(&f.bus);
	f.bus.eoi = eoi;
	f.bus.eoi_opaque = &f.io;
	for (uint32_t i = 0; i < CPUS; i++) {
		lapic_init(&f.l[i], &f.bus, i, f.loop, &ops, NULL, 1000000000, 46);
		lapic_write(&f.l[i], 0xf0, 4, 0x1ff);
	}
	ioapic_init(&f.io, &f.bus, CPUS);
	return 0;
}

static int teardown(void **state)
{
	for (int i = 0; i < CPUS; i++)
		lapic_fini(&f.l[i]);
	loop_free(f.loop);
	return 0;
}

static uint32_t rd(uint8_t reg)
{
	ioapic_ops.write(&f.io, 0, 4, reg);
	return (uint32_t)ioapic_ops.read(&f.io, 0x10, 4);
}

static void wr(uint8_t reg, uint32_t value)
{
	ioapic_ops.write(&f.io, 0, 4, reg);
	ioapic_ops.write(&f.io, 0x10, 4, value);
}

static void route(unsigned pin, uint8_t dest, uint32_t low)
{
	wr((uint8_t)(0x11 + 2 * pin), (uint32_t)dest << 24);
	wr((uint8_t)(0x10 + 2 * pin), low);
}

static void end(int cpu)
{
	lapic_write(&f.l[cpu], 0xb0, 4, 0);
}

static void test_registers(void **state)
{
	assert_int_equal(rd(0), CPUS << 24);
	assert_int_equal(rd(1), 0x170020);
	assert_int_equal(rd(0x10), MASKED);
	assert_int_equal(rd(0x3e), MASKED);
	assert_int_equal(rd(0x40), 0);
	assert_int_equal(rd(0xff), 0);
	wr(0x40, 0xffffffff);
	wr(0xff, 0xffffffff);
	wr(0x12, 0xffffffff);
	wr(0x13, 0xffffffff);
	assert_int_equal(rd(0x12), 0x1afff);
	assert_int_equal(rd(0x13), 0xff000000);
	wr(0, 0x05000000);
	assert_int_equal(rd(0), 0x05000000);
	assert_int_equal(ioapic_ops.read(&f.io, 0, 1), 0);
	assert_int_equal(ioapic_ops.read(&f.io, 0x800, 4), 0);
	ioapic_ops.write(&f.io, 0xff8, 8, ~0ull);
	ioapic_reset(&f.io);
	assert_int_equal(rd(0x12), MASKED);
}

static void test_edge(void **state)
{
	route(4, 1, 0x44);
	ioapic_set_pin(&f.io, 4, true);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
	assert_int_equal(lapic_ack(&f.l[1]), 0x44);
	end(1);
	ioapic_set_pin(&f.io, 4, true); /* still high: no edge */
	assert_int_equal(lapic_ack(&f.l[1]), -1);
	ioapic_set_pin(&f.io, 4, false);
	ioapic_set_pin(&f.io, 4, true);
	assert_int_equal(lapic_ack(&f.l[1]), 0x44);
	end(1);
	assert_int_equal(rd(0x18), 0x44);
	route(4, 1, MASKED | 0x44); /* an edge while masked is lost */
	ioapic_set_pin(&f.io, 4, false);
	ioapic_set_pin(&f.io, 4, true);
	route(4, 1, 0x44);
	assert_int_equal(lapic_ack(&f.l[1]), -1);
}

static void test_level(void **state)
{
	route(10, 0, LEVEL | 0x5a);
	ioapic_set_pin(&f.io, 10, true);
	assert_int_equal(rd(0x24), LEVEL | REMOTE | 0x5a);
	assert_int_equal(lapic_ack(&f.l[0]), 0x5a);
	end(0); /* still asserted: again */
	assert_int_equal(lapic_ack(&f.l[0]), 0x5a);
	ioapic_set_pin(&f.io, 10, false);
	end(0);
	assert_int_equal(rd(0x24), LEVEL | 0x5a);
	assert_int_equal(lapic_ack(&f.l[0]), -1);

	route(10, 0, MASKED | LEVEL | 0x5a);
	ioapic_set_pin(&f.io, 10, true);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
	route(10, 0, LEVEL | 0x5a); /* unmasking finds the level */
	assert_int_equal(lapic_ack(&f.l[0]), 0x5a);
	route(10, 0, MASKED | 0x5a); /* edge mode drops remote IRR */
	assert_int_equal(rd(0x24), MASKED | 0x5a);
}

static void test_directed_eoi(void **state)
{
	route(10, 0, LEVEL | 0x5a);
	ioapic_set_pin(&f.io, 10, true);
	ioapic_set_pin(&f.io, 10, false);
	assert_int_equal(rd(0x24), LEVEL | REMOTE | 0x5a);
	ioapic_ops.write(&f.io, 0x40, 4, 0x5b);
	assert_int_equal(rd(0x24), LEVEL | REMOTE | 0x5a);
	ioapic_ops.write(&f.io, 0x40, 4, 0x5a);
	assert_int_equal(rd(0x24), LEVEL | 0x5a);
}

static void test_refused(void **state)
{
	/* Nobody takes the message: the level stays pending, without remote IRR. */
	lapic_write(&f.l[0], 0xf0, 4, 0xff);
	route(10, 0, LEVEL | 0x5a);
	ioapic_set_pin(&f.io, 10, true);
	assert_int_equal(rd(0x24), LEVEL | 0x5a);
	lapic_write(&f.l[0], 0xf0, 4, 0x1ff);
	route(10, 0, LEVEL | 0x5a);
	assert_int_equal(lapic_ack(&f.l[0]), 0x5a);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		route(pin, 0xff, LEVEL | 0x800 | pin << 8); /* each delivery mode, vector 0 */
		ioapic_set_pin(&f.io, pin, true);
		ioapic_set_pin(&f.io, pin, false);
	}
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_registers),    TEST(test_edge),    TEST(test_level),
		TEST(test_directed_eoi), TEST(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

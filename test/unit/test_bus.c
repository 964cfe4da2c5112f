#include <errno.h>

#include "unit.h"

/* A device that remembers the last access and reads as 0x10 + offset in each byte. */
struct probe {
	uint64_t off, value;
	unsigned size, calls;
};

static uint64_t read_probe(void *dev, uint64_t off, unsigned size)
{
	struct probe *p = dev;
	uint64_t value = 0;

	*p = (struct probe){ .off = off, .size = size, .calls = p->calls + 1 };
	for (unsigned i = 0; i < size; i++)
		value |= (0x10 + off + i) << (8 * i);
	return value;
}

static void write_probe(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct probe *p = dev;

	*p = (struct probe){ .off = off, .size = size, .value = value, .calls = p->calls + 1 };
}

static const struct bus_ops probe_ops = { .read = read_probe, .write = write_probe };
static const struct bus_ops narrow_ops = { .read = read_probe,
	                                   .write = write_probe,
	                                   .max_size = 1 };

static uint64_t read_ones(void *dev, uint64_t off, unsigned size)
{
	return UINT64_MAX;
}

static const struct bus_ops ones_ops = { .read = read_ones, .write = write_probe };

static void ranges_stay_disjoint(void **state)
{
	struct probe p = { 0 };
	struct bus b;

	assert_int_equal(bus_init(&b), 0);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x2000, 0x1000, &probe_ops, &p, "b"), 0);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x1000, 0x1000, &probe_ops, &p, "a"), 0);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x3000, 0x1000, &probe_ops, &p, "c"), 0);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x1fff, 1, &probe_ops, &p, "x"), -EEXIST);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x0, 0x1001, &probe_ops, &p, "x"), -EEXIST);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x0, 0x10000, &probe_ops, &p, "x"), -EEXIST);
	assert_int_equal(bus_add(&b, BUS_PIO, 0x2000, 0x10, &probe_ops, &p, "other space"), 0);
	assert_int_equal(bus_add(&b, BUS_MMIO, UINT64_MAX, 1, &probe_ops, &p, "top"), 0);
	assert_int_equal(b.nr[BUS_MMIO], 4);
	for (unsigned i = 1; i < b.nr[BUS_MMIO]; i++)
		assert_true(b.range[BUS_MMIO][i - 1].base < b.range[BUS_MMIO][i].base);
	bus_fini(&b);
}

static void the_table_has_an_end(void **state)
{
	struct probe p = { 0 };
	struct bus b;

	bus_init(&b);
	for (unsigned i = 0; i < BUS_MAX_RANGES; i++)
		assert_int_equal(bus_add(&b, BUS_PIO, 8 * i, 8, &probe_ops, &p, "p"), 0);
	assert_int_equal(bus_add(&b, BUS_PIO, 0x8000, 8, &probe_ops, &p, "p"), -ENOSPC);
	for (unsigned i = 0; i < BUS_MAX_RANGES; i++) {
		outb(&b, (uint16_t)(8 * i + i % 8), (uint8_t)i);
		assert_int_equal(p.off, i % 8);
		assert_int_equal(p.value, i);
	}
	bus_fini(&b);
}

static void accesses_find_their_device(void **state)
{
	struct probe p = { 0 };
	struct bus b;
	uint64_t v = 0;

	bus_init(&b);
	bus_add(&b, BUS_PIO, 0x100, 8, &probe_ops, &p, "p");
	assert_true(bus_read(&b, BUS_PIO, 0x102, 4, &v));
	assert_int_equal(v, 0x15141312);
	assert_int_equal(p.calls, 1);
	assert_true(bus_write(&b, BUS_PIO, 0x100, 2, 0xffff1234));
	assert_int_equal(p.value, 0x1234);
	bus_fini(&b);
}

static void nobody_reads_all_ones(void **state)
{
	struct probe p = { 0 };
	struct bus b;
	uint64_t v = 0;

	bus_init(&b);
	assert_false(bus_read(&b, BUS_MMIO, 0x5000, 8, &v));
	assert_int_equal(v, UINT64_MAX);
	assert_false(bus_read(&b, BUS_PIO, 0x5000, 2, &v));
	assert_int_equal(v, 0xffff);
	assert_false(bus_write(&b, BUS_PIO, 0x5000, 4, 1));
	bus_add(&b, BUS_PIO, 0x100, 4, &ones_ops, &p, "ones");
	assert_true(bus_read(&b, BUS_PIO, 0x100, 1, &v));
	assert_int_equal(v, 0xff); /* a device cannot answer more than was asked */
	bus_fini(&b);
}

static void straddling_accesses_are_bytes(void **state)
{
	struct probe p = { 0 }, q = { 0 };
	struct bus b;
	uint64_t v = 0;

	bus_init(&b);
	bus_add(&b, BUS_PIO, 0x100, 2, &probe_ops, &p, "p");
	bus_add(&b, BUS_PIO, 0x102, 1, &probe_ops, &q, "q");
	assert_true(bus_read(&b, BUS_PIO, 0x101, 4, &v));
	assert_int_equal(v, 0xffff1011);
	assert_true(bus_read(&b, BUS_PIO, 0xff, 2, &v));
	assert_int_equal(v, 0x10ff);
	assert_true(bus_write(&b, BUS_PIO, 0x101, 2, 0xbbaa));
	assert_int_equal(p.value, 0xaa);
	assert_int_equal(q.value, 0xbb);
	bus_add(&b, BUS_PIO, 0, 1, &probe_ops, &p, "zero");
	assert_true(bus_read(&b, BUS_PIO, 0xffff, 2, &v)); /* ports wrap at 64 Ki */
	assert_int_equal(v, 0x10ff);
	bus_fini(&b);
}

static void narrow_devices_get_bytes(void **state)
{
	struct probe p = { 0 };
	struct bus b;
	uint64_t v = 0;

	bus_init(&b);
	bus_add(&b, BUS_PIO, 0x100, 8, &narrow_ops, &p, "p");
	assert_true(bus_read(&b, BUS_PIO, 0x100, 4, &v));
	assert_int_equal(v, 0x13121110);
	assert_int_equal(p.calls, 4);
	assert_int_equal(p.size, 1);
	bus_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranges_stay_disjoint),
		cmocka_unit_test(the_table_has_an_end),
		cmocka_unit_test(accesses_find_their_device),
		cmocka_unit_test(nobody_reads_all_ones),
		cmocka_unit_test(straddling_accesses_are_bytes),
		cmocka_unit_test(narrow_devices_get_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

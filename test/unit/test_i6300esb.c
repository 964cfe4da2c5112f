/* The watchdog: its two stages, its keys, its lock. */
#include "unit.h"

#include <string.h>

#include "fake_time.h"
#include "device/i6300esb.h"

#define ECAM 0xc0000000ull
#define LOW  0xc0100000ull
#define MS   1000000ull

struct machine {
	struct bus bus;
	struct pci_host host;
	uint64_t bar;
	unsigned expired;
};

static void expire(void *opaque)
{
	((struct machine *)opaque)->expired++;
}

static void put(struct machine *m, uint64_t addr, unsigned size, uint64_t value)
{
	bus_write(&m->bus, BUS_MMIO, addr, size, value);
}

static uint64_t get(struct machine *m, uint64_t addr, unsigned size)
{
	uint64_t value = 0;

	bus_read(&m->bus, BUS_MMIO, addr, size, &value);
	return value;
}

#define CONFIG(reg) (ECAM + 0x8000 + (reg))

static void make_machine(struct machine *m)
{
	struct i6300esb_config config = { .expired = expire, .opaque = m };

	memset(m, 0, sizeof(*m));
	assert_int_equal(bus_init(&m->bus), 0);
	pci_host_init(&m->host, &m->bus, NULL, NULL);
	pci_host_set_windows(&m->host, LOW, 0x100000, 0, 0);
	bus_add(&m->bus, BUS_MMIO, ECAM, PCI_HOST_CONFIG_LEN, &pci_host_config_ops, &m->host, "");
	bus_add(&m->bus, BUS_MMIO, LOW, 0x100000, &pci_host_window_ops, &m->host.low, "");
	assert_int_equal(i6300esb_add(&m->host, &config), 0);
	assert_int_equal(pci_host_assign(&m->host), 0);
	assert_int_equal(get(m, CONFIG(0), 4), 0x25ab8086);
	m->bar = get(m, CONFIG(PCI_BAR0), 4);
	put(m, CONFIG(PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
}

static void free_machine(struct machine *m)
{
	pci_host_free(&m->host);
	bus_fini(&m->bus);
	fake_nr_timers = 0;
}

static void write_open(struct machine *m, unsigned reg, unsigned size, uint32_t value)
{
	put(m, m->bar + 0x0c, 2, 0x80);
	put(m, m->bar + 0x0c, 2, 0x86);
	put(m, m->bar + reg, size, value);
}

/* As Linux sets it up: half a second a stage. */
static void start(struct machine *m)
{
	put(m, CONFIG(0x60), 2, 3);
	write_open(m, 0, 4, 512);
	write_open(m, 4, 4, 512);
	write_open(m, 0x0c, 2, 0x100);
	put(m, CONFIG(0x68), 1, 2);
}

static void expires_after_two_stages(void **state)
{
	struct machine m;

	make_machine(&m);
	start(&m);
	fake_advance(1000 * MS);
	assert_int_equal(m.expired, 0);
	fake_advance(20 * MS);
	assert_int_equal(m.expired, 1);
	assert_int_equal(get(&m, m.bar + 0x0c, 2), 0x200);
	fake_advance(5000 * MS);
	assert_int_equal(m.expired, 1);
	bus_lock(&m.bus);
	pci_host_reset(&m.host);
	bus_unlock(&m.bus);
	put(&m, CONFIG(PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	assert_int_equal(get(&m, m.bar + 0x0c, 2), 0x200); /* why it was reset */
	write_open(&m, 0x0c, 2, 0x200);
	assert_int_equal(get(&m, m.bar + 0x0c, 2), 0);
	start(&m);
	fake_advance(1100 * MS);
	assert_int_equal(m.expired, 2);
	free_machine(&m);
}

static void attended_to_it_waits(void **state)
{
	struct machine m;

	make_machine(&m);
	start(&m);
	for (unsigned i = 0; i < 10; i++) {
		fake_advance(900 * MS);
		write_open(&m, 0x0c, 2, 0x100);
	}
	assert_int_equal(m.expired, 0);
	put(&m, m.bar + 0x0c, 2, 0x100); /* without the keys */
	put(&m, m.bar + 0x0c, 2, 0x86);
	put(&m, m.bar + 0x0c, 2, 0x100);
	fake_advance(600 * MS);
	put(&m, CONFIG(0x68), 1, 0); /* stopped */
	fake_advance(5000 * MS);
	assert_int_equal(m.expired, 0);
	free_machine(&m);
}

static void locked_it_cannot_be_stopped(void **state)
{
	struct machine m;

	make_machine(&m);
	start(&m);
	put(&m, CONFIG(0x68), 1, 3);
	put(&m, CONFIG(0x68), 1, 0);
	assert_int_equal(get(&m, CONFIG(0x68), 1), 3);
	fake_advance(1100 * MS);
	assert_int_equal(m.expired, 1);
	free_machine(&m);
}

static void quiet_output_and_fast_steps(void **state)
{
	struct machine m;

	make_machine(&m);
	start(&m);
	put(&m, CONFIG(0x60), 2, 0x27); /* microseconds, no reset */
	write_open(&m, 0x0c, 2, 0x100);
	fake_advance(2 * MS);
	assert_int_equal(m.expired, 0);
	assert_int_equal(get(&m, m.bar + 0x0c, 2), 0x200);
	free_machine(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(expires_after_two_stages),
		cmocka_unit_test(attended_to_it_waits),
		cmocka_unit_test(locked_it_cannot_be_stopped),
		cmocka_unit_test(quiet_output_and_fast_steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

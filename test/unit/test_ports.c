/* The small devices: debug console, exit port, test device, PCI host bridge. */
#include <errno.h>
#include <string.h>

#include "unit.h"
#include "device/debug_port.h"
#include "device/exit_port.h"
#include "device/pci_host.h"
#include "device/testdev.h"

static int setup(void **state)
{
	struct bus *b = test_calloc(1, sizeof(*b));

	bus_init(b);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	bus_fini(*state);
	test_free(*state);
	return 0;
}

static void append(void *opaque, const uint8_t *buf, size_t n)
{
	strncat(opaque, (const char *)buf, n);
}

static void debug_port_prints(void **state)
{
	struct bus *b = *state;
	struct debug_port d;
	char text[16] = "";

	debug_port_init(&d, append, text);
	bus_add(b, BUS_PIO, DEBUG_PORT_BASE, DEBUG_PORT_LEN, &debug_port_ops, &d, "debug");
	assert_int_equal(inb(b, 0xe9), 0xe9);
	outb(b, 0xe9, 'o');
	outb(b, 0xe9, 'k');
	assert_string_equal(text, "ok");
}

static void note_status(void *opaque, int status)
{
	*(int *)opaque = status;
}

static void exit_port_exits(void **state)
{
	struct bus *b = *state;
	struct exit_port p;
	int status = -1;

	exit_port_init(&p, note_status, &status);
	bus_add(b, BUS_PIO, EXIT_PORT_BASE, EXIT_PORT_LEN, &exit_port_ops, &p, "exit");
	inb(b, 0xf4);
	assert_int_equal(status, -1);
	outb(b, 0xf4, 0);
	assert_int_equal(status, 1);
	outl(b, 0xf4, 0x10);
	assert_int_equal(status, 0x21);
	outb(b, 0xf7, 0xff);
	assert_int_equal(status, 0xff);
}

struct lines {
	unsigned n;
	bool level;
};

static void note_line(void *opaque, unsigned n, bool level)
{
	*(struct lines *)opaque = (struct lines){ .n = n, .level = level };
}

static void note_page(void *opaque, gpa_t page)
{
	*(gpa_t *)opaque = page;
}

static void testdev_echoes(void **state)
{
	struct testdev *t = test_malloc(sizeof(*t));
	struct bus *b = *state;

	testdev_init(t, (struct irq_line){ 0 }, NULL, NULL);
	bus_add(b, BUS_PIO, TESTDEV_ECHO_PORT, TESTDEV_ECHO_LEN, &testdev_echo_ops, t, "echo");
	bus_add(b, BUS_PIO, TESTDEV_ECHO_BYTE_PORT, TESTDEV_ECHO_BYTE_LEN, &testdev_echo_byte_ops,
	        t, "echo bytes");
	outl(b, 0xe0, 0x12345678);
	assert_int_equal(inl(b, 0xe0), 0x12345678);
	assert_int_equal(inb(b, 0xe3), 0x12);
	outw(b, 0xe1, 0xabcd);
	assert_int_equal(inl(b, 0xe0), 0x12abcd78);
	outb(b, 0xe3, 0xff);
	assert_int_equal(inl(b, 0xe8), 0xffabcd78);
	testdev_reset(t);
	assert_int_equal(inl(b, 0xe0), 0);
	test_free(t);
}

static void testdev_raises_lines_and_flushes(void **state)
{
	struct testdev *t = test_malloc(sizeof(*t));
	struct irq_line first = { .set = note_line };
	struct lines lines = { 0 };
	struct bus *b = *state;
	gpa_t page = 1;

	first.opaque = &lines;
	testdev_init(t, first, note_page, &page);
	bus_add(b, BUS_PIO, TESTDEV_IRQ_PORT, TESTDEV_IRQ_LINES, &testdev_irq_ops, t, "irq");
	bus_add(b, BUS_PIO, TESTDEV_FLUSH_PORT, TESTDEV_FLUSH_LEN, &testdev_flush_ops, t, "flush");
	outb(b, 0x2017, 1);
	assert_int_equal(lines.n, 23);
	assert_true(lines.level);
	outb(b, 0x2017, 0);
	assert_false(lines.level);
	outw(b, 0x2003, 1); /* only bytes count */
	assert_int_equal(lines.n, 23);
	outl(b, 0xe4, 0xfee01fff);
	assert_int_equal(page, 0xfee01000);
	outw(b, 0xe4, 0);
	assert_int_equal(page, 0xfee01000);
	test_free(t);
}

static void testdev_has_io_memory(void **state)
{
	struct testdev *t = test_malloc(sizeof(*t));
	struct bus *b = *state;
	uint64_t v = 0;

	testdev_init(t, (struct irq_line){ 0 }, NULL, NULL);
	bus_add(b, BUS_MMIO, TESTDEV_IOMEM_BASE, TESTDEV_IOMEM_LEN, &testdev_iomem_ops, t, "iomem");
	assert_true(bus_write(b, BUS_MMIO, 0xff00fff8, 8, 0x1122334455667788));
	assert_true(bus_read(b, BUS_MMIO, 0xff00fffc, 4, &v));
	assert_int_equal(v, 0x11223344);
	assert_true(bus_read(b, BUS_MMIO, 0xff00fffc, 8, &v)); /* half of it leaves the device */
	assert_int_equal(v, 0xffffffff11223344);
	test_free(t);
}

static uint32_t config_read(struct bus *b, unsigned bus, unsigned devfn, unsigned reg)
{
	outl(b, 0xcf8, 0x80000000 | bus << 16 | devfn << 8 | reg);
	return inl(b, 0xcfc);
}

static void write_flag(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	*(uint64_t *)dev = value;
}

static uint64_t read_flag(void *dev, uint64_t off, unsigned size)
{
	return *(uint64_t *)dev;
}

static void pci_bus_with_a_bridge(void **state)
{
	static const struct bus_ops reset_ops = { .read = read_flag, .write = write_flag };
	struct pci_function nic = { .config = { 0xf4, 0x1a, 0x41, 0x10 } };
	uint64_t reset = 0;
	struct pci_host h;
	struct bus *b = *state;

	pci_host_init(&h, NULL, &reset_ops, &reset);
	bus_add(b, BUS_PIO, PCI_HOST_ADDRESS_PORT, PCI_HOST_ADDRESS_LEN, &pci_host_address_ops, &h,
	        "address");
	bus_add(b, BUS_PIO, PCI_HOST_DATA_PORT, PCI_HOST_DATA_LEN, &pci_host_data_ops, &h, "data");
	outb(b, 0xcfb, 0x01); /* Linux' probe for mechanism #1 */
	outl(b, 0xcf8, 0x80000000);
	assert_int_equal(inl(b, 0xcf8), 0x80000000);
	outb(b, 0xcf9, 0x06);
	assert_int_equal(reset, 0x06);
	assert_int_equal(inb(b, 0xcf9), 0x06);
	assert_int_equal(inl(b, 0xcf8), 0x80000000);

	assert_int_equal(config_read(b, 0, 0, 0), 0x00081b36);
	assert_int_equal(config_read(b, 0, 0, 8), 0x06000000);
	outl(b, 0xcfc, 0xffffffff); /* the class is read-only */
	assert_int_equal(inl(b, 0xcfc), 0x06000000);
	config_read(b, 0, 0, 4);
	outw(b, 0xcfc, 0xffff);
	assert_int_equal(inl(b, 0xcfc), 0x0546);
	for (unsigned devfn = 1; devfn < 256; devfn++)
		assert_int_equal(config_read(b, 0, devfn, 0), 0xffffffff);
	assert_int_equal(config_read(b, 1, 0, 0), 0xffffffff);
	outl(b, 0xcf8, 0);
	assert_int_equal(inl(b, 0xcfc), 0xffffffff);
	assert_int_equal(pci_host_add(&h, PCI_DEVFN(0, 0), &nic), -EEXIST);
	assert_int_equal(pci_host_add(&h, PCI_DEVFN(3, 0), &nic), 0);
	assert_int_equal(config_read(b, 0, PCI_DEVFN(3, 0), 0), 0x10411af4);
	assert_int_equal(inb(b, 0xcfe), 0x41);
}

static void pci_bus_in_memory(void **state)
{
	struct pci_host h;
	struct bus *b = *state;
	uint64_t v;

	pci_host_init(&h, NULL, NULL, NULL);
	bus_add(b, BUS_MMIO, 0xc0000000, PCI_HOST_CONFIG_LEN, &pci_host_config_ops, &h, "memory");
	assert_true(bus_read(b, BUS_MMIO, 0xc0000000, 4, &v));
	assert_int_equal(v, 0x00081b36);
	assert_true(bus_write(b, BUS_MMIO, 0xc0000004, 2, 0xffff));
	assert_true(bus_read(b, BUS_MMIO, 0xc0000005, 1, &v));
	assert_int_equal(v, 0x05);
	assert_int_equal(h.bridge.config[4], 0x46);
	/* Beyond the registers of a conventional function, and where there is none. */
	for (uint64_t off = 0x100; off < PCI_HOST_CONFIG_LEN; off += 0xffc) {
		assert_true(bus_write(b, BUS_MMIO, 0xc0000000 + off, 4, 0));
		assert_true(bus_read(b, BUS_MMIO, 0xc0000000 + off, 4, &v));
		assert_int_equal((uint32_t)v, 0xffffffff);
	}
	assert_true(bus_read(b, BUS_MMIO, 0xc00000fe, 4, &v));
	assert_int_equal(v & 0xffffffff, 0xffffffff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(debug_port_prints, setup, teardown),
		cmocka_unit_test_setup_teardown(exit_port_exits, setup, teardown),
		cmocka_unit_test_setup_teardown(testdev_echoes, setup, teardown),
		cmocka_unit_test_setup_teardown(testdev_raises_lines_and_flushes, setup, teardown),
		cmocka_unit_test_setup_teardown(testdev_has_io_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(pci_bus_with_a_bridge, setup, teardown),
		cmocka_unit_test_setup_teardown(pci_bus_in_memory, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Random port and memory accesses to the board's chips, as a hostile guest makes them.
 *
 * Input: records of ten bytes, {what, which, value (8, little-endian)}. `what` chooses the access
 * and its width, or lets time pass or the world act; `which` the address, near a device more often
 * than not. Sanitizers find the faults; on top of them, output must stay bounded by what the guest
 * wrote.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/fake_time.h"
#include "device/acpi_pm.h"
#include "device/debug_port.h"
#include "device/exit_port.h"
#include "device/fw_cfg.h"
#include "device/i8042.h"
#include "device/pci_host.h"
#include "device/rtc.h"
#include "device/testdev.h"
#include "device/uart.h"

#define RECORD_BYTES 10
#define MAX_RECORDS  4096
#define UART_PORT    0x3f8

struct board {
	struct bus bus;
	struct uart uart;
	struct rtc rtc;
	struct i8042 kbc;
	struct acpi_pm acpi;
	struct debug_port debug;
	struct exit_port exit;
	struct fw_cfg cfg;
	struct testdev testdev;
	struct pci_host pci;
	size_t written, sent;
};

static const uint32_t base_address[] = {
	UART_PORT,
	RTC_PORT,
	I8042_DATA_PORT,
	I8042_COMMAND_PORT,
	I8042_FAST_PORT,
	ACPI_PM_BASE,
	ACPI_PM_BASE + ACPI_PM_GPE0,
	DEBUG_PORT_BASE,
	EXIT_PORT_BASE,
	FW_CFG_PORT,
	TESTDEV_ECHO_PORT,
	TESTDEV_IRQ_PORT,
	PCI_HOST_ADDRESS_PORT,
	PCI_HOST_DATA_PORT,
	0xfff8,
	0x2f8,
};

static void take_output(void *opaque, const uint8_t *buf, size_t n)
{
	struct board *m = opaque;

	m->sent += n;
	if (buf[0] == '!')
		uart_tx_ready(&m->uart, false);
}

static void more_input(void *opaque)
{
	struct board *m = opaque;

	uart_receive(&m->uart, (const uint8_t *)"0123456789abcdefghij", 20);
}

static void take_line(void *opaque, unsigned n, bool level)
{
}

static void take_status(void *opaque, int status)
{
	assert(status >= 0 && status <= 255 && status % 2 == 1);
}

static void take_pin(void *opaque)
{
}

static void take_page(void *opaque, gpa_t page)
{
	assert(page % PAGE_SIZE == 0);
}

static void init_chips(struct board *m)
{
	const struct irq_line line = { .set = take_line, .opaque = m };

	uart_init(&m->uart, line,
	          (struct uart_backend){ .put = take_output, .room = more_input, .opaque = m });
	rtc_init(&m->rtc, line, &m->bus, NULL);
	i8042_init(&m->kbc, (struct i8042_pins){ .reset = take_pin, .kbd_irq = line });
	acpi_pm_init(&m->acpi, line,
	             (struct acpi_pm_callbacks){ .power_off = take_pin, .reset = take_pin },
	             &m->bus, NULL, 24);
	debug_port_init(&m->debug, NULL, NULL);
	exit_port_init(&m->exit, take_status, NULL);
	if (fw_cfg_init(&m->cfg))
		abort();
	testdev_init(&m->testdev, line, take_page, NULL);
	pci_host_init(&m->pci, &m->bus, &acpi_reset_ops, &m->acpi);
}

static void map_chips(struct board *m)
{
	const struct {
		uint32_t base, len;
		const struct bus_ops *ops;
		void *dev;
	} map[] = {
		{ UART_PORT, UART_LEN, &uart_ops, &m->uart },
		{ RTC_PORT, RTC_LEN, &rtc_ops, &m->rtc },
		{ I8042_DATA_PORT, I8042_PORT_LEN, &i8042_data_ops, &m->kbc },
		{ I8042_COMMAND_PORT, I8042_PORT_LEN, &i8042_command_ops, &m->kbc },
		{ I8042_FAST_PORT, I8042_PORT_LEN, &i8042_fast_ops, &m->kbc },
		{ ACPI_PM_BASE, ACPI_PM_LEN, &acpi_pm_ops, &m->acpi },
		{ DEBUG_PORT_BASE, DEBUG_PORT_LEN, &debug_port_ops, &m->debug },
		{ EXIT_PORT_BASE, EXIT_PORT_LEN, &exit_port_ops, &m->exit },
		{ FW_CFG_PORT, FW_CFG_LEN, &fw_cfg_ops, &m->cfg },
		{ TESTDEV_ECHO_PORT, TESTDEV_ECHO_LEN, &testdev_echo_ops, &m->testdev },
		{ TESTDEV_FLUSH_PORT, TESTDEV_FLUSH_LEN, &testdev_flush_ops, &m->testdev },
		{ TESTDEV_ECHO_BYTE_PORT, 1, &testdev_echo_byte_ops, &m->testdev },
		{ TESTDEV_IRQ_PORT, TESTDEV_IRQ_LINES, &testdev_irq_ops, &m->testdev },
		{ PCI_HOST_ADDRESS_PORT, PCI_HOST_ADDRESS_LEN, &pci_host_address_ops, &m->pci },
		{ PCI_HOST_DATA_PORT, PCI_HOST_DATA_LEN, &pci_host_data_ops, &m->pci },
	};

	for (size_t i = 0; i < ARRAY_SIZE(map); i++) {
		if (bus_add(&m->bus, BUS_PIO, map[i].base, map[i].len, map[i].ops, map[i].dev, ""))
			abort();
	}
	if (bus_add(&m->bus, BUS_MMIO, TESTDEV_IOMEM_BASE, TESTDEV_IOMEM_LEN, &testdev_iomem_ops,
	            &m->testdev, ""))
		abort();
}

/* What is not the guest's doing: time, input, back-pressure, the power button, resets. */
static void act_as_world(struct board *m, uint8_t which, uint64_t value)
{
	if (which < 64) {
		fake_advance(value % 3000000000ull);
		return;
	}
	bus_lock(&m->bus);
	if (which < 96)
		more_input(m);
	else if (which < 160)
		uart_tx_ready(&m->uart, value & 1);
	else if (which < 192)
		acpi_pm_press_power(&m->acpi);
	else if (which < 224)
		uart_reset(&m->uart);
	else if (which < 240)
		rtc_reset(&m->rtc);
	else
		acpi_pm_reset(&m->acpi);
	bus_unlock(&m->bus);
}

static void access_bus(struct board *m, uint8_t what, uint8_t which, uint64_t value)
{
	unsigned size = 1u << (what & 3);
	enum bus_space space = what & 8 ? BUS_MMIO : BUS_PIO;
	uint64_t addr = base_address[which >> 4] + (which & 15);

	if (space == BUS_MMIO)
		addr = TESTDEV_IOMEM_BASE + value % (TESTDEV_IOMEM_LEN + 8) - 4;
	if (what & 4) {
		m->written += size;
		bus_write(&m->bus, space, addr, size, value);
	} else {
		bus_read(&m->bus, space, addr, size, &value);
		assert(size == 8 || value >> (8 * size) == 0);
	}
}

static void run_record(struct board *m, const uint8_t *record)
{
	uint64_t value;

	memcpy(&value, record + 2, sizeof(value));
	if (record[0] >= 0xc0)
		act_as_world(m, record[1], value);
	else
		access_bus(m, record[0], record[1], value);
	assert(m->sent <= m->written);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct board *m = calloc(1, sizeof(*m));

	if (!m || bus_init(&m->bus))
		abort();
	init_chips(m);
	map_chips(m);
	for (size_t i = 0; i < MAX_RECORDS && (i + 1) * RECORD_BYTES <= size; i++)
		run_record(m, data + i * RECORD_BYTES);
	rtc_fini(&m->rtc);
	acpi_pm_fini(&m->acpi);
	fw_cfg_fini(&m->cfg);
	bus_fini(&m->bus);
	free(m);
	return 0;
}

/*
 * The wiring.
 *
 *   ISA line n ---+--> PIC input n --INTR--> LINT0 of every local APIC
 *                 +--> I/O APIC pin n, but line 0 on pin 2 (the MADT says so) --> messages to the
 * local APICs; HPET and INTA# of PCI functions --> I/O APIC pins; MSI-X --> local APICs
 *
 * Under HPET's legacy replacement its timer 0 takes the place of the PIT on line 0 and its timer 1
 * that of the RTC on line 8 (IA-PC HPET 1.0a 2.3.1): the board disconnects the two.
 *
 * Locks: as bus.h says. Line changes come from chips, so with bus.lock held; the LAPIC's lock is
 * taken after it. An EOI comes from a vCPU that holds nothing and takes bus.lock to reach the I/O
 * APIC.
 */
#include "machine/board.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "engine/engine.h"
#include "machine/acpi.h"
#include "machine/smbios.h"

_Static_assert(PORT_PM_BASE == ACPI_PM_BASE && PORT_PM_TIMER == ACPI_PM_BASE + ACPI_PM_TMR &&
                       PORT_GPE0 == ACPI_PM_BASE + ACPI_PM_GPE0 &&
                       PORT_PM1_CNT == ACPI_PM_BASE + ACPI_PM_CNT,
               "the firmware tables describe the chip");
_Static_assert(SLEEP_S5_TYPE == ACPI_PM_SLP_TYP_S5 && RESET_VALUE == ACPI_RESET_VALUE,
               "the firmware tables describe the chip");
_Static_assert(PCI_CONFIG_WINDOW == PCI_HOST_CONFIG_LEN, "the firmware tables describe the chip");
_Static_assert(PORT_RESET == PCI_HOST_ADDRESS_PORT + 1, "the host bridge decodes the reset port");

#define IOAPIC_ID     0 /* as the MADT has it */
#define PM_TIMER_BITS 32

/* Where the chips are. */

struct placement {
	enum bus_space space;
	uint64_t base, len;
	const struct bus_ops *ops;
	size_t dev; /* offset in struct board */
	const char *name;
};
static const struct irqchip own_chips = { .kind = IRQCHIP_OWN };
#define CHIP(member) offsetof(struct board, member)

/* Controllers of interrupts: these the host's kernel may have instead. */
static const struct placement controllers[] = {
	{ BUS_PIO, PORT_PIC_MASTER, 2, &pic_chip_ops, CHIP(pic.chip[0]), "PIC" },
	{ BUS_PIO, PORT_PIC_SLAVE, 2, &pic_chip_ops, CHIP(pic.chip[1]), "second PIC" },
	{ BUS_PIO, PORT_PIC_ELCR, 2, &pic_elcr_ops, CHIP(pic), "PIC edge/level register" },
	{ BUS_MMIO, GPA_IOAPIC, IOAPIC_SIZE, &ioapic_ops, CHIP(ioapic), "I/O APIC" },
};

static const struct placement chips[] = {
	{ BUS_PIO, PORT_PIT, 4, &pit_ops, CHIP(pit), "PIT" },
	{ BUS_PIO, PORT_PIT_GATE, 1, &pit_port61_ops, CHIP(pit), "PIT gate" },
	{ BUS_PIO, PORT_I8042_DATA, 1, &i8042_data_ops, CHIP(i8042), "keyboard controller" },
	{ BUS_PIO, PORT_I8042_CMD, 1, &i8042_command_ops, CHIP(i8042), "keyboard controller" },
	{ BUS_PIO, I8042_FAST_PORT, 1, &i8042_fast_ops, CHIP(i8042), "fast reset port" },
	{ BUS_PIO, PORT_RTC, RTC_LEN, &rtc_ops, CHIP(rtc), "RTC" },
	{ BUS_PIO, PORT_DEBUGCON, DEBUG_PORT_LEN, &debug_port_ops, CHIP(debug_port), "debug port" },
	{ BUS_PIO, PORT_EXIT, EXIT_PORT_LEN, &exit_port_ops, CHIP(exit_port), "exit port" },
	{ BUS_PIO, PORT_COM1, UART_LEN, &uart_ops, CHIP(uart), "UART" },
	{ BUS_PIO, PORT_FW_CFG, FW_CFG_LEN, &fw_cfg_ops, CHIP(fw_cfg), "fw_cfg" },
	{ BUS_PIO, PORT_PM_BASE, ACPI_PM_LEN, &acpi_pm_ops, CHIP(pm), "ACPI power management" },
	{ BUS_PIO, PCI_HOST_ADDRESS_PORT, PCI_HOST_ADDRESS_LEN, &pci_host_address_ops, CHIP(pci),
	  "PCI host bridge" },
	{ BUS_PIO, PCI_HOST_DATA_PORT, PCI_HOST_DATA_LEN, &pci_host_data_ops, CHIP(pci),
	  "PCI host bridge" },
	{ BUS_MMIO, GPA_PCI_CONFIG, PCI_CONFIG_WINDOW, &pci_host_config_ops, CHIP(pci),
	  "PCI host bridge" },
	{ BUS_MMIO, GPA_HPET, HPET_SIZE, &hpet_ops, CHIP(hpet), "HPET" },
};

static const struct placement pci_low = {
	BUS_MMIO, GPA_PCI_LOW, PCI_LOW_WINDOW, &pci_host_window_ops, CHIP(pci.low), "PCI devices",
};
static const struct placement pci_high = {
	BUS_MMIO,       GPA_PCI_HIGH,  PCI_HIGH_WINDOW, &pci_host_window_ops,
	CHIP(pci.high), "PCI devices",
};

/* The test device; its byte port is cut short before the debug port, see testdev.h. */
static const struct placement testdev_parts[] = {
	{ BUS_PIO, PORT_TESTDEV_ECHO, TESTDEV_ECHO_LEN, &testdev_echo_ops, 0, "test device" },
	{ BUS_PIO, PORT_TESTDEV_FLUSH, TESTDEV_FLUSH_LEN, &testdev_flush_ops, 0, "test device" },
	{ BUS_PIO, TESTDEV_ECHO_BYTE_PORT, 1, &testdev_echo_byte_ops, 0, "test device" },
	{ BUS_PIO, PORT_TESTDEV_IRQ, TESTDEV_IRQ_LINES, &testdev_irq_ops, 0, "test device" },
	{ BUS_MMIO, GPA_TESTDEV_IORAM, TESTDEV_IOMEM_LEN, &testdev_iomem_ops, 0, "test device" },
};

/* What is not on the bus but has its place all the same. */
static const struct {
	enum board_resource kind;
	uint64_t base, len;
	const char *owner;
} fixtures[] = {
	{ BOARD_PAGES, GPA_LAPIC, PAGE_SIZE, "local APIC" },
	{ BOARD_PAGES, GPA_ENGINE, ENGINE_PRIVATE_BYTES, "engine" },
	{ BOARD_IRQ, GSI_PIT, 1, "PIT" },
	{ BOARD_IRQ, IRQ_KEYBOARD, 1, "keyboard controller" },
	{ BOARD_IRQ, IRQ_COM1, 1, "UART" },
	{ BOARD_IRQ, IRQ_RTC, 1, "RTC" },
	{ BOARD_IRQ, IRQ_SCI, 1, "ACPI power management" },
	{ BOARD_IRQ, GSI_PCI, PCI_GSIS, "PCI devices" },
};

static int grant_chip(struct board *b, const struct placement *p, char *err, size_t errlen)
{
	enum board_resource kind = p->space == BUS_PIO ? BOARD_PORTS : BOARD_PAGES;

	return b->host->grant(b->opaque, kind, p->base, p->len, p->name, err, errlen);
}

static int place_chip(struct board *b, const struct placement *p, void *dev, char *err,
                      size_t errlen)
{
	int rc = grant_chip(b, p, err, errlen);

	if (rc)
		return rc;
	rc = bus_add(&b->bus, p->space, p->base, p->len, p->ops, dev, p->name);
	if (rc)
		snprintf(err, errlen, "%s at 0x%llx: %s", p->name, (unsigned long long)p->base,
		         strerror(-rc));
	return rc;
}

static int place_all(struct board *b, char *err, size_t errlen)
{
	int rc = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(fixtures) && !rc; i++)
		rc = b->host->grant(b->opaque, fixtures[i].kind, fixtures[i].base, fixtures[i].len,
		                    fixtures[i].owner, err, errlen);
	for (unsigned i = 0; i < ARRAY_SIZE(controllers) && !rc; i++)
		rc = b->irqchip->kind == IRQCHIP_KERNEL
		             ? grant_chip(b, &controllers[i], err, errlen)
		             : place_chip(b, &controllers[i], (char *)b + controllers[i].dev, err,
		                          errlen);
	for (unsigned i = 0; i < ARRAY_SIZE(chips) && !rc; i++)
		rc = place_chip(b, &chips[i], (char *)b + chips[i].dev, err, errlen);
	for (unsigned i = 0; b->testdev && i < ARRAY_SIZE(testdev_parts) && !rc; i++)
		rc = place_chip(b, &testdev_parts[i], b->testdev, err, errlen);
	if (!rc)
		rc = place_chip(b, &pci_low, &b->pci.low, err, errlen);
	if (!rc && b->pci.high.len)
		rc = place_chip(b, &pci_high, &b->pci.high, err, errlen);
	return rc;
}

/* Interrupt lines. */

/* Lines below 16 are ISA's and reach both controllers; the PIC ignores its cascade input. */
static void set_kernel_gsi(const struct irqchip *chip, unsigned n, bool level)
{
	if (n < 16)
		chip->ops->set_pic(chip->opaque, n, level);
	chip->ops->set_ioapic(chip->opaque, n == IRQ_PIT ? GSI_PIT : n, level);
}

static void set_gsi(void *opaque, unsigned n, bool level)
{
	struct board *b = opaque;

	if (b->irqchip->kind == IRQCHIP_KERNEL) {
		set_kernel_gsi(b->irqchip, n, level);
		return;
	}
	if (n < 16)
		pic_set_irq(&b->pic, n, level);
	ioapic_set_pin(&b->ioapic, n == IRQ_PIT ? GSI_PIT : n, level);
}

static struct irq_line line(struct board *b, unsigned n)
{
	return (struct irq_line){ .set = set_gsi, .opaque = b, .n = n };
}

static void set_rtc(void *opaque, unsigned n, bool level)
{
	struct board *b = opaque;

	b->rtc_level = level;
	if (!b->hpet_legacy)
		set_gsi(b, IRQ_RTC, level);
}

static void send_msi(void *opaque, uint64_t addr, uint32_t data)
{
	struct board *b = opaque;

	if (irqchip_is_message(addr)) /* elsewhere it would be an ordinary write */
		lapic_bus_msi(&b->lapics, addr, data);
}

static void set_legacy(void *opaque, unsigned n, bool on)
{
	struct board *b = opaque;

	b->hpet_legacy = on;
	pit_set_irq_off(&b->pit, 0, on);
	set_gsi(b, IRQ_RTC, !on && b->rtc_level);
}

enum irqchip_kind board_irqchip(const struct board *b)
{
	return b->irqchip->kind;
}

void board_end_of_interrupt(struct board *b, uint8_t vector)
{
	bus_lock(&b->bus);
	ioapic_eoi(&b->ioapic, vector);
	bus_unlock(&b->bus);
}

static void end_of_interrupt(void *opaque, uint8_t vector)
{
	board_end_of_interrupt(opaque, vector);
}

int board_ack_pic(struct board *b)
{
	int vector;

	bus_lock(&b->bus);
	vector = pic_ack(&b->pic);
	bus_unlock(&b->bus);
	return vector;
}

bool board_sends_nmi(struct board *b)
{
	bool sends;

	bus_lock(&b->bus);
	sends = ioapic_sends_nmi(&b->ioapic);
	for (unsigned i = 0; i < b->nr_cpus; i++)
		sends = sends || lapic_lint0_is_nmi(&b->cpu[i].lapic);
	bus_unlock(&b->bus);
	return sends;
}

/* vCPUs. */

static void raise_attention(void *opaque, uint32_t attention, uint8_t sipi_vector)
{
	struct board_cpu *cpu = opaque;
	struct board *b = cpu->board;

	b->host->raise(b->opaque, cpu->id, attention, sipi_vector);
}

static uint64_t guest_tsc(void *opaque)
{
	return cpu_tsc(((struct board_cpu *)opaque)->cpu);
}

static const struct lapic_ops lapic_ops = {
	.raise = raise_attention,
	.guest_tsc = guest_tsc,
};

struct lapic *board_attach_cpu(struct board *b, struct cpu *c)
{
	assert(c->id < b->nr_cpus);
	b->cpu[c->id].cpu = c;
	c->lapic = &b->cpu[c->id].lapic;
	return &b->cpu[c->id].lapic;
}

static void make_lapics(struct board *b, const struct board_config *config)
{
	lapic_bus_init(&b->lapics);
	b->lapics.eoi = end_of_interrupt;
	b->lapics.eoi_opaque = b;
	b->lapics.external = b->irqchip->kind == IRQCHIP_OWN ? NULL : b->irqchip;
	for (unsigned i = 0; i < config->vcpus; i++) {
		struct board_cpu *cpu = &b->cpu[i];

		cpu->board = b;
		cpu->id = i;
		lapic_init(&cpu->lapic, &b->lapics, i, config->loop, &lapic_ops, cpu,
		           config->tsc_hz, CPUID_PHYS_BITS);
		b->nr_cpus++;
	}
}

/* What chips tell the outside; the bus is locked. */

static void ask_reset(void *opaque)
{
	struct board *b = opaque;

	b->host->reset(b->opaque);
}

static void ask_poweroff(void *opaque)
{
	struct board *b = opaque;

	b->host->poweroff(b->opaque);
}

static void ask_exit(void *opaque, int status)
{
	struct board *b = opaque;

	b->host->exit(b->opaque, status);
}

static void put_debug(void *opaque, const uint8_t *buf, size_t n)
{
	struct board *b = opaque;

	b->host->debug(b->opaque, buf, n);
}

/* Construction. */

_Static_assert(PCI_GSIS == PCI_LINES, "the firmware tables describe the chip");

static void make_pci(struct board *b, uint64_t ram_bytes)
{
	struct pci_wires wires = {
		.msi = send_msi,
		.opaque = b,
		.irqchip = b->irqchip,
		.doorbells = b->doorbells,
	};
	bool high = ram_bytes <= GPA_PCI_HIGH - MEM_HIGH_BASE;

	for (unsigned i = 0; i < PCI_LINES; i++)
		wires.line[i] = line(b, GSI_PCI + i);
	pci_host_init(&b->pci, &b->bus, &acpi_reset_ops, &b->pm);
	pci_host_connect(&b->pci, &wires);
	pci_host_set_windows(&b->pci, GPA_PCI_LOW, PCI_LOW_WINDOW, GPA_PCI_HIGH,
	                     high ? PCI_HIGH_WINDOW : 0);
}

static void make_chips(struct board *b, const struct board_config *config)
{
	struct irq_line legacy = { .set = set_legacy, .opaque = b };
	struct irq_line rtc = { .set = set_rtc, .opaque = b };
	struct irq_line intr = { .set = lapic_bus_set_lint, .opaque = &b->lapics, .n = 0 };
	struct i8042_pins pins = { .reset = ask_reset, .opaque = b };
	struct acpi_pm_callbacks pm = { .power_off = ask_poweroff,
		                        .reset = ask_reset,
		                        .opaque = b };

	pins.kbd_irq = line(b, IRQ_KEYBOARD);
	make_lapics(b, config);
	pic_init(&b->pic, intr);
	ioapic_init(&b->ioapic, &b->lapics, IOAPIC_ID);
	pit_init(&b->pit, &b->bus, config->loop, line(b, IRQ_PIT));
	hpet_init(&b->hpet, &b->bus, config->loop, line(b, 0), line(b, 0), legacy);
	rtc_init(&b->rtc, rtc, &b->bus, config->loop);
	uart_init(&b->uart, line(b, IRQ_COM1), config->uart);
	i8042_init(&b->i8042, pins);
	acpi_pm_init(&b->pm, line(b, IRQ_SCI), pm, &b->bus, config->loop, PM_TIMER_BITS);
	make_pci(b, config->mem->ram_bytes);
	debug_port_init(&b->debug_port, put_debug, b);
	exit_port_init(&b->exit_port, ask_exit, b);
}

/* Memory sizes where firmware would have left them for programs that do not read E820. */
static int describe_memory(struct board *b, const struct board_config *config)
{
	uint64_t bytes = config->mem->ram_bytes;
	uint64_t low = bytes < MEM_HOLE_BASE ? bytes : MEM_HOLE_BASE;

	rtc_set_memory(&b->rtc, low, bytes - low);
	return fw_cfg_add_machine(&b->fw_cfg, bytes, config->vcpus);
}

static int make_testdev(struct board *b)
{
	b->testdev = calloc(1, sizeof(*b->testdev));
	if (!b->testdev)
		return -ENOMEM;
	testdev_init(b->testdev, line(b, 0), NULL, NULL);
	return 0;
}

/* The firmware's part: tables in the area that guests scan, read-only from then on, so that they
 * also outlast a reset. */
static int make_firmware(struct board *b, struct mem *m)
{
	uint64_t size = GPA_HIGH_LOAD - GPA_BIOS_AREA;
	struct acpi_args args = {
		.nr_cpus = b->nr_cpus,
		.pm_timer_bits = PM_TIMER_BITS,
		.hpet_id = (uint32_t)hpet_ops.read(&b->hpet, 0, 4),
		.i8042 = false,
		.pci = true,
		.pci_high = b->pci.high.len,
	};
	uint8_t *image = malloc(size);
	int rc = -ENOMEM;

	if (!image)
		return rc;
	rc = acpi_build(m, &args, &b->rsdp);
	if (!rc)
		rc = smbios_build(m);
	if (!rc)
		rc = mem_read(m, GPA_BIOS_AREA, image, size);
	if (!rc)
		rc = mem_add_rom(m, GPA_BIOS_AREA, image, size);
	free(image);
	return rc;
}

/* Everything that has no message of its own. */
static int make_parts(struct board *b, const struct board_config *config)
{
	int rc = bus_init(&b->bus);

	if (rc)
		return rc;
	make_chips(b, config);
	rc = fw_cfg_init(&b->fw_cfg);
	if (!rc)
		rc = describe_memory(b, config);
	if (!rc && config->testdev)
		rc = make_testdev(b);
	return rc;
}

/* The generation ID. A reset, which clears memory, does not change it. */

static void show_generation(struct board *b)
{
	mem_write(b->mem, GPA_VMGENID, b->generation, sizeof(b->generation));
}

static void make_generation(struct board *b)
{
	/* Nothing that is asked for 16 bytes falls short, once the host has booted. */
	while (getrandom(b->generation, sizeof(b->generation), 0) != sizeof(b->generation))
		;
	show_generation(b);
}

void board_new_generation(struct board *b)
{
	make_generation(b);
	bus_lock(&b->bus);
	acpi_pm_raise_gpe(&b->pm, GPE_VMGENID);
	bus_unlock(&b->bus);
}

int board_new(struct board **out, const struct board_config *config, char *err, size_t errlen)
{
	struct board *b;
	int rc;

	assert(config->vcpus >= 1 && config->vcpus <= BOARD_MAX_CPUS);
	b = calloc(1, sizeof(*b));
	if (!b) {
		snprintf(err, errlen, "board: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	b->host = config->host;
	b->opaque = config->opaque;
	b->mem = config->mem;
	make_generation(b);
	b->doorbells = config->doorbells;
	b->irqchip = config->irqchip ? config->irqchip : &own_chips;
	rc = make_parts(b, config);
	if (rc)
		snprintf(err, errlen, "board: %s", strerror(-rc));
	else
		rc = place_all(b, err, errlen);
	if (!rc) {
		rc = make_firmware(b, config->mem);
		if (rc)
			snprintf(err, errlen, "firmware tables: %s", strerror(-rc));
	}
	if (rc) {
		board_free(b);
		return rc;
	}
	*out = b;
	return 0;
}

void board_free(struct board *b)
{
	if (!b)
		return;
	if (b->pci.bus)
		pci_host_free(&b->pci);
	/* A timer that fires meanwhile still finds the local APICs. */
	pit_fini(&b->pit);
	hpet_fini(&b->hpet);
	rtc_fini(&b->rtc);
	acpi_pm_fini(&b->pm);
	for (unsigned i = 0; i < b->nr_cpus; i++)
		lapic_fini(&b->cpu[i].lapic);
	fw_cfg_fini(&b->fw_cfg);
	free(b->testdev);
	bus_fini(&b->bus);
	free(b);
}

int board_plugged(struct board *b)
{
	int rc;

	bus_lock(&b->bus);
	rc = pci_host_assign(&b->pci);
	bus_unlock(&b->bus);
	return rc;
}

void board_stop(struct board *b)
{
	pci_host_stop(&b->pci);
}

void board_resume(struct board *b)
{
	pci_host_resume(&b->pci);
}

void board_reset(struct board *b)
{
	show_generation(b);
	bus_lock(&b->bus);
	/* Sources of interrupts before their controllers, so that no line falls into a fresh one.
	 */
	pit_reset(&b->pit);
	hpet_reset(&b->hpet);
	rtc_reset(&b->rtc);
	uart_reset(&b->uart);
	i8042_reset(&b->i8042);
	acpi_pm_reset(&b->pm);
	pci_host_reset(&b->pci);
	fw_cfg_reset(&b->fw_cfg);
	debug_port_reset(&b->debug_port);
	exit_port_reset(&b->exit_port);
	if (b->testdev)
		testdev_reset(b->testdev);
	ioapic_reset(&b->ioapic);
	pic_reset(&b->pic);
	for (unsigned i = 0; i < b->nr_cpus; i++)
		lapic_reset(&b->cpu[i].lapic);
	bus_unlock(&b->bus);
}

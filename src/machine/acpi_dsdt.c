/*
 * The devices that cannot be found by looking: what the DSDT is for. Every resource is fixed,
 * and power management is that of the fixed registers.
 */
#include "machine/acpi_private.h"

#include <stdio.h>

#include "machine/aml.h"
#include "machine/layout.h"

#define HPET_BYTES    0x400
#define STATUS_ACTIVE 0xf /* _STA: present, decoding, shown, working */
#define PCI_CONFIG    0xcf8

static void write_cpus(struct aml *a, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		char name[8];

		snprintf(name, sizeof(name), "CP%02X", i & 0xff);
		aml_device(a, name);
		aml_name_string(a, "_HID", "ACPI0007");
		aml_name_int(a, "_UID", i); /* as in the MADT */
		aml_close(a);
	}
}

static void write_com1(struct aml *a)
{
	aml_device(a, "COM1");
	aml_name_eisaid(a, "_HID", "PNP0501");
	aml_name_int(a, "_UID", 1);
	aml_name_int(a, "_STA", STATUS_ACTIVE);
	aml_resources(a);
	aml_io(a, PORT_COM1, 8);
	aml_irq(a, IRQ_COM1);
	aml_close(a);
	aml_close(a);
}

static void write_rtc(struct aml *a)
{
	aml_device(a, "RTC_");
	aml_name_eisaid(a, "_HID", "PNP0B00");
	aml_resources(a);
	aml_io(a, PORT_RTC, 2);
	aml_irq(a, IRQ_RTC);
	aml_close(a);
	aml_close(a);
}

static void write_hpet(struct aml *a)
{
	aml_device(a, "HPET");
	aml_name_eisaid(a, "_HID", "PNP0103");
	aml_name_int(a, "_UID", 0);
	aml_resources(a);
	aml_memory(a, GPA_HPET, HPET_BYTES, false);
	aml_close(a);
	aml_close(a);
}

static void write_i8042(struct aml *a)
{
	aml_device(a, "KBD_");
	aml_name_eisaid(a, "_HID", "PNP0303");
	aml_name_int(a, "_STA", STATUS_ACTIVE);
	aml_resources(a);
	aml_io(a, PORT_I8042_DATA, 1);
	aml_io(a, PORT_I8042_CMD, 1);
	aml_irq(a, IRQ_KEYBOARD);
	aml_close(a);
	aml_close(a);
	aml_device(a, "MOU_"); /* the other port of the same chip: Linux warns when it is missing */
	aml_name_eisaid(a, "_HID", "PNP0F13");
	aml_name_int(a, "_STA", STATUS_ACTIVE);
	aml_resources(a);
	aml_irq(a, IRQ_MOUSE);
	aml_close(a);
	aml_close(a);
}

/* What the MCFG table names has to be a resource of the board, not of a bridge (PCI Firmware 3.0,
 * 4.1.2). */
static void write_pci_config(struct aml *a)
{
	aml_device(a, "MBRD");
	aml_name_eisaid(a, "_HID", "PNP0C02");
	aml_name_int(a, "_UID", 0);
	aml_resources(a);
	aml_memory(a, (uint32_t)GPA_PCI_CONFIG, (uint32_t)PCI_CONFIG_WINDOW, true);
	aml_close(a);
	aml_close(a);
}

/*
 * Interrupt pins, four a slot (6.2.13): each goes straight to an input of the I/O APIC, active low
 * and level triggered as the bus has it; PCI_PIN_LINE in pci_host.h is the wiring.
 */
static void write_pins(struct aml *a)
{
	enum { SLOTS = 32, PINS = 4 };

	aml_name_packages(a, "_PRT", SLOTS * PINS);
	for (unsigned i = 0; i < SLOTS * PINS; i++) {
		unsigned slot = i / PINS, pin = i % PINS;

		aml_package(a, 4);
		aml_int(a, (uint64_t)slot << 16 | 0xffff); /* every function */
		aml_int(a, pin);
		aml_int(a, 0); /* no link device: a number */
		aml_int(a, GSI_PCI + (slot + pin) % PCI_GSIS);
		aml_close(a);
	}
	aml_close(a);
}

/* Memory from the configuration space to the I/O APIC and the end of the address space are for PCI
 * devices, and all ports but its own. */
static void write_pci(struct aml *a, bool high)
{
	aml_device(a, "PCI0");
	aml_name_eisaid(a, "_HID", "PNP0A03");
	aml_name_int(a, "_UID", 0);
	aml_name_int(a, "_BBN", 0);
	aml_resources(a);
	aml_window_bus(a, 0, 0);
	aml_io(a, PCI_CONFIG, 8);
	aml_window_io(a, 0, PCI_CONFIG - 1);
	aml_window_io(a, PCI_CONFIG + 8, UINT16_MAX);
	aml_window_memory(a, GPA_PCI_LOW, GPA_PCI_LOW + PCI_LOW_WINDOW - 1);
	if (high)
		aml_window_memory(a, GPA_PCI_HIGH, GPA_PCI_HIGH + PCI_HIGH_WINDOW - 1);
	aml_close(a);
	write_pins(a);
	aml_close(a);
}

/*
 * The VM generation ID, as Microsoft's paper of that name has it: a number at an address, and a
 * notification when it has changed. Linux knows the device by either of two names.
 */
static void write_generation(struct aml *a)
{
	aml_device(a, "VGEN");
	aml_name_string(a, "_HID", "TRPZ0001");
	aml_name_packages(a, "_CID", 2);
	aml_string(a, "VM_Gen_Counter");
	aml_string(a, "VMGENCTR");
	aml_close(a);
	aml_name_string(a, "_DDN", "VM_Gen_Counter");
	aml_name_packages(a, "ADDR", 2);
	aml_int(a, GPA_VMGENID & UINT32_MAX);
	aml_int(a, GPA_VMGENID >> 32);
	aml_close(a);
	aml_close(a);
}

/* Level-triggered events, by number (5.6.4.1). */
static void write_events(struct aml *a)
{
	char name[5];

	snprintf(name, sizeof(name), "_L%02X", GPE_VMGENID);
	aml_scope(a, "_GPE");
	aml_notify_method(a, name, "VGEN", 0x80);
	aml_close(a);
}

size_t acpi_write_dsdt(const struct acpi_args *args, void *buf, size_t size)
{
	/* PM1a and PM1b sleep types, and two that are reserved (7.4.2). */
	static const uint8_t s5[] = { SLEEP_S5_TYPE, SLEEP_S5_TYPE, 0, 0 };
	struct aml a;

	aml_begin(&a, buf, size);
	aml_name_package(&a, "_S5_", s5, ARRAY_SIZE(s5));
	aml_scope(&a, "_SB_");
	write_cpus(&a, args->nr_cpus);
	if (args->pci) {
		write_pci_config(&a);
		write_pci(&a, args->pci_high);
	}
	write_com1(&a);
	write_rtc(&a);
	if (args->hpet_id)
		write_hpet(&a);
	if (args->i8042)
		write_i8042(&a);
	write_generation(&a);
	aml_close(&a);
	write_events(&a);
	return aml_end(&a);
}

/*
 * The ACPI tables of the board (ACPI 6.4, chapter 5), written into the reserved area below 1 MiB.
 *
 * They describe the numbers of layout.h. The machine starts in ACPI mode: there is no SMI command.
 */
#pragma once

#include "mem/mem.h"

#define ACPI_MAX_CPUS 255

struct acpi_args {
	unsigned nr_cpus;       /* APIC ids 0 to nr_cpus - 1 */
	unsigned pm_timer_bits; /* 24 or 32 */
	uint32_t hpet_id;       /* low half of its capabilities register, 0: there is no HPET */
	bool i8042;             /* a keyboard controller that drivers should look for */
	bool pci;               /* a root bridge, \_SB.PCI0, and its configuration space */
	bool pci_high;          /* with a window above 4 GiB, too */
};

/* 0 and the address of the root pointer; -EINVAL for absurd arguments, -EFAULT, -ENOSPC. */
int acpi_build(struct mem *m, const struct acpi_args *a, gpa_t *rsdp);

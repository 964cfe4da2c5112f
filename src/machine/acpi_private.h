/*
 * Between the parts of the ACPI tables.
 */
#pragma once

#include "machine/acpi.h"

/* The definition block after the header of the DSDT: its length, or 0 when it does not fit. */
size_t acpi_write_dsdt(const struct acpi_args *a, void *buf, size_t size);

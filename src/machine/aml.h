/*
 * Writes ACPI Machine Language (ACPI 6.4, chapter 20) as a table of devices reads: open a scope,
 * put names and resources into it, close it.
 *
 *     aml_device(a, "COM1");
 *     aml_name_eisaid(a, "_HID", "PNP0501");
 *     aml_resources(a);
 *     aml_io(a, 0x3f8, 8);
 *     aml_irq(a, 4);
 *     aml_close(a);
 *     aml_close(a);
 *
 * Names are exactly four characters. A buffer that is too small is remembered and told by
 * aml_end().
 */
#pragma once

#include "base/base.h"

#define AML_MAX_DEPTH 8

struct aml {
	uint8_t *buf;
	size_t size, used; /* used may pass size: nothing is written there */
	unsigned depth;
	struct aml_scope {
		size_t length_at; /* where its PkgLength goes */
		size_t buffer_at; /* where a resource template's size goes, 0 for other scopes */
	} scope[AML_MAX_DEPTH];
};

void aml_begin(struct aml *a, void *buf, size_t size);
/* Bytes written, or 0 when the buffer was too small. */
size_t aml_end(struct aml *a);

void aml_scope(struct aml *a, const char *name); /* below the root */
void aml_device(struct aml *a, const char *name);
void aml_resources(struct aml *a); /* _CRS: the resources that follow */
void aml_close(struct aml *a);     /* the innermost of these, and of packages */

void aml_name_int(struct aml *a, const char *name, uint64_t value);
void aml_name_string(struct aml *a, const char *name, const char *value);
/* id as "PNP0501". */
void aml_name_eisaid(struct aml *a, const char *name, const char *id);
/* A package of n small integers. */
void aml_name_package(struct aml *a, const char *name, const uint8_t *value, unsigned n);
/* A package of n elements, which follow: packages, integers, strings. aml_close() ends each. */
void aml_name_packages(struct aml *a, const char *name, unsigned n);
void aml_package(struct aml *a, unsigned n);
void aml_string(struct aml *a, const char *value);
void aml_int(struct aml *a, uint64_t value);

/* A method without arguments that tells the device `name` below \_SB that something has happened.
 */
void aml_notify_method(struct aml *a, const char *method, const char *name, uint8_t what);

/* Resource descriptors (ACPI 6.4, 6.4): consumed by the device. */
void aml_io(struct aml *a, uint16_t port, uint8_t len);
void aml_irq(struct aml *a, unsigned irq); /* ISA: edge triggered, active high, exclusive */
void aml_memory(struct aml *a, uint32_t base, uint32_t len, bool writable);
/* What a bus bridge passes on to its devices, [min, max]. */
void aml_window_bus(struct aml *a, uint16_t min, uint16_t max);
void aml_window_io(struct aml *a, uint16_t min, uint16_t max);
void aml_window_memory(struct aml *a, uint64_t min, uint64_t max);

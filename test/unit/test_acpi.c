/* The firmware tables: found and walked as a guest does, and read by iasl where there is one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "machine/acpi.h"
#include "machine/aml.h"
#include "machine/layout.h"
#include "machine/smbios.h"

static const struct acpi_args all = {
	.nr_cpus = 4, .pm_timer_bits = 32, .hpet_id = 0x8086a201, .i8042 = true, .pci = true
};

static const uint8_t *guest(struct mem *m, gpa_t gpa, uint64_t len)
{
	const uint8_t *p = mem_host(m, gpa, len, false);

	assert_non_null(p);
	return p;
}

static uint32_t read32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

static uint64_t read64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return v;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s += *p++;
	return s;
}

static struct mem *build(const struct acpi_args *a, gpa_t *rsdp)
{
	struct mem *m;

	assert_int_equal(mem_new(&m, MEM_MIN_BYTES), 0);
	assert_int_equal(acpi_build(m, a, rsdp), 0);
	return m;
}

/* A table with a good checksum inside the reserved area. */
static const uint8_t *check_table(struct mem *m, gpa_t gpa, const char *signature, uint32_t *len)
{
	const uint8_t *p = guest(m, gpa, 36);

	*len = read32(p + 4);
	assert_in_range(gpa, GPA_ACPI_TABLES, GPA_ACPI_TABLES + ACPI_TABLES_BYTES - *len);
	if (signature)
		assert_memory_equal(p, signature, 4);
	p = guest(m, gpa, *len);
	assert_int_equal(sum(p, *len), 0);
	return p;
}

static const uint8_t *find_table(struct mem *m, gpa_t rsdp, const char *signature, uint32_t *len)
{
	const uint8_t *r = guest(m, rsdp, 36);
	uint32_t rsdt_len, xsdt_len;
	const uint8_t *rsdt = check_table(m, read32(r + 16), "RSDT", &rsdt_len);
	const uint8_t *xsdt = check_table(m, read64(r + 24), "XSDT", &xsdt_len);
	unsigned n = (xsdt_len - 36) / 8;

	assert_memory_equal(r, "RSD PTR ", 8);
	assert_int_equal(rsdp % 16, 0);
	assert_int_equal(sum(r, 20), 0);
	assert_int_equal(sum(r, 36), 0);
	assert_int_equal((rsdt_len - 36) / 4, n);
	for (unsigned i = 0; i < n; i++) {
		gpa_t gpa = read64(xsdt + 36 + 8 * i);
		const uint8_t *t = check_table(m, gpa, NULL, len);

		assert_int_equal(read32(rsdt + 36 + 4 * i), gpa);
		if (!memcmp(t, signature, 4))
			return t;
	}
	return NULL;
}

static void fadt_has_the_registers(void **state)
{
	gpa_t rsdp;
	struct mem *m = build(&all, &rsdp);
	uint32_t len, dsdt_len;
	const uint8_t *f = find_table(m, rsdp, "FACP", &len);

	assert_int_equal(len, 276);
	assert_memory_equal(guest(m, read32(f + 36), 64), "FACS", 4);
	assert_int_equal(read32(f + 36) % 64, 0);
	assert_int_equal(read32(f + 40), read64(f + 140));
	check_table(m, read32(f + 40), "DSDT", &dsdt_len);
	assert_int_equal(read32(f + 56), 0x600);
	assert_int_equal(read32(f + 64), 0x604);
	assert_int_equal(read32(f + 76), 0x608);
	assert_int_equal(read64(f + 120), 0xcf9);
	assert_true(read32(f + 112) & BIT(8));
	assert_true(f[109] & BIT(1));
	mem_free(m);
}

static void madt_lists_cpus(void **state)
{
	for (unsigned n = 1; n <= ACPI_MAX_CPUS; n = n * 2 + 1) {
		struct acpi_args a = { .nr_cpus = n, .pm_timer_bits = 24 };
		gpa_t rsdp;
		struct mem *m = build(&a, &rsdp);
		unsigned cpus = 0, others = 0;
		uint32_t len, hpet_len;
		const uint8_t *t = find_table(m, rsdp, "APIC", &len);

		for (uint32_t at = 44; at < len; at += t[at + 1]) {
			assert_true(t[at + 1] >= 2);
			if (t[at] == 0)
				assert_int_equal(t[at + 3], cpus++);
			else
				others++;
		}
		assert_int_equal(cpus, n);
		assert_int_equal(others, 4);
		assert_null(find_table(m, rsdp, "HPET", &hpet_len));
		mem_free(m);
	}
}

static void mcfg_has_one_bus(void **state)
{
	struct acpi_args none = { .nr_cpus = 1, .pm_timer_bits = 24 };
	gpa_t rsdp;
	struct mem *m = build(&all, &rsdp);
	uint32_t len;
	const uint8_t *t = find_table(m, rsdp, "MCFG", &len);

	assert_int_equal(len, 60);
	assert_int_equal(read64(t + 44), GPA_PCI_CONFIG);
	assert_int_equal(read32(t + 52), 0); /* segment, first and last bus */
	mem_free(m);
	m = build(&none, &rsdp);
	assert_null(find_table(m, rsdp, "MCFG", &len));
	mem_free(m);
}

static void absurd_arguments(void **state)
{
	struct acpi_args a = { .nr_cpus = 0 };
	struct mem *m;
	gpa_t rsdp;

	assert_int_equal(mem_new(&m, MEM_MIN_BYTES), 0);
	assert_int_equal(acpi_build(m, &a, &rsdp), -EINVAL);
	a.nr_cpus = ACPI_MAX_CPUS + 1;
	assert_int_equal(acpi_build(m, &a, &rsdp), -EINVAL);
	mem_free(m);
}

static void aml_encodes(void **state)
{
	static const uint8_t expected[] = {
		0x5b, 0x82, 0x85, 0x02, 0x00, 'D',  'E',  'V',  '0',        /* Device, 0x25 bytes */
		0x08, '_',  'H',  'I',  'D',  0x0c, 0x41, 0xd0, 0x05, 0x01, /* EisaId ("PNP0501") */
		0x08, 'V',  'A',  'L',  '0',  0x0b, 0x34, 0x12, 0x08, 'V',
		'A',  'L',  '1',  0x00, 0x08, 'V',  'A',  'L',  '2',  0x01,
	};
	uint8_t buf[64];
	struct aml a;

	aml_begin(&a, buf, sizeof(buf));
	aml_device(&a, "DEV0");
	aml_name_eisaid(&a, "_HID", "PNP0501");
	aml_name_int(&a, "VAL0", 0x1234);
	aml_name_int(&a, "VAL1", 0);
	aml_name_int(&a, "VAL2", 1);
	aml_close(&a);
	assert_int_equal(a.used, sizeof(expected));
	assert_memory_equal(buf, expected, sizeof(expected));
	assert_int_equal(aml_end(&a), sizeof(expected));
}

static void aml_too_long(void **state)
{
	uint8_t buf[16];
	struct aml a;

	memset(buf, 0xee, sizeof(buf));
	aml_begin(&a, buf, 10);
	aml_device(&a, "DEV0");
	aml_name_string(&a, "_STR", "longer than the buffer");
	aml_close(&a);
	assert_int_equal(aml_end(&a), 0);
	assert_int_equal(buf[10], 0xee);
}

static void write_file(const char *path, const void *data, size_t len)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

/* Disassembles and compiles again: silence from both is what we want. */
static void iasl_accepts(void **state)
{
	static const char *const names[] = { "FACP", "APIC", "HPET", "MCFG", "DSDT" };
	char dir[] = "/tmp/trapeze-acpi-XXXXXX", path[64], command[256];
	gpa_t rsdp;
	struct mem *m;

	if (system("iasl -v >/dev/null 2>&1") != 0)
		skip();
	m = build(&all, &rsdp);
	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		uint32_t len;
		const uint8_t *t;

		if (strcmp(names[i], "DSDT"))
			t = find_table(m, rsdp, names[i], &len);
		else
			t = check_table(m, read32(find_table(m, rsdp, "FACP", &len) + 40), "DSDT",
			                &len);
		snprintf(path, sizeof(path), "%s/%s.dat", dir, names[i]);
		write_file(path, t, len);
		snprintf(command, sizeof(command),
		         "cd %s && iasl -d %s.dat >log 2>&1 && ! grep -iE 'error|warning' log && "
		         "iasl %s.dsl >log 2>&1 && grep -q '0 Errors, 0 Warnings, 0 Remarks' log",
		         dir, names[i], names[i]);
		assert_int_equal(system(command), 0);
	}
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
	mem_free(m);
}

static void smbios_structures(void **state)
{
	static const uint8_t types[] = { 0, 1, 3, 127 };
	struct mem *m;
	const uint8_t *e, *p, *end;

	assert_int_equal(mem_new(&m, MEM_MIN_BYTES), 0);
	assert_int_equal(smbios_build(m), 0);
	e = guest(m, GPA_SMBIOS, 31);
	assert_memory_equal(e, "_SM_", 4);
	assert_int_equal(sum(e, 31), 0);
	assert_memory_equal(e + 16, "_DMI_", 5);
	assert_int_equal(sum(e + 16, 15), 0);
	p = guest(m, read32(e + 24), e[22] | e[23] << 8);
	end = p + (e[22] | e[23] << 8);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		assert_true(p < end);
		assert_int_equal(p[0], types[i]);
		for (p += p[1]; p[0] || p[1]; p++)
			assert_true(p + 1 < end);
		p += 2;
	}
	assert_ptr_equal(p, end);
	mem_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fadt_has_the_registers),
		cmocka_unit_test(madt_lists_cpus),
		cmocka_unit_test(mcfg_has_one_bus),
		cmocka_unit_test(absurd_arguments),
		cmocka_unit_test(aml_encodes),
		cmocka_unit_test(aml_too_long),
		cmocka_unit_test(iasl_accepts),
		cmocka_unit_test(smbios_structures),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The ACPI tables, found and read as an operating system does; then power-off by what they say. */
#include "device.h"

struct header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision, creator_id, creator_revision;
} __attribute__((packed));

/* Offsets in the FADT. */
enum {
	FADT_FACS = 36,
	FADT_DSDT = 40,
	FADT_SCI = 46,
	FADT_PM1_EVENT = 56,
	FADT_PM1_CONTROL = 64,
	FADT_PM_TIMER = 76,
	FADT_X_DSDT = 140
};

#define SLEEP 0x2000

static bool sums_to_zero(const void *at, size_t n)
{
	const uint8_t *p = at;
	uint8_t sum = 0;

	while (n--)
		sum = (uint8_t)(sum + *p++);
	return !sum;
}

static uint32_t field32(const struct header *h, unsigned at)
{
	uint32_t v;

	memcpy(&v, (const uint8_t *)h + at, sizeof(v));
	return v;
}

static const uint8_t *scan(uintptr_t from, uintptr_t to)
{
	for (; from < to; from += 16) {
		if (!memcmp((void *)from, "RSD PTR ", 8) && sums_to_zero((void *)from, 20))
			return (const uint8_t *)from;
	}
	return NULL;
}

static const uint8_t *find_rsdp(void)
{
	uintptr_t ebda = (uintptr_t) * (uint16_t *)memory_at(0x40e) << 4;
	const uint8_t *rsdp = NULL;

	if (ebda)
		rsdp = scan(ebda, ebda + 1024);
	return rsdp ? rsdp : scan(0xe0000, 0x100000);
}

/* Roots list tables as 32-bit (RSDT) or 64-bit (XSDT) addresses. */
static const struct header *find_table(const struct header *root, unsigned width, const char *name)
{
	for (unsigned at = sizeof(*root); at + width <= root->length; at += width) {
		const struct header *h = (const void *)(uintptr_t)field32(root, at);

		if (!memcmp(h->signature, name, 4))
			return h;
	}
	return NULL;
}

static bool is_table(const struct header *h, const char *name)
{
	return h && !memcmp(h->signature, name, 4) && h->length >= sizeof(*h) &&
	       sums_to_zero(h, h->length);
}

static unsigned count_entries(const struct header *madt, unsigned type)
{
	const uint8_t *p = (const uint8_t *)madt;
	unsigned n = 0;

	for (unsigned at = 44; at + 2 <= madt->length && p[at + 1] >= 2; at += p[at + 1])
		n += p[at] == type;
	return n;
}

/* The bytes of \_S5 in the DSDT: name, package of n elements, the first is SLP_TYPa. */
static int find_s5(const struct header *dsdt)
{
	const uint8_t *p = (const uint8_t *)dsdt;

	for (unsigned at = sizeof(*dsdt); at + 12 < dsdt->length; at++) {
		if (memcmp(p + at, "_S5_", 4) || p[at + 4] != 0x12)
			continue;
		at += 5 + (p[at + 5] >> 6) + 2; /* package op, its length, number of elements */
		return p[at] == 0x0a ? p[at + 1] : p[at];
	}
	return -1;
}

static void power_off(const struct header *fadt, int type)
{
	uint16_t port = (uint16_t)field32(fadt, FADT_PM1_CONTROL);

	out16(port, (uint16_t)((in16(port) & 0xc3ff) | (unsigned)type << 10));
	out16(port, (uint16_t)((in16(port) & 0xc3ff) | (unsigned)type << 10 | SLEEP));
	delay_us(1000000);
}

static void test_tables(const struct header *root, unsigned width)
{
	const struct header *fadt = find_table(root, width, "FACP");
	const struct header *madt = find_table(root, width, "APIC");
	const struct header *hpet = find_table(root, width, "HPET");
	const struct header *dsdt;
	int s5;

	ok("FADT", is_table(fadt, "FACP"));
	ok("MADT", is_table(madt, "APIC"));
	ok("HPET", is_table(hpet, "HPET"));
	ok_equal("the local APICs' address", field32(madt, 36), LAPIC_BASE);
	ok("one processor", count_entries(madt, 0) + count_entries(madt, 9) == 1);
	ok_equal("one I/O APIC", count_entries(madt, 1), 1);
	ok("line 0 is redirected", count_entries(madt, 2) >= 1);
	ok_equal("the HPET's address", field32(hpet, 44), HPET_BASE);
	ok_equal("the PM timer's port", field32(fadt, FADT_PM_TIMER), PORT_PM_TIMER);
	dsdt = (const void *)(uintptr_t)field32(fadt, FADT_DSDT);
	if (!dsdt && fadt->length > FADT_X_DSDT)
		dsdt = (const void *)(uintptr_t)field32(fadt, FADT_X_DSDT);
	ok("DSDT", is_table(dsdt, "DSDT"));
	ok("FACS", !memcmp((void *)(uintptr_t)field32(fadt, FADT_FACS), "FACS", 4));
	s5 = find_s5(dsdt);
	ok("a type for S5", s5 >= 0 && s5 < 8);
	power_off(fadt, s5);
	guest_die("power-off");
}

void guest_run(void)
{
	const uint8_t *rsdp = find_rsdp();
	const struct header *rsdt, *xsdt = NULL;

	ok("RSDP", rsdp);
	if (!rsdp)
		return;
	rsdt = (const void *)(uintptr_t) * (const uint32_t *)(rsdp + 16);
	if (rsdp[15] >= 2) {
		ok("the longer RSDP's sum", sums_to_zero(rsdp, *(const uint32_t *)(rsdp + 20)));
		xsdt = (const void *)(uintptr_t) * (const uint64_t *)(rsdp + 24);
		ok("XSDT", is_table(xsdt, "XSDT"));
	}
	if (rsdt)
		ok("RSDT", is_table(rsdt, "RSDT"));
	test_tables(xsdt ? xsdt : rsdt, xsdt ? 8 : 4);
}

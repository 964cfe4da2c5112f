#include "machine/smbios.h"

#include <errno.h>
#include <string.h>

#include "machine/layout.h"

#define VENDOR        "Trapeze"
#define BIOS_DATE     "01/01/2026"
#define ROM_64K       0      /* BIOS ROM size: (n + 1) * 64 KiB */
#define CHAR_NONE     BIT(3) /* BIOS characteristics not supported */
#define EXT_VIRTUAL   BIT(4) /* second extension byte: a virtual machine */
#define WAKE_POWER    6
#define CHASSIS_OTHER 1
#define STATE_SAFE    3
#define STATE_UNKNOWN 2

enum { TYPE_BIOS = 0, TYPE_SYSTEM = 1, TYPE_CHASSIS = 3, TYPE_END = 127 };

struct entry_point {
	char anchor[4];
	uint8_t checksum, length, major, minor;
	uint16_t max_size;
	uint8_t revision, formatted[5];
	char dmi_anchor[5];
	uint8_t dmi_checksum;
	uint16_t table_length;
	uint32_t table;
	uint16_t count;
	uint8_t bcd;
} __attribute__((packed));

struct head {
	uint8_t type, length;
	uint16_t handle;
} __attribute__((packed));

/* Numbers named "string" count the strings that follow the structure, from 1. */
struct bios {
	struct head h;
	uint8_t vendor_string, version_string;
	uint16_t segment;
	uint8_t date_string, rom_size;
	uint64_t characteristics;
	uint8_t extension[2], major, minor, ec_major, ec_minor;
} __attribute__((packed));

struct system {
	struct head h;
	uint8_t vendor_string, product_string, version_string, serial_string, uuid[16], wake_up;
	uint8_t sku_string, family_string;
} __attribute__((packed));

struct chassis {
	struct head h;
	uint8_t vendor_string, type, version_string, serial_string, asset_string;
	uint8_t boot_state, power_state, thermal_state, security;
} __attribute__((packed));

_Static_assert(sizeof(struct entry_point) == 31, "SMBIOS entry point");
_Static_assert(sizeof(struct bios) == 0x18, "SMBIOS type 0");
_Static_assert(sizeof(struct system) == 0x1b, "SMBIOS type 1");

static const struct bios bios = {
	.h = { TYPE_BIOS, sizeof(bios), TYPE_BIOS },
	.vendor_string = 1,
	.version_string = 2,
	.segment = GPA_BIOS_AREA >> 4,
	.date_string = 3,
	.rom_size = ROM_64K,
	.characteristics = CHAR_NONE,
	.extension = { 0, EXT_VIRTUAL },
	.ec_major = 0xff,
	.ec_minor = 0xff,
};
static const struct system machine = {
	.h = { TYPE_SYSTEM, sizeof(machine), TYPE_SYSTEM },
	.vendor_string = 1,
	.product_string = 2,
	.version_string = 3,
	.wake_up = WAKE_POWER,
};
static const struct chassis chassis = {
	.h = { TYPE_CHASSIS, sizeof(chassis), TYPE_CHASSIS },
	.vendor_string = 1,
	.type = CHASSIS_OTHER,
	.boot_state = STATE_SAFE,
	.power_state = STATE_SAFE,
	.thermal_state = STATE_SAFE,
	.security = STATE_UNKNOWN,
};
static const struct head end = { TYPE_END, sizeof(end), TYPE_END };

/* Structures and their strings, each ending with two zero bytes. */
static const struct {
	const void *data;
	uint8_t size;
	const char *strings;
	uint8_t strings_size;
} structures[] = {
#define STRINGS(s) s "\0", sizeof(s) + 1
	{ &bios, sizeof(bios), STRINGS(VENDOR "\0" TRAPEZE_VERSION "\0" BIOS_DATE) },
	{ &machine, sizeof(machine),
	  STRINGS(VENDOR "\0"
	                 "Trapeze PC"
	                 "\0" TRAPEZE_VERSION) },
	{ &chassis, sizeof(chassis), STRINGS(VENDOR) },
	{ &end, sizeof(end), STRINGS("") },
#undef STRINGS
};

static uint8_t checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	while (len--)
		sum += *p++;
	return (uint8_t)-sum;
}

int smbios_build(struct mem *m)
{
	gpa_t table = GPA_SMBIOS + 32, at = table;
	struct entry_point e = { .anchor = "_SM_",
		                 .length = sizeof(e),
		                 .major = 2,
		                 .minor = 8,
		                 .dmi_anchor = "_DMI_",
		                 .table = (uint32_t)table,
		                 .count = ARRAY_SIZE(structures),
		                 .bcd = 0x28 };

	for (size_t i = 0; i < ARRAY_SIZE(structures); i++) {
		uint16_t size = structures[i].size + structures[i].strings_size;

		if (mem_write(m, at, structures[i].data, structures[i].size) ||
		    mem_write(m, at + structures[i].size, structures[i].strings,
		              structures[i].strings_size))
			return -EFAULT;
		if (size > e.max_size)
			e.max_size = size;
		at += size;
	}
	e.table_length = (uint16_t)(at - table);
	e.dmi_checksum = checksum(&e.dmi_anchor, 15);
	e.checksum = checksum(&e, sizeof(e));
	return mem_write(m, GPA_SMBIOS, &e, sizeof(e));
}

/* fw_cfg through its ports: signature, numbers, the file directory. */
#include "device.h"

#define SELECT 0x510
#define DATA   0x511

enum { SIGNATURE = 0, ID = 1, RAM_SIZE = 3, CPUS = 5, MAX_CPUS_KEY = 15, DIRECTORY = 0x19 };

static uint64_t get(unsigned key, unsigned bytes)
{
	uint64_t v = 0;

	out16(SELECT, (uint16_t)key);
	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)in8(DATA) << 8 * i;
	return v;
}

static uint32_t big_endian(void)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < 4; i++)
		v = v << 8 | in8(DATA);
	return v;
}

void guest_run(void)
{
	uint32_t files;

	ok_equal("signature", get(SIGNATURE, 4), 0x554d4551); /* QEMU */
	ok_equal("read again", get(SIGNATURE, 4), 0x554d4551);
	ok_equal("beyond its end are zeros", get(SIGNATURE, 8), 0x554d4551);
	ok("the interface has ports", get(ID, 4) & 1);
	ok_equal("RAM size", get(RAM_SIZE, 8), 128ul << 20);
	ok_equal("CPUs", get(CPUS, 2), 2);
	ok("at most so many", get(MAX_CPUS_KEY, 2) >= 2);
	out16(SELECT, DIRECTORY);
	files = big_endian();
	ok("a directory of files", files < 256);
	ok_equal("a key that nobody has", get(0x3ffe, 4), 0);
	out8(DATA, 0xff);
	ok_equal("items are read-only", get(SIGNATURE, 4), 0x554d4551);
}

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "unit.h"
#include "device/fw_cfg.h"

struct fixture {
	struct bus bus;
	struct fw_cfg cfg;
};

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));

	bus_init(&f->bus);
	assert_int_equal(fw_cfg_init(&f->cfg), 0);
	bus_add(&f->bus, BUS_PIO, FW_CFG_PORT, FW_CFG_LEN, &fw_cfg_ops, &f->cfg, "fw_cfg");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fw_cfg_fini(&f->cfg);
	bus_fini(&f->bus);
	test_free(f);
	return 0;
}

static void read_item(struct fixture *f, uint16_t key, void *buf, size_t n)
{
	uint8_t *p = buf;

	outw(&f->bus, 0x510, key);
	while (n--)
		*p++ = inb(&f->bus, 0x511);
}

static uint64_t read_number(struct fixture *f, uint16_t key, size_t n)
{
	uint64_t value = 0;

	read_item(f, key, &value, n);
	return value;
}

static void signature_and_version(void **state)
{
	struct fixture *f = *state;
	char sig[6] = "";

	read_item(f, FW_CFG_SIGNATURE, sig, 5);
	assert_string_equal(sig, "QEMU"); /* and zeros behind */
	assert_int_equal(read_number(f, FW_CFG_ID, 8), 1);
	assert_int_equal(read_number(f, 0x7777, 8), 0);
	outb(&f->bus, 0x511, 'x'); /* items are read-only */
	read_item(f, FW_CFG_SIGNATURE, sig, 5);
	assert_string_equal(sig, "QEMU");
}

static void the_machine(void **state)
{
	struct fixture *f = *state;
	char line[16];

	assert_int_equal(fw_cfg_add_machine(&f->cfg, 6 * GiB, 4), 0);
	assert_int_equal(fw_cfg_add_cmdline(&f->cfg, "console=ttyS0"), 0);
	assert_int_equal(read_number(f, FW_CFG_RAM_SIZE, 8), 6 * GiB);
	assert_int_equal(read_number(f, FW_CFG_NB_CPUS, 2), 4);
	assert_int_equal(read_number(f, FW_CFG_MAX_CPUS, 2), 4);
	assert_int_equal(read_number(f, FW_CFG_CMDLINE_SIZE, 4), 14);
	read_item(f, FW_CFG_CMDLINE_DATA, line, 14);
	assert_string_equal(line, "console=ttyS0");
	assert_int_equal(fw_cfg_add_u16(&f->cfg, FW_CFG_NB_CPUS, 2), 0);
	assert_int_equal(read_number(f, FW_CFG_NB_CPUS, 2), 2);
}

static void files_are_listed(void **state)
{
	struct fixture *f = *state;
	uint8_t dir[4 + 2 * 64];
	char body[8] = "";

	assert_int_equal(read_number(f, FW_CFG_FILE_DIR, 4), 0);
	assert_int_equal(fw_cfg_add_file(&f->cfg, "opt/a", "alpha", 5), 0);
	assert_int_equal(fw_cfg_add_file(&f->cfg, "etc/b", "", 0), 0);
	assert_int_equal(fw_cfg_add_file(&f->cfg, "opt/a", "x", 1), -EEXIST);
	read_item(f, FW_CFG_FILE_DIR, dir, sizeof(dir));
	assert_memory_equal(dir, "\0\0\0\2\0\0\0\5\0\x20\0\0opt/a", 18);
	assert_memory_equal(dir + 68, "\0\0\0\0\0\x21\0\0etc/b", 14);
	read_item(f, 0x20, body, 7);
	assert_string_equal(body, "alpha");
}

static void limits_are_errors(void **state)
{
	struct fixture *f = *state;
	char name[80];
	int rc = 0;
	unsigned n = 0;

	memset(name, 'n', sizeof(name));
	name[FW_CFG_NAME_LEN] = '\0';
	assert_int_equal(fw_cfg_add_file(&f->cfg, name, "", 0), -ENAMETOOLONG);
	while (!rc) {
		snprintf(name, sizeof(name), "file%u", n);
		rc = fw_cfg_add_file(&f->cfg, name, "x", 1);
		n += !rc;
	}
	assert_int_equal(rc, -ENOSPC);
	assert_int_equal(n, FW_CFG_MAX_FILES);
	for (rc = 0, n = 0x8000; !rc; n++)
		rc = fw_cfg_add_u16(&f->cfg, (uint16_t)n, 0);
	assert_int_equal(rc, -ENOSPC);
	assert_int_equal(f->cfg.nr_items, FW_CFG_MAX_ITEMS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(signature_and_version, setup, teardown),
		cmocka_unit_test_setup_teardown(the_machine, setup, teardown),
		cmocka_unit_test_setup_teardown(files_are_listed, setup, teardown),
		cmocka_unit_test_setup_teardown(limits_are_errors, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

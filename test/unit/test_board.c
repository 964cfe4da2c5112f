/* What the board adds to its chips: the VM generation ID. */
#include <stddef.h>
#include <stdint.h>

#include "fake_machine.h"

static void read_generation(uint8_t id[16])
{
	assert_int_equal(mem_read(fake.mem, GPA_VMGENID, id, 16), 0);
}

static void generations_differ(void **state)
{
	uint8_t none[16] = { 0 }, first[16], second[16], third[16];
	uint64_t status = 0;

	fake_setup(1);
	read_generation(first);
	assert_memory_not_equal(first, none, 16);
	board_new_generation(fake.board);
	read_generation(second);
	assert_memory_not_equal(first, second, 16);
	assert_true(bus_read(&fake.board->bus, BUS_PIO, PORT_GPE0, 1, &status));
	assert_int_equal(status, BIT(GPE_VMGENID));

	assert_int_equal(mem_clear(fake.mem), 0); /* a reset is no new generation */
	board_reset(fake.board);
	read_generation(third);
	assert_memory_equal(second, third, 16);
	fake_teardown();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(generations_differ),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

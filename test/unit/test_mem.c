/* Guest memory: banks, the hole, ROM overlays, bounds. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "mem/mem.h"

static struct mem *new_mem(uint64_t bytes)
{
	struct mem *m = NULL;

	assert_int_equal(mem_new(&m, bytes), 0);
	return m;
}

/* As the guest's addresses do, RAM begins on a large page. */
static void ram_is_aligned(void **state)
{
	struct mem *m = new_mem(MEM_HOLE_BASE + MEM_MIN_BYTES);

	assert_int_equal((uintptr_t)m->ram[0] % (2 * MiB), 0);
	assert_int_equal((uintptr_t)m->ram[1] % (2 * MiB), 0);
	mem_free(m);
}

static void sizes_are_checked(void **state)
{
	static const uint64_t bad[] = { 0,
		                        1,
		                        PAGE_SIZE,
		                        MEM_MIN_BYTES - PAGE_SIZE,
		                        MEM_MIN_BYTES + 1,
		                        MEM_MAX_BYTES + PAGE_SIZE,
		                        UINT64_MAX };
	struct mem *m = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(mem_new(&m, bad[i]), -EINVAL);
	assert_null(m);
	mem_free(NULL);
}

static void small_memory_is_one_bank(void **state)
{
	struct mem *m = new_mem(MEM_MIN_BYTES);

	assert_int_equal(m->nr_banks, 1);
	assert_non_null(mem_host(m, 0, MEM_MIN_BYTES, true));
	assert_null(mem_host(m, 0, MEM_MIN_BYTES + 1, true));
	assert_null(mem_host(m, MEM_MIN_BYTES, 1, false));
	assert_null(mem_host(m, PAGE_SIZE, UINT64_MAX, false));
	assert_null(mem_find(m, UINT64_MAX));
	mem_free(m);
}

static void memory_above_the_hole(void **state)
{
	struct mem *m = new_mem(6 * GiB);
	uint64_t v = 0;

	assert_int_equal(m->nr_banks, 2);
	assert_null(mem_find(m, MEM_HOLE_BASE));
	assert_null(mem_find(m, MEM_HIGH_BASE - 1));
	assert_int_equal(mem_find(m, MEM_HIGH_BASE)->size, 3 * GiB);
	assert_int_equal(mem_write(m, MEM_HIGH_BASE + 3 * GiB - 8, "abcdefgh", 8), 0);
	assert_int_equal(mem_read(m, MEM_HIGH_BASE + 3 * GiB - 8, &v, 8), 0);
	assert_memory_equal(&v, "abcdefgh", 8);
	assert_int_equal(mem_read(m, MEM_HIGH_BASE + 3 * GiB - 7, &v, 8), -EFAULT);
	assert_int_equal(mem_read(m, MEM_HOLE_BASE - 4, &v, 8), -EFAULT);
	mem_free(m);
}

static void memory_of_the_largest_size_is_lazy(void **state)
{
	struct mem *m = new_mem(MEM_MAX_BYTES);

	assert_int_equal(mem_resident(m), 0);
	assert_int_equal(mem_write(m, 5 * GiB, "x", 1), 0);
	assert_in_range(mem_resident(m), PAGE_SIZE, 2 * MiB);
	mem_free(m);
}

static void rom_splits_ram_and_drops_writes(void **state)
{
	struct mem *m = new_mem(64 * MiB);
	uint8_t rom[2 * PAGE_SIZE], got[4];

	memset(rom, 0x5a, sizeof(rom));
	assert_int_equal(mem_add_rom(m, 0xc0000, rom, sizeof(rom)), 0);
	assert_int_equal(m->nr_banks, 3);
	assert_true(mem_find(m, 0xc0000)->readonly);
	assert_null(mem_host(m, 0xc0000, 1, true));
	assert_non_null(mem_host(m, 0xc0000, sizeof(rom), false));
	assert_null(mem_host(m, 0xbfffe, 4, false));
	assert_int_equal(mem_write(m, 0xbfffe, "abcd", 4), 0);
	assert_int_equal(mem_read(m, 0xbfffe, got, 4), 0);
	assert_memory_equal(got, "ab\x5a\x5a", 4);
	assert_int_equal(mem_write(m, 0xc1ffe, "abcd", 4), 0);
	assert_int_equal(mem_read(m, 0xc1ffe, got, 4), 0);
	assert_memory_equal(got,
	                    "\x5a\x5a"
	                    "cd",
	                    4);
	assert_int_equal(mem_add_rom(m, 0xc1000, rom, sizeof(rom)), -EEXIST);
	assert_int_equal(mem_add_rom(m, 0xc2800, rom, sizeof(rom)), -EINVAL);
	assert_int_equal(mem_add_rom(m, 0xc3000, rom, 0), -EINVAL);
	assert_int_equal(mem_add_rom(m, 0, rom, sizeof(rom)), -EEXIST);
	mem_free(m);
}

static void rom_outside_ram_and_too_many(void **state)
{
	struct mem *m = new_mem(64 * MiB);
	uint8_t rom[PAGE_SIZE] = { 0xea };
	gpa_t base = 0xfffff000;

	assert_int_equal(mem_add_rom(m, base, rom, sizeof(rom)), 0);
	assert_int_equal(*(uint8_t *)mem_host(m, base, 1, false), 0xea);
	assert_int_equal(mem_add_rom(m, UINT64_MAX - 0xfff, rom, sizeof(rom)), -EINVAL);
	for (base = 0xd0000; m->nr_banks + 2 <= MEM_MAX_BANKS; base += 2 * PAGE_SIZE)
		assert_int_equal(mem_add_rom(m, base, rom, sizeof(rom)), 0);
	assert_int_equal(mem_add_rom(m, base, rom, sizeof(rom)), -ENOSPC);
	mem_free(m);
}

static void stray_accesses_fault(void **state)
{
	struct mem *m = new_mem(MEM_MIN_BYTES);
	volatile uint8_t *p = m->bank[0].host;
	const int64_t off[] = { -1, (int64_t)MEM_MIN_BYTES };

	for (size_t i = 0; i < ARRAY_SIZE(off); i++) {
		int status = 0;
		pid_t pid = fork();

		if (!pid) {
			signal(SIGSEGV, SIG_DFL);
			p[off[i]] = 1;
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(status != 0); /* the signal, or the sanitizer's exit status */
	}
	mem_free(m);
}

/* A bit for each page that the host reported, once. */
static void dirty_pages_are_logged(void **state)
{
	struct mem *m = new_mem(MEM_MIN_BYTES);
	uint64_t bitmap[MEM_MIN_BYTES / PAGE_SIZE / 64] = { 0 }, value = 1;

	assert_int_equal(mem_dirty_words(m), sizeof(bitmap) / 8);
	mem_write(m, 0x1000, &value, sizeof(value)); /* before the start */
	assert_int_equal(mem_dirty_start(m), 0);
	mem_write(m, 0x5ffc, &value, sizeof(value)); /* two pages */
	mem_wrote(m, mem_host(m, MEM_MIN_BYTES - 8, 8, true), 8);
	mem_dirty_take(m, bitmap);
	assert_int_equal(bitmap[0], BIT(5) | BIT(6));
	assert_int_equal(bitmap[sizeof(bitmap) / 8 - 1], BIT(63));
	memset(bitmap, 0, sizeof(bitmap));
	mem_dirty_take(m, bitmap);
	assert_int_equal(bitmap[0], 0);
	mem_dirty_stop(m);
	mem_write(m, 0x1000, &value, sizeof(value));
	mem_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_checked),
		cmocka_unit_test(ram_is_aligned),
		cmocka_unit_test(small_memory_is_one_bank),
		cmocka_unit_test(memory_above_the_hole),
		cmocka_unit_test(memory_of_the_largest_size_is_lazy),
		cmocka_unit_test(rom_splits_ram_and_drops_writes),
		cmocka_unit_test(rom_outside_ram_and_too_many),
		cmocka_unit_test(dirty_pages_are_logged),
		cmocka_unit_test(stray_accesses_fault),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

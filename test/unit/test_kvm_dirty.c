/* The engine on KVM: the dirty log, by bitmap and by ring. */
#include "kvm_machine.h"

/* A word into every third page from 1 MiB to 4 MiB. */
GUEST(dirties, 32,
      "mov $0x100000, %edi; 1: movl $7, (%edi); add $0x3000, %edi; cmp $0x400000, %edi; jb 1b\n"
      "out %al, $0xf4; hlt");
/* The interpreter's, where KVM does not know the instruction. */
GUEST(dirties_more, 64, "mov $0x500000, %esi; lock cmpxchg16b (%rsi); out %al, $0xf4; hlt");

static uint64_t *new_bitmap(const struct kvm_machine *m)
{
	uint64_t *b = calloc(mem_dirty_words(m->mem), sizeof(*b));

	assert_non_null(b);
	return b;
}

static void check_pages(const struct kvm_machine *m, const uint64_t *bitmap,
                        bool (*expected)(uint64_t page))
{
	for (uint64_t page = 0; page < m->mem->ram_bytes / PAGE_SIZE; page++)
		if ((bool)(bitmap[page / 64] >> page % 64 & 1) != expected(page))
			fail_msg("page 0x%llx: dirty %d", (unsigned long long)page,
			         !expected(page));
}

static bool is_third(uint64_t page)
{
	return page >= 0x100 && page < 0x400 && (page - 0x100) % 3 == 0;
}

static bool is_host_page(uint64_t page)
{
	return page == 0x601 || page == 0x602;
}

static bool is_more(uint64_t page)
{
	return page == 0x500;
}

static bool is_none(uint64_t page)
{
	return false;
}

static void take_and_check(struct kvm_machine *m, bool (*expected)(uint64_t page))
{
	uint64_t *bitmap = new_bitmap(m);

	assert_int_equal(m->engine->vm->dirty_take(m->vm, bitmap), 0);
	check_pages(m, bitmap, expected);
	free(bitmap);
}

static void run_to_kick(struct kvm_machine *m)
{
	start(m);
	assert_int_equal(machine_run(m, m->cpu[0]), EXIT_KICK);
}

static void check_dirty_log(struct kvm_machine *m)
{
	const struct engine_vm_ops *ops = m->engine->vm;
	uint64_t value = 1;

	LOAD(m, dirties);
	set_mode32(m->cpu[0]);
	assert_int_equal(ops->dirty_start(m->vm), 0);
	run_to_kick(m);
	take_and_check(m, is_third);
	take_and_check(m, is_none);
	/* What the host writes, across a page boundary. */
	mem_write(m->mem, 0x601ffc, &value, sizeof(value));
	take_and_check(m, is_host_page);
	assert_int_equal(ops->dirty_stop(m->vm), 0);
	LOAD(m, dirties_more);
	set_mode64(m, m->cpu[0], 0);
	assert_int_equal(ops->dirty_start(m->vm), 0);
	run_to_kick(m);
	take_and_check(m, is_more);
	assert_int_equal(ops->dirty_stop(m->vm), 0);
}

static void test_dirty_bitmap(void **state)
{
	struct kvm_machine m;

	machine_new(&m, IRQCHIP_OWN);
	check_dirty_log(&m);
	machine_free(&m);
}

static void test_dirty_ring(void **state)
{
	struct kvm_machine m;

	machine_new_with(&m, &(struct engine_options){ .dirty_ring = true });
	check_dirty_log(&m);
	machine_free(&m);
}

/* More pages than the ring has room for: it is emptied on the way. An OUT now and then, because a
 * host that emulates ring 0 looks whether it is full only when it leaves the guest. */
GUEST(dirties_all, 32,
      "mov $0x100000, %edi; 1: movl $7, (%edi); add $0x1000, %edi; test $0xfffff, %edi; jnz 2f\n"
      "out %al, $0x80; 2: cmp $0x1f00000, %edi; jb 1b; out %al, $0xf4; hlt");

static bool is_all(uint64_t page)
{
	return page >= 0x100 && page < 0x1f00;
}

static void test_dirty_ring_full(void **state)
{
	struct kvm_machine m;

	machine_new_with(&m, &(struct engine_options){ .dirty_ring = true });
	LOAD(&m, dirties_all);
	set_mode32(m.cpu[0]);
	assert_int_equal(m.engine->vm->dirty_start(m.vm), 0);
	run_to_kick(&m);
	take_and_check(&m, is_all);
	assert_int_equal(m.engine->vm->dirty_stop(m.vm), 0);
	machine_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dirty_bitmap),
		cmocka_unit_test(test_dirty_ring),
		cmocka_unit_test(test_dirty_ring_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

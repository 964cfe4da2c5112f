/* The engine on KVM: accesses that come to us, whole and in order, and doorbells that do not. */
#include "kvm_machine.h"

#include <sys/eventfd.h>
#include <unistd.h>

GUEST(accesses, 32,
      "mov $0x1234, %eax; mov $0x60, %edx; out %ax, %dx; in $0x61, %al\n"
      "mov $0xd0000000, %ebx; movl $0x55aa, 4(%ebx); mov 8(%ebx), %ecx\n"
      "mov $0x30000, %esi; movl $0x64636261, (%esi); mov $4, %ecx; mov $0x62, %edx; rep outsb\n"
      "hlt");

static void test_exits(void **state)
{
	struct kvm_machine m;
	struct cpu *c;

	machine_new(&m, IRQCHIP_OWN);
	LOAD(&m, accesses);
	m.in_value = 0x77;
	c = machine_go32(&m, EXIT_HLT);
	assert_int_equal(m.nr_notes, 8);
	assert_int_equal(m.note[0].reason, EXIT_PIO);
	assert_int_equal(m.note[0].io.addr, 0x60);
	assert_int_equal(m.note[0].io.size, 2);
	assert_int_equal(m.note[0].io.value, 0x1234);
	assert_false(m.note[1].io.write);
	assert_int_equal(m.note[2].reason, EXIT_MMIO);
	assert_int_equal(m.note[2].io.addr, DEVICE_GPA + 4);
	assert_int_equal(m.note[2].io.value, 0x55aa);
	assert_int_equal(m.note[3].io.addr, DEVICE_GPA + 8);
	for (unsigned n = 0; n < 4; n++)
		assert_int_equal(m.note[4 + n].io.value, 'a' + n);
	assert_int_equal(c->rax, 0x1277);
	assert_int_equal(c->rsi, 0x30004);
	machine_free(&m);
}

/* An access whose exit ended run() is complete in the state that follows. */
GUEST(last_read, 32, "in $0x61, %al; out %al, $0xf4; in $0x61, %al; hlt");

static void test_unfinished(void **state)
{
	struct kvm_machine m;
	struct cpu *c;

	machine_new(&m, IRQCHIP_OWN);
	LOAD(&m, last_read);
	m.in_value = 0x42;
	c = machine_go32(&m, EXIT_KICK);
	assert_int_equal(c->rip, CODE_GPA + 4); /* behind the OUT */
	assert_int_equal(c->rax & 0xff, 0x42);
	m.in_value = 0x43;
	c = machine_go(&m, EXIT_HLT);
	assert_int_equal(c->rax & 0xff, 0x43);
	machine_free(&m);
}

GUEST(rings, 32,
      "mov $3, %eax; mov $0x70, %edx; out %ax, %dx; movl $5, 0xd0000010; movl $6, 0xd0000010\n"
      "out %al, $0xf4; hlt");

static void test_doorbells(void **state)
{
	const struct doorbells *bells;
	struct kvm_machine m;
	uint64_t value;
	struct doorbell port = { .space = BUS_PIO, .addr = 0x70, .size = 2 };
	struct doorbell page = {
		.space = BUS_MMIO, .addr = DEVICE_GPA + 16, .size = 4, .match = true, .value = 5
	};

	machine_new(&m, IRQCHIP_OWN);
	bells = m.engine->vm->doorbells(m.vm);
	assert_non_null(bells);
	port.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	page.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(bells->ops->add(bells->opaque, &port), 0);
	assert_int_equal(bells->ops->add(bells->opaque, &page), 0);
	assert_int_equal(bells->ops->add(bells->opaque, &page), -EEXIST);
	LOAD(&m, rings);
	machine_go32(&m, EXIT_KICK);
	/* Only the write of another value came to us, and the last one. */
	assert_int_equal(m.nr_notes, 2);
	assert_int_equal(m.note[0].io.value, 6);
	assert_int_equal(read(port.fd, &value, sizeof(value)), sizeof(value));
	assert_int_equal(read(page.fd, &value, sizeof(value)), sizeof(value));
	assert_int_equal(bells->ops->remove(bells->opaque, &port), 0);
	assert_int_equal(bells->ops->remove(bells->opaque, &page), 0);
	close(port.fd);
	close(page.fd);
	machine_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exits),
		cmocka_unit_test(test_unfinished),
		cmocka_unit_test(test_doorbells),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

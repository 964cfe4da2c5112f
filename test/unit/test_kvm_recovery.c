/* The engine on KVM: instructions that KVM cannot emulate, done by the interpreter. */
#include "kvm_machine.h"

/* No emulator of KVM's knows PXOR, which has to be emulated where its operand is a device. */
GUEST(pxor, 32, "pcmpeqd %xmm0, %xmm0; pxor 0xd0000000, %xmm0; movups %xmm0, 0x30000; hlt");

static void test_recovery(void **state)
{
	struct kvm_machine m;
	uint8_t got[16];

	machine_new(&m, IRQCHIP_OWN);
	LOAD(&m, pxor);
	m.in_value = 0x0f;
	machine_go32(&m, EXIT_HLT);
	assert_true(interpreted(&m) > 0);
	mem_read(m.mem, 0x30000, got, sizeof(got));
	assert_int_equal(got[0], 0xf0);
	machine_free(&m);
}

/* The same where the instruction faults: the handler sees it. */
GUEST(fault, 32,
      "pxor 0xd0000001, %xmm0; hlt\n"
      ".skip 0x200 - (. - fault_start); mov (%esp), %ebx; mov 4(%esp), %ecx; out %al, $0xf4; hlt");

static void test_recovery_fault(void **state)
{
	struct kvm_machine m;
	struct cpu *c;

	machine_new(&m, IRQCHIP_OWN);
	LOAD(&m, fault);
	put_tables(&m, CODE_GPA + 0x200);
	c = machine_go32(&m, EXIT_KICK);
	assert_int_equal(c->rbx, 0);        /* #GP's error code: 16 bytes misaligned */
	assert_int_equal(c->rcx, CODE_GPA); /* the instruction's address */
	machine_free(&m);
}

GUEST(cmpxchg16b, 64,
      "mov $0x30000, %esi; xor %eax, %eax; xor %edx, %edx; mov $0x11, %ebx; mov $0x22, %ecx\n"
      "lock cmpxchg16b (%rsi); setz %dil; out %al, $0xf4; hlt");

static void test_cmpxchg16b(void **state)
{
	struct kvm_machine m;
	uint64_t got[2];
	struct cpu *c;

	machine_new(&m, IRQCHIP_OWN);
	LOAD(&m, cmpxchg16b);
	set_mode64(&m, m.cpu[0], 0);
	c = machine_go(&m, EXIT_KICK);
	assert_int_equal(c->rdi & 0xff, 1);
	mem_read(m.mem, 0x30000, got, sizeof(got));
	assert_int_equal(got[0], 0x11);
	assert_int_equal(got[1], 0x22);
	machine_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_recovery),
		cmocka_unit_test(test_recovery_fault),
		cmocka_unit_test(test_cmpxchg16b),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

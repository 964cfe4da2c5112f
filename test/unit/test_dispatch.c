/* The dispatcher: every exit finds its routine, and what it leads to is what the manuals say. */
#include "fake_machine.h"

#define LAPIC_ID       0x20
#define LAPIC_ICR_LOW  0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_SVR      0xf0
#define ICR_INIT       0x4500
#define ICR_SIPI       0x4600

static void end(struct cpu *c, uint8_t value)
{
	fake_out(c, PORT_EXIT, 1, value);
}

/* What the programs found, checked by the test's own thread. */
static uint64_t found[8];

static void touch_ports(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	fake_out(c, PORT_DEBUGCON, 1, 'o');
	fake_out(c, PORT_DEBUGCON, 1, 'k');
	found[0] = fake_in(c, PORT_DEBUGCON, 1);
	found[1] = fake_in(c, 0x1234, 2);
	found[2] = fake_in(c, 0xffff, 4);
	end(c, 21);
}

static void ports_reach_the_bus(void **state)
{
	fake_setup(1);
	fake.program[0] = touch_ports;
	assert_int_equal(fake_go(), VM_EXIT_PORT);
	assert_int_equal(fake.group.status, 21 << 1 | 1);
	assert_string_equal(fake.debug, "ok");
	assert_int_equal(found[0], 0xe9);
	assert_int_equal(found[1], 0xffff);
	assert_int_equal(found[2], 0xffffffff);
	assert_int_equal(fake.group.vcpu[0]->cpu.stats.exits[EXIT_PIO], 6);
	fake_teardown();
}

/* The same access, but given back from run() as a hardware engine does. */
static void return_port_write(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	*e = (struct exit){ .reason = EXIT_PIO,
		            .io = { .addr = PORT_EXIT, .size = 1, .write = true, .value = 3 } };
}

static void returned_exits_mean_the_same(void **state)
{
	fake_setup(1);
	fake.program[0] = return_port_write;
	assert_int_equal(fake_go(), VM_EXIT_PORT);
	assert_int_equal(fake.group.status, 7);
	fake_teardown();
}

static void touch_memory(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	found[0] = fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_ID, 4, false, 0);
	found[1] = fake_access(c, EXIT_MMIO, 0xd0000000, 8, false, 0);
	fake_access(c, EXIT_MMIO, GPA_TESTDEV_IORAM + 8, 4, true, 0x12345678);
	found[2] = fake_access(c, EXIT_MMIO, GPA_TESTDEV_IORAM + 8, 4, false, 0);
	/* Disable the local APIC: its page belongs to the bus now, where nobody is. */
	struct exit off = {
		.reason = EXIT_MSR,
		.msr = { .index = MSR_APIC_BASE, .write = true, .value = GPA_LAPIC | APIC_BASE_BSP }
	};
	c->ops->exit(c, &off);
	found[3] = off.msr.fault;
	found[4] = fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_ID, 4, false, 0);
	end(c, 0);
}

static void memory_reaches_lapic_or_bus(void **state)
{
	fake_setup(1);
	fake.program[0] = touch_memory;
	assert_int_equal(fake_go(), VM_EXIT_PORT);
	assert_int_equal(found[0], 0);
	assert_true(found[1] == UINT64_MAX);
	assert_int_equal(found[2], 0x12345678);
	assert_int_equal(found[3], 0);
	assert_int_equal(found[4], 0xffffffff);
	fake_teardown();
}

static bool msr_faults(struct cpu *c, uint32_t index, bool write, uint64_t value)
{
	struct exit e = { .reason = EXIT_MSR,
		          .msr = { .index = index, .write = write, .value = value } };

	c->ops->exit(c, &e);
	return e.msr.fault;
}

static void touch_msrs(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	found[0] = msr_faults(c, MSR_APIC_BASE, false, 0);
	found[1] = msr_faults(c, MSR_KVM_SYSTEM_TIME, true, 0x3001);
	found[2] = msr_faults(c, 0x12345, false, 0);
	found[3] = msr_faults(c, 0x12345, true, 0);
	found[4] = msr_faults(c, 0x802, false, 0); /* x2APIC, in xAPIC mode */
	end(c, 0);
}

static void msrs_reach_their_owner_or_fault(void **state)
{
	uint32_t version;

	fake_setup(1);
	fake.program[0] = touch_msrs;
	assert_int_equal(fake_go(), VM_EXIT_PORT);
	assert_false(found[0]);
	assert_false(found[1]);
	assert_true(found[2] && found[3] && found[4]);
	mem_read(fake.mem, 0x3000, &version, sizeof(version));
	assert_int_equal(version, 2);
	fake_teardown();
}

static void set_tpr(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	struct exit t = { .reason = EXIT_TPR, .tpr = { .value = 9, .write = true } };

	c->ops->exit(c, &t);
	t.tpr.write = false;
	t.tpr.value = 0;
	c->ops->exit(c, &t);
	found[0] = t.tpr.value;
	found[1] = fake_access(c, EXIT_MMIO, GPA_LAPIC + 0x80, 4, false, 0);
	end(c, 0);
}

static void cr8_is_the_task_priority(void **state)
{
	fake_setup(1);
	fake.program[0] = set_tpr;
	assert_int_equal(fake_go(), VM_EXIT_PORT);
	assert_int_equal(found[0], 9);
	assert_int_equal(found[1], 0x90);
	fake_teardown();
}

/* A self IPI through the local APIC wakes HLT, and is then what the acknowledge gives. */
static void halt_for_ipi(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	struct exit ack = { .reason = EXIT_INTACK };

	c->rflags |= RFLAGS_IF;
	if (m->step[0] == 1) {
		fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_SVR, 4, true, 0x1ff);
		fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_ICR_LOW, 4, true, 0x44000 | 0x55);
		e->reason = EXIT_HLT;
		return;
	}
	c->ops->exit(c, &ack);
	found[0] = (uint64_t)ack.vector;
	ack.vector = 0;
	c->ops->exit(c, &ack);
	found[1] = (uint64_t)(int64_t)ack.vector;
	end(c, 0);
}

static void interrupts_end_hlt(void **state)
{
	fake_setup(1);
	fake.program[0] = halt_for_ipi;
	assert_int_equal(fake_go(), VM_EXIT_PORT);
	assert_int_equal(found[0], 0x55);
	assert_true((int64_t)found[1] == -1);
	assert_int_equal(fake.step[0], 2);
	fake_teardown();
}

/* The same through the PIC in virtual-wire mode: testdev raises ISA line 5. */
static void halt_for_pic(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	static const uint8_t icw[] = { 0x20, 0, 0x04, 0x01 };
	struct exit ack = { .reason = EXIT_INTACK };

	c->rflags |= RFLAGS_IF;
	if (m->step[0] == 1) {
		fake_out(c, 0x20, 1, 0x11);
		for (unsigned i = 0; i < 4; i++)
			if (i != 1)
				fake_out(c, 0x21, 1, icw[i]);
		fake_out(c, 0x21, 1, (uint8_t)~BIT(5));
		fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_SVR, 4, true, 0x1ff);
		fake_access(c, EXIT_MMIO, GPA_LAPIC + 0x350, 4, true, 0x700); /* LINT0: ExtINT */
		fake_out(c, PORT_TESTDEV_IRQ + 5, 1, 1);
		e->reason = EXIT_HLT;
		return;
	}
	c->ops->exit(c, &ack);
	found[0] = (uint64_t)ack.vector;
	end(c, 0);
}

static void pic_interrupts_end_hlt(void **state)
{
	fake_setup(1);
	fake.program[0] = halt_for_pic;
	assert_int_equal(fake_go(), VM_EXIT_PORT);
	assert_int_equal(found[0], 0x25);
	fake_teardown();
}

static void start_other(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	if (m->step[0] == 1) {
		fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_SVR, 4, true, 0x1ff);
		fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_ICR_HIGH, 4, true, 1 << 24);
		fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_ICR_LOW, 4, true, ICR_INIT);
		fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_ICR_LOW, 4, true, ICR_SIPI | 0x9a);
		fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_ICR_LOW, 4, true, ICR_SIPI | 0x9a);
	}
	e->reason = EXIT_HLT; /* with interrupts off: only the other can go on */
}

static void started(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	found[0] = c->seg[SEG_CS].base;
	found[1] = c->seg[SEG_CS].sel;
	found[2] = c->rip;
	found[3] = fake_access(c, EXIT_MMIO, GPA_LAPIC + LAPIC_ID, 4, false, 0);
	end(c, 0);
}

static void init_and_sipi_start_a_vcpu(void **state)
{
	for (unsigned i = 0; i < 50; i++) {
		fake_setup(2);
		fake.program[0] = start_other;
		fake.program[1] = started;
		assert_int_equal(fake_go(), VM_EXIT_PORT);
		assert_int_equal(found[0], 0x9a000);
		assert_int_equal(found[1], 0x9a00);
		assert_int_equal(found[2], 0);
		assert_int_equal(found[3], 1 << 24);
		fake_teardown();
	}
}

static void halt(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	e->reason = EXIT_HLT;
}

static void dead_machines_are_found(void **state)
{
	for (unsigned vcpus = 1; vcpus <= 4; vcpus++) {
		fake_setup(vcpus);
		for (unsigned i = 0; i < vcpus; i++) {
			fake.program[i] = halt;
			fake.group.vcpu[i]->cpu.mp_state = MP_RUNNABLE;
		}
		assert_int_equal(fake_go(), VM_CRASHED);
		assert_non_null(strstr(fake.group.reason, "interrupts off"));
		fake_teardown();
	}
}

/* The PIT as a watchdog: its I/O APIC pin sends NMIs, which need no interrupt flag. */
static void halt_for_pit(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	if (m->step[0] == 1) {
		fake_access(c, EXIT_MMIO, GPA_IOAPIC, 4, true, 0x10 + 2 * GSI_PIT);
		fake_access(c, EXIT_MMIO, GPA_IOAPIC + 0x10, 4, true, APIC_NMI << 8);
		fake_out(c, PORT_PIT + 3, 1, 0x34);
		fake_out(c, PORT_PIT, 1, 0);
		fake_out(c, PORT_PIT, 1, 0x10);
		e->reason = EXIT_HLT;
		return;
	}
	found[0] = c->attention & ATTN_NMI;
	end(c, 0);
}

static void nmis_of_chips_keep_a_machine_alive(void **state)
{
	fake_setup(1);
	fake.program[0] = halt_for_pit;
	assert_int_equal(fake_go(), VM_EXIT_PORT);
	assert_int_equal(found[0], ATTN_NMI);
	fake_teardown();
}

static void shut_down(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	e->reason = EXIT_SHUTDOWN;
}

static void give_up(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	e->reason = EXIT_ERROR;
	e->text = "no room";
}

static void power_off(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	fake_out(c, PORT_PM1_CNT, 2, 0x2000);
}

static void reset_by_keyboard(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	fake_out(c, PORT_I8042_CMD, 1, 0xfe);
}

static void reset_by_register(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	fake_out(c, PORT_RESET, 1, 0x02);
	fake_out(c, PORT_RESET, 1, RESET_VALUE);
}

static void every_way_out_has_its_outcome(void **state)
{
	static const struct {
		void (*program)(struct fake_machine *m, struct cpu *c, struct exit *e);
		bool reset_on_triple_fault;
		enum vm_outcome outcome;
		const char *reason;
	} way[] = {
		{ shut_down, false, VM_CRASHED, "triple fault on vCPU 0" },
		{ shut_down, true, VM_REBOOTED, "triple fault on vCPU 0" },
		{ give_up, false, VM_HOST_ERROR, "vCPU 0: engine fake cannot go on: no room" },
		{ power_off, false, VM_POWEROFF, "off" },
		{ reset_by_keyboard, false, VM_REBOOTED, "reset" },
		{ reset_by_register, false, VM_REBOOTED, "reset" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(way); i++) {
		fake_setup(1);
		fake.program[0] = way[i].program;
		fake.group.reset_on_triple_fault = way[i].reset_on_triple_fault;
		assert_int_equal(fake_go(), way[i].outcome);
		assert_string_equal(fake.group.reason, way[i].reason);
		fake_teardown();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ports_reach_the_bus),
		cmocka_unit_test(returned_exits_mean_the_same),
		cmocka_unit_test(memory_reaches_lapic_or_bus),
		cmocka_unit_test(msrs_reach_their_owner_or_fault),
		cmocka_unit_test(cr8_is_the_task_priority),
		cmocka_unit_test(interrupts_end_hlt),
		cmocka_unit_test(pic_interrupts_end_hlt),
		cmocka_unit_test(init_and_sipi_start_a_vcpu),
		cmocka_unit_test(dead_machines_are_found),
		cmocka_unit_test(nmis_of_chips_keep_a_machine_alive),
		cmocka_unit_test(every_way_out_has_its_outcome),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

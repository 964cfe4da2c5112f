/* Halting and waking: no wake-up is lost, sleeping costs nothing, and the group stops and goes on.
 */
#include <time.h>

#include "fake_machine.h"

#define WAKES 100000

static _Atomic unsigned wakes;

/* Takes an NMI each time it is woken, and halts again with interrupts on. */
static void count_nmis(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	c->rflags |= RFLAGS_IF;
	if (atomic_fetch_and(&c->attention, ~ATTN_NMI) & ATTN_NMI)
		wakes++;
	e->reason = EXIT_HLT;
}

/* Catches the sleeper at different points: on its way, about to sleep, asleep in the kernel. */
static void let_sleep(struct vcpu *v, unsigned i)
{
	const struct timespec nap = { .tv_nsec = 20000 };

	if (i % 64 == 0)
		nanosleep(&nap, NULL);
	else if (i % 2)
		while (!v->asleep)
			;
}

/* One at a time: a lost wake-up would leave both sides waiting. */
static void no_wake_is_lost(void **state)
{
	uint64_t deadline = clock_ns() + 60000000000ull;

	fake_setup(1);
	wakes = 0;
	fake.program[0] = count_nmis;
	vcpu_group_resume(&fake.group);
	for (unsigned i = 0; i < WAKES; i++) {
		let_sleep(fake.group.vcpu[0], i);
		vcpu_raise(fake.group.vcpu[0], ATTN_NMI);
		while (wakes == i)
			if (clock_ns() >= deadline)
				fail_msg("wake-up %u was lost", i);
	}
	assert_int_equal(wakes, WAKES);
	vcpu_group_stop(&fake.group, VM_STOPPED, 0, "done");
	assert_true(vcpu_group_wait(&fake.group, clock_ns() + FAKE_DEADLINE_NS));
	fake_teardown();
}

/* Two vCPUs wake each other in turn through their local APICs, each halting in between. */
#define TURNS 20000

static void pass_on(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	struct exit ack = { .reason = EXIT_INTACK };

	c->rflags |= RFLAGS_IF;
	e->reason = EXIT_HLT;
	if (m->step[c->id] == 1)
		fake_access(c, EXIT_MMIO, GPA_LAPIC + 0xf0, 4, true, 0x1ff);
	if (m->step[c->id] > 1 || c->id == 1) {
		c->ops->exit(c, &ack);
		if (ack.vector < 0)
			return;
		fake_access(c, EXIT_MMIO, GPA_LAPIC + 0xb0, 4, true, 0);
		if (++wakes == TURNS)
			fake_out(c, PORT_EXIT, 1, 0);
	}
	fake_access(c, EXIT_MMIO, GPA_LAPIC + 0x310, 4, true, (c->id ^ 1) << 24);
	fake_access(c, EXIT_MMIO, GPA_LAPIC + 0x300, 4, true, 0x4040);
}

static void vcpus_wake_each_other(void **state)
{
	fake_setup(2);
	wakes = 0;
	fake.program[0] = fake.program[1] = pass_on;
	/* Software-enabled beforehand, so that the first message is not refused. */
	lapic_write(fake.group.vcpu[1]->lapic, 0xf0, 4, 0x1ff);
	fake.group.vcpu[1]->cpu.mp_state = MP_RUNNABLE;
	assert_int_equal(fake_go(), VM_EXIT_PORT);
	assert_int_equal(wakes, TURNS);
	fake_teardown();
}

static void spin(struct fake_machine *m, struct cpu *c, struct exit *e)
{
	e->reason = EXIT_KICK;
}

static void groups_stop_and_go_on(void **state)
{
	fake_setup(4);
	for (unsigned i = 0; i < 4; i++)
		fake.program[i] = i & 1 ? count_nmis : spin;
	for (unsigned i = 0; i < 500; i++) {
		for (unsigned n = 0; n < 4; n++)
			fake.group.vcpu[n]->cpu.mp_state = MP_RUNNABLE;
		vcpu_group_resume(&fake.group);
		vcpu_group_stop(&fake.group, VM_STOPPED, i, "round %u", i);
		vcpu_group_stop(&fake.group, VM_CRASHED, 0, "too late");
		assert_true(vcpu_group_wait(&fake.group, clock_ns() + FAKE_DEADLINE_NS));
		assert_int_equal(fake.group.outcome, VM_STOPPED);
		assert_int_equal(fake.group.status, i);
	}
	fake_teardown();
}

static void waiting_has_a_deadline(void **state)
{
	uint64_t start = clock_ns();

	fake_setup(1);
	fake.program[0] = count_nmis;
	vcpu_group_resume(&fake.group);
	assert_false(vcpu_group_wait(&fake.group, start + 50000000));
	assert_true(clock_ns() >= start + 50000000);
	fake_teardown(); /* ends a running group */
}

static uint64_t process_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void halted_vcpus_use_no_time(void **state)
{
	uint64_t used;

	fake_setup(4);
	for (unsigned i = 0; i < 4; i++) {
		fake.program[i] = count_nmis;
		fake.group.vcpu[i]->cpu.mp_state = MP_RUNNABLE;
	}
	vcpu_group_resume(&fake.group);
	assert_false(vcpu_group_wait(&fake.group, clock_ns() + 20000000));
	used = process_cpu_ns();
	assert_false(vcpu_group_wait(&fake.group, clock_ns() + 300000000));
	used = process_cpu_ns() - used;
	assert_in_range(used, 0, 300000000 * 3 / 100);
	fake_teardown();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_wake_is_lost),
		cmocka_unit_test(vcpus_wake_each_other),
		cmocka_unit_test(groups_stop_and_go_on),
		cmocka_unit_test(waiting_has_a_deadline),
		cmocka_unit_test(halted_vcpus_use_no_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

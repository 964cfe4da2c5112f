/*
 * The engine on KVM: time that the host gave to others while a vCPU would have run.
 *
 * The guest tells KVM where to count it (MSR 0x4b564d03, Documentation/virt/kvm/x86/msr.rst of
 * Linux), and spins. Its thread shares one CPU of the host with another that spins.
 */
#include "kvm_machine.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#define STEAL_GPA 0x30000ull

GUEST(steals, 32,
      "mov $0x4b564d03, %ecx; mov $0x30001, %eax; xor %edx, %edx; wrmsr; out %al, $0xf4; jmp .");

static void prepare(struct kvm_machine *m)
{
	uint32_t leaf[4];

	machine_new(m, IRQCHIP_OWN);
	cpuid_query(m->cpu[0], 0x40000001, 0, leaf);
	if (!(leaf[0] & BIT(5)))
		machine_skip(m, "this KVM has no steal time");
	LOAD(m, steals);
}

/* The MSR is part of the state. */
static void test_msr(void **state)
{
	struct kvm_machine m;

	prepare(&m);
	assert_int_equal(machine_go32(&m, EXIT_KICK)->msr.steal_time, STEAL_GPA | 1);
	machine_free(&m);
}

struct rival {
	struct kvm_machine *m;
	cpu_set_t cpu;
	_Atomic bool end;
};

/* Keeps the CPU busy, and kicks the vCPU now and then, for only when it enters the guest again KVM
 * writes what it has counted. */
static void *compete(void *opaque)
{
	struct rival *r = opaque;

	assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof(r->cpu), &r->cpu), 0);
	while (!atomic_load(&r->end)) {
		for (uint64_t until = clock_ns() + 20000000; clock_ns() < until;)
			;
		r->m->engine->kick(r->m->cpu[0]);
	}
	return NULL;
}

/* The first CPU that this process may use. */
static cpu_set_t one_cpu(const cpu_set_t *all)
{
	unsigned n = 0;
	cpu_set_t one;

	while (!CPU_ISSET(n, all))
		n++;
	CPU_ZERO(&one);
	CPU_SET(n, &one);
	return one;
}

static uint64_t stolen(struct kvm_machine *m)
{
	uint64_t ns;

	assert_int_equal(mem_read(m->mem, STEAL_GPA, &ns, sizeof(ns)), 0);
	return ns;
}

static void test_time_grows(void **state)
{
	struct kvm_machine m;
	struct rival rival = { .m = &m };
	uint64_t before, begin = clock_ns(); /* KVM counts from where the MSR is set */
	pthread_t thread;
	cpu_set_t all;

	prepare(&m);
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	rival.cpu = one_cpu(&all);
	assert_int_equal(sched_setaffinity(0, sizeof(rival.cpu), &rival.cpu), 0);
	machine_go32(&m, EXIT_KICK);
	before = stolen(&m);
	alarm(HUNG_AFTER);
	assert_int_equal(pthread_create(&thread, NULL, compete, &rival), 0);
	for (unsigned n = 0; n < 5 || stolen(&m) == before; n++)
		assert_int_equal(machine_run(&m, m.cpu[0]), EXIT_KICK);
	alarm(0);
	/* Whatever was stolen was so while it ran. */
	assert_in_range(stolen(&m) - before, 1, clock_ns() - begin);
	atomic_store(&rival.end, true);
	pthread_join(thread, NULL);
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	machine_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_msr),
		cmocka_unit_test(test_time_grows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

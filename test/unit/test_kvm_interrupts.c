/* The engine on KVM: kicks, and interrupts from the kernel's controllers. */
#include "kvm_machine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- kicks ---- */

#define KICKS 50000

struct kicking {
	struct kvm_machine *m;
	_Atomic uint64_t back; /* times that run() came back */
	_Atomic bool end;
};

static void *run_kicked(void *opaque)
{
	struct kicking *k = opaque;

	while (!atomic_load(&k->end)) {
		assert_int_equal(machine_run(k->m, k->m->cpu[0]), EXIT_KICK);
		atomic_fetch_add(&k->back, 1);
	}
	return NULL;
}

/* Each kick brings run() back: it is waited for, in all phases of entering and leaving. */
static void kick_often(struct kvm_machine *m)
{
	struct kicking k = { .m = m };
	pthread_t thread;

	start(m);
	alarm(HUNG_AFTER);
	assert_int_equal(pthread_create(&thread, NULL, run_kicked, &k), 0);
	for (unsigned n = 0; n < KICKS; n++) {
		uint64_t before = atomic_load(&k.back);

		for (volatile unsigned pause = n % 64; pause; pause--)
			;
		m->engine->kick(m->cpu[0]);
		while (atomic_load(&k.back) == before)
			;
	}
	atomic_store(&k.end, true);
	m->engine->kick(m->cpu[0]);
	pthread_join(thread, NULL);
	alarm(0);
}

GUEST(spin, 64, "1: jmp 1b");
GUEST(sleep, 32, "1: hlt; jmp 1b");

static void test_kick_running(void **state)
{
	struct kvm_machine m;

	machine_new(&m, IRQCHIP_OWN);
	LOAD(&m, spin);
	set_mode64(&m, m.cpu[0], 3);
	kick_often(&m);
	machine_free(&m);
}

static void test_kick_halted(void **state)
{
	struct kvm_machine m;

	machine_new(&m, IRQCHIP_KERNEL);
	LOAD(&m, sleep);
	set_mode32(m.cpu[0]);
	kick_often(&m);
	machine_free(&m);
}

/* ---- interrupts ---- */

#define VECTOR 0x40

/* Switches the APIC on, sleeps until an interrupt comes. */
GUEST(waits, 32,
      "movl $0x1ff, 0xfee000f0; sti; hlt; jmp .\n"
      ".skip 0x200 - (. - waits_start); movl $0, 0xfee000b0; out %al, $0xf4; jmp .");

static void prepare_waiter(struct kvm_machine *m, enum irqchip_kind kind)
{
	machine_new(m, kind);
	LOAD(m, waits);
	put_tables(m, CODE_GPA + 0x200);
	set_mode32(m->cpu[0]);
	start(m);
}

static void *wait_for_end(void *opaque)
{
	struct kvm_machine *m = opaque;

	while (machine_run(m, m->cpu[0]) != EXIT_KICK || !m->nr_notes)
		;
	return NULL;
}

static void wait_while(struct kvm_machine *m, void (*interrupt)(struct kvm_machine *, void *),
                       void *opaque)
{
	pthread_t thread;

	alarm(HUNG_AFTER);
	assert_int_equal(pthread_create(&thread, NULL, wait_for_end, m), 0);
	interrupt(m, opaque);
	pthread_join(thread, NULL);
	alarm(0);
	assert_int_equal(m->note[m->nr_notes - 1].io.addr, 0xf4);
}

/* Until the guest has its APIC on, a message is refused. */
static void send_message(struct kvm_machine *m, void *opaque)
{
	const struct irqchip *chip = m->engine->vm->irqchip(m->vm);

	while (!chip->ops->send(chip->opaque, 0xfee00000, VECTOR))
		usleep(1000);
}

static void test_message(void **state)
{
	static const enum irqchip_kind kinds[] = { IRQCHIP_KERNEL, IRQCHIP_SPLIT };

	for (unsigned n = 0; n < ARRAY_SIZE(kinds); n++) {
		struct kvm_machine m;

		prepare_waiter(&m, kinds[n]);
		wait_while(&m, send_message, NULL);
		machine_free(&m);
	}
}

/* A masked route keeps what is written to its descriptor. */
static void ring_route(struct kvm_machine *m, void *opaque)
{
	const struct irqchip *chip = m->engine->vm->irqchip(m->vm);
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), route;
	uint64_t value = 1;

	assert_true(fd >= 0);
	route = chip->ops->route_add(chip->opaque, fd);
	assert_true(route >= 0);
	assert_int_equal(chip->ops->route_set(chip->opaque, route, 0xfee00000, VECTOR, true), 0);
	assert_int_equal(write(fd, &value, sizeof(value)), sizeof(value));
	assert_int_equal(read(fd, &value, sizeof(value)), sizeof(value));
	assert_int_equal(chip->ops->route_set(chip->opaque, route, 0xfee00000, VECTOR, false), 0);
	while (!m->nr_notes) {
		assert_int_equal(write(fd, &value, sizeof(value)), sizeof(value));
		usleep(1000);
	}
	chip->ops->route_remove(chip->opaque, route);
	close(fd);
}

static void test_route(void **state)
{
	struct kvm_machine m;

	prepare_waiter(&m, IRQCHIP_KERNEL);
	if (!m.engine->vm->irqchip(m.vm)->ops->route_add)
		machine_skip(&m, "this KVM has no irqfd");
	wait_while(&m, ring_route, NULL);
	machine_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kick_running),
		cmocka_unit_test(test_kick_halted),
		cmocka_unit_test(test_message),
		cmocka_unit_test(test_route),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A whole machine without guest code: construction, serial port, reboot, statistics, crash report.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/engine.h"
#include "machine/layout.h"
#include "mem/mem.h"
#include "monitor/vm.h"

#define DEADLINE (clock_ns() + 20000000000ull)
#define SCRATCH  0x200000ull

/* What the "guest" does; c->stats.blocks counts its steps. */
static void (*program)(struct cpu *c, struct exit *e);

static int create(struct cpu *c)
{
	return 0;
}

static void nothing(struct cpu *c)
{
}

static void run(struct cpu *c, struct exit *e)
{
	if (atomic_load(&c->attention) & ATTN_KICK) {
		e->reason = EXIT_KICK;
		return;
	}
	c->stats.insns++;
	program(c, e);
}

static const struct engine_ops engine = {
	.name = "fake",
	.create = create,
	.destroy = nothing,
	.run = run,
	.kick = nothing,
	.sync_out = nothing,
	.sync_in = nothing,
	.invalidate = nothing,
};

static uint64_t port(struct cpu *c, uint16_t n, unsigned size, bool write, uint64_t value)
{
	struct exit e = {
		.reason = EXIT_PIO,
		.io = { .addr = n, .size = (uint8_t)size, .write = write, .value = value }
	};

	c->ops->exit(c, &e);
	return e.io.value;
}

static void say(struct cpu *c, const char *s)
{
	while (*s)
		port(c, PORT_COM1, 1, true, (uint8_t)*s++);
}

/* The console's end: takes at most `room` bytes, then refuses until the test makes room. */
static char heard[256];
static _Atomic size_t nr_heard, room, nr_refused;

static size_t hear(void *opaque, const uint8_t *buf, size_t n)
{
	nr_refused += n > room;
	if (n > room)
		n = room;
	memcpy(heard + nr_heard, buf, n);
	nr_heard += n;
	room -= n;
	return n;
}

/* A flat multiboot image of one page, loaded at 1 MiB. */
static char kernel_path[] = "/tmp/test-vm-XXXXXX";

static int make_kernel(void **state)
{
	uint32_t image[1024] = { 0x1badb002, 0x10000,  -(0x1badb002u + 0x10000),
		                 0x100000,   0x100000, 0,
		                 0,          0x100020 };
	int fd = mkstemp(kernel_path);
	ssize_t n = write(fd, image, sizeof(image));

	close(fd);
	return n != sizeof(image);
}

static int remove_kernel(void **state)
{
	return unlink(kernel_path);
}

static struct vm *new_vm(struct vm_config *config)
{
	struct vm *vm = NULL;
	char err[256] = "";

	config->kernel = kernel_path;
	config->engine = &engine;
	config->memory = config->memory ? config->memory : MEM_MIN_BYTES;
	config->vcpus = config->vcpus ? config->vcpus : 1;
	config->console.output = hear;
	memset(heard, 0, sizeof(heard));
	nr_heard = 0;
	room = sizeof(heard);
	if (vm_new(&vm, config, err, sizeof(err)))
		fail_msg("%s", err);
	return vm;
}

static void reboot_then_leave(struct cpu *c, struct exit *e)
{
	uint64_t magic = 0, scratch = 1, mark = 0x5555;

	mem_read(c->mem, 0x100000, &magic, 4);
	mem_read(c->mem, SCRATCH, &scratch, 8);
	say(c, magic == 0x1badb002 && c->rip == 0x100020 && scratch == 0 ? "fresh " : "stale ");
	mem_write(c->mem, SCRATCH, &mark, 8);
	if (c->stats.insns < 3)
		port(c, PORT_RESET, 1, true, RESET_VALUE);
	else
		port(c, PORT_PM1_CNT, 2, true, 0x2000);
}

static void a_reset_starts_afresh(void **state)
{
	struct vm_config config = { 0 };
	struct vm *vm = new_vm(&config);
	struct vm_stats stats;

	program = reboot_then_leave;
	assert_int_equal(vm_start(vm), 0);
	assert_int_equal(vm_wait(vm, DEADLINE, NULL), VM_POWEROFF);
	assert_int_equal(vm_wait(vm, DEADLINE, NULL), VM_POWEROFF);
	assert_string_equal(heard, "fresh fresh fresh ");
	vm_get_stats(vm, &stats);
	assert_int_equal(stats.reboots, 2);
	assert_int_equal(stats.insns, 3);
	assert_true(stats.exits[EXIT_PIO] >= 3);
	assert_true(stats.run_ns > 0 && stats.host_resident > 0);
	vm_free(vm);
}

static void a_reset_can_be_the_end(void **state)
{
	struct vm_config config = { .exit_on_reboot = true };
	struct vm *vm = new_vm(&config);

	program = reboot_then_leave;
	assert_int_equal(vm_start(vm), 0);
	assert_int_equal(vm_wait(vm, DEADLINE, NULL), VM_REBOOTED);
	vm_free(vm);
}

static void write_status(struct cpu *c, struct exit *e)
{
	port(c, PORT_EXIT, 1, true, 0x2a);
}

static void the_exit_port_gives_its_byte(void **state)
{
	struct vm_config config = { .vcpus = 2, .memory = 5 * GiB };
	struct vm *vm = new_vm(&config);
	unsigned status = 0;

	program = write_status;
	assert_int_equal(vm_start(vm), 0);
	assert_int_equal(vm_wait(vm, DEADLINE, &status), VM_EXIT_PORT);
	assert_int_equal(status, 0x2a);
	vm_free(vm);
}

/* Speaks as a driver does: a byte when the transmitter is empty. */
static void speak_politely(struct cpu *c, struct exit *e)
{
	static const char text[] = "0123456789abcdefghij";

	if (c->r15 == sizeof(text) - 1)
		port(c, PORT_PM1_CNT, 2, true, 0x2000);
	else if (port(c, PORT_COM1 + 5, 1, false, 0) & 0x20)
		port(c, PORT_COM1, 1, true, (uint8_t)text[c->r15++]);
}

static void a_slow_console_loses_nothing(void **state)
{
	const struct timespec nap = { .tv_nsec = 1000000 };
	struct vm_config config = { 0 };
	struct vm *vm = new_vm(&config);

	program = speak_politely;
	room = nr_refused = 0;
	assert_int_equal(vm_start(vm), 0);
	for (unsigned i = 0; i < 20; i++) {
		while (nr_refused <= i)
			nanosleep(&nap, NULL);
		assert_int_equal(nr_heard, i);
		room = 1; /* the machine is busy waiting: it does not call hear() */
		vm_serial_resume(vm);
	}
	assert_int_equal(vm_wait(vm, DEADLINE, NULL), VM_POWEROFF);
	assert_string_equal(heard, "0123456789abcdefghij");
	vm_free(vm);
}

static void crash(struct cpu *c, struct exit *e)
{
	c->rbp = UINT64_MAX - 3;
	c->rsp = c->rip - 0x100;
	e->reason = EXIT_SHUTDOWN;
}

static void a_crash_is_reported(void **state)
{
	char *report = malloc(VM_REPORT_BYTES), tiny[40];
	struct vm_config config = { .vcpus = 2 };
	struct vm *vm = new_vm(&config);

	program = crash;
	assert_int_equal(vm_start(vm), 0);
	assert_int_equal(vm_wait(vm, DEADLINE, NULL), VM_CRASHED);
	assert_string_equal(vm_reason(vm), "triple fault on vCPU 0");
	assert_true(vm_report(vm, report, VM_REPORT_BYTES) > 500);
	assert_non_null(strstr(report, "code at 0000000000100020"));
	assert_non_null(strstr(report, "add [eax], al"));
	assert_non_null(strstr(report, "vCPU 1, waiting to be started"));
	assert_true(vm_report(vm, tiny, sizeof(tiny)) < sizeof(tiny));
	vm_free(vm);
	free(report);
}

static void idle(struct cpu *c, struct exit *e)
{
	c->rflags |= RFLAGS_IF;
	e->reason = EXIT_HLT;
}

static void stops_and_deadlines_end_it(void **state)
{
	struct vm_config config = { 0 };
	struct vm *vm = new_vm(&config);

	program = idle;
	assert_int_equal(vm_start(vm), 0);
	assert_int_equal(vm_wait(vm, clock_ns() + 20000000, NULL), VM_TIMEOUT);
	vm_free(vm);
	/* Stopped before it starts, and freed while it runs. */
	vm = new_vm(&config);
	vm_stop(vm);
	assert_int_equal(vm_start(vm), 0);
	assert_int_equal(vm_wait(vm, DEADLINE, NULL), VM_STOPPED);
	vm_free(vm);
	vm = new_vm(&config);
	assert_int_equal(vm_start(vm), 0);
	vm_free(vm);
	vm_free(new_vm(&config));
	vm_free(NULL);
}

static void bad_configurations_are_refused(void **state)
{
	static const struct {
		unsigned vcpus;
		uint64_t memory;
		const char *kernel, *text;
	} bad[] = {
		{ 0, 64 * MiB, kernel_path, "vcpus: 0 is not in 1..16" },
		{ 17, 64 * MiB, kernel_path, "vcpus: 17 is not in 1..16" },
		{ 1, 1 * MiB, kernel_path, "memory: 1048576 bytes are not in 32 MiB..1024 GiB" },
		{ 1, 64 * MiB + 1, kernel_path,
		  "memory: 67108865 bytes are not a multiple of 4096" },
		{ 1, 64 * MiB, NULL, "no kernel given" },
		{ 1, 64 * MiB, "/nonexistent", NULL },
		{ 1, 64 * MiB, "/dev/null", NULL },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vm_config config = { .kernel = bad[i].kernel,
			                    .memory = bad[i].memory,
			                    .vcpus = bad[i].vcpus,
			                    .engine = &engine };
		struct vm *vm = NULL;
		char err[256] = "";

		assert_true(vm_new(&vm, &config, err, sizeof(err)) < 0);
		assert_null(vm);
		if (bad[i].text)
			assert_string_equal(err, bad[i].text);
		else
			assert_non_null(strstr(err, bad[i].kernel));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_reset_starts_afresh),
		cmocka_unit_test(a_reset_can_be_the_end),
		cmocka_unit_test(the_exit_port_gives_its_byte),
		cmocka_unit_test(a_slow_console_loses_nothing),
		cmocka_unit_test(a_crash_is_reported),
		cmocka_unit_test(stops_and_deadlines_end_it),
		cmocka_unit_test(bad_configurations_are_refused),
	};

	return cmocka_run_group_tests(tests, make_kernel, remove_kernel);
}

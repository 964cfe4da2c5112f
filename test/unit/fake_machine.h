/*
 * A machine without guest code: real board, real vCPU threads, and an engine whose "instructions"
 * are C functions of the test. Each test sets program[] for the vCPUs that it uses.
 */
#pragma once

#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/loop.h"
#include "machine/board.h"
#include "mem/mem.h"
#include "monitor/dispatch.h"

#define FAKE_DEADLINE_NS 20000000000ull

struct fake_machine {
	struct mem *mem;
	struct loop *loop;
	struct board *board;
	struct vcpu_group group;
	char debug[64]; /* what came out of the debug port */
	size_t nr_debug;
	int step[VM_MAX_VCPUS]; /* how often each vCPU's program was called */
	void (*program[VM_MAX_VCPUS])(struct fake_machine *m, struct cpu *c, struct exit *e);
};

static struct fake_machine fake;

static int fake_create(struct cpu *c)
{
	return 0;
}

static void fake_nothing(struct cpu *c)
{
}

static void fake_run(struct cpu *c, struct exit *e)
{
	if (atomic_load(&c->attention) & ATTN_KICK) {
		e->reason = EXIT_KICK;
		return;
	}
	fake.step[c->id]++;
	fake.program[c->id](&fake, c, e);
}

static const struct engine_ops fake_engine = {
	.name = "fake",
	.create = fake_create,
	.destroy = fake_nothing,
	.run = fake_run,
	.kick = fake_nothing,
	.sync_out = fake_nothing,
	.sync_in = fake_nothing,
	.invalidate = fake_nothing,
};

static void fake_raise(void *opaque, unsigned cpu, uint32_t attention, uint8_t sipi_vector)
{
	vcpu_raise_startup(fake.group.vcpu[cpu], attention, sipi_vector);
}

static void fake_reset(void *opaque)
{
	vcpu_group_stop(&fake.group, VM_REBOOTED, 0, "reset");
}

static void fake_poweroff(void *opaque)
{
	vcpu_group_stop(&fake.group, VM_POWEROFF, 0, "off");
}

static void fake_exit(void *opaque, int status)
{
	vcpu_group_stop(&fake.group, VM_EXIT_PORT, (unsigned)status, "exit");
}

static void fake_debug(void *opaque, const uint8_t *buf, size_t n)
{
	for (size_t i = 0; i < n && fake.nr_debug < sizeof(fake.debug) - 1; i++)
		fake.debug[fake.nr_debug++] = (char)buf[i];
}

static int fake_grant(void *opaque, enum board_resource kind, uint64_t base, uint64_t len,
                      const char *owner, char *err, size_t errlen)
{
	return 0;
}

static const struct board_host_ops fake_host = {
	.raise = fake_raise,
	.reset = fake_reset,
	.poweroff = fake_poweroff,
	.exit = fake_exit,
	.debug = fake_debug,
	.grant = fake_grant,
};

static void fake_setup(unsigned vcpus)
{
	struct board_config config = {
		.vcpus = vcpus, .tsc_hz = 2000000000, .testdev = true, .host = &fake_host
	};
	struct vcpu_config vcpu_config = { .nr = vcpus, .engine = &fake_engine };
	char err[256] = "";

	memset(&fake, 0, sizeof(fake));
	assert_int_equal(mem_new(&fake.mem, MEM_MIN_BYTES), 0);
	assert_int_equal(loop_new(&fake.loop), 0);
	config.mem = fake.mem;
	config.loop = fake.loop;
	assert_int_equal(board_new(&fake.board, &config, err, sizeof(err)), 0);
	vcpu_config.mem = fake.mem;
	assert_int_equal(vcpu_group_init(&fake.group, &vcpu_config), 0);
	fake.group.board = fake.board;
	for (unsigned i = 0; i < vcpus; i++) {
		struct vcpu *v = fake.group.vcpu[i];

		v->lapic = board_attach_cpu(fake.board, &v->cpu);
		vcpu_reset(v);
	}
	pvclock_init(&fake.group.clock, 2000000000);
	assert_int_equal(loop_start(fake.loop), 0);
	assert_int_equal(vcpu_group_start(&fake.group), 0);
}

static void fake_teardown(void)
{
	vcpu_group_end(&fake.group);
	board_free(fake.board);
	loop_free(fake.loop);
	vcpu_group_fini(&fake.group);
	mem_free(fake.mem);
}

/* Runs the machine to its outcome. */
static inline enum vm_outcome fake_go(void)
{
	vcpu_group_resume(&fake.group);
	assert_true(vcpu_group_wait(&fake.group, clock_ns() + FAKE_DEADLINE_NS));
	return fake.group.outcome;
}

/* In-place exits, as a software engine makes them. */

static inline uint64_t fake_access(struct cpu *c, enum exit_reason reason, uint64_t addr,
                                   unsigned size, bool write, uint64_t value)
{
	struct exit e = {
		.reason = reason,
		.io = { .addr = addr, .size = (uint8_t)size, .write = write, .value = value }
	};

	c->ops->exit(c, &e);
	return e.io.value;
}

static inline void fake_out(struct cpu *c, uint16_t port, unsigned size, uint64_t value)
{
	fake_access(c, EXIT_PIO, port, size, true, value);
}

static inline uint64_t fake_in(struct cpu *c, uint16_t port, unsigned size)
{
	return fake_access(c, EXIT_PIO, port, size, false, 0);
}

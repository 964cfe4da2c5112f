/* The engine on KVM: exits, state, recovery, kicks, interrupts, doorbells, dirty logs, crossing. */
#include "kvm_machine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "base/loop.h"
#include "cpu/flags.h"
#include "device/ioapic.h"
#include "device/lapic.h"
#include "device/pic.h"
#include "interp/interp.h"

#define DEVICE_GPA 0xd0000000u /* nothing is there */

/* ---- exits ---- */

GUEST(accesses, 32,
      "mov $0x1234, %eax; mov $0x60, %edx; out %ax, %dx; in $0x61, %al\n"
      "mov $0xd0000000, %ebx; movl $0x55aa, 4(%ebx); mov 8(%ebx), %ecx\n"
      "mov $0x30000, %esi; movl $0x64636261, (%esi); mov $4, %ecx; mov $0x62, %edx; rep outsb\n"
      "hlt");

static void test_exits(void **state)
{
	struct kvm_machine m;
	struct cpu *c;

	machine_new(&m, IRQCHIP_OWN, 1);
	c = m.cpu[0];
	LOAD(&m, accesses);
	set_mode32(c);
	m.in_value = 0x77;
	start(&m);
	assert_int_equal(machine_run(&m, c), EXIT_HLT);
	m.engine->sync_out(c);
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

	machine_new(&m, IRQCHIP_OWN, 1);
	c = m.cpu[0];
	LOAD(&m, last_read);
	set_mode32(c);
	m.in_value = 0x42;
	start(&m);
	assert_int_equal(machine_run(&m, c), EXIT_KICK);
	m.engine->sync_out(c);
	assert_int_equal(c->rip, CODE_GPA + 4); /* behind the OUT */
	assert_int_equal(c->rax & 0xff, 0x42);
	m.in_value = 0x43;
	start(&m);
	assert_int_equal(machine_run(&m, c), EXIT_HLT);
	m.engine->sync_out(c);
	assert_int_equal(c->rax & 0xff, 0x43);
	machine_free(&m);
}

/* ---- state ---- */

static void fill_state(struct cpu *c)
{
	for (unsigned n = 0; n < 16; n++)
		c->gpr[n] = 0x1111111111111111ull * n + 5;
	cpu_set_rflags(c, RFLAGS_1 | RFLAGS_CF | RFLAGS_ZF | RFLAGS_DF | RFLAGS_IF);
	c->cr2 = 0x123456789a;
	c->seg[SEG_FS].base = 0x7f0000001000;
	c->seg[SEG_GS].base = 0xffff880000002000;
	c->gdtr = (struct dtable){ 0xffffffff81000000, 0x7f };
	c->idtr = (struct dtable){ 0xffffffff82000000, 0xfff };
	c->msr.star = 0x0023001000000000;
	c->msr.lstar = 0xffffffff83000000;
	c->msr.fmask = 0x47700;
	c->msr.kernel_gs_base = 0x7ffff000;
	c->msr.sysenter_cs = 0x10;
	c->msr.sysenter_esp = 0xffffffff84000000;
	c->msr.sysenter_eip = 0xffffffff85000000;
	c->msr.pat = 0x0007010600070106;
	c->msr.tsc_offset = -1000000;
	c->dr[0] = 0x1000;
	c->dr[3] = 0x4000;
	c->dr7 = 0x455;
	for (unsigned n = 0; n < 256; n++)
		c->fpu.area[FPU_XMM + n] = (uint8_t)(n * 7 + 1);
	c->fpu.area[FPU_ST] = 0x99;
	c->shadow = true;
	c->nmi_masked = true;
	c->event.vector = EXC_GP;
	c->event.external = false;
	c->event.has_error = true;
	c->event.error = 0x58;
	cpu_raise_attention(c, ATTN_EVENT);
}

#define SAME(field) assert_memory_equal(&c->field, &want->field, sizeof(c->field))

static void compare_state(const struct cpu *c, const struct cpu *want)
{
	assert_memory_equal(c->gpr, want->gpr, 16 * 8);
	SAME(rip);
	assert_int_equal(cpu_get_rflags(c), cpu_get_rflags(want));
	for (unsigned n = 0; n < SEG_COUNT; n++) {
		assert_int_equal(c->seg[n].base, want->seg[n].base);
		assert_int_equal(c->seg[n].sel, want->seg[n].sel);
		assert_int_equal(c->seg[n].attr, want->seg[n].attr);
	}
	assert_int_equal(c->gdtr.base, want->gdtr.base);
	assert_int_equal(c->idtr.limit, want->idtr.limit);
	SAME(cr0), SAME(cr2), SAME(cr3), SAME(cr4), SAME(efer);
	SAME(msr.star), SAME(msr.lstar), SAME(msr.fmask), SAME(msr.kernel_gs_base);
	SAME(msr.sysenter_cs), SAME(msr.sysenter_esp), SAME(msr.sysenter_eip), SAME(msr.pat);
	SAME(msr.tsc_offset), SAME(dr), SAME(dr7);
	assert_memory_equal(c->fpu.area + FPU_XMM, want->fpu.area + FPU_XMM, 256);
	assert_int_equal(c->fpu.area[FPU_ST], 0x99);
	SAME(shadow), SAME(nmi_masked);
	assert_true(atomic_load(&c->attention) & ATTN_EVENT);
	assert_int_equal(c->event.vector, EXC_GP);
	assert_int_equal(c->event.error, 0x58);
	assert_int_equal(c->cpl, want->cpl);
	assert_int_equal(c->mode, want->mode);
}

/* Into KVM, out again, with nothing executed in between. */
static void test_state(void **state)
{
	static struct cpu want;
	struct kvm_machine m;
	struct cpu *c;

	machine_new(&m, IRQCHIP_OWN, 1);
	c = m.cpu[0];
	set_mode64(&m, c, 0);
	fill_state(c);
	want = *c;
	start(&m);
	m.engine->kick(c);
	assert_int_equal(machine_run(&m, c), EXIT_KICK);
	memset(c->gpr, 0, sizeof(c->gpr));
	memset(c->seg, 0, sizeof(c->seg));
	memset(c->fpu.area, 0, sizeof(c->fpu.area));
	c->msr.lstar = c->msr.pat = c->efer = c->cr3 = c->dr7 = 0;
	c->shadow = c->nmi_masked = false;
	memset(&c->event, 0, sizeof(c->event));
	m.engine->sync_out(c);
	compare_state(c, &want);
	machine_free(&m);
}

/* ---- CPUID ---- */

GUEST(cpuids, 32,
      "mov $1, %eax; cpuid; mov %ecx, %esi; mov %edx, %edi; mov $7, %eax; xor %ecx, %ecx; cpuid\n"
      "mov %ebx, %ebp; mov $0x80000001, %eax; cpuid; out %al, $0xf4; hlt");

static bool is_emulated(void)
{
	struct engine_kvm_speed speed;
	char err[256];

	return !engine_kvm_probe(false, &speed, err, sizeof(err)) &&
	       speed.ring0_ps > ENGINE_KVM_SLOW_PS;
}

/* A guest sees what its model says. */
static void test_cpuid(void **state)
{
	uint32_t leaf1[4], leaf7[4], extended[4];
	struct kvm_machine m;
	struct cpu *c;

	machine_new(&m, IRQCHIP_OWN, 1);
	if (is_emulated()) {
		machine_free(&m);
		print_message(
		        "skipped: this host's KVM emulates ring 0, and shows its own CPUID\n");
		skip();
	}
	c = m.cpu[0];
	LOAD(&m, cpuids);
	set_mode32(c);
	start(&m);
	assert_int_equal(machine_run(&m, c), EXIT_KICK);
	m.engine->sync_out(c);
	cpuid_query(c, 1, 0, leaf1);
	cpuid_query(c, 7, 0, leaf7);
	cpuid_query(c, 0x80000001, 0, extended);
	assert_int_equal((uint32_t)c->rsi, leaf1[2]);
	assert_int_equal((uint32_t)c->rdi, leaf1[3]);
	assert_int_equal((uint32_t)c->rbp, leaf7[1]);
	assert_int_equal((uint32_t)c->rcx, extended[2]);
	machine_free(&m);
}

/* ---- steal time ---- */

GUEST(steals, 32,
      "mov $0x4b564d03, %ecx; mov $0x30001, %eax; xor %edx, %edx; wrmsr; out %al, $0xf4; hlt");

/* KVM fills the page, and its MSR is part of the state. */
static void test_steal_time(void **state)
{
	struct kvm_machine m;
	uint32_t leaf[4];
	struct cpu *c;

	machine_new(&m, IRQCHIP_OWN, 1);
	c = m.cpu[0];
	cpuid_query(c, 0x40000001, 0, leaf);
	if (!(leaf[0] & BIT(5))) {
		machine_free(&m);
		print_message("skipped: this KVM has no steal time\n");
		skip();
	}
	LOAD(&m, steals);
	set_mode32(c);
	start(&m);
	assert_int_equal(machine_run(&m, c), EXIT_KICK);
	m.engine->sync_out(c);
	assert_int_equal(c->msr.steal_time, 0x30001);
	machine_free(&m);
}

/* ---- recovery ---- */

/* No emulator of KVM's knows PXOR, which has to be emulated where its operand is a device. */
GUEST(pxor, 32, "pcmpeqd %xmm0, %xmm0; pxor 0xd0000000, %xmm0; movups %xmm0, 0x30000; hlt");

static void test_recovery(void **state)
{
	struct kvm_machine m;
	uint8_t got[16];
	struct cpu *c;

	machine_new(&m, IRQCHIP_OWN, 1);
	c = m.cpu[0];
	LOAD(&m, pxor);
	set_mode32(c);
	m.in_value = 0x0f;
	start(&m);
	assert_int_equal(machine_run(&m, c), EXIT_HLT);
	assert_true(interpreted(&m) > 0);
	mem_read(m.mem, 0x30000, got, sizeof(got));
	assert_int_equal(got[0], 0xf0);
	machine_free(&m);
}

/* The same where the instruction faults: the handler sees it. */
GUEST(fault, 32,
      "pxor 0xd0000001, %xmm0; hlt\n"
      ".skip 0x200 - (. - fault_start); mov (%esp), %ebx; mov 4(%esp), %ecx; out %al, $0xf4; hlt");

#define IDT_GPA 0x14000ull

static void put_gates(struct kvm_machine *m, struct cpu *c, uint32_t handler)
{
	c->idtr = (struct dtable){ IDT_GPA, 256 * 8 - 1 };
	for (unsigned n = 0; n < 256; n++) {
		uint64_t gate = (handler & 0xffff) | 8ull << 16 | 0x8eull << 40 |
		                (uint64_t)(handler >> 16) << 48;

		mem_write(m->mem, IDT_GPA + 8 * n, &gate, sizeof(gate));
	}
}

static void put_gdt(struct kvm_machine *m, struct cpu *c)
{
	const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };

	mem_write(m->mem, 0x13000, gdt, sizeof(gdt));
	c->gdtr = (struct dtable){ 0x13000, sizeof(gdt) - 1 };
}

static void test_recovery_fault(void **state)
{
	struct kvm_machine m;
	struct cpu *c;

	machine_new(&m, IRQCHIP_OWN, 1);
	c = m.cpu[0];
	LOAD(&m, fault);
	put_gates(&m, c, CODE_GPA + 0x200);
	set_mode32(c);
	put_gdt(&m, c);
	start(&m);
	assert_int_equal(machine_run(&m, c), EXIT_KICK);
	m.engine->sync_out(c);
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

	machine_new(&m, IRQCHIP_OWN, 1);
	c = m.cpu[0];
	LOAD(&m, cmpxchg16b);
	set_mode64(&m, c, 0);
	start(&m);
	assert_int_equal(machine_run(&m, c), EXIT_KICK);
	m.engine->sync_out(c);
	assert_int_equal(c->rdi & 0xff, 1);
	mem_read(m.mem, 0x30000, got, sizeof(got));
	assert_int_equal(got[0], 0x11);
	assert_int_equal(got[1], 0x22);
	machine_free(&m);
}

/* ---- kicks ---- */

#define KICKS      50000
#define HUNG_AFTER 300 /* s: far beyond what the busiest host needs */

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

	machine_new(&m, IRQCHIP_OWN, 1);
	LOAD(&m, spin);
	set_mode64(&m, m.cpu[0], 3);
	kick_often(&m);
	machine_free(&m);
}

static void test_kick_halted(void **state)
{
	struct kvm_machine m;

	machine_new(&m, IRQCHIP_KERNEL, 1);
	LOAD(&m, sleep);
	set_mode32(m.cpu[0]);
	kick_often(&m);
	machine_free(&m);
}

/* ---- interrupts from the kernel's controllers ---- */

#define VECTOR 0x40

/* Switches the APIC on, sleeps until an interrupt comes. */
GUEST(waits, 32,
      "movl $0x1ff, 0xfee000f0; sti; hlt; jmp .\n"
      ".skip 0x200 - (. - waits_start); movl $0, 0xfee000b0; out %al, $0xf4; jmp .");

static void prepare_waiter(struct kvm_machine *m, enum irqchip_kind kind)
{
	machine_new(m, kind, 1);
	LOAD(m, waits);
	put_gates(m, m->cpu[0], CODE_GPA + 0x200);
	set_mode32(m->cpu[0]);
	put_gdt(m, m->cpu[0]);
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
	if (!m.engine->vm->irqchip(m.vm)->ops->route_add) {
		machine_free(&m);
		print_message("skipped: this KVM has no irqfd\n");
		skip();
	}
	wait_while(&m, ring_route, NULL);
	machine_free(&m);
}

/* ---- doorbells ---- */

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

	machine_new(&m, IRQCHIP_OWN, 1);
	bells = m.engine->vm->doorbells(m.vm);
	assert_non_null(bells);
	port.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	page.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(bells->ops->add(bells->opaque, &port), 0);
	assert_int_equal(bells->ops->add(bells->opaque, &page), 0);
	assert_int_equal(bells->ops->add(bells->opaque, &page), -EEXIST);
	LOAD(&m, rings);
	set_mode32(m.cpu[0]);
	start(&m);
	assert_int_equal(machine_run(&m, m.cpu[0]), EXIT_KICK);
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

/* ---- dirty log ---- */

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

	machine_new(&m, IRQCHIP_OWN, 1);
	check_dirty_log(&m);
	machine_free(&m);
}

static void test_dirty_ring(void **state)
{
	struct kvm_machine m = { .options.dirty_ring = true };
	const char *why = machine_try(&m, &engine_kvm, "host", 1, NULL);

	if (why) {
		print_message("skipped: %s\n", why);
		machine_free(&m);
		skip();
	}
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
	struct kvm_machine m = { .options.dirty_ring = true };
	const char *why = machine_try(&m, &engine_kvm, "host", 1, NULL);

	if (why) {
		print_message("skipped: %s\n", why);
		machine_free(&m);
		skip();
	}
	LOAD(&m, dirties_all);
	set_mode32(m.cpu[0]);
	assert_int_equal(m.engine->vm->dirty_start(m.vm), 0);
	run_to_kick(&m);
	take_and_check(&m, is_all);
	assert_int_equal(m.engine->vm->dirty_stop(m.vm), 0);
	machine_free(&m);
}

/* ---- crossing ---- */

/* A checksum, with a stop in each of its rounds; registers, vectors and memory carry it on. */
GUEST(sums, 64,
      "mov $1, %eax; mov $40, %ecx; mov $0x30000, %edi; cvtsi2sd %rax, %xmm1\n"
      "1: imul $0x19660d, %rax; add $0x3c6ef35f, %rax; mov %rax, (%rdi); add $8, %rdi\n"
      "cvtsi2sd %rax, %xmm0; addsd %xmm0, %xmm1; push %rax; out %al, $0xf4; pop %rdx; xor %rdx, "
      "%rax\n"
      "loop 1b; movsd %xmm1, (%rdi); hlt");

static void take_over(struct kvm_machine *to, struct kvm_machine *from)
{
	from->engine->sync_out(from->cpu[0]);
	cpu_copy_state(to->cpu[0], from->cpu[0]);
	cpu_update_mode(to->cpu[0]);
	mmu_flush_all(to->cpu[0]);
	mmu_update_mode(to->cpu[0]);
	to->engine->sync_in(to->cpu[0]);
}

/* Runs the guest, each stretch on the next of the machines; they share memory. */
static void run_across(struct kvm_machine *m, unsigned nr, struct cpu *end)
{
	unsigned at = 0;

	LOAD(&m[0], sums);
	set_mode64(&m[0], m[0].cpu[0], 0);
	mmu_flush_all(m[0].cpu[0]);
	start(&m[0]);
	while (machine_run(&m[at], m[at].cpu[0]) == EXIT_KICK) {
		unsigned next = (at + 1) % nr;

		if (next != at)
			take_over(&m[next], &m[at]);
		at = next;
	}
	m[at].engine->sync_out(m[at].cpu[0]);
	*end = *m[at].cpu[0];
}

static void free_all(struct kvm_machine *m, unsigned nr)
{
	struct mem *mem = m[0].mem;

	for (unsigned n = 0; n < nr; n++) {
		m[n].mem = NULL;
		machine_free(&m[n]);
	}
	mem_free(mem);
}

static void test_crossing(void **state)
{
	static const struct engine_ops *const engines[] = { &engine_kvm, &engine_bt,
		                                            &engine_interp };
	static struct kvm_machine alone, m[ARRAY_SIZE(engines)];
	static struct cpu want, got;
	uint8_t memory[2][0x200];
	const char *why;

	assert_null(machine_try(&alone, &engine_interp, "x86-64-v1", 1, NULL));
	run_across(&alone, 1, &want);
	mem_read(alone.mem, 0x30000, memory[0], sizeof(memory[0]));
	machine_free(&alone);
	for (unsigned n = 0; n < ARRAY_SIZE(engines); n++) {
		why = machine_try(&m[n], engines[n], "x86-64-v1", 1, m[0].mem);
		if (why) {
			print_message("skipped: %s\n", why);
			free_all(m, n + 1);
			skip();
		}
	}
	run_across(m, ARRAY_SIZE(engines), &got);
	mem_read(m[0].mem, 0x30000, memory[1], sizeof(memory[1]));
	assert_memory_equal(memory[0], memory[1], sizeof(memory[0]));
	assert_memory_equal(got.gpr, want.gpr, 16 * 8);
	assert_int_equal(cpu_get_rflags(&got), cpu_get_rflags(&want));
	assert_memory_equal(got.fpu.area + FPU_XMM, want.fpu.area + FPU_XMM, 256);
	free_all(m, ARRAY_SIZE(engines));
}

/* What the kernel's chips are given comes out again. */
static void test_chips(void **state)
{
	struct kvm_machine m;
	struct pic pic = { 0 }, pic_got = { 0 };
	struct ioapic io = { 0 }, io_got = { 0 };

	machine_new(&m, IRQCHIP_KERNEL, 1);
	pic.chip[1].slave = pic_got.chip[1].slave = true;
	pic.chip[0].s.vector = 0x20;
	pic.chip[0].s.imr = 0xfa;
	pic.chip[0].s.isr = 0x02;
	pic.chip[0].s.lowest = 3;
	pic.chip[1].s.vector = 0x28;
	pic.chip[1].s.imr = 0xff;
	pic.chip[1].s.lowest = 7;
	pic.chip[1].s.elcr = 0x0e;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io.s.redir[pin] = 0x10000 | (0x30 + pin);
	io.s.redir[4] = 0x0100000000008054; /* level, to CPU 1 */
	io.s.select = 0x18;
	io.s.id = 1;
	assert_int_equal(m.engine->vm->chips_in(m.vm, &pic, &io), 0);
	assert_int_equal(m.engine->vm->chips_out(m.vm, &pic_got, &io_got), 0);
	for (unsigned n = 0; n < 2; n++) {
		assert_int_equal(pic_got.chip[n].s.vector, pic.chip[n].s.vector);
		assert_int_equal(pic_got.chip[n].s.imr, pic.chip[n].s.imr);
		assert_int_equal(pic_got.chip[n].s.isr, pic.chip[n].s.isr);
		assert_int_equal(pic_got.chip[n].s.lowest, pic.chip[n].s.lowest);
		assert_int_equal(pic_got.chip[n].s.elcr, pic.chip[n].s.elcr);
	}
	assert_memory_equal(io_got.s.redir, io.s.redir, sizeof(io.s.redir));
	assert_int_equal(io_got.s.select, io.s.select);
	machine_free(&m);
}

/* The same of a local APIC, whose state is part of the vCPU's. */
static void test_lapic(void **state)
{
	static const struct lapic_ops ops = { 0 };
	struct lapic_bus bus;
	struct lapic lapic;
	struct loop *loop;
	struct lapic_state want;
	struct kvm_machine m;
	struct cpu *c;

	machine_new(&m, IRQCHIP_KERNEL, 1);
	c = m.cpu[0];
	lapic_bus_init(&bus);
	bus.external = m.engine->vm->irqchip(m.vm);
	assert_int_equal(loop_new(&loop), 0);
	lapic_init(&lapic, &bus, 0, loop, &ops, NULL, 2000000000, CPUID_PHYS_BITS);
	c->lapic = &lapic;
	want = lapic.s;
	want.tpr = 0x30;
	want.svr = 0x1ff;
	want.ldr = 0x01000000;
	want.lvt[LVT_LINT1] = 0x400;
	want.lvt[LVT_TIMER] = 0x10041;
	want.isr[1] = 0x2;
	want.irr[2] = 0x10;
	want.divide = 0xb;
	lapic_load(&lapic, &want);
	set_mode32(c);
	start(&m);
	m.engine->kick(c);
	assert_int_equal(machine_run(&m, c), EXIT_KICK);
	lapic.s = (struct lapic_state){ 0 };
	m.engine->sync_out(c);
	assert_int_equal(lapic.s.base_msr, want.base_msr);
	assert_int_equal(lapic.s.tpr, want.tpr);
	assert_int_equal(lapic.s.svr, want.svr);
	assert_int_equal(lapic.s.ldr, want.ldr);
	assert_int_equal(lapic.s.divide, want.divide);
	assert_memory_equal(lapic.s.lvt, want.lvt, sizeof(want.lvt));
	assert_memory_equal(lapic.s.isr, want.isr, sizeof(want.isr));
	assert_memory_equal(lapic.s.irr, want.irr, sizeof(want.irr));
	machine_free(&m);
	lapic_fini(&lapic);
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exits),          cmocka_unit_test(test_unfinished),
		cmocka_unit_test(test_state),          cmocka_unit_test(test_cpuid),
		cmocka_unit_test(test_steal_time),     cmocka_unit_test(test_recovery),
		cmocka_unit_test(test_recovery_fault), cmocka_unit_test(test_cmpxchg16b),
		cmocka_unit_test(test_kick_running),   cmocka_unit_test(test_kick_halted),
		cmocka_unit_test(test_message),        cmocka_unit_test(test_route),
		cmocka_unit_test(test_doorbells),      cmocka_unit_test(test_dirty_bitmap),
		cmocka_unit_test(test_dirty_ring),     cmocka_unit_test(test_dirty_ring_full),
		cmocka_unit_test(test_crossing),       cmocka_unit_test(test_chips),
		cmocka_unit_test(test_lapic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The engine on KVM: state into it and out again, what CPUID shows, a guest that goes on on other
 * engines. */
#include "kvm_machine.h"

#include "base/loop.h"
#include "cpu/flags.h"
#include "device/ioapic.h"
#include "device/lapic.h"
#include "device/pic.h"
#include "interp/interp.h"

/* ---- registers ---- */

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

	machine_new(&m, IRQCHIP_OWN);
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

	machine_new(&m, IRQCHIP_OWN);
	if (is_emulated())
		machine_skip(&m, "this host's KVM emulates ring 0, and shows its own CPUID");
	LOAD(&m, cpuids);
	c = machine_go32(&m, EXIT_KICK);
	cpuid_query(c, 1, 0, leaf1);
	cpuid_query(c, 7, 0, leaf7);
	cpuid_query(c, 0x80000001, 0, extended);
	assert_int_equal((uint32_t)c->rsi, leaf1[2]);
	assert_int_equal((uint32_t)c->rdi, leaf1[3]);
	assert_int_equal((uint32_t)c->rbp, leaf7[1]);
	assert_int_equal((uint32_t)c->rcx, extended[2]);
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

/* ---- the kernel's interrupt controllers ---- */

/* What the kernel's chips are given comes out again. */
static void test_chips(void **state)
{
	struct kvm_machine m;
	struct pic pic = { 0 }, pic_got = { 0 };
	struct ioapic io = { 0 }, io_got = { 0 };

	machine_new(&m, IRQCHIP_KERNEL);
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

	machine_new(&m, IRQCHIP_KERNEL);
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
		cmocka_unit_test(test_state),    cmocka_unit_test(test_cpuid),
		cmocka_unit_test(test_crossing), cmocka_unit_test(test_chips),
		cmocka_unit_test(test_lapic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

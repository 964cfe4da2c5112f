/*
 * A machine of KVM for unit tests, with no board: memory, some vCPUs, and a program in 32-bit flat
 * or 64-bit code. Ports and MMIO that nobody else answers are noted in the order in which they
 * come.
 */
#pragma once

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cpu/cpuid.h"
#include "engine/engine.h"
#include "mem/mem.h"
#include "mmu/mmu.h"
#include "unit.h"

#define CODE_GPA    0x10000ull
#define STACK_TOP   0x9000ull
#define TABLES_GPA  0x20000ull /* PML4, PDPT, PD: 2 MiB pages from 0 on */
#define PRIVATE_GPA 0xfeffc000ull
#define MAX_NOTES   64
#define DEVICE_GPA  0xd0000000u /* nothing is there */

#define HUNG_AFTER 300 /* s: far beyond what the busiest host needs */

/* Guest code in assembly: name_start to name_end. */
#define GUEST(name, bits, text)                                                            \
	extern const uint8_t name##_start[], name##_end[];                                 \
	__asm__(".pushsection .rodata\n" #name "_start:\n.code" #bits "\n" text "\n" #name \
	        "_end:\n.code64\n.popsection")

struct kvm_machine {
	struct mem *mem;
	const struct engine_ops *engine;
	struct engine_options options;
	struct engine_vm *vm;
	struct cpuid_model *model;
	struct cpu *cpu[2];
	unsigned nr_cpus;
	struct exit note[MAX_NOTES];
	unsigned nr_notes;
	uint64_t in_value; /* what reads give */
};

static inline struct kvm_machine *machine_of(struct cpu *c)
{
	return c->host;
}

static inline void machine_exit(struct cpu *c, struct exit *e)
{
	struct kvm_machine *m = machine_of(c);

	switch (e->reason) {
	case EXIT_PIO:
	case EXIT_MMIO:
		if (!e->io.write)
			e->io.value = m->in_value;
		if (m->nr_notes < MAX_NOTES)
			m->note[m->nr_notes++] = *e;
		if (e->reason == EXIT_PIO && e->io.addr == 0xf4)
			m->engine->kick(c);
		break;
	case EXIT_MSR:
		e->msr.fault = true;
		break;
	case EXIT_INTACK:
		e->vector = -1;
		break;
	default:
		break;
	}
}

static const struct cpu_ops machine_cpu_ops = { .exit = machine_exit };

static inline void machine_free(struct kvm_machine *m)
{
	for (unsigned n = 0; n < m->nr_cpus; n++) {
		m->engine->destroy(m->cpu[n]);
		mmu_free(m->cpu[n]);
		free(m->cpu[n]);
	}
	if (m->vm)
		m->engine->vm->close(m->vm);
	cpuid_model_free(m->model);
	mem_free(m->mem);
	*m = (struct kvm_machine){ 0 };
}

static inline void add_cpu(struct kvm_machine *m, unsigned id)
{
	struct cpu *c = aligned_alloc(64, (sizeof(*c) + 63) & ~63ul);

	assert_non_null(c);
	memset(c, 0, sizeof(*c));
	c->id = id;
	c->cpuid = m->model;
	c->ops = &machine_cpu_ops;
	c->mem = m->mem;
	c->host = m;
	c->engine_vm = m->vm;
	c->nr_cpus = 2;
	assert_int_equal(mmu_new(c), 0);
	cpu_reset(c);
	c->mp_state = id ? MP_WAIT_SIPI : MP_RUNNABLE;
	m->cpu[m->nr_cpus++] = c;
	assert_int_equal(m->engine->create(c), 0);
}

/* Why not, or NULL when it is made. mem: taken over from another machine, or NULL. */
static const char *machine_try(struct kvm_machine *m, const struct engine_ops *engine,
                               const char *cpu, unsigned cpus, struct mem *mem)
{
	static char err[256];
	struct engine_machine config = { .vcpus = cpus, .private_gpa = PRIVATE_GPA };

	m->engine = engine;
	m->mem = mem;
	if (!mem)
		assert_int_equal(mem_new(&m->mem, MEM_MIN_BYTES), 0);
	config.mem = m->mem;
	config.options = &m->options;
	if (engine->vm) {
		if (engine->vm->open(&m->vm, &config, err, sizeof(err)))
			return err;
		assert_int_equal(engine->vm->map(m->vm), 0);
	}
	if (cpuid_model_new(&m->model, cpu, m->vm ? engine->vm->offer(m->vm) : NULL, cpus,
	                    2000000000, err, sizeof(err)))
		return err;
	for (unsigned n = 0; n < cpus; n++)
		add_cpu(m, n);
	return NULL;
}

static inline void machine_skip(struct kvm_machine *m, const char *why)
{
	print_message("skipped: %s\n", why);
	machine_free(m);
	skip();
}

/* KVM; the test is skipped, with the reason printed, where it cannot be had like that. */
static inline void machine_new_with(struct kvm_machine *m, const struct engine_options *options)
{
	const char *why;

	*m = (struct kvm_machine){ .options = *options };
	why = machine_try(m, &engine_kvm, "host", 1, NULL);
	if (why)
		machine_skip(m, why);
}

static inline void machine_new(struct kvm_machine *m, enum irqchip_kind irqchip)
{
	machine_new_with(m, &(struct engine_options){ .irqchip = irqchip });
}

static inline void machine_load(struct kvm_machine *m, const uint8_t *start, const uint8_t *end)
{
	assert_int_equal(mem_write(m->mem, CODE_GPA, start, (uint64_t)(end - start)), 0);
}
#define LOAD(m, name) machine_load(m, name##_start, name##_end)

/* Flat 32-bit code in ring 0, paging off. */
static inline void set_mode32(struct cpu *c)
{
	const uint32_t data = 0x3 | SEG_S | SEG_P | SEG_DB | SEG_G;

	for (unsigned n = 0; n <= SEG_GS; n++)
		c->seg[n] = (struct segment){ .limit = UINT32_MAX, .sel = 16, .attr = data };
	c->seg[SEG_CS].sel = 8;
	c->seg[SEG_CS].attr = 0xb | SEG_S | SEG_P | SEG_DB | SEG_G;
	c->cr0 = CR0_PE | CR0_ET | CR0_NE;
	c->cr4 = CR4_OSFXSR;
	c->rip = CODE_GPA;
	c->rsp = STACK_TOP;
	cpu_set_rflags(c, RFLAGS_1);
	c->mp_state = MP_RUNNABLE;
	cpu_update_mode(c);
}

/* 64-bit code in ring 0 or 3, the first 32 MiB mapped as they are, open to all. */
static inline void set_mode64(struct kvm_machine *m, struct cpu *c, unsigned ring)
{
	uint64_t entry = (TABLES_GPA + 0x1000) | 0x27; /* accessed */

	set_mode32(c);
	mem_write(m->mem, TABLES_GPA, &entry, 8);
	entry = (TABLES_GPA + 0x2000) | 0x27;
	mem_write(m->mem, TABLES_GPA + 0x1000, &entry, 8);
	for (uint64_t n = 0; n < 16; n++) {
		entry = n << 21 | 0xe7;
		mem_write(m->mem, TABLES_GPA + 0x2000 + 8 * n, &entry, 8);
	}
	c->cr3 = TABLES_GPA;
	c->cr4 |= CR4_PAE;
	c->efer = EFER_LME | EFER_LMA;
	c->cr0 |= CR0_PG | CR0_WP;
	c->cpl = (uint8_t)ring;
	c->seg[SEG_CS].attr = 0xb | SEG_S | SEG_P | SEG_L | SEG_G | ring << 5;
	c->seg[SEG_CS].sel = (uint16_t)(8 | ring);
	c->seg[SEG_SS].attr |= ring << 5;
	c->seg[SEG_SS].sel = (uint16_t)(16 | ring);
	c->seg[SEG_LDTR] = (struct segment){ .attr = SEG_UNUSABLE };
	c->seg[SEG_TR] = (struct segment){ .limit = 0x67, .attr = 0xb | SEG_P, .sel = 64 };
	cpu_update_mode(c);
}

/* Until run() ends for a reason, which it gives. */
static inline enum exit_reason machine_run(struct kvm_machine *m, struct cpu *c)
{
	struct exit e = { .reason = EXIT_NONE };

	while (e.reason == EXIT_NONE)
		m->engine->run(c, &e);
	if (e.reason == EXIT_ERROR)
		print_message("engine: %s\n", e.text);
	return e.reason;
}

static inline void start(struct kvm_machine *m)
{
	m->engine->sync_in(m->cpu[0]);
}

static inline void add_up(void *opaque, const char *group, const char *name, uint64_t n)
{
	if (!strcmp(name, "interpreted"))
		*(uint64_t *)opaque += n;
}

/* Instructions that the interpreter had to finish. */
static inline uint64_t interpreted(struct kvm_machine *m)
{
	uint64_t sum = 0;

	m->engine->count(m->cpu[0], add_up, &sum);
	return sum;
}

/* From where the vCPU is until run() ends for this reason; gives the vCPU with its state. */
static inline struct cpu *machine_go(struct kvm_machine *m, enum exit_reason reason)
{
	start(m);
	assert_int_equal(machine_run(m, m->cpu[0]), reason);
	m->engine->sync_out(m->cpu[0]);
	return m->cpu[0];
}

/* The same from the start of the program, in flat 32-bit code. */
static inline struct cpu *machine_go32(struct kvm_machine *m, enum exit_reason reason)
{
	set_mode32(m->cpu[0]);
	return machine_go(m, reason);
}

/* A GDT of flat segments, and an IDT whose gates all lead to one place. */
#define GDT_GPA 0x13000ull
#define IDT_GPA 0x14000ull

static inline void put_tables(struct kvm_machine *m, uint32_t handler)
{
	const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };
	uint64_t gate =
	        (handler & 0xffff) | 8ull << 16 | 0x8eull << 40 | (uint64_t)(handler >> 16) << 48;

	mem_write(m->mem, GDT_GPA, gdt, sizeof(gdt));
	for (unsigned n = 0; n < 256; n++)
		mem_write(m->mem, IDT_GPA + 8 * n, &gate, sizeof(gate));
	m->cpu[0]->gdtr = (struct dtable){ GDT_GPA, sizeof(gdt) - 1 };
	m->cpu[0]->idtr = (struct dtable){ IDT_GPA, 256 * 8 - 1 };
}

/*
 * The engine's side: a vCPU in 64-bit ring 3 of a machine without a board.
 *
 * The guest is honest: real page tables, a GDT, a TSS and an IDT whose 32 handlers are one HLT
 * each, so that any engine runs it unchanged. A case begins with struct cpu set to ring 3 and ends
 * with the EXIT_HLT of a handler; its address gives the vector, its stack frame RIP, RFLAGS and RSP
 * at the exception, every other register still holds what the case left there.
 *
 * Guest physical layout: system structures in the first 2 MiB, which one large supervisor page
 * maps at SYSTEM_VA; the areas of oracle.h in the second 2 MiB, mapped by 4 KiB pages.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cpu/cpuid.h"
#include "engine/engine.h"
#include "interp/ops.h"
#include "mem/mem.h"
#include "mmu/mmu.h"
#include "oracle.h"

#define SYSTEM_VA  0xffff800000000000ull
#define GDT_PA     0x1000ull
#define IDT_PA     0x2000ull
#define TSS_PA     0x3000ull
#define STUBS_PA   0x4000ull
#define STACK_TOP  0x6000ull
#define TABLES_PA  0x10000ull /* page tables, allocated upwards */
#define CODE_PA    0x200000ull
#define DATA_PA    0x300000ull
#define RODATA_PA  0x310000ull
#define USTACK_PA  0x320000ull
#define PRIVATE_PA 0xfeffc000ull /* for an engine that wants some pages */

#define STUB_BYTES 16
#define KERNEL_CS  0x10
#define KERNEL_SS  0x18
#define TSS_SEL    0x40

#define ATTR_CODE64(dpl) (0xb | SEG_S | ((dpl) << 5) | SEG_P | SEG_L | SEG_G)
#define ATTR_DATA(dpl)   (0x3 | SEG_S | ((dpl) << 5) | SEG_P | SEG_DB | SEG_G)

#define HUNG_SECONDS 20 /* for a batch: far beyond what the busiest host needs */

struct engine_side {
	struct oracle_side side;
	const struct engine_ops *engine;
	struct cpu *cpu;
	struct engine_vm *vm; /* NULL when the engine has none */
	struct cpuid_model *model;
	struct mem *mem;
	uint64_t next_table;
	struct oracle_outcome result;
};

/* Kicks come from another thread, as engines expect. */
static struct {
	pthread_mutex_t lock;
	struct engine_side *side; /* that runs a batch, or NULL */
	unsigned seconds;         /* that it has left */
} watched = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void watch(struct engine_side *s)
{
	pthread_mutex_lock(&watched.lock);
	watched.side = s;
	watched.seconds = HUNG_SECONDS;
	pthread_mutex_unlock(&watched.lock);
}

static void *watchdog(void *unused)
{
	for (;;) {
		sleep(1);
		pthread_mutex_lock(&watched.lock);
		if (watched.side && (!watched.seconds || !--watched.seconds))
			watched.side->engine->kick(watched.side->cpu);
		pthread_mutex_unlock(&watched.lock);
	}
	return NULL;
}

static int start_watchdog(void)
{
	static bool started;
	pthread_t thread;
	int rc = started ? 0 : -pthread_create(&thread, NULL, watchdog, NULL);

	if (!rc && !started)
		pthread_detach(thread);
	started = started || !rc;
	return rc;
}

/* Nothing is attached: ports and addresses read as ones, unknown MSRs fault, no interrupts. */
static void answer_exit(struct cpu *c, struct exit *e)
{
	switch (e->reason) {
	case EXIT_PIO:
	case EXIT_MMIO:
		e->io.value = ~0ull;
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

static const struct cpu_ops cpu_ops = { .exit = answer_exit };

static void put64(struct mem *m, gpa_t pa, uint64_t value)
{
	mem_write(m, pa, &value, sizeof(value));
}

static uint64_t get64(const struct mem *m, gpa_t pa)
{
	uint64_t value = 0;

	mem_read(m, pa, &value, sizeof(value));
	return value;
}

/* The table that entry pa refers to, made if need be. */
static gpa_t next_level(struct engine_side *s, gpa_t pa)
{
	uint64_t entry = get64(s->mem, pa);

	if (!entry) {
		entry = s->next_table | 7;
		s->next_table += PAGE_SIZE;
		put64(s->mem, pa, entry);
	}
	return entry & 0x000ffffffffff000ull;
}

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_U  4ull
#define PTE_PS 0x80ull
#define PTE_AD 0x60ull
#define PTE_NX BIT(63)

/* Pages that follow each other do not in physical memory. */
#define APART(off) (2 * (off))

static void map(struct engine_side *s, gva_t va, gpa_t pa, uint64_t bytes, uint64_t bits)
{
	for (uint64_t off = 0; off < bytes; off += PAGE_SIZE) {
		gpa_t t = TABLES_PA;

		for (int shift = 39; shift > 12; shift -= 9)
			t = next_level(s, t + (((va + off) >> shift) & 511) * 8);
		put64(s->mem, t + (((va + off) >> 12) & 511) * 8,
		      (pa + APART(off)) | bits | PTE_P | PTE_AD);
	}
}

static void build_tables(struct engine_side *s)
{
	gpa_t t = TABLES_PA;

	s->next_table = TABLES_PA + PAGE_SIZE;
	for (int shift = 39; shift > 21; shift -= 9)
		t = next_level(s, t + ((SYSTEM_VA >> shift) & 511) * 8);
	put64(s->mem, t, PTE_P | PTE_W | PTE_PS | PTE_AD);
	map(s, ORACLE_CODE, CODE_PA, ORACLE_CODE_BYTES, PTE_U);
	map(s, ORACLE_DATA, DATA_PA, ORACLE_DATA_BYTES, PTE_U | PTE_W | PTE_NX);
	map(s, ORACLE_RODATA, RODATA_PA, PAGE_SIZE, PTE_U | PTE_NX);
	map(s, ORACLE_STACK, USTACK_PA, ORACLE_STACK_BYTES, PTE_U | PTE_W | PTE_NX);
}

static void build_descriptors(struct engine_side *s)
{
	uint64_t tss = SYSTEM_VA + TSS_PA;

	put64(s->mem, GDT_PA + KERNEL_CS, 0x00af9b000000ffffull);
	put64(s->mem, GDT_PA + KERNEL_SS, 0x00cf93000000ffffull);
	put64(s->mem, GDT_PA + (ORACLE_USER_SS & ~7), 0x00cff3000000ffffull);
	put64(s->mem, GDT_PA + (ORACLE_USER_CS & ~7), 0x00affb000000ffffull);
	put64(s->mem, GDT_PA + TSS_SEL,
	      0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56);
	put64(s->mem, GDT_PA + TSS_SEL + 8, tss >> 32);
	put64(s->mem, TSS_PA + 4, SYSTEM_VA + STACK_TOP); /* RSP0 */
	put64(s->mem, TSS_PA + 0x60, 0x68ull << 48);      /* no I/O permission bitmap */
	for (unsigned v = 0; v < 32; v++) {
		uint64_t stub = SYSTEM_VA + STUBS_PA + v * STUB_BYTES;
		uint64_t type = v == EXC_BP || v == EXC_OF ? 0xee : 0x8e;

		put64(s->mem, IDT_PA + v * 16,
		      (stub & 0xffff) | KERNEL_CS << 16 | type << 40 | (stub >> 16 & 0xffff) << 48);
		put64(s->mem, IDT_PA + v * 16 + 8, stub >> 32);
		mem_write(s->mem, STUBS_PA + v * STUB_BYTES, "\xf4\xeb\xfd",
		          3); /* hlt; jmp . - 1 */
	}
}

/* What the CPU model has of these; a CPU of hardware takes no others. */
static uint64_t optional_cr4(const struct cpu *c)
{
	uint32_t leaf1[4], leaf7[4];

	cpuid_query(c, 1, 0, leaf1);
	cpuid_query(c, 7, 0, leaf7);
	return (leaf1[2] & BIT(26) ? CR4_OSXSAVE : 0) | (leaf7[2] & BIT(2) ? CR4_UMIP : 0) |
	       (leaf7[1] & BIT(0) && oracle_host_has_fsgsbase() ? CR4_FSGSBASE : 0);
}

static void init_system(struct engine_side *s)
{
	struct cpu *c = s->cpu;

	c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | optional_cr4(c);
	c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	c->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
	c->gdtr = (struct dtable){ SYSTEM_VA + GDT_PA, TSS_SEL + 15 };
	c->idtr = (struct dtable){ SYSTEM_VA + IDT_PA, 32 * 16 - 1 };
	c->seg[SEG_TR] = (struct segment){ SYSTEM_VA + TSS_PA, 0x67, 0xb | SEG_P, TSS_SEL };
	c->seg[SEG_LDTR] = (struct segment){ .attr = SEG_UNUSABLE };
	mmu_flush_all(c);
	mmu_set_cr3(c, TABLES_PA);
}

static void enter_user(struct engine_side *s, const struct oracle_state *in)
{
	struct cpu *c = s->cpu;

	memcpy(c->gpr, in->gpr, sizeof(in->gpr));
	c->rip = in->rip;
	c->seg[SEG_CS] = (struct segment){ 0, ~0u, ATTR_CODE64(3), ORACLE_USER_CS };
	c->seg[SEG_SS] = (struct segment){ 0, ~0u, ATTR_DATA(3), ORACLE_USER_SS };
	c->seg[SEG_DS] = c->seg[SEG_ES] = (struct segment){ .attr = SEG_UNUSABLE };
	c->seg[SEG_FS] = (struct segment){ .base = in->fs_base, .attr = SEG_UNUSABLE };
	c->seg[SEG_GS] = (struct segment){ .base = in->gs_base, .attr = SEG_UNUSABLE };
	memcpy(c->fpu.area, in->fpu.area, FPU_BYTES);
	cpu_set_rflags(c, in->rflags);
	cpu_set_cpl(c, 3);
	cpu_update_mode(c);
	mmu_update_mode(c);
	c->mp_state = MP_RUNNABLE;
	c->shadow = false;
	c->cr2 = 0;
	c->db_pending = 0;
	s->engine->sync_in(c);
}

static bool has_error_code(unsigned vector)
{
	return BIT(vector) & (BIT(EXC_DF) | BIT(EXC_TS) | BIT(EXC_NP) | BIT(EXC_SS) | BIT(EXC_GP) |
	                      BIT(EXC_PF) | BIT(EXC_AC));
}

/* Reads the interrupt frame of the handler that halted. */
static void read_frame(struct engine_side *s, struct oracle_state *out)
{
	struct cpu *c = s->cpu;
	uint64_t stub = c->rip - 1 - (SYSTEM_VA + STUBS_PA);
	gpa_t frame = c->rsp - SYSTEM_VA;

	if (stub >= 32 * STUB_BYTES || stub % STUB_BYTES || frame >= STACK_TOP) {
		out->vector = ORACLE_DIED;
		return;
	}
	out->vector = stub / STUB_BYTES;
	if (has_error_code(out->vector)) {
		out->error = get64(s->mem, frame);
		frame += 8;
	}
	out->cr2 = out->vector == EXC_PF ? c->cr2 : 0;
	out->rip = get64(s->mem, frame);
	out->rflags = get64(s->mem, frame + 16);
	out->gpr[R_RSP] = get64(s->mem, frame + 24);
}

static void run_case(struct engine_side *s, const struct oracle_state *in, struct oracle_state *out)
{
	struct cpu *c = s->cpu;
	struct exit e;

	enter_user(s, in);
	do {
		e = (struct exit){ .reason = EXIT_NONE };
		s->engine->run(c, &e);
	} while (e.reason == EXIT_NONE);
	s->engine->sync_out(c);
	memset(out, 0, sizeof(*out));
	memcpy(out->gpr, c->gpr, sizeof(out->gpr));
	memcpy(out->fpu.area, c->fpu.area, FPU_BYTES);
	out->fs_base = c->seg[SEG_FS].base;
	out->gs_base = c->seg[SEG_GS].base;
	out->rip = c->rip;
	if (e.reason == EXIT_HLT)
		read_frame(s, out);
	else
		out->vector = e.reason == EXIT_KICK ? ORACLE_HUNG : ORACLE_DIED;
}

static void put_area(struct engine_side *s, gpa_t pa, const uint8_t *from, size_t bytes)
{
	for (size_t off = 0; off < bytes; off += PAGE_SIZE)
		mem_write(s->mem, pa + APART(off), from + off, PAGE_SIZE);
}

static void get_area(struct engine_side *s, gpa_t pa, uint8_t *to, size_t bytes)
{
	for (size_t off = 0; off < bytes; off += PAGE_SIZE)
		mem_read(s->mem, pa + APART(off), to + off, PAGE_SIZE);
}

static const struct oracle_outcome *engine_run(struct oracle_side *side,
                                               const struct oracle_batch *b)
{
	struct engine_side *s = container_of(side, struct engine_side, side);

	put_area(s, CODE_PA, b->code, sizeof(b->code));
	put_area(s, RODATA_PA, b->rodata, sizeof(b->rodata));
	s->engine->invalidate(s->cpu);
	watch(s);
	for (unsigned i = 0; i < b->nr; i++) {
		struct oracle_memory *m = &s->result.memory[i];

		put_area(s, DATA_PA, b->initial.data, sizeof(m->data));
		put_area(s, USTACK_PA, b->initial.stack, sizeof(m->stack));
		run_case(s, &b->in[i], &s->result.out[i]);
		get_area(s, DATA_PA, m->data, sizeof(m->data));
		get_area(s, USTACK_PA, m->stack, sizeof(m->stack));
	}
	watch(NULL);
	return &s->result;
}

static void engine_free(struct oracle_side *side)
{
	struct engine_side *s = container_of(side, struct engine_side, side);

	if (s->cpu) {
		if (s->cpu->mmu)
			s->engine->destroy(s->cpu);
		mmu_free(s->cpu);
		free(s->cpu);
	}
	if (s->vm)
		s->engine->vm->close(s->vm);
	cpuid_model_free(s->model);
	if (s->mem)
		mem_free(s->mem);
	free(s);
}

static const struct oracle_side_ops engine_side_ops = {
	.name = "engine",
	.run = engine_run,
	.free = engine_free,
};

static int make_cpu(struct engine_side *s)
{
	const struct cpuid_offer *offer = s->vm ? s->engine->vm->offer(s->vm) : NULL;
	char err[256];
	int rc = cpuid_model_new(&s->model, "host", offer, 1, clock_tsc_hz(), err, sizeof(err));

	if (rc) {
		fprintf(stderr, "oracle: %s\n", err);
		return rc;
	}
	s->cpu = aligned_alloc(64, (sizeof(*s->cpu) + 63) & ~63ul);
	if (!s->cpu)
		return -ENOMEM;
	memset(s->cpu, 0, sizeof(*s->cpu));
	s->cpu->mem = s->mem;
	s->cpu->ops = &cpu_ops;
	s->cpu->cpuid = s->model;
	s->cpu->engine_vm = s->vm;
	rc = mmu_new(s->cpu);
	if (rc)
		return rc;
	cpu_reset(s->cpu);
	return s->engine->create(s->cpu);
}

static int open_vm(struct engine_side *s)
{
	struct engine_machine m = { .mem = s->mem, .vcpus = 1, .private_gpa = PRIVATE_PA };
	struct engine_kvm_speed speed = { 0 };
	char err[256];
	int rc;

	if (!s->engine->vm)
		return 0;
	rc = s->engine->vm->open(&s->vm, &m, err, sizeof(err));
	if (!rc && s->engine == &engine_kvm)
		rc = engine_kvm_probe(false, &speed, err, sizeof(err));
	if (rc) {
		fprintf(stderr, "oracle: skipped: %s\n", err);
		return -ENOTSUP;
	}
	if (speed.ring0_ps > ENGINE_KVM_SLOW_PS)
		oracle_host_emulates();
	return s->engine->vm->map(s->vm);
}

static bool has_classes(const struct engine_side *s, unsigned classes)
{
	uint32_t leaf1[4];

	cpuid_query(s->cpu, 1, 0, leaf1);
	return !(classes & BIT(CLASS_AVX)) || leaf1[2] & BIT(28);
}

int oracle_engine_new(struct oracle_side **out, const char *name, unsigned classes)
{
	struct engine_side *s = calloc(1, sizeof(*s));
	int rc = -ENOMEM;

	if (!s)
		return rc;
	s->side.ops = &engine_side_ops;
	s->engine = engine_find(name);
	if (!s->engine) {
		fprintf(stderr, "oracle: no engine is called '%s'\n", name);
		rc = -ENOENT;
		goto out;
	}
	rc = mem_new(&s->mem, MEM_MIN_BYTES);
	if (rc)
		goto out;
	rc = open_vm(s);
	if (!rc)
		rc = make_cpu(s);
	if (rc)
		goto out;
	if (!has_classes(s, classes)) {
		fprintf(stderr, "oracle: skipped: engine %s has no AVX here\n", name);
		rc = -ENOTSUP;
		goto out;
	}
	build_tables(s);
	build_descriptors(s);
	init_system(s);
	rc = start_watchdog();
	if (rc)
		goto out;
	*out = &s->side;
	return 0;
out:
	engine_free(&s->side);
	return rc;
}

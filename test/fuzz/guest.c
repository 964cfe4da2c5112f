#include "guest.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cpu/cpuid.h"
#include "mmu/mmu.h"

static const struct guest_mode modes[] = {
	{ FLAG_REAL, 0, 0 },
	{ 0, 0, SEL_CODE16 },
	{ 0, 0, SEL_CODE32 },
	{ 0, 3, SEL_CODE32 },
	{ FLAG_V86, 3, 0 },
	{ FLAG_V86 | FLAG_PAGED, 3, 0 },
	{ FLAG_PAGED, 0, SEL_CODE32 },
	{ FLAG_PAGED, 3, SEL_CODE16 },
	{ FLAG_PAGED | FLAG_PAE, 0, SEL_CODE32 },
	{ FLAG_PAGED | FLAG_PAE, 3, SEL_CODE32 },
	{ FLAG_PAGED | FLAG_PAE | FLAG_LONG, 0, SEL_CODE64 },
	{ FLAG_PAGED | FLAG_PAE | FLAG_LONG, 3, SEL_CODE64 },
	{ FLAG_PAGED | FLAG_PAE | FLAG_LONG, 0, SEL_CODE32 },
	{ FLAG_PAGED | FLAG_PAE | FLAG_LONG, 3, SEL_CODE32 },
	{ FLAG_PAGED | FLAG_PAE | FLAG_LONG, 0, SEL_CODE16 },
	{ FLAG_PAGED | FLAG_PAE | FLAG_LONG | FLAG_LA57, 0, SEL_CODE64 },
	{ FLAG_PAGED | FLAG_PAE | FLAG_LONG | FLAG_LA57, 3, SEL_CODE64 },
};

/* Registers: what lies on an edge, and what leads somewhere. */
static const uint64_t values[] = {
	0,
	1,
	2,
	8,
	0x7f,
	0x80,
	0xffff,
	0xffffffff,
	0x7fffffff,
	0x80000000,
	~0ull,
	0x7fffffffffffffff,
	0x8000000000000000,
	0x00007ffffffffffc,
	0x0000800000000000,
	0xffff7fffffffffff,
	0x00fffffffffffffe,
	STACK_PA + 0xff0,
	STACK_PA + 3,
	DATA_PA,
	DATA_PA + 0xffd,
	CODE_PA,
	CODE_PA + 0xfff,
	GDT_PA,
	IDT_PA,
	TSS_PA,
	PT_PA,
	PML4_PA,
	LEGACY_PA,
	ROM_PA + 0xffc,
	RAM_BYTES - 3,
	RAM_BYTES,
	0xfee00000,
	0xbffffffc,
	0xffffffff00000000,
	0xc0000080,
	0x10,
	0xe0,
	0x3f8,
	SEL_CODE64,
	SEL_DATA,
	SEL_TSS,
	SEL_LDT,
	SEL_GATE,
	SEL_TASK,
	SEL_CODE32 + SEL_USER + 3,
	SEL_DATA + SEL_USER + 3,
	0x4b564d01,
	0x1d,
};

static void answer_exit(struct cpu *c, struct exit *e)
{
	struct guest *g = c->host;

	g->exits++;
	g->value = g->value * 6364136223846793005ull + 1442695040888963407ull;
	switch (e->reason) {
	case EXIT_PIO:
	case EXIT_MMIO:
		if (e->io.size != 1 && e->io.size != 2 && e->io.size != 4 && e->io.size != 8)
			abort();
		if (!e->io.write)
			e->io.value = g->value;
		break;
	case EXIT_MSR:
		e->msr.fault = g->value & 1;
		if (!e->msr.write)
			e->msr.value = g->value;
		break;
	case EXIT_INTACK:
		e->vector = g->value & 1 ? (int)(g->value >> 56) : -1;
		break;
	case EXIT_TPR:
		if (e->tpr.value > 15)
			abort();
		e->tpr.value = e->tpr.write ? e->tpr.value : g->value >> 60;
		break;
	default:
		abort(); /* not one that is answered in place */
	}
}

static const struct cpu_ops guest_ops = { .exit = answer_exit };

static void add_rom(struct mem *m)
{
	uint8_t *rom = malloc(ROM_BYTES);

	check(rom);
	memset(rom, 0xf4, ROM_BYTES);
	check(!mem_add_rom(m, ROM_PA, rom, ROM_BYTES));
	free(rom);
}

struct guest *guest_new(int (*create)(struct cpu *c))
{
	struct guest *g = calloc(1, sizeof(*g));
	char err[128];

	check(g && !mem_new(&g->mem, RAM_BYTES));
	check(!cpuid_model_new(&g->model, "host", NULL, 1, 2000000000, err, sizeof(err)));
	add_rom(g->mem);
	g->cpu = aligned_alloc(64, (sizeof(*g->cpu) + 63) & ~63ull);
	check(g->cpu);
	memset(g->cpu, 0, sizeof(*g->cpu));
	g->cpu->mem = g->mem;
	g->cpu->ops = &guest_ops;
	g->cpu->cpuid = g->model;
	g->cpu->host = g;
	check(!mmu_new(g->cpu) && !create(g->cpu));
	return g;
}

/* The system structures of an honest guest. */

static void put64(uint8_t *ram, unsigned at, uint64_t value)
{
	memcpy(ram + at, &value, sizeof(value));
}

static uint64_t descriptor(uint32_t base, uint32_t limit, uint64_t attr)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | attr << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(base >> 24) << 56;
}

static void build_gdt(uint8_t *ram)
{
	for (unsigned user = 0; user < 2; user++) {
		unsigned at = GDT_PA + user * SEL_USER;
		uint64_t dpl = user * 0x60;

		put64(ram, at + SEL_CODE64, descriptor(0, 0xfffff, 0xa09b | dpl));
		put64(ram, at + SEL_CODE32, descriptor(0, 0xfffff, 0xc09b | dpl));
		put64(ram, at + SEL_CODE16, descriptor(0, 0xffff, 0x009b | dpl));
		put64(ram, at + SEL_DATA, descriptor(0, 0xfffff, 0xc093 | dpl));
	}
	put64(ram, GDT_PA + SEL_LDT, descriptor(LDT_PA, 0xff, 0x82));
	put64(ram, GDT_PA + SEL_TSS, descriptor(TSS_PA, 0x67, 0x8b));
	put64(ram, GDT_PA + SEL_OTHER, descriptor(OTHER_PA, 0x67, 0x89));
	put64(ram, GDT_PA + SEL_GATE, CODE_PA | SEL_CODE32 << 16 | 0xecull << 40);
	put64(ram, GDT_PA + SEL_TASK, SEL_OTHER << 16 | 0xe5ull << 40);
	put64(ram, LDT_PA + 8, descriptor(0, 0xfffff, 0xc0f3));
}

/* Gates of 8 bytes, or of 16 for long mode; now and then one that is a trap or a task gate. */
static void build_idt(uint8_t *ram, const struct guest_mode *mode)
{
	bool wide = mode->flags & FLAG_LONG;

	for (unsigned v = 0; v < 256; v++) {
		unsigned at = IDT_PA + v * (wide ? 16 : 8);
		uint64_t sel = wide ? SEL_CODE64 : SEL_CODE32, type = v % 7 ? 0xee : 0x8f;

		if (!wide && v % 11 == 8) {
			sel = SEL_OTHER;
			type = 0x85;
		}
		put64(ram, at,
		      (CODE_PA + v * 3) | sel << 16 | (wide && v == 8 ? 1ull << 32 : 0) |
		              type << 40);
	}
	for (unsigned v = 0; v < 256 && mode->flags & (FLAG_REAL | FLAG_V86); v++)
		memcpy(ram + v * 4, &(uint32_t){ CODE_PA + v }, 4);
}

static void build_tss(uint8_t *ram, unsigned at, const struct guest_mode *mode)
{
	uint32_t *tss = (uint32_t *)(ram + at);

	if (mode->flags & FLAG_LONG) {
		put64(ram, at + 4, STACK_PA + 0x800);
		put64(ram, at + 0x24, STACK_PA + 0xc00);
		return;
	}
	tss[1] = STACK_PA + 0x800;
	tss[2] = SEL_DATA;
	tss[7] = mode->flags & FLAG_PAE ? PDPT_PA : LEGACY_PA;
	tss[8] = CODE_PA;
	tss[9] = 2;
	tss[14] = STACK_PA + 0x600;
	for (unsigned n = 18; n < 24; n++)
		tss[n] = n == 19 ? SEL_CODE32 : SEL_DATA;
	tss[24] = SEL_LDT;
	tss[25] = 0x60 << 16;
}

static void build_tables(uint8_t *ram, const struct guest_mode *mode)
{
	unsigned rights = mode->flags & FLAG_LONG ? 7 : 1; /* PAE's first level has none to give */

	put64(ram, PML5_PA, PML4_PA | 7);
	put64(ram, PML4_PA, PDPT_PA | 7);
	put64(ram, PML4_PA + 511 * 8, PML4_PA | 3); /* itself: tables seen as pages */
	put64(ram, PDPT_PA, PD_PA | rights);
	put64(ram, PDPT_PA + 24, PD_PA | rights);
	if (mode->flags & FLAG_LONG)
		put64(ram, PDPT_PA + 8, 0x40000087);
	put64(ram, PD_PA, PT_PA | 7);
	for (unsigned n = 1; n < 512; n++)
		put64(ram, PD_PA + n * 8, n << 21 | 0x87);
	for (unsigned n = 0; n < 512; n++)
		put64(ram, PT_PA + n * 8, n << 12 | (n % 16 == 7 ? 0x105 : 7));
	for (unsigned n = 0; n < 1024; n++)
		memcpy(ram + LEGACY_PA + n * 4, &(uint32_t){ n << 22 | 0x87 }, 4);
}

/* State. */

static struct segment user_segment(unsigned cpl, uint64_t attr, uint16_t sel)
{
	return (struct segment){ .limit = UINT32_MAX, .attr = attr | cpl << 5, .sel = sel | cpl };
}

static struct segment real_segment(uint16_t sel, uint64_t attr)
{
	return (struct segment){ sel * 16, 0xffff, attr, sel };
}

static void set_segments(struct cpu *c, const struct guest_mode *mode, const struct guest_header *h)
{
	unsigned user = mode->cpl ? SEL_USER : 0;
	bool real = mode->flags & (FLAG_REAL | FLAG_V86);
	uint64_t code = mode->cs == SEL_CODE64 ? SEG_L : mode->cs == SEL_CODE32 ? SEG_DB : 0;

	for (unsigned n = SEG_ES; n <= SEG_GS; n++) {
		struct segment *s = &c->seg[n];

		if (real)
			*s = real_segment(n == SEG_CS ? 0 : h->segment[n] * 8,
			                  mode->flags & FLAG_V86 ? 0xf3 : 0x93);
		else if (n == SEG_CS)
			*s = user_segment(mode->cpl, 0x9b | SEG_G | code, mode->cs + user);
		else
			*s = user_segment(mode->cpl, 0x93 | SEG_G | SEG_DB, SEL_DATA + user);
		if (real || n == SEG_CS || n == SEG_SS)
			continue;
		if (h->segment[n] & 1)
			s->limit = 0xfff;
		if (h->segment[n] & 2)
			s->attr |= 4; /* expand down */
		if (h->segment[n] & 4)
			*s = (struct segment){ .attr = SEG_UNUSABLE };
		if (h->segment[n] & 8 && n >= SEG_FS)
			s->base = values[h->segment[n] % ARRAY_SIZE(values)];
	}
	/* In 32-bit modes bases have 32 bits, in long mode they are canonical: the MSRs see to it.
	 */
	for (unsigned n = SEG_FS; n <= SEG_GS; n++)
		c->seg[n].base = mode->flags & FLAG_LONG
		                         ? (uint64_t)((int64_t)(c->seg[n].base << 16) >> 16)
		                         : (uint32_t)c->seg[n].base;
	c->seg[SEG_LDTR] = (struct segment){ LDT_PA, 0xff, 2 | SEG_P, SEL_LDT };
	c->seg[SEG_TR] = (struct segment){ TSS_PA, 0x67, 0xb | SEG_P, SEL_TSS };
	c->gdtr = (struct dtable){ GDT_PA, 0xff };
	c->idtr = (struct dtable){ mode->flags & FLAG_REAL ? 0 : IDT_PA, 0xfff };
}

static void set_control(struct cpu *c, const struct guest_mode *mode, const struct guest_header *h)
{
	const uint64_t cr0_free = CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM;
	const uint64_t cr4_free = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PGE |
	                          CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE |
	                          CR4_OSXSAVE | CR4_SMEP | CR4_SMAP | CR4_PKE;
	bool longmode = mode->flags & FLAG_LONG;

	c->cr0 = CR0_ET | CR0_NE | (h->cr0 & cr0_free);
	c->cr0 |= mode->flags & FLAG_REAL ? 0 : CR0_PE;
	c->cr0 |= mode->flags & FLAG_PAGED ? CR0_PG : 0;
	c->cr4 = ((CR4_OSFXSR | CR4_OSXSAVE | CR4_PSE) ^ h->cr4) & cr4_free;
	c->cr4 |= mode->flags & FLAG_PAE ? CR4_PAE : 0;
	c->cr4 |= mode->flags & FLAG_LA57 ? CR4_LA57 : 0;
	c->cr4 |= longmode && h->cr4 & CR4_PCIDE ? CR4_PCIDE : 0;
	c->efer = (longmode ? EFER_LME | EFER_LMA : 0) | (h->efer & 1 ? EFER_SCE : 0) |
	          (h->efer & 2 ? EFER_NXE : 0);
	c->xcr0 = XCR0_X87 | (h->xcr0 & 1 ? XCR0_SSE : 0) | (h->xcr0 == 3 ? XCR0_AVX : 0);
	c->pkru = h->pkru;
	c->dr7 = (h->dr7 & 0xffff2bffu) | 0x400; /* general detect too */
	for (unsigned n = 0; n < 4; n++)
		c->dr[n] = values[h->gpr[n] % ARRAY_SIZE(values)];
}

static void set_registers(struct cpu *c, const struct guest_mode *mode,
                          const struct guest_header *h)
{
	const uint64_t flags = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL |
	                       RFLAGS_NT | RFLAGS_RF | RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP |
	                       RFLAGS_ID;

	for (unsigned n = 0; n < 16; n++)
		c->gpr[n] = values[h->gpr[n] % ARRAY_SIZE(values)];
	if (h->gpr[R_RSP] & 0x80)
		c->rsp = STACK_PA + 0x400;
	for (unsigned n = 0; n < 16 && !(mode->flags & FLAG_LONG); n++)
		c->gpr[n] = (uint32_t)c->gpr[n];
	c->rip = CODE_PA + h->rip % PAGE_SIZE;
	cpu_set_rflags(c, (h->rflags & flags) | (mode->flags & FLAG_V86 ? RFLAGS_VM : 0));
	c->cpl = mode->cpl;
}

static void set_state(struct guest *g, const struct guest_mode *mode, const struct guest_header *h)
{
	struct cpu *c = g->cpu;
	gpa_t root = LEGACY_PA;

	cpu_reset(c);
	atomic_store(&c->attention, 0);
	set_control(c, mode, h);
	set_segments(c, mode, h);
	set_registers(c, mode, h);
	if (mode->flags & FLAG_LONG)
		root = mode->flags & FLAG_LA57 ? PML5_PA : PML4_PA;
	else if (mode->flags & FLAG_PAE)
		root = PDPT_PA;
	c->msr.lstar = c->msr.cstar = c->msr.sysenter_eip = CODE_PA;
	c->msr.star = (uint64_t)SEL_CODE64 << 32 | (uint64_t)SEL_CODE32 << 48;
	c->msr.sysenter_cs = SEL_CODE64;
	c->msr.sysenter_esp = STACK_PA + 0x300;
	cpu_update_mode(c);
	mmu_flush_all(c);
	mmu_set_cr3(c, root);
	if (root == PDPT_PA)
		mmu_load_pdptes(c, root);
	g->value = h->value;
	g->events = h->events;
	g->exits = 0;
}

/* What must hold between any two instructions. */

void guest_check_tlb(const struct guest *g)
{
	for (unsigned n = 0; n < MMU_MODES * TLB_ENTRIES; n++) {
		const struct tlb_entry *t = &g->cpu->mmu->tlb[n / TLB_ENTRIES][n % TLB_ENTRIES];
		const uint64_t tags[] = { t->read, t->write, t->fetch };

		for (unsigned kind = 0; kind < ARRAY_SIZE(tags); kind++)
			if (tags[kind] != TLB_NEVER)
				check_host(g->mem, (tags[kind] & PAGE_MASK) + t->addend, PAGE_SIZE,
				           kind == 1);
	}
}

void guest_check_state(const struct guest *g)
{
	const struct cpu *c = g->cpu;
	bool lma = c->efer & EFER_LMA;

	check(!c->zero);
	check(c->cpl <= 3 && c->mode < MODE_COUNT);
	check(!(c->cr0 & CR0_PG) || c->cr0 & CR0_PE);
	check(lma == ((c->efer & EFER_LME) && (c->cr0 & CR0_PG)));
	check(!lma || c->cr4 & CR4_PAE);
	check(lma || !(c->cr4 & CR4_PCIDE));
	check(!(c->cr0 >> 32) && c->cr0 & CR0_ET);
	check(c->mode != MODE_64 || lma);
	check(c->mode == MODE_64 || !(c->rip >> 32));
	check(c->rflags & RFLAGS_1 && !(c->rflags & (0xffffffffffc08028 | RFLAGS_ARITH)));
	check(!(c->rflags & RFLAGS_VM) || (c->cpl == 3 && !lma));
	check(c->cr0 & CR0_PE || !c->cpl);
	check(c->xcr0 & XCR0_X87);
	check(c->tlb == c->mmu->tlb[MMU_MODES] || c->tlb == c->mmu->tlb[c->mmu->mode]);
	check((c->mmu->mode == MMU_USER) == (c->cpl == 3));
	check(c->delivering == -1 && c->fault.vector == -1);
}

void guest_send_event(struct guest *g)
{
	g->events = g->events << 1 | (g->events >> 7 & 1);
	if ((g->events & 0x13) == 0x13)
		cpu_raise_attention(g->cpu, ATTN_INTR);
	if ((g->events & 0x61) == 0x61)
		cpu_raise_attention(g->cpu, ATTN_NMI);
}

static void build_system(uint8_t *ram, const struct guest_mode *mode)
{
	build_gdt(ram);
	build_idt(ram, mode);
	build_tss(ram, TSS_PA, mode);
	build_tss(ram, OTHER_PA, mode);
	build_tables(ram, mode);
}

/* Returns how many bytes the pokes took. */
static size_t apply_pokes(uint8_t *ram, const uint8_t *data, size_t size, unsigned nr)
{
	struct guest_poke p;
	size_t used = 0;

	for (unsigned n = 0; n < nr && size - used >= sizeof(p); n++) {
		memcpy(&p, data + used, sizeof(p));
		ram[(p.page * PAGE_SIZE + p.page_offset % PAGE_SIZE) % SYSTEM_SIZE] = p.value;
		used += sizeof(p);
	}
	return used;
}

const struct guest_mode *guest_mode_of(const struct guest_header *h)
{
	return &modes[h->mode % ARRAY_SIZE(modes)];
}

void guest_load(struct guest *g, const struct guest_header *h, const uint8_t *data, size_t size,
                uint8_t filler)
{
	const struct guest_mode *mode = guest_mode_of(h);
	uint8_t *ram;
	size_t used;

	check(!mem_clear(g->mem));
	ram = mem_host(g->mem, 0, ROM_PA, true);
	build_system(ram, mode);
	used = apply_pokes(ram, data, size, h->nr_pokes);
	memset(ram + CODE_PA, filler, 2 * PAGE_SIZE);
	memcpy(ram + CODE_PA + h->rip % PAGE_SIZE, data + used, size - used);
	set_state(g, mode, h);
}

/* Descriptor tables, and what happens at a trap. */
#include "guest.h"

#define TRAP_ENTRY_BYTES 16
#define ACCESS_TSS       0x89

extern char trap_entries[];
struct regs *handle_trap(struct regs *r);

struct cpu cpus[MAX_CPUS];
bool (*trap_hook)(struct regs *r);

uint64_t gdt[64] __attribute__((aligned(16))) = {
	[SEL_CODE32 / 8] = 0x00cf9b000000ffff, [SEL_CODE64 / 8] = 0x00af9b000000ffff,
	[SEL_DATA / 8] = 0x00cf93000000ffff,   [SEL_UCODE32 / 8] = 0x00cffb000000ffff,
	[SEL_UDATA / 8] = 0x00cff3000000ffff,  [SEL_UCODE64 / 8] = 0x00affb000000ffff,
	[SEL_UDATA2 / 8] = 0x00cff3000000ffff,
};

/* 64-bit gates are two quadwords. */
#define GATE_WORDS (sizeof(word) / 4)
static uint64_t idt[256 * GATE_WORDS] __attribute__((aligned(16)));

uint64_t *gate_raw(unsigned vector)
{
	return &idt[vector * GATE_WORDS];
}

void gate_set(unsigned vector, void (*handler)(void), unsigned type, unsigned dpl, unsigned ist)
{
	uint64_t at = (uintptr_t)handler;
	uint64_t *gate = gate_raw(vector);

	gate[0] = (at & 0xffff) | SEL_CODE << 16 | (uint64_t)ist << 32 |
	          (uint64_t)(0x80 | dpl << 5 | type) << 40 | (at >> 16 & 0xffff) << 48;
	if (GATE_WORDS == 2)
		gate[1] = at >> 32;
}

void gate_set_dpl(unsigned vector, unsigned dpl)
{
	gate_set(vector, (void (*)(void))(trap_entries + vector * TRAP_ENTRY_BYTES), GATE_INTERRUPT,
	         dpl, 0);
}

void gate_set_ist(unsigned vector, unsigned ist)
{
	gate_set(vector, (void (*)(void))(trap_entries + vector * TRAP_ENTRY_BYTES), GATE_INTERRUPT,
	         0, ist);
}

void gate_default(unsigned vector)
{
	if (vector == EXC_DF && GATE_WORDS == 2)
		gate_set_ist(vector, 1);
	else
		gate_set_dpl(vector,
		             vector == EXC_BP || vector == EXC_OF || vector == VECTOR_DONE ? 3 : 0);
}

struct pointer {
	uint16_t limit;
	word base;
} __attribute__((packed));

void idt_load(void)
{
	struct pointer p = { sizeof(idt) - 1, (word)idt };

	__asm__ volatile("lidt %0" : : "m"(p));
}

void gdt_load(void)
{
	struct pointer p = { sizeof(gdt) - 1, (word)gdt };

	__asm__ volatile("lgdt %0" : : "m"(p));
}

static void load_tss(struct cpu *c)
{
	word base = (word)&c->tss, sp = (word)(c->trap_stack + sizeof(c->trap_stack));
	unsigned sel = SEL_TSS + 16 * c->index;

#ifdef __x86_64__
	c->tss.rsp[0] = sp;
	c->tss.ist[0] = (word)(c->df_stack + sizeof(c->df_stack));
	gdt[sel / 8 + 1] = base >> 32;
#else
	c->tss.esp0 = sp;
	c->tss.ss0 = SEL_DATA;
#endif
	c->tss.iomap_base = offsetof(struct tss, iomap);
	c->tss.iomap_end = 0xff;
	gdt[sel / 8] = descriptor((uint32_t)base, sizeof(c->tss) - 1, ACCESS_TSS, 0);
	__asm__ volatile("lldt %w0; ltr %w1" : : "r"(0), "r"(sel));
}

void cpu_setup(unsigned index)
{
	if (!index)
		for (unsigned v = 0; v < 256; v++)
			gate_default(v);
	gdt_load();
	idt_load();
	cpus[index].index = index;
	load_tss(&cpus[index]);
}

struct cpu *this_cpu(void)
{
	word sel;

	if (sizeof(word) == 4)
		return &cpus[0];
	__asm__ volatile("str %0" : "=r"(sel));
	return &cpus[(sel - SEL_TSS) / 16 % MAX_CPUS];
}

static void print_register(const char *name, uint64_t value)
{
	print(" ");
	print(name);
	print(" ");
	print_hex(value);
}

static void report_unexpected(const struct regs *r, word cr2)
{
	print("#");
	print_register("vector", r->vector);
	print_register("error", r->error);
	print_register("cs", r->cs);
	print_register("ip", r->ip);
	print_register("flags", r->flags);
	print_register("cr2", cr2);
	print_register("ax", r->ax);
	print_register("frame", (uintptr_t)r);
	print("\n");
	guest_die("unexpected trap");
}

/* The CPU's frame alone; in 32-bit mode SP and SS are in it only if the privilege changed. */
#define SAME_CPL_BYTES offsetof(struct regs, sp)

static struct regs *resume(struct cpu *c, struct regs *r)
{
	r->ip = c->resume_ip;
	r->cs = SEL_CODE;
	r->flags = 2;
	c->resume_ip = 0;
#ifdef __x86_64__
	r->sp = c->resume_sp;
	r->ss = SEL_DATA;
	return r;
#else
	r->ds = r->es = SEL_DATA;
	r->fs = r->gs = 0;
	__asm__ volatile("mov %0, %%ss" : : "r"(SEL_DATA));
	return memmove((void *)(c->resume_sp - SAME_CPL_BYTES), r, SAME_CPL_BYTES);
#endif
}

struct regs *handle_trap(struct regs *r)
{
	struct cpu *c = this_cpu();

	/* NT would make the IRET a task switch. */
	write_flags(2);
	if (trap_hook && trap_hook(r))
		return r;
	c->trap.cr2 = read_cr2();
	memcpy(&c->trap.regs, r, sizeof(*r));
	c->trap.vector = r->vector == VECTOR_DONE ? NO_TRAP : (int)r->vector;
#ifdef __x86_64__
	c->trap.sp_at_entry = r->sp;
#else
	c->trap.sp_at_entry = (word)r + SAME_CPL_BYTES;
#endif
	if (!c->resume_ip)
		report_unexpected(r, c->trap.cr2);
	return resume(c, r);
}

int try_write_msr(uint32_t msr, uint64_t v)
{
	return TRY("wrmsr", : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

int try_read_msr(uint32_t msr, uint64_t *v)
{
	uint32_t lo, hi;
	int vector = TRY("rdmsr", : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");

	*v = (uint64_t)hi << 32 | lo;
	return vector;
}

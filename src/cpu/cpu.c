/* State of a vCPU at power-on and INIT, derived state, and the register dump. */
#include "cpu/cpu.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/flags.h"
#include "cpu/msr.h"

/* Access rights of real-mode segments after reset (SDM 3A 9.1.1): present, accessed, writable. */
#define ATTR_REAL_CODE 0x9b
#define ATTR_REAL_DATA 0x93
#define ATTR_REAL_LDT  0x82
#define ATTR_REAL_TSS  0x8b

#define PAT_DEFAULT   0x0007040600070406ull /* SDM 3A table 11-12 */
#define DR6_DEFAULT   0xffff0ff0ull
#define DR7_DEFAULT   0x400ull
#define FCW_RESET     0x0040 /* SDM 3A table 9-1 */
#define MXCSR_DEFAULT 0x1f80

static void reset_segments(struct cpu *c)
{
	for (unsigned n = 0; n < SEG_COUNT; n++)
		c->seg[n] = (struct segment){ .limit = 0xffff, .attr = ATTR_REAL_DATA };
	c->seg[SEG_CS].sel = 0xf000;
	c->seg[SEG_CS].base = 0xffff0000;
	c->seg[SEG_CS].attr = ATTR_REAL_CODE;
	c->seg[SEG_LDTR].attr = ATTR_REAL_LDT;
	c->seg[SEG_TR].attr = ATTR_REAL_TSS;
	c->gdtr = (struct dtable){ .limit = 0xffff };
	c->idtr = (struct dtable){ .limit = 0xffff };
}

static void reset_registers(struct cpu *c)
{
	uint32_t leaf1[4] = { 0 };

	memset(c->gpr, 0, sizeof(c->gpr));
	if (c->cpuid)
		cpuid_query(c, 1, 0, leaf1);
	c->rdx = leaf1[0]; /* family, model, stepping */
	c->rip = 0xfff0;
	cpu_set_rflags(c, RFLAGS_1);
}

static void reset_fpu(struct cpu *c)
{
	uint32_t mxcsr = MXCSR_DEFAULT;
	uint16_t fcw = FCW_RESET;

	memset(&c->fpu, 0, sizeof(c->fpu));
	memcpy(c->fpu.area, &fcw, sizeof(fcw));
	c->fpu.area[4] = 0xff; /* abridged tag word: every register holds +0.0 */
	memcpy(c->fpu.area + FPU_MXCSR, &mxcsr, sizeof(mxcsr));
}

/* tsc_offset stays: the board gives all vCPUs one offset, or their counters would disagree. */
static void reset_msrs(struct cpu *c)
{
	int64_t tsc_offset = c->msr.tsc_offset;

	c->msr = (struct cpu_msrs){
		.tsc_offset = tsc_offset,
		.pat = PAT_DEFAULT,
		.misc_enable = MISC_ENABLE_DEFAULT,
	};
}

void cpu_init_signal(struct cpu *c)
{
	uint64_t cache_bits = c->cr0 & (CR0_CD | CR0_NW);

	reset_registers(c);
	reset_segments(c);
	c->cr0 = cache_bits | CR0_ET;
	c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
	memset(c->pdpte, 0, sizeof(c->pdpte));
	memset(c->dr, 0, sizeof(c->dr));
	c->dr6 = DR6_DEFAULT;
	c->dr7 = DR7_DEFAULT;
	c->cpl = 0;
	c->shadow = false;
	c->nmi_masked = false;
	c->db_pending = 0;
	c->fault.vector = -1;
	c->delivering = -1;
	c->mp_state = c->id == 0 ? MP_RUNNABLE : MP_WAIT_SIPI;
	cpu_update_mode(c);
}

void cpu_reset(struct cpu *c)
{
	cpu_init_signal(c);
	c->cr0 = CR0_CD | CR0_NW | CR0_ET;
	c->xcr0 = XCR0_X87;
	c->pkru = 0;
	reset_fpu(c);
	reset_msrs(c);
}

void cpu_copy_state(struct cpu *to, const struct cpu *from)
{
	memcpy(to->gpr, from->gpr, sizeof(to->gpr));
	to->flag_res = from->flag_res;
	to->flag_aux = from->flag_aux;
	to->cpl = from->cpl;
	to->shadow = from->shadow;
	to->rflags = from->rflags;
	to->attention = from->attention & ~(ATTN_KICK | ATTN_CODE);
	to->pkru = from->pkru;
	memcpy(to->seg, from->seg, sizeof(to->seg));
	to->gdtr = from->gdtr;
	to->idtr = from->idtr;
	to->cr0 = from->cr0;
	to->cr2 = from->cr2;
	to->cr3 = from->cr3;
	to->cr4 = from->cr4;
	to->efer = from->efer;
	to->xcr0 = from->xcr0;
	memcpy(to->pdpte, from->pdpte, sizeof(to->pdpte));
	memcpy(to->dr, from->dr, sizeof(to->dr));
	to->dr6 = from->dr6;
	to->dr7 = from->dr7;
	to->msr = from->msr;
	to->fpu = from->fpu;
	to->fpu_wide = from->fpu_wide;
	to->mp_state = from->mp_state;
	to->sipi_vector = from->sipi_vector;
	to->nmi_masked = from->nmi_masked;
	to->event = from->event;
}

uint64_t cpu_get_rflags(const struct cpu *c)
{
	return c->rflags | flags_get_arith(c);
}

void cpu_set_rflags(struct cpu *c, uint64_t value)
{
	c->rflags = (value & ~RFLAGS_ARITH) | RFLAGS_1;
	flags_set_arith(c, value);
}

/* True when no access through the segment can fail a check: base 0, 4 GiB, expand-up, writable.
 * Real mode makes no type checks. CS passes when it can be read; a write through it is still to be
 * refused. */
static bool segment_is_flat(const struct cpu *c, enum seg n)
{
	const struct segment *s = &c->seg[n];
	uint32_t want = n == SEG_CS ? 0xa : 0x2, mask = n == SEG_CS ? 0xa : 0xe;

	if (s->base || s->limit != UINT32_MAX || s->attr & SEG_UNUSABLE)
		return false;
	return !(c->cr0 & CR0_PE) || (s->attr & mask) == want;
}

void cpu_update_mode(struct cpu *c)
{
	const struct segment *cs = &c->seg[SEG_CS];

	if (cpu_long_mode(c) && cs->attr & SEG_L)
		c->mode = MODE_64;
	else
		c->mode = cs->attr & SEG_DB ? MODE_32 : MODE_16;
	c->flat = c->mode == MODE_64 || (segment_is_flat(c, SEG_ES) && segment_is_flat(c, SEG_CS) &&
	                                 segment_is_flat(c, SEG_SS) && segment_is_flat(c, SEG_DS));
}

/* A text buffer that never overflows and counts what it holds. */
struct text {
	char *buf;
	size_t size, used;
};

static void __attribute__((format(printf, 2, 3))) text_add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (t->used >= t->size)
		return;
	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->used, t->size - t->used, fmt, ap);
	va_end(ap);
	t->used = n < 0 || (size_t)n >= t->size - t->used ? t->size - 1 : t->used + (size_t)n;
}

static void dump_registers(struct text *t, const struct cpu *c)
{
	static const char *const name[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
		                              "rsi", "rdi", "r8",  "r9",  "r10", "r11",
		                              "r12", "r13", "r14", "r15" };
	static const char *const mode[MODE_COUNT] = { "16-bit", "32-bit", "64-bit" };

	text_add(t, "vcpu %u: %s code, cpl %u\n", c->id, mode[c->mode], c->cpl);
	for (unsigned n = 0; n < 16; n++)
		text_add(t, "%-3s %016llx%c", name[n], (unsigned long long)c->gpr[n],
		         n % 4 == 3 ? '\n' : ' ');
	text_add(t, "rip %016llx rflags %08llx\n", (unsigned long long)c->rip,
	         (unsigned long long)cpu_get_rflags(c));
}

static void dump_segments(struct text *t, const struct cpu *c)
{
	static const char *const name[SEG_COUNT] = {
		"es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr"
	};

	for (unsigned n = 0; n < SEG_COUNT; n++)
		text_add(t, "%-3s %04x base %016llx limit %08x attr %05x\n", name[n], c->seg[n].sel,
		         (unsigned long long)c->seg[n].base, c->seg[n].limit, c->seg[n].attr);
	text_add(t, "gdt base %016llx limit %04x\nidt base %016llx limit %04x\n",
	         (unsigned long long)c->gdtr.base, c->gdtr.limit, (unsigned long long)c->idtr.base,
	         c->idtr.limit);
}

int cpu_dump(const struct cpu *c, char *buf, size_t size)
{
	struct text t = { .buf = buf, .size = size };

	if (!size)
		return 0;
	buf[0] = '\0';
	dump_registers(&t, c);
	dump_segments(&t, c);
	text_add(&t, "cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx\n", (unsigned long long)c->cr0,
	         (unsigned long long)c->cr2, (unsigned long long)c->cr3,
	         (unsigned long long)c->cr4);
	text_add(&t, "efer %04llx xcr0 %llx dr6 %08llx dr7 %08llx\n", (unsigned long long)c->efer,
	         (unsigned long long)c->xcr0, (unsigned long long)c->dr6,
	         (unsigned long long)c->dr7);
	return (int)t.used;
}

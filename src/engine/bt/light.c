/*
 * Frequent system and string instructions, in C that is compiled for general registers only. Each
 * does the common case exactly as the routine of src/interp that it stands for, and leaves
 * everything else to it: nothing has been changed then, but for elements of a repeated instruction
 * that are done.
 */
#include "engine/bt/light.h"

#include "cpu/msr.h"
#include "engine/bt/stubs.h"
#include "engine/bt/tlb.h"
#include "mem/mem.h"

#define SYSRET_FLAGS 0x3c7fd7ull /* as in src/interp/syscall.c */
#define DPL3         (3u << 5)
#define ATTR_CODE64  0xa09bu
#define ATTR_DATA    0xc093u

static bool canonical(const struct cpu *c, gva_t va)
{
	return (gva_t)((int64_t)(va << 16) >> 16) == va && !(c->cr4 & CR4_LA57);
}

/* ---- strings ---- */

/* Host address of a page for an access, or NULL: not this way. */
static uint8_t *page_host(struct bt *b, const struct bt_site *s, gva_t va, bool write)
{
	struct bt_tlb_entry *t = &b->tlb[s->mode][write][(va >> 12) & (BT_TLB_ENTRIES - 1)];
	struct cpu *c = b->cpu;
	uint32_t error;
	gpa_t gpa;

	if (likely(t->tag == (va & PAGE_MASK)))
		return (uint8_t *)(t->host + (va & ~PAGE_MASK));
	if (!canonical(c, va) ||
	    !mmu_find(c, va, write ? MMU_WRITE : MMU_READ, s->mode, &gpa, &error))
		return NULL;
	if (!bt_tlb_take(b, s->mode, va, write))
		return NULL;
	return (uint8_t *)(t->host + (va & ~PAGE_MASK));
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t room(gva_t va, unsigned size)
{
	return (PAGE_SIZE - (va & ~PAGE_MASK)) / size;
}

/* The host's own instruction: it treats overlap as the guest's does. */
static void copy(uint8_t *to, const uint8_t *from, uint64_t n, unsigned size)
{
	switch (size) {
	case 1:
		asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	case 2:
		asm volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	case 4:
		asm volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	default:
		asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	}
}

static void fill(uint8_t *to, uint64_t v, uint64_t n, unsigned size)
{
	switch (size) {
	case 1:
		asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory");
		break;
	case 2:
		asm volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(v) : "memory");
		break;
	case 4:
		asm volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(v) : "memory");
		break;
	default:
		asm volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(v) : "memory");
		break;
	}
}

/* One run of elements that stays within a page on either side; 0: not this way. */
static uint64_t run(struct bt *b, const struct bt_site *s, bool movs)
{
	uint64_t *r = b->gpr, n = r[R_RCX];
	unsigned size = s->span;
	uint8_t *to, *from = NULL;

	n = least(n, room(r[R_RDI], size));
	if (movs)
		n = least(n, room(r[R_RSI], size));
	if (!n)
		return 0;
	if (movs) {
		from = page_host(b, s, r[R_RSI], false);
		if (!from)
			return 0;
	}
	to = page_host(b, s, r[R_RDI], true);
	if (!to)
		return 0;
	if (movs) {
		copy(to, from, n, size);
		r[R_RSI] += n * size;
	} else {
		fill(to, r[R_RAX], n, size);
	}
	r[R_RDI] += n * size;
	r[R_RCX] -= n;
	return n;
}

static unsigned string(struct bt *b, const struct bt_site *s, bool movs)
{
	if (b->cpu->rflags & RFLAGS_DF)
		return LIGHT_LEAVE;
	while (b->gpr[R_RCX])
		if (b->kicked || b->posted || !run(b, s, movs))
			return LIGHT_LEAVE;
	return LIGHT_GO;
}

/* ---- system calls ---- */

static struct segment flat(uint16_t sel, uint32_t attr)
{
	return (struct segment){ .sel = sel, .limit = UINT32_MAX, .attr = attr };
}

static uint64_t flags_of(const struct bt *b)
{
	return b->cpu->rflags | (b->slot & ISA_FLAGS);
}

static void set_flags(struct bt *b, uint64_t value)
{
	b->cpu->rflags = (value & ~(uint64_t)ISA_FLAGS) | RFLAGS_1;
	b->slot = value & ISA_FLAGS;
}

/* On at a guest address in 64-bit code of another privilege. */
static unsigned jump(struct bt *b, uint64_t to, unsigned mode)
{
	const struct bt_jc_entry *j = &b->jc[bt_jc_index(to)];

	b->r14 = to;
	b->r15 = 0;
	if (j->tag != (to ^ b->space[mode]))
		return LIGHT_JUMP;
	b->pc = j->page;
	*(volatile uint64_t *)&b->target = j->code;
	/* A kick from here on finds the target; one before must not be lost. */
	return *(volatile uint32_t *)&b->kicked ? LIGHT_JUMP : LIGHT_GO;
}

static void enter_privilege(struct cpu *c, struct segment cs, struct segment ss, unsigned cpl)
{
	c->seg[SEG_CS] = cs;
	c->seg[SEG_SS] = ss;
	c->cpl = (uint8_t)cpl;
	mmu_update_mode(c);
}

static unsigned syscall_insn(struct bt *b, const struct bt_site *s)
{
	struct cpu *c = b->cpu;
	uint16_t sel = (uint16_t)(c->msr.star >> 32) & 0xfffc;
	uint64_t flags = flags_of(b) & ~RFLAGS_RF;

	if (!(c->efer & EFER_SCE) || flags & RFLAGS_TF || c->cpl != 3)
		return LIGHT_LEAVE;
	b->gpr[R_RCX] = b->pc + s->off + s->len;
	b->gpr[11] = flags;
	set_flags(b, flags & ~c->msr.fmask);
	enter_privilege(c, flat(sel, ATTR_CODE64), flat((uint16_t)(sel + 8), ATTR_DATA), 0);
	return jump(b, c->msr.lstar, c->mmu->mode);
}

static unsigned sysret_insn(struct bt *b)
{
	struct cpu *c = b->cpu;
	uint16_t base = (uint16_t)(c->msr.star >> 48);
	uint64_t flags = b->gpr[11] & SYSRET_FLAGS;

	/* With IF an interrupt that is pending comes at once. */
	if (!(c->efer & EFER_SCE) || !canonical(c, b->gpr[R_RCX]) ||
	    flags & (RFLAGS_TF | RFLAGS_AC) || !c->stats.user_ns ||
	    atomic_load_explicit(&c->attention, memory_order_relaxed))
		return LIGHT_LEAVE;
	set_flags(b, flags);
	enter_privilege(c, flat((base + 16) | 3, ATTR_CODE64 | DPL3),
	                flat((base + 8) | 3, ATTR_DATA | DPL3), 3);
	return jump(b, b->gpr[R_RCX], MMU_USER);
}

/* ---- the rest ---- */

static unsigned rdtsc(struct bt *b, bool with_aux)
{
	struct cpu *c = b->cpu;
	uint64_t tsc;

	if (c->cr4 & CR4_TSD && c->cpl)
		return LIGHT_LEAVE;
	asm volatile("lfence" : : : "memory");
	tsc = cpu_tsc(c);
	b->gpr[R_RAX] = (uint32_t)tsc;
	b->gpr[R_RDX] = tsc >> 32;
	if (with_aux)
		b->gpr[R_RCX] = (uint32_t)c->msr.tsc_aux;
	return LIGHT_GO;
}

static unsigned base(struct bt *b, const struct bt_site *s, bool write)
{
	uint64_t *base = &b->seg_base[s->recipe.b], *r = &b->gpr[s->recipe.a];

	if (!(b->cpu->cr4 & CR4_FSGSBASE))
		return LIGHT_LEAVE;
	if (!write)
		*r = s->recipe.size == 8 ? *base : (uint32_t)*base;
	else if (s->recipe.size == 8 && !canonical(b->cpu, *r))
		return LIGHT_LEAVE;
	else
		*base = s->recipe.size == 8 ? *r : (uint32_t)*r;
	return LIGHT_GO;
}

/* POPFQ at CPL 0. */
static unsigned popf(struct bt *b, const struct bt_site *s)
{
	const uint64_t mask =
	        ISA_FLAGS | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID | RFLAGS_IOPL | RFLAGS_IF;
	struct cpu *c = b->cpu;
	gva_t sp = b->gpr[R_RSP];
	uint64_t value, old = flags_of(b);
	const uint8_t *host;

	if (c->cpl || (sp & ~PAGE_MASK) > PAGE_SIZE - 8 ||
	    atomic_load_explicit(&c->attention, memory_order_relaxed))
		return LIGHT_LEAVE;
	host = page_host(b, s, sp, false);
	if (!host)
		return LIGHT_LEAVE;
	value = *(const volatile uint64_t *)host;
	if ((value ^ old) & (RFLAGS_AC | RFLAGS_TF) || value & RFLAGS_TF)
		return LIGHT_LEAVE;
	set_flags(b, ((old & ~mask) | (value & mask)) & ~RFLAGS_RF);
	b->gpr[R_RSP] = sp + 8;
	return LIGHT_GO;
}

static unsigned rdpkru(struct bt *b)
{
	if (!(b->cpu->cr4 & CR4_PKE) || (uint32_t)b->gpr[R_RCX])
		return LIGHT_LEAVE;
	b->gpr[R_RAX] = b->cpu->pkru;
	b->gpr[R_RDX] = 0;
	return LIGHT_GO;
}

unsigned bt_light(struct bt *b, uint64_t site_offset)
{
	const struct bt_site *s = cache_at_meta(b, site_offset);

	b->target = cache_address(b, s->resume);
	switch (s->light) {
	case LIGHT_MOVS:
	case LIGHT_STOS:
		return string(b, s, s->light == LIGHT_MOVS);
	case LIGHT_SYSCALL:
		return syscall_insn(b, s);
	case LIGHT_SYSRET:
		return sysret_insn(b);
	case LIGHT_RDTSC:
	case LIGHT_RDTSCP:
		return rdtsc(b, s->light == LIGHT_RDTSCP);
	case LIGHT_RDBASE:
	case LIGHT_WRBASE:
		return base(b, s, s->light == LIGHT_WRBASE);
	case LIGHT_POPF:
		return popf(b, s);
	case LIGHT_RDPKRU:
		return rdpkru(b);
	default:
		return LIGHT_LEAVE;
	}
}

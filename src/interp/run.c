/*
 * The run loop: events first, then a block of instructions, again and again.
 *
 * Invariants
 *  1. While an instruction executes, cpu->cur is it and cpu->rip is the address after it. While
 * none does, cpu->cur is interp->none, whose length is 0; so a fault always finds its RIP as rip -
 * cur->len.
 *  2. A fault arrives at the setjmp in interp_run() or interp_step() and nowhere else. Delivering
 * it may raise again; that arrives at the same place, with cpu->delivering set.
 *  3. Events are looked at before each block. A block is short, so that is prompt; after STI or MOV
 * SS and under TF or breakpoints, blocks of one instruction are executed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "interp/access.h"
#include "interp/debug.h"
#include "interp/native.h"
#include "interp/state.h"

_Noreturn void interp_leave(struct cpu *c)
{
	c->interp->leaving = true;
	__builtin_longjmp(c->jmp, 1);
}

void interp_flush(struct cpu *c)
{
	c->interp->flush = true;
	c->interp->generation++;
	block_cache_flush(&c->interp->blocks); /* no block may be found until then */
	memset(c->interp->crossing, 0, sizeof(c->interp->crossing));
}

int interp_new(struct cpu *c)
{
	struct interp *in = calloc(1, sizeof(*in));
	int rc = -ENOMEM;

	if (!in)
		return -ENOMEM;
	c->interp = in;
	c->cur = in->first = &in->none;
	c->code_page = 1;
	c->fault.vector = c->delivering = -1;
	in->decoder = decoder_new();
	if (!in->decoder)
		goto out;
	rc = block_cache_init(&in->blocks);
	if (rc)
		goto out;
	rc = native_new(c);
out:
	if (rc)
		interp_free(c);
	return rc;
}

void interp_free(struct cpu *c)
{
	struct interp *in = c->interp;

	if (!in)
		return;
	native_free(in->native);
	block_cache_fini(&in->blocks);
	decoder_free(in->decoder);
	free(in);
	c->interp = NULL;
}

static void no_instruction(struct cpu *c)
{
	c->cur = c->interp->first = &c->interp->none;
}

static void wrap_rip(struct cpu *c)
{
	if (c->mode != MODE_64)
		c->rip = (uint32_t)c->rip;
}

/* SDM 3A 6.13: the vectors that push an error code. */
static bool has_error_code(int vector)
{
	const uint32_t set = BIT(EXC_DF) | BIT(EXC_TS) | BIT(EXC_NP) | BIT(EXC_SS) | BIT(EXC_GP) |
	                     BIT(EXC_PF) | BIT(EXC_AC);

	return set >> vector & 1;
}

bool interp_caught(struct cpu *c)
{
	struct interp *in = c->interp;
	int vector = c->fault.vector;

	if (in->leaving) {
		in->leaving = false;
		c->stats.insns += c->cur - in->first + (c->cur->len != 0);
		no_instruction(c);
		wrap_rip(c);
		c->delivering = -1;
		return false;
	}
	c->stats.insns += c->cur - in->first;
	c->rip -= c->cur->len;
	wrap_rip(c);
	no_instruction(c);
	c->fault.vector = -1;
	c->db_pending = 0;
	if (vector < 32)
		c->stats.exceptions[vector]++;
	if (vector != EXC_DB || c->delivering >= 0)
		c->rflags |= RFLAGS_RF; /* faults save RF set, SDM 3B 17.3.1.1 */
	event_deliver(c, vector, has_error_code(vector), c->fault.error, EVENT_FAULT);
	return true;
}

static void deliver_nmi(struct cpu *c)
{
	atomic_fetch_and(&c->attention, ~ATTN_NMI);
	c->nmi_masked = true;
	event_deliver(c, EXC_NMI, false, 0, EVENT_EXTERNAL);
}

/* What another engine was about to deliver when it was stopped. */
static void deliver_event(struct cpu *c)
{
	atomic_fetch_and(&c->attention, ~ATTN_EVENT);
	event_deliver(c, c->event.vector, c->event.has_error, c->event.error,
	              c->event.external ? EVENT_EXTERNAL : EVENT_FAULT);
}

/* ATTN_INTR stays set until the controller has nothing left, so that it need not raise it again. */
static void deliver_interrupt(struct cpu *c)
{
	struct exit e = { .reason = EXIT_INTACK, .vector = -1 };

	atomic_fetch_and(&c->attention, ~ATTN_INTR);
	c->ops->exit(c, &e);
	if (e.vector < 0)
		return;
	atomic_fetch_or(&c->attention, ATTN_INTR);
	c->stats.interrupts++;
	event_deliver(c, e.vector, false, 0, EVENT_EXTERNAL);
}

/* Serves what stands in cpu->attention, highest priority first; false when *e is filled. */
static bool serve_attention(struct cpu *c, uint32_t attention, struct exit *e)
{
	if (attention & ATTN_KICK) {
		atomic_fetch_and(&c->attention, ~ATTN_KICK);
		e->reason = EXIT_KICK;
		return false;
	}
	if (attention & ATTN_EVENT) {
		deliver_event(c);
		return true;
	}
	if (attention & ATTN_INIT) {
		atomic_fetch_and(&c->attention, ~(ATTN_INIT | ATTN_SIPI));
		e->reason = EXIT_INIT;
		return false;
	}
	if ((attention & ATTN_NMI) && !c->nmi_masked)
		deliver_nmi(c);
	else if ((attention & ATTN_INTR) && (c->rflags & RFLAGS_IF))
		deliver_interrupt(c);
	return true;
}

static inline gva_t code_address(struct cpu *c)
{
	if (c->mode == MODE_64) {
		if (unlikely(!access_canonical(c, c->rip)))
			cpu_raise(c, EXC_GP, 0);
		return c->rip;
	}
	if (c->rip > c->seg[SEG_CS].limit)
		cpu_raise(c, EXC_GP, 0);
	return (uint32_t)(c->seg[SEG_CS].base + c->rip);
}

static void fetch_rest(struct cpu *c, gva_t va, uint8_t *buf, unsigned from)
{
	for (unsigned n = from; n < INSN_MAX; n++) {
		gva_t at = cpu_long_mode(c) ? va + n : (uint32_t)(va + n);
		const uint8_t *p;

		if (c->mode == MODE_64 && !access_canonical(c, at))
			cpu_raise(c, EXC_GP, 0);
		p = mmu_fetch(c, at);
		buf[n] = p ? *p : mmu_fetch_device(c, at);
	}
}

static struct crossing *crossing_slot(struct interp *in, const uint8_t *buf)
{
	uint64_t a, b;

	memcpy(&a, buf, 8);
	memcpy(&b, buf + 8, 8);
	return &in->crossing[((a ^ b * 3) * 0x9e3779b97f4a7c15ull) >> 58];
}

/* An instruction on two pages, or in device memory. */
static void decode_crossing(struct cpu *c, gva_t va, const uint8_t *host, unsigned avail)
{
	struct interp *in = c->interp;
	uint8_t buf[16] = { 0 };
	struct crossing *x;

	/* The limit comes before the page: the first byte on the next one is needed. */
	if (host && c->mode != MODE_64 && c->rip + avail > c->seg[SEG_CS].limit)
		cpu_raise(c, EXC_GP, 0);
	if (host)
		memcpy(buf, host, avail);
	fetch_rest(c, va, buf, host ? avail : 0);
	buf[15] = c->mode + 1;
	x = crossing_slot(in, buf);
	if (memcmp(x->bytes, buf, sizeof(buf))) {
		decode(in->decoder, c, c->mode, buf, INSN_MAX, &x->insn);
		memcpy(x->bytes, buf, sizeof(buf));
	}
	in->one = x->insn;
}

/* Fetches and decodes the instruction at RIP into interp->one. */
static void decode_one(struct cpu *c)
{
	struct interp *in = c->interp;
	gva_t va = code_address(c);
	const uint8_t *host = mmu_fetch(c, va);
	unsigned avail = PAGE_SIZE - (va & ~PAGE_MASK);
	uint8_t buf[INSN_MAX];

	if (avail > INSN_MAX)
		avail = INSN_MAX;
	if (host) {
		memcpy(buf, host, avail);
		c->code_page = (uintptr_t)host;
	}
	if (!host || !decode(in->decoder, c, c->mode, buf, avail, &in->one))
		decode_crossing(c, va, host, avail);
	if (c->mode != MODE_64 && c->rip + in->one.len - 1 > c->seg[SEG_CS].limit)
		cpu_raise(c, EXC_GP, 0);
}

static void execute_one(struct cpu *c)
{
	struct interp *in = c->interp;

	decode_one(c);
	in->first = c->cur = &in->one;
	c->rip += in->one.len;
	in->one.fn(c, &in->one);
	c->stats.insns++;
	no_instruction(c);
	wrap_rip(c);
}

void interp_execute(struct cpu *c, struct insn *kept)
{
	struct interp *in = c->interp;

	if (!kept->fn) {
		decode_one(c);
		*kept = in->one;
	}
	in->first = c->cur = kept;
	c->rip += kept->len;
	kept->fn(c, kept);
	c->stats.insns++;
	no_instruction(c);
	wrap_rip(c);
}

unsigned interp_generation(const struct cpu *c)
{
	return c->interp->generation;
}

/* One instruction with everything that TF and the debug registers ask for. INT n and its like clear
 * TF in delivery and are not followed by a single-step trap (SDM 3B 17.3.2). */
static void execute_traced(struct cpu *c)
{
	bool tf = c->rflags & RFLAGS_TF;

	debug_before_insn(c);
	c->interp->soft_event = false;
	execute_one(c);
	debug_after_insn(c, tf && !c->interp->soft_event);
}

void interp_finish(struct cpu *c)
{
	if (atomic_load_explicit(&c->attention, memory_order_relaxed) & ATTN_EVENT)
		deliver_event(c);
	c->shadow = false;
	if ((c->rflags & RFLAGS_TF) || debug_needs_slow(c))
		execute_traced(c);
	else
		execute_one(c);
}

static void execute_block(struct cpu *c, struct block *b, const uint8_t *host)
{
	const struct insn *i = b->insn;

	c->interp->blocks.last = b;
	c->interp->first = i;
	c->code_page = (uintptr_t)host;
	c->stop_at = i + b->nr;
	do {
		c->rip += i->len;
		c->cur = i;
		i->fn(c, i);
		i++;
	} while (i < c->stop_at);
	c->stats.insns += i - b->insn;
	no_instruction(c);
}

static inline const uint8_t *fetch_host(struct cpu *c, gva_t va)
{
	const struct tlb_entry *t = access_tlb(c, va);

	if (likely(t->fetch == ((va & PAGE_MASK) | c->tlb_tag)))
		return (const uint8_t *)(va + t->addend);
	return mmu_fetch(c, va);
}

/* True when the block cannot leave the code segment. */
static inline bool within_limit(const struct cpu *c, const struct block *b)
{
	return c->mode == MODE_64 || c->rip + b->bytes - 1 <= c->seg[SEG_CS].limit;
}

static void execute(struct cpu *c)
{
	gva_t va = code_address(c);
	const uint8_t *host = fetch_host(c, va);
	struct block *b = likely(host) ? block_next(c, &c->interp->blocks, host, c->mode) : NULL;

	if (unlikely(!b || !within_limit(c, b))) {
		execute_one(c);
		return;
	}
	execute_block(c, b, host);
	wrap_rip(c);
}

static inline bool turn(struct cpu *c, struct exit *e, bool single)
{
	uint32_t attention = atomic_load_explicit(&c->attention, memory_order_relaxed);

	/* A guest can chain shadows for as long as it has MOV SS to execute; a kick does not wait.
	 */
	if (unlikely(c->shadow) && !(attention & ATTN_KICK)) {
		c->shadow = false;
		single = single || attention;
	} else if (unlikely(attention) && !serve_attention(c, attention, e)) {
		return false;
	}
	if (unlikely((c->rflags & RFLAGS_TF) || debug_needs_slow(c)))
		execute_traced(c);
	else if (single)
		execute_one(c);
	else
		execute(c);
	return true;
}

bool interp_turn(struct cpu *c, struct exit *e, bool single)
{
	return turn(c, e, single);
}

bool interp_must_trace(const struct cpu *c)
{
	return (c->rflags & RFLAGS_TF) || debug_needs_slow(c);
}

/* True after a fault, which the next call has to deliver; false when *c->exit is filled. */
static __attribute__((noinline)) bool run_until_fault(struct cpu *c, bool faulted)
{
	if (__builtin_setjmp(c->jmp))
		return true;
	if (!faulted || interp_caught(c))
		while (turn(c, c->exit, false))
			;
	return false;
}

void interp_run(struct cpu *c, struct exit *e)
{
	c->exit = e;
	for (bool faulted = false; run_until_fault(c, faulted);)
		faulted = true;
}

static __attribute__((noinline)) bool step_until_fault(struct cpu *c, bool faulted, bool *more)
{
	if (__builtin_setjmp(c->jmp))
		return true;
	*more = faulted ? interp_caught(c) : turn(c, c->exit, true);
	return false;
}

bool interp_step(struct cpu *c, struct exit *e)
{
	bool more = true;

	c->exit = e;
	e->reason = EXIT_NONE;
	for (bool faulted = false; step_until_fault(c, faulted, &more);)
		faulted = true;
	return more;
}

/*
 * Random bytes as guest code for the translator, in the modes that it translates: 64-bit and flat
 * 32-bit code, in the kernel and in user space, with registers and page tables that are hostile and
 * that the guest itself may write.
 *
 * Input: as guest.h has it; header.run has the bits of RUN_*. A page of HLT lies around the code
 * and where the interrupt handlers are, so that a fault ends in HLT soon; what runs on is kicked by
 * a thread. With RUN_COMPARE the first HLT or triple fault ends the run, and the interpreter is
 * given the same input: it has to come to the same end. Kicks on the way must not make a
 * difference.
 *
 * Where the manual leaves a flag undefined the two may differ (undefined.h).
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "engine/bt/bt.h"
#include "engine/engine.h"
#include "guest.h"
#include "undefined.h"

#define MAX_EXITS  64 /* of devices, and of run() */
#define TICK_US    100
#define LAST_TICK  20              /* kicks from here on */
#define ENOUGH     24              /* kicks: the guest does not end by itself */
#define SEEN_BYTES 0x30000         /* of low memory that are compared */
#define TAIL_BYTES (2 * PAGE_SIZE) /* and of the end */
#define HLT        0xf4

enum {
	RUN_KICKS = 1,    /* a kick each tick */
	RUN_SEGMENTS = 2, /* segments that are not flat, too */
	RUN_EVENTS = 4,   /* interrupts and NMIs between runs */
	RUN_COMPARE = 8,
};

struct end {
	struct exit exit;
	struct cpu cpu;
	unsigned answers;
	bool in_time;
	uint8_t low[SEEN_BYTES], tail[TAIL_BYTES];
};

static struct cpu *_Atomic running; /* the vCPU to kick */
static const struct engine_ops *_Atomic running_on;
static atomic_uint ticks, first_tick;

static void *kick_often(void *opaque)
{
	for (;;) {
		struct cpu *c;

		usleep(TICK_US);
		c = running;
		if (c && atomic_fetch_add(&ticks, 1) >= first_tick)
			running_on->kick(c);
	}
	return NULL;
}

static void run(struct guest *g, const struct engine_ops *engine, struct exit *e)
{
	running_on = engine;
	running = g->cpu;
	engine->run(g->cpu, e);
	running = NULL;
	check(e->reason != EXIT_ERROR);
	guest_check_state(g);
}

/* False: it would go on. */
static bool execute(struct guest *g, const struct engine_ops *engine, unsigned how, struct exit *e)
{
	unsigned kicks = 0;

	ticks = 0;
	first_tick = how & RUN_KICKS ? 0 : LAST_TICK;
	for (unsigned n = 0; n < MAX_EXITS && g->exits < MAX_EXITS; n++) {
		if (how & RUN_EVENTS && !(how & RUN_COMPARE))
			guest_send_event(g);
		run(g, engine, e);
		if (e->reason == EXIT_SHUTDOWN)
			return true;
		if (e->reason == EXIT_HLT && how & RUN_COMPARE)
			return true;
		if (e->reason == EXIT_KICK && ++kicks == ENOUGH)
			return false;
		if (e->reason == EXIT_INIT)
			cpu_init_signal(g->cpu);
	}
	return false;
}

/* ---- what must hold after a run ---- */

/* Host addresses are the guest's memory; nobody may write where code is watched. */
static void check_fast_tlb(const struct guest *g)
{
	for (unsigned n = 0; n < MMU_MODES * 2 * BT_TLB_ENTRIES; n++) {
		unsigned rw = n / BT_TLB_ENTRIES % 2;
		const struct bt_tlb_entry *t =
		        &g->cpu->bt->tlb[n / BT_TLB_ENTRIES / 2][rw][n % BT_TLB_ENTRIES];

		if (t->tag == bt_tlb_empty(n))
			continue;
		check(!((t->tag | t->host) & ~PAGE_MASK));
		check((t->tag >> 12) % BT_TLB_ENTRIES == n % BT_TLB_ENTRIES);
		check_host(g->mem, t->host, PAGE_SIZE, rw == BT_WRITE);
		check(rw == BT_READ || !mem_has_code(g->mem, (const void *)t->host));
	}
}

/* ---- comparison ---- */

static void note_end(struct guest *g, struct end *end)
{
	end->cpu = *g->cpu;
	end->answers = g->exits;
	memcpy(end->low, mem_host(g->mem, 0, SEEN_BYTES, true), SEEN_BYTES);
	memcpy(end->tail, mem_host(g->mem, RAM_BYTES - TAIL_BYTES, TAIL_BYTES, true), TAIL_BYTES);
}

static bool differs(bool report, const char *what, unsigned n, uint64_t a, uint64_t b)
{
	if (report && a != b)
		fprintf(stderr, "%s %u: %#" PRIx64 ", interpreted %#" PRIx64 "\n", what, n, a, b);
	return a != b;
}

static bool segments_differ(bool report, const struct cpu *a, const struct cpu *b)
{
	bool found = false;

	for (unsigned n = 0; n < SEG_COUNT; n++) {
		found |= differs(report, "selector", n, a->seg[n].sel, b->seg[n].sel);
		found |= differs(report, "base", n, a->seg[n].base, b->seg[n].base);
		found |= differs(report, "limit", n, a->seg[n].limit, b->seg[n].limit);
		found |= differs(report, "attributes", n, a->seg[n].attr, b->seg[n].attr);
	}
	return found;
}

/* XMM, then the upper halves. */
static uint64_t vector_word(const struct cpu *c, unsigned n)
{
	unsigned at = n < 32 ? FPU_XMM + n * 8 : FPU_YMMH + (n - 32) * 8;
	uint64_t v;

	memcpy(&v, c->fpu.area + at, sizeof(v));
	return v;
}

static bool registers_differ(bool report, const struct cpu *a, const struct cpu *b, uint64_t flags)
{
	bool found = false;

	for (unsigned n = 0; n < 16; n++)
		found |= differs(report, "register", n, a->gpr[n], b->gpr[n]);
	for (unsigned n = 0; n < 64; n++)
		found |= differs(report, "vector", n, vector_word(a, n), vector_word(b, n));
	found |= differs(report, "RIP", 0, a->rip, b->rip);
	found |= differs(report, "RFLAGS", 0, cpu_get_rflags(a) & flags, cpu_get_rflags(b) & flags);
	found |= differs(report, "CPL", 0, a->cpl, b->cpl);
	found |= differs(report, "CR", 0, a->cr0, b->cr0);
	found |= differs(report, "CR", 2, a->cr2, b->cr2);
	found |= differs(report, "CR", 3, a->cr3, b->cr3);
	found |= differs(report, "CR", 4, a->cr4, b->cr4);
	found |= differs(report, "EFER", 0, a->efer, b->efer);
	found |= differs(report, "DR", 6, a->dr6, b->dr6);
	found |= differs(report, "PKRU", 0, a->pkru, b->pkru);
	found |= differs(report, "GS base", 0, a->msr.kernel_gs_base, b->msr.kernel_gs_base);
	found |= differs(report, "shadow", 0, a->shadow, b->shadow);
	return found | segments_differ(report, a, b);
}

/* The translator walks the tables before it finds that an operand is misaligned, the interpreter
 * after: accessed and dirty bits may differ. */
static uint8_t bits_that_count(gpa_t at)
{
	return at >= PML5_PA && at < SYSTEM_SIZE && at % 4 == 0 ? 0x9f : 0xff;
}

static bool bytes_differ(bool report, gpa_t at, const uint8_t *a, const uint8_t *b, unsigned len)
{
	bool found = false;

	if (!memcmp(a, b, len))
		return false;
	for (unsigned n = 0; n < len; n++)
		if ((a[n] ^ b[n]) & bits_that_count(at + n))
			found |= differs(report, "byte at", (unsigned)at + n, a[n], b[n]);
	return found;
}

/* flags: of RFLAGS those that count */
static bool ends_differ(bool report, const struct end *a, const struct end *b, uint64_t flags)
{
	bool found = differs(report, "exit", 0, a->exit.reason, b->exit.reason);

	found |= differs(report, "answers", 0, a->answers, b->answers);
	found |= registers_differ(report, &a->cpu, &b->cpu, flags);
	found |= bytes_differ(report, 0, a->low, b->low, SEEN_BYTES);
	return found | bytes_differ(report, RAM_BYTES - TAIL_BYTES, a->tail, b->tail, TAIL_BYTES);
}

/* ---- inputs ---- */

struct input {
	struct guest_header h;
	const uint8_t *data;
	size_t size;
};

/* XMM registers that are not all the same. */
static void set_vectors(struct cpu *c, uint64_t value)
{
	for (unsigned n = 0; n < 32; n++) {
		value = value * 6364136223846793005ull + 1442695040888963407ull;
		memcpy(c->fpu.area + FPU_XMM + n * 8, &value, sizeof(value));
	}
}

static void load_input(struct guest *g, const struct input *in)
{
	guest_load(g, &in->h, in->data, in->size, HLT);
	set_vectors(g->cpu, in->h.value);
}

/* What the engine has derived from the memory of the last input, and that it watches that: pages
 * with code are not in the TLB, which a guest that changes its tables may notice. */
static void forget(struct guest *g, const struct engine_ops *engine)
{
	engine->invalidate(g->cpu);
	for (uint64_t n = 0; g->mem->code && n < RAM_BYTES / PAGE_SIZE; n++)
		g->mem->code[n] = 0;
}

static void run_input(struct guest *g, const struct engine_ops *engine, const struct input *in,
                      struct end *end)
{
	load_input(g, in);
	forget(g, engine);
	end->in_time = execute(g, engine, in->h.run, &end->exit);
	guest_check_tlb(g);
	if (engine == &engine_bt)
		check_fast_tlb(g);
	if (in->h.run & RUN_COMPARE && end->in_time)
		note_end(g, end);
}

/* The interpreter twice: an input that looks at the clock is not to be compared. */
static void compare(struct guest *g, const struct input *in, const struct end *got)
{
	static struct end one, other;
	uint64_t undefined;

	run_input(g, &engine_interp, in, &one);
	if (!one.in_time || !ends_differ(false, got, &one, ~0ull))
		return;
	run_input(g, &engine_interp, in, &other);
	if (!other.in_time || ends_differ(false, &one, &other, ~0ull))
		return;
	load_input(g, in);
	undefined = undefined_flags(g);
	if (undefined == ~0ull || !ends_differ(true, got, &one, ~undefined))
		return;
	abort();
}

/* Only modes that are translated, and flat segments unless asked for. */
static void make_translatable(struct guest_header *h)
{
	while (guest_mode_of(h)->flags & (FLAG_REAL | FLAG_V86) ||
	       guest_mode_of(h)->cs == SEL_CODE16)
		h->mode++;
	for (unsigned n = SEG_ES; n <= SEG_DS && !(h->run & RUN_SEGMENTS); n++)
		h->segment[n] = 0;
}

static void *guard(void)
{
	return mmap(NULL, 16 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

const char *__asan_default_options(void);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The translator keeps its pointers where the sanitizer does not look for leaks. */
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct guest *translated, *interpreted;
	static struct end end;
	pthread_t kicker;
	struct input in;

	if (size < sizeof(in.h) || size > MAX_INPUT)
		return 0;
	if (!translated) {
		guard();
		translated = guest_new(engine_bt.create);
		guard();
		interpreted = guest_new(engine_interp.create);
		pthread_create(&kicker, NULL, kick_often, NULL);
	}
	memcpy(&in.h, data, sizeof(in.h));
	in.data = data + sizeof(in.h);
	in.size = size - sizeof(in.h);
	make_translatable(&in.h);
	run_input(translated, &engine_bt, &in, &end);
	if (in.h.run & RUN_COMPARE && end.in_time)
		compare(interpreted, &in, &end);
	return 0;
}

/*
 * Everything read here belongs to a guest that has just gone wrong: addresses are whatever its
 * registers hold, so each step of a walk is bounded and each read may fail.
 */
#include "monitor/report.h"

#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mem/mem.h"
#include "mmu/mmu.h"

#define CODE_INSNS   6
#define MAX_FRAMES   24
#define STACK_WORDS  192
#define TEXT_NEARBY  (64 * MiB) /* a word this close to RIP may be a return address */
#define INSN_MAX_LEN 15

struct text {
	char *buf;
	size_t size, len;
};

static void __attribute__((format(printf, 2, 3))) put(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->len, t->size - t->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		t->len += (size_t)n < t->size - t->len ? (size_t)n : t->size - t->len - 1;
}

/* Bytes read at va, which may be fewer than len. */
static unsigned peek(struct cpu *c, gva_t va, void *buf, unsigned len)
{
	unsigned done = 0;
	gpa_t gpa;

	while (done < len) {
		unsigned run = (unsigned)(PAGE_SIZE - ((va + done) & ~PAGE_MASK));

		if (run > len - done)
			run = len - done;
		if (!mmu_peek(c, va + done, &gpa) || mem_read(c->mem, gpa, (char *)buf + done, run))
			break;
		done += run;
	}
	return done;
}

static void put_code(struct text *t, struct cpu *c)
{
	static const ZydisMachineMode mode[MODE_COUNT] = {
		[MODE_16] = ZYDIS_MACHINE_MODE_LEGACY_16,
		[MODE_32] = ZYDIS_MACHINE_MODE_LEGACY_32,
		[MODE_64] = ZYDIS_MACHINE_MODE_LONG_64,
	};
	gva_t va = c->rip + (c->mode == MODE_64 ? 0 : c->seg[SEG_CS].base);
	uint8_t code[CODE_INSNS * INSN_MAX_LEN];
	unsigned len = peek(c, va, code, sizeof(code)), off = 0;
	ZydisDisassembledInstruction insn;

	put(t, "  code at %016" PRIx64 ":%s\n", va, len ? "" : " not mapped");
	for (unsigned n = 0; n < CODE_INSNS && off < len; n++) {
		if (!ZYAN_SUCCESS(ZydisDisassembleIntel(mode[c->mode], va + off, code + off,
		                                        len - off, &insn))) {
			put(t, "    %016" PRIx64 "  %02x (no instruction)\n", va + off, code[off]);
			break;
		}
		put(t, "    %016" PRIx64 "  %s\n", va + off, insn.text);
		off += insn.info.length;
	}
}

/* Frame pointers: [rbp] is the caller's rbp, [rbp + word] the return address. Returns frames found.
 */
static unsigned put_frames(struct text *t, struct cpu *c, unsigned word)
{
	gva_t rbp = c->rbp, next = 0, ret = 0;
	unsigned n;

	for (n = 0; n < MAX_FRAMES; n++) {
		if (peek(c, rbp, &next, word) != word || peek(c, rbp + word, &ret, word) != word)
			break;
		if (!ret)
			break;
		put(t, "    %016" PRIx64 "\n", ret);
		if (next <= rbp) /* stacks grow down: anything else would be a loop */
			return n + 1;
		rbp = next;
	}
	return n;
}

static bool may_be_return(const struct cpu *c, gva_t value)
{
	gva_t distance = value < c->rip ? c->rip - value : value - c->rip;

	return value >= PAGE_SIZE && distance && distance < TEXT_NEARBY;
}

/* Without frame pointers: words on the stack that may be return addresses. */
static void put_stack(struct text *t, struct cpu *c, unsigned word)
{
	gva_t base = c->mode == MODE_64 ? 0 : c->seg[SEG_SS].base;
	unsigned found = 0;

	for (unsigned i = 0; i < STACK_WORDS && found < MAX_FRAMES; i++) {
		gva_t value = 0;

		if (peek(c, base + c->rsp + (uint64_t)i * word, &value, word) != word)
			break;
		if (!may_be_return(c, value))
			continue;
		put(t, "    %016" PRIx64 "  at stack + 0x%x\n", value, i * word);
		found++;
	}
}

static void put_backtrace(struct text *t, struct cpu *c)
{
	unsigned word = c->mode == MODE_64 ? 8 : 4;

	if (c->mode == MODE_16)
		return; /* real-mode code keeps no frames worth guessing at */
	put(t, "  backtrace:\n");
	if (put_frames(t, c, word) < 2) {
		put(t, "  addresses on the stack that may be returns:\n");
		put_stack(t, c, word);
	}
}

size_t report_cpu(struct cpu *c, char *buf, size_t size)
{
	static const char *const state[] = {
		[MP_RUNNABLE] = "running",
		[MP_HALTED] = "halted",
		[MP_WAIT_SIPI] = "waiting to be started",
	};
	struct text t = { .buf = buf, .size = size };
	int n;

	if (!size)
		return 0;
	put(&t, "vCPU %u, %s:\n", c->id, state[c->mp_state]);
	if (c->mp_state == MP_WAIT_SIPI)
		return t.len;
	n = cpu_dump(c, buf + t.len, size - t.len);
	if (n > 0)
		t.len += (size_t)n < size - t.len ? (size_t)n : size - t.len - 1;
	put_code(&t, c);
	put_backtrace(&t, c);
	return t.len;
}

/*
 * Machine-code stubs that run one guest instruction on the host.
 *
 * The x87, SSE and AVX units of the host are bit-exact already, so their instructions are not
 * re-implemented: each runs as itself, between code that loads its registers from the guest's
 * register file in struct fpu and code that stores them back. That pair of loads and stores with
 * the instruction in between is a stub. So that few stubs serve all operands, native_encode.c
 * normalises the instruction first: vector registers become slots (host registers 1 to 4, implicit
 * XMM0 stays 0), a general register becomes RAX, memory becomes [RSI]; where a slot's register
 * lives in guest state is an argument. `paddd xmm9, [rbx+8]` and `paddd xmm2, [rsp]` are one form
 * and share one stub:
 *
 *     movups xmm1, [rdx]      ; slot 0
 *     paddd  xmm1, [rsi]
 *     movups [rdx], xmm1
 *     ret
 *
 * Registers in a stub: RDI frame, RSI memory operand, RDX RCX R8 R9 the slots' addresses, RAX a
 * general operand. An instruction that wants RDX or RCX for itself (PCMPxSTRx) has no slot that is
 * stored through them. Nothing is pushed while the instruction executes: the SIGFPE handler relies
 * on it.
 *
 * Stubs with arithmetic run under the guest's MXCSR. With all exceptions masked, which is nearly
 * always, nothing can trap. Otherwise the stub is entered through native_run_trapping(), which
 * tells the handler by a thread-local pointer; the handler makes the stub return at once, before
 * its stores.
 *
 * The arena is one memfd mapped twice, writable and executable, never both in one mapping. It only
 * grows; when full, everything is dropped, decoded instructions included (they point at
 * operations). All of it belongs to one vCPU and its thread.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include "interp/native.h"

#define ARENA_BYTES (2 * MiB)
#define STUB_MAX    256 /* bytes; the longest is about 150 */
#define OPS_BITS    14
#define OPS_MAX     (3u << (OPS_BITS - 2)) /* three quarters of the table */

struct native {
	struct native_frame frame;
	uint8_t *write;      /* the arena as we write it */
	const uint8_t *exec; /* and as it runs */
	size_t used;
	unsigned nr_ops;
	struct native_op *ops; /* open addressing by hash of the form; code == NULL: free */
	bool offers[ZYDIS_ISA_SET_MAX_VALUE + 1];
};

/* ---- emitting ---- */

struct emit {
	uint8_t *p;
};

static void put(struct emit *e, const void *bytes, size_t n)
{
	memcpy(e->p, bytes, n);
	e->p += n;
}
#define PUT(e, ...) \
	put(e, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* Displacement of a frame member from RDI. */
#define FRAME(member) ((uint8_t)offsetof(struct native_frame, member))
_Static_assert(offsetof(struct native_frame, mxcsr_host) < 128, "disp8");

/* Number of the register that holds a slot's address: RDX, RCX, R8, R9. */
static const uint8_t slot_pointer[NATIVE_SLOTS] = { 2, 1, 8, 9 };

/* MOVUPS between xmm and [pointer], VEX encoded among VEX instructions. opcode: 0x10 load, 0x11
 * store. */
static void put_movups(struct emit *e, uint8_t opcode, unsigned xmm, unsigned pointer, bool vex)
{
	uint8_t modrm = xmm << 3 | (pointer & 7);

	if (vex)
		PUT(e, 0xc4, pointer & 8 ? 0xc1 : 0xe1, 0x78, opcode, modrm);
	else if (pointer & 8)
		PUT(e, 0x41, 0x0f, opcode, modrm);
	else
		PUT(e, 0x0f, opcode, modrm);
}

/* VINSERTF128 (0x18) from or VEXTRACTF128 (0x19) to the upper half of a YMM register. */
static void put_high(struct emit *e, uint8_t opcode, unsigned ymm, unsigned pointer)
{
	uint8_t vvvv = opcode == 0x18 ? (~ymm & 0xf) << 3 : 0x78;

	PUT(e, 0xc4, pointer & 8 ? 0xc3 : 0xe3, vvvv | 0x05, opcode,
	    0x80 | ymm << 3 | (pointer & 7));
	PUT(e, YMM_HIGH & 0xff, YMM_HIGH >> 8, 0, 0, 1);
}

/* MOVQ between mm and [pointer]; a store also sets the exponent to all ones (SDM 1 9.5.1). */
static void put_movq(struct emit *e, uint8_t opcode, unsigned mm, unsigned pointer)
{
	uint8_t rex = pointer & 8 ? 0x41 : 0x40;

	PUT(e, rex, 0x0f, opcode, mm << 3 | (pointer & 7));
	if (opcode == 0x7f)
		PUT(e, 0x66, rex, 0xc7, 0x40 | (pointer & 7), 8, 0xff, 0xff);
}

static void put_load(struct emit *e, const struct native_form *f, unsigned n)
{
	const struct native_slot *s = &f->slot[n];

	if (!s->load)
		return;
	if (s->kind == SLOT_MMX) {
		put_movq(e, 0x6f, s->host, slot_pointer[n]);
		return;
	}
	put_movups(e, 0x10, s->host, slot_pointer[n], f->flags & FORM_VEX);
	if (s->kind == SLOT_YMM)
		put_high(e, 0x18, s->host, slot_pointer[n]);
}

/* A VEX instruction has cleared what it does not write, so that the upper half is stored as it is.
 */
static void put_store(struct emit *e, const struct native_form *f, unsigned n)
{
	const struct native_slot *s = &f->slot[n];

	if (!s->store)
		return;
	if (s->kind == SLOT_MMX) {
		put_movq(e, 0x7f, s->host, slot_pointer[n]);
		return;
	}
	put_movups(e, 0x11, s->host, slot_pointer[n], f->flags & FORM_VEX);
	if (f->flags & FORM_VEX)
		put_high(e, 0x19, s->host, slot_pointer[n]);
}

static void put_prologue(struct emit *e, const struct native_form *f)
{
	if (f->flags & FORM_MXCSR)
		PUT(e, 0x0f, 0xae, 0x57, FRAME(mxcsr)); /* ldmxcsr */
	for (unsigned n = 0; n < NATIVE_SLOTS; n++)
		put_load(e, f, n);
	if (f->flags & FORM_X87)
		PUT(e, 0x48, 0x0f, 0xae, 0x0a); /* fxrstor64 [rdx] */
	if (f->flags & (FORM_GPR_IN | FORM_LENGTHS))
		PUT(e, 0x48, 0x8b, 0x47, FRAME(rax)); /* mov rax, */
	if (f->flags & FORM_LENGTHS)
		PUT(e, 0x48, 0x8b, 0x57, FRAME(rdx)); /* mov rdx, */
	if (f->flags & FORM_FLAGS_IN)
		PUT(e, 0xff, 0x77, FRAME(rflags), 0x9d); /* push; popfq */
}

static void put_epilogue(struct emit *e, const struct native_form *f)
{
	if (f->flags & FORM_FLAGS)
		PUT(e, 0x9c, 0x8f, 0x47, FRAME(rflags)); /* pushfq; pop */
	if (f->flags & FORM_GPR_OUT)
		PUT(e, 0x48, 0x89, 0x47, FRAME(rax));
	if (f->flags & FORM_RCX_OUT)
		PUT(e, 0x48, 0x89, 0x4f, FRAME(rcx));
	for (unsigned n = 0; n < NATIVE_SLOTS; n++)
		put_store(e, f, n);
	if (f->flags & FORM_X87)
		PUT(e, 0x48, 0x0f, 0xae, 0x02); /* fxsave64 [rdx] */
	if (f->flags & FORM_MMX)
		PUT(e, 0x0f, 0x77); /* emms: the C ABI wants the x87 stack empty */
	if (f->flags & FORM_MXCSR)
		PUT(e, 0x0f, 0xae, 0x5f, FRAME(mxcsr)); /* stmxcsr */
	if (f->flags & (FORM_MXCSR | FORM_X87))
		PUT(e, 0x0f, 0xae, 0x57, FRAME(mxcsr_host)); /* ldmxcsr */
	if (f->flags & FORM_VEX)
		PUT(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
	PUT(e, 0xc3);
}

static native_code make_stub(struct native *n, const struct native_form *f)
{
	struct emit e = { n->write + n->used };
	const uint8_t *code = n->exec + n->used;

	put_prologue(&e, f);
	put(&e, f->bytes, f->len);
	put_epilogue(&e, f);
	n->used = (size_t)(e.p - n->write + 15) & ~15ul;
	return (native_code)(uintptr_t)code;
}

/* ---- operations ---- */

static uint64_t hash_form(const struct native_form *f)
{
	uint64_t words[sizeof(*f) / 8], h = 0;

	_Static_assert(sizeof(*f) % 8 == 0, "hashed by words, no hidden padding");
	memcpy(words, f, sizeof(words));
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		h = ((h ^ words[i]) * 0x9e3779b97f4a7c15ull) ^ (h >> 29);
	return h >> (64 - OPS_BITS);
}

const struct native_op *native_find(struct cpu *c, const struct native_form *f)
{
	struct native *n = c->interp->native;
	struct native_op *op;

	for (unsigned h = hash_form(f);; h++) {
		op = &n->ops[h & (BIT(OPS_BITS) - 1)];
		if (!op->code)
			break;
		if (!memcmp(&op->form, f, sizeof(*f)))
			return op;
	}
	if (n->nr_ops == OPS_MAX || n->used + STUB_MAX > ARENA_BYTES)
		return NULL;
	n->nr_ops++;
	op->form = *f;
	op->code = make_stub(n, f);
	return op;
}

void native_no_room(struct cpu *c, const struct insn *i)
{
	struct native *n = c->interp->native;

	c->rip -= i->len;
	memset(n->ops, 0, sizeof(*n->ops) << OPS_BITS);
	n->nr_ops = 0;
	n->used = 0;
	interp_flush(c);
}

/* ---- SIGFPE ---- */

/* The stub that may trap now on this thread. */
static _Thread_local struct native_frame *trapping;
static struct sigaction sigfpe_before;

/* Leaves the stub: returns to its caller with MXCSR as it was at the fault. */
static bool leave_stub(ucontext_t *u)
{
	greg_t *r = u->uc_mcontext.gregs;
	struct native_frame *f = trapping;
	uintptr_t rip = (uintptr_t)r[REG_RIP];

	if (!f || rip < f->code || rip >= f->code_end)
		return false;
	f->faulted = true;
	f->mxcsr = u->uc_mcontext.fpregs->mxcsr;
	u->uc_mcontext.fpregs->mxcsr = f->mxcsr_host;
	r[REG_RIP] = *(greg_t *)r[REG_RSP];
	r[REG_RSP] += 8;
	return true;
}

static void handle_sigfpe(int sig, siginfo_t *info, void *context)
{
	if (leave_stub(context))
		return;
	/* Not ours: what would have happened without us happens when the instruction faults again.
	 */
	sigaction(SIGFPE, &sigfpe_before, NULL);
}

static void install_sigfpe(void)
{
	struct sigaction sa = { .sa_sigaction = handle_sigfpe,
		                .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigemptyset(&sa.sa_mask);
	sigaction(SIGFPE, &sa, &sigfpe_before);
}

bool native_run_trapping(const struct native_op *op, struct native_frame *f, void *mem, void *v0,
                         void *v1, void *v2, void *v3)
{
	f->faulted = false;
	trapping = f;
	atomic_signal_fence(memory_order_seq_cst);
	op->code(f, mem, v0, v1, v2, v3);
	atomic_signal_fence(memory_order_seq_cst);
	trapping = NULL;
	if (f->faulted)
		asm volatile("emms"); /* the stub may have loaded MMX registers */
	return f->faulted;
}

/* ---- life ---- */

static int map_arena(struct native *n)
{
	int fd = memfd_create("trapeze-native", MFD_CLOEXEC);
	int rc = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, ARENA_BYTES)) {
		rc = -errno;
		goto out;
	}
	n->write = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	n->exec = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (n->write == MAP_FAILED || n->exec == MAP_FAILED)
		rc = -errno;
out:
	close(fd);
	return rc;
}

static void unmap_arena(struct native *n)
{
	if (n->write && n->write != MAP_FAILED)
		munmap(n->write, ARENA_BYTES);
	if (n->exec && n->exec != MAP_FAILED)
		munmap((void *)n->exec, ARENA_BYTES);
}

int native_new(struct cpu *c)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct native *n = aligned_alloc(64, (sizeof(*n) + 63) & ~63ul);
	int rc = -ENOMEM;

	if (!n)
		return rc;
	memset(n, 0, sizeof(*n));
	n->ops = calloc(BIT(OPS_BITS), sizeof(*n->ops));
	if (!n->ops)
		goto out;
	rc = map_arena(n);
	if (rc)
		goto out;
	n->frame.mxcsr_host = MXCSR_INIT;
	n->frame.code = (uintptr_t)n->exec;
	n->frame.code_end = n->frame.code + ARENA_BYTES;
	native_list_offers(c, n->offers);
	pthread_once(&once, install_sigfpe);
	c->interp->native = n;
	return 0;
out:
	native_free(n);
	return rc;
}

void native_free(struct native *n)
{
	if (!n)
		return;
	unmap_arena(n);
	free(n->ops);
	free(n);
}

struct native_frame *native_frame(const struct cpu *c)
{
	return &c->interp->native->frame;
}

bool native_offers(const struct cpu *c, ZydisISASet set)
{
	return c->interp->native->offers[set];
}

/*
 * The host CPU as oracle for the instructions that the interpreter runs natively: random encodings,
 * registers and memory, executed once here on the bare CPU and once through decode-and-stub, then
 * registers, flags, memory and the fault are compared. Guest memory is host memory at the same
 * address.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>
#include "cpu/cpuid.h"
#include "interp/fpu.h"
#include "interp/native.h"

#define NO_FAULT (-1)

/* ---- the vCPU, and fakes for what is around src/interp/native*.c ---- */

static struct cpu cpu;
static struct interp interp;
static struct tlb_entry tlb[TLB_ENTRIES];
static jmp_buf fault_jmp;
static int fault_vector;
static uint8_t *memory; /* four pages that can be used, amid what no displacement leaves */
#define MEMORY_BYTES (4 * PAGE_SIZE)
#define GUARD_BYTES  (4 * GiB)

void cpu_raise(struct cpu *c, int vector, uint32_t error)
{
	fault_vector = vector;
	longjmp(fault_jmp, 1);
}

void interp_flush(struct cpu *c)
{
	c->interp->flush = true;
}

static void check_range(gva_t va, unsigned len)
{
	if (va - (uintptr_t)memory > MEMORY_BYTES - len)
		cpu_raise(&cpu, EXC_PF, 0);
}

uint64_t mmu_load(struct cpu *c, gva_t va, unsigned size, unsigned seg)
{
	uint64_t value = 0;

	check_range(va, size);
	memcpy(&value, (void *)va, size);
	return value;
}

void mmu_store(struct cpu *c, gva_t va, unsigned size, uint64_t value, unsigned seg)
{
	check_range(va, size);
	memcpy((void *)va, &value, size);
}

void mmu_probe(struct cpu *c, gva_t va, unsigned len, enum mmu_access access, unsigned seg)
{
	check_range(va, len);
}

void mmu_copy_in(struct cpu *c, void *dst, gva_t va, unsigned len, unsigned seg)
{
	check_range(va, len);
	memcpy(dst, (void *)va, len);
}

void mmu_copy_out(struct cpu *c, gva_t va, const void *src, unsigned len, unsigned seg)
{
	check_range(va, len);
	memcpy((void *)va, src, len);
}

void *mmu_host(struct cpu *c, gva_t va, unsigned len, enum mmu_access access, unsigned seg)
{
	check_range(va, len);
	return (va ^ (va + len - 1)) & PAGE_MASK ? NULL : (void *)va;
}

void mmu_flush_data(struct cpu *c)
{
}

gva_t access_ea_slow(struct cpu *c, const struct insn *i, unsigned size, bool write)
{
	return access_offset(c, i);
}

gva_t access_linear(struct cpu *c, unsigned seg, uint64_t off, uint64_t size, bool write)
{
	return off;
}

const struct op_row ops_string[] = { { .fn = NULL } };

void cpuid_query(const struct cpu *c, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	asm volatile("cpuid"
	             : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
	             : "a"(leaf), "c"(sub));
}

bool cpuid_is_amd(const struct cpuid_model *m)
{
	uint32_t r[4];

	cpuid_query(NULL, 0, 0, r);
	return !memcmp(&r[1], "Auth", 4);
}

/* ---- the oracle: state and trampoline ---- */

struct oracle {
	uint64_t gpr[16]; /* RSP is not loaded */
	uint64_t rflags;
	uint64_t host_rsp;
	uint64_t code;
	uint64_t pad[13];
	uint8_t xsave[1088] __attribute__((aligned(64)));
};
struct oracle oracle_state;
_Static_assert(offsetof(struct oracle, xsave) == 256, "known to the trampoline");
void oracle_enter(void);

asm(".text\n"
    "oracle_enter:\n"
    "	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "	mov %rsp, oracle_state+136(%rip)\n"
    "	mov $7, %eax; xor %edx, %edx\n"
    "	xrstor64 oracle_state+256(%rip)\n"
    "	push oracle_state+128(%rip); popfq\n"
    "	mov oracle_state+0(%rip), %rax; mov oracle_state+8(%rip), %rcx\n"
    "	mov oracle_state+16(%rip), %rdx; mov oracle_state+24(%rip), %rbx\n"
    "	mov oracle_state+40(%rip), %rbp; mov oracle_state+48(%rip), %rsi\n"
    "	mov oracle_state+56(%rip), %rdi; mov oracle_state+64(%rip), %r8\n"
    "	mov oracle_state+72(%rip), %r9; mov oracle_state+80(%rip), %r10\n"
    "	mov oracle_state+88(%rip), %r11; mov oracle_state+96(%rip), %r12\n"
    "	mov oracle_state+104(%rip), %r13; mov oracle_state+112(%rip), %r14\n"
    "	mov oracle_state+120(%rip), %r15\n"
    "	jmp *oracle_state+144(%rip)\n"
    "oracle_leave:\n"
    "	mov %rax, oracle_state+0(%rip); mov %rcx, oracle_state+8(%rip)\n"
    "	mov %rdx, oracle_state+16(%rip); mov %rbx, oracle_state+24(%rip)\n"
    "	mov %rbp, oracle_state+40(%rip); mov %rsi, oracle_state+48(%rip)\n"
    "	mov %rdi, oracle_state+56(%rip); mov %r8, oracle_state+64(%rip)\n"
    "	mov %r9, oracle_state+72(%rip); mov %r10, oracle_state+80(%rip)\n"
    "	mov %r11, oracle_state+88(%rip); mov %r12, oracle_state+96(%rip)\n"
    "	mov %r13, oracle_state+104(%rip); mov %r14, oracle_state+112(%rip)\n"
    "	mov %r15, oracle_state+120(%rip)\n"
    "	mov oracle_state+136(%rip), %rsp\n"
    "	pushfq; pop oracle_state+128(%rip)\n"
    "	cld; mov $7, %eax; xor %edx, %edx\n"
    "	xsave64 oracle_state+256(%rip)\n"
    "	fninit\n"
    "	movl $0x1f80, -8(%rsp); ldmxcsr -8(%rsp)\n"
    "	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "	ret\n");
extern const char oracle_leave[];

static uint8_t *code_page;
static sigjmp_buf oracle_jmp;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	memcpy(oracle_state.xsave, u->uc_mcontext.fpregs,
	       512); /* MXCSR flags of a SIMD exception */
	siglongjmp(oracle_jmp, sig);
}

static const int oracle_signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE };

/* Runs bytes on the bare CPU; returns the signal or 0. */
static int oracle_run(const uint8_t *bytes, unsigned len)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER },
	                 old[4];
	uint64_t leave = (uintptr_t)oracle_leave;
	int sig;

	memcpy(code_page, bytes, len);
	memcpy(code_page + len, "\xff\x25\0\0\0\0", 6); /* jmp [rip] */
	memcpy(code_page + len + 6, &leave, 8);
	oracle_state.code = (uintptr_t)code_page;
	for (unsigned n = 0; n < ARRAY_SIZE(oracle_signals); n++)
		sigaction(oracle_signals[n], &sa, &old[n]);
	sig = sigsetjmp(oracle_jmp, 1);
	if (!sig)
		oracle_enter();
	for (unsigned n = 0; n < ARRAY_SIZE(oracle_signals); n++)
		sigaction(oracle_signals[n], &old[n], NULL);
	if (sig) {
		uint32_t mxcsr = MXCSR_INIT;

		asm volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
	}
	return sig;
}

/* ---- our side ---- */

static ZydisDecoder decoder;

static const struct op_row *find_row(ZydisMnemonic m)
{
	for (const struct op_row *r = ops_native; r->fn || r->pick; r++)
		if (r->mnemonic == m)
			return r;
	for (const struct op_row *r = ops_fpu; r->fn || r->pick; r++)
		if (r->mnemonic == m)
			return r;
	return NULL;
}

static uint8_t register_number(ZydisRegister r)
{
	return r == ZYDIS_REGISTER_NONE ? GPR_ZERO : (uint8_t)ZydisRegisterGetId(r);
}

static void fill_operand(struct insn *i, const ZydisDecodedOperand *op, unsigned n)
{
	uint8_t *const slot[] = { &i->dst, &i->src, &i->aux, &i->aux2 };

	if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && n < 4)
		*slot[n] = register_number(op->reg.value);
	if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		i->imm = op->imm.value.s;
	if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
		return;
	i->flags |= INSN_MEM;
	i->base = register_number(op->mem.base);
	i->index = register_number(op->mem.index);
	i->scale = op->mem.scale ? __builtin_ctz(op->mem.scale) : 0;
	i->disp = op->mem.disp.value;
	i->seg = (uint8_t)ZydisRegisterGetId(op->mem.segment);
}

/* RIP-relative means another address here and there; RSP is the test's own; FS is the host's. */
static bool is_usable(const ZydisDecodedOperand *op, unsigned count)
{
	for (unsigned n = 0; n < count; n++) {
		if (op[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (op[n].reg.value == ZYDIS_REGISTER_ESP ||
		     op[n].reg.value == ZYDIS_REGISTER_RSP))
			return false;
		if (op[n].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (op[n].mem.base == ZYDIS_REGISTER_RIP || op[n].mem.base == ZYDIS_REGISTER_EIP ||
		    op[n].mem.base == ZYDIS_REGISTER_RSP || op[n].mem.base == ZYDIS_REGISTER_ESP ||
		    op[n].mem.segment == ZYDIS_REGISTER_FS ||
		    op[n].mem.segment == ZYDIS_REGISTER_GS)
			return false;
	}
	return true;
}

/* Decodes as decode.c does; false when the instruction is not one of ours. */
static bool decode_one(const uint8_t *bytes, unsigned size, ZydisDecodedInstruction *z,
                       struct insn *i)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	struct op_decode d = { .c = &cpu, .z = z, .op = op, .bytes = bytes };
	const struct op_row *row;

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, size, z, op)))
		return false;
	row = find_row(z->mnemonic);
	if (!row || !is_usable(op, z->operand_count))
		return false;
	*i = (struct insn){ .len = z->length,
		            .opsize = z->operand_width / 8,
		            .asize = z->address_width / 8 };
	i->base = i->index = GPR_ZERO;
	for (unsigned n = 0; n < z->operand_count_visible; n++)
		fill_operand(i, &op[n], n);
	i->fn = row->fn ? row->fn : row->pick(&d, i);
	return i->fn;
}

static int our_run(const struct insn *i)
{
	fault_vector = NO_FAULT;
	if (!setjmp(fault_jmp)) {
		cpu.cur = i;
		cpu.rip = 0x1000 + i->len;
		i->fn(&cpu, i);
	}
	return fault_vector;
}

/* As native_new() left it; cmocka puts its own handler in place for each test. */
static struct sigaction sigfpe;

static int setup(void **state)
{
	memory = mmap(NULL, 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	              -1, 0);
	memory += GUARD_BYTES;
	mprotect(memory, MEMORY_BYTES, PROT_READ | PROT_WRITE);
	code_page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
	                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	cpu.interp = &interp;
	cpu.tlb = tlb;
	cpu.code_page = 1;
	cpu.cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_MP;
	cpu.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	cpu.efer = EFER_LMA | EFER_LME;
	cpu.xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
	cpu.mode = MODE_64;
	cpu.cpl = 3;
	for (unsigned n = 0; n < TLB_ENTRIES; n++)
		tlb[n] = (struct tlb_entry){ TLB_NEVER, TLB_NEVER, TLB_NEVER, 0 };
	/* Two of the pages hit the TLB, the others go the slow way. */
	for (unsigned n = 0; n < 2; n++) {
		uint64_t page = (uintptr_t)memory + n * PAGE_SIZE;

		tlb[page >> 12 & (TLB_ENTRIES - 1)] =
		        (struct tlb_entry){ page, page, TLB_NEVER, 0 };
	}
	if (native_new(&cpu))
		return -1;
	return sigaction(SIGFPE, NULL, &sigfpe);
}

static int teardown(void **state)
{
	native_free(interp.native);
	munmap(memory - GUARD_BYTES, 2 * GUARD_BYTES);
	munmap(code_page, PAGE_SIZE);
	return 0;
}

/* ---- random states ---- */

static uint64_t seed = 0x1234567;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dull;
}

/* Floating-point values that meet each other's special cases. */
static uint64_t random_quad(void)
{
	static const uint64_t special[] = {
		0,
		0x8000000000000000,
		0x3ff0000000000000,
		0x7ff0000000000000,
		0xfff0000000000000,
		0x7ff8000000000000,
		0x7ff4000000000000,
		1,
		0x000fffffffffffff,
		0x7fefffffffffffff,
		0x3f8000003f800000,
		0x7f80000000000001,
		0x7fa000007fc00000,
		0x0000000180000000,
		0x41dfffffffc00000,
		0x4f0000004e800000,
		0xffffffffffffffff,
		0x4008000000000000,
	};

	switch (rnd() & 3) {
	case 0:
		return special[rnd() % ARRAY_SIZE(special)];
	case 1: /* of moderate size */
		return ((rnd() & 0x800fffffffffffff) | (0x3f0 + (rnd() & 31)) << 52);
	case 2:
		return (rnd() & 0x807fffff807fffff) | 0x3f8000003f000000;
	default:
		return rnd();
	}
}

static void random_st(uint8_t *p)
{
	uint64_t mantissa = rnd();
	uint16_t exponent = 0x3fff + (rnd() & 63) - 32;

	switch (rnd() & 7) {
	case 0:
		exponent = 0x7fff;
		mantissa = rnd() & 1 ? 0x8000000000000000 : 0xc000000000000000 | (rnd() & 0xf);
		break;
	case 1:
		exponent = 0;
		mantissa = rnd() & 1 ? 0 : mantissa >> 1;
		break;
	case 2:
		exponent = rnd();
		break;
	default:
		mantissa |= 0x8000000000000000;
	}
	if (rnd() & 1)
		exponent |= 0x8000;
	memcpy(p, &mantissa, 8);
	memcpy(p + 8, &exponent, 2);
	memset(p + 10, 0, 6);
}

static void random_vectors(void)
{
	for (unsigned n = 0; n < 16; n++)
		for (unsigned k = 0; k < 2; k++) {
			uint64_t low = random_quad(), high = random_quad();

			memcpy(fpu_xmm(&cpu, n) + 8 * k, &low, 8);
			memcpy(fpu_xmm(&cpu, n) + YMM_HIGH + 8 * k, &high, 8);
		}
}

static void random_x87(bool unmask)
{
	*fpu_fcw(&cpu) =
	        0x40 | (rnd() & 3 ? 0x33f : rnd() & (unmask ? 0xf3f : 0xf00)) | (unmask ? 0 : 0x3f);
	*fpu_fsw(&cpu) = rnd() & 0x7f00;
	if (unmask && !(rnd() & 7))
		*fpu_fsw(&cpu) |= rnd() & FSW_ERRORS;
	if (fpu_pending(&cpu))
		*fpu_fsw(&cpu) |= FSW_ES | FSW_B;
	*fpu_ftw(&cpu) = rnd() & 1 ? 0xff : rnd();
	*fpu_fop(&cpu) = 0;
	*fpu_pointers(&cpu) = (struct fpu_pointers){ 0, 0 };
	for (unsigned n = 0; n < 8; n++)
		random_st(fpu_slot(&cpu, n));
}

/* Aligned, odd, across the pages, or at the end of memory. */
static unsigned random_offset(void)
{
	switch (rnd() & 3) {
	case 0:
		return rnd() % MEMORY_BYTES;
	case 1:
		return (1 + (rnd() & 3)) * PAGE_SIZE - (rnd() & 63);
	default:
		return rnd() % (MEMORY_BYTES - 1024) & ~63u;
	}
}

static void random_state(bool unmask)
{
	for (unsigned n = 0; n < 16; n++) {
		uint64_t at = rnd() % (MEMORY_BYTES - 64);

		cpu.gpr[n] = rnd() & 3 ? (uintptr_t)memory + (rnd() & 1 ? at & ~31ul : at)
		                       : random_quad();
	}
	cpu.rsi = cpu.r14 = (uintptr_t)memory + random_offset();
	flags_set_arith(&cpu, rnd());
	random_vectors();
	random_x87(unmask);
	*fpu_mxcsr(&cpu) = (rnd() & 0x603f) | (rnd() & 7 ? 0 : rnd() & 0x8040) | MXCSR_MASKS;
	if (unmask)
		*fpu_mxcsr(&cpu) &= ~(rnd() & MXCSR_MASKS);
	for (unsigned n = 0; n < MEMORY_BYTES; n += 8) {
		uint64_t value = random_quad();

		memcpy(memory + n, &value, 8);
	}
}

static void state_to_oracle(void)
{
	memcpy(oracle_state.gpr, cpu.gpr, sizeof(oracle_state.gpr));
	oracle_state.rflags = RFLAGS_1 | flags_get_arith(&cpu);
	memset(oracle_state.xsave, 0, sizeof(oracle_state.xsave));
	memcpy(oracle_state.xsave, cpu.fpu.area, 512);
	memset(oracle_state.xsave + 416, 0, 96);
	memcpy(oracle_state.xsave + FPU_YMMH, cpu.fpu.area + FPU_YMMH, 256);
	oracle_state.xsave[512] = 7;
}

/* The host's MXCSR_MASK is not the model's. */
static void forget_mxcsr_mask(uint8_t *after)
{
	uint64_t at = cpu.rsi - (uintptr_t)memory + FPU_MXCSR_MASK;
	uint32_t host = 0x2ffff, ours = MXCSR_VALID;

	if (at <= MEMORY_BYTES - 4 && !memcmp(after + at, &host, 4))
		memcpy(after + at, &ours, 4);
}

/* Small offsets in all registers, one in eight lanes far away. */
static void prepare_gather(const ZydisDecodedInstruction *z)
{
	for (unsigned n = 0; n < 16; n++)
		for (unsigned k = 0; k < 4; k++) {
			int64_t lane = (int64_t)(rnd() & 0xff) - (rnd() & 7 ? 0 : 128);
			uint8_t *at = fpu_xmm(&cpu, n) + (k & 1) * 8 + (k & 2 ? YMM_HIGH : 0);
			uint64_t both = (uint32_t)lane | (uint64_t)(rnd() & 0xff) << 32;

			if (z->raw.sib.index == (n & 7))
				memcpy(at, z->opcode & 1 ? (void *)&lane : (void *)&both, 8);
		}
}

static bool is_restore(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_FXRSTOR || m == ZYDIS_MNEMONIC_FXRSTOR64 ||
	       m == ZYDIS_MNEMONIC_XRSTOR || m == ZYDIS_MNEMONIC_XRSTOR64;
}

/* Flips a bit that no processor takes: of MXCSR, or of the header but for components only hosts
 * have. */
static void corrupt(uint8_t *image)
{
	unsigned at = 514 + rnd() % 62;

	if (rnd() & 1)
		image[27] ^= 1 << (rnd() & 7);
	else if (at != 520 && at != 521)
		image[at] ^= 1 << (rnd() & 7);
}

/* Restricts EDX:EAX to what the model has; gives a restore something that the host has saved. */
static void prepare_save(const ZydisDecodedInstruction *z, bool unmask)
{
	static const uint8_t fxsave[] = { 0x48, 0x0f, 0xae, 0x06 },
	                     xsave[] = { 0x48, 0x0f, 0xae, 0x26 },
	                     xsavec[] = { 0x48, 0x0f, 0xc7, 0x26 };
	bool fx = z->mnemonic == ZYDIS_MNEMONIC_FXRSTOR || z->mnemonic == ZYDIS_MNEMONIC_FXRSTOR64;

	cpu.rsi = (uintptr_t)memory + (rnd() % (MEMORY_BYTES - 1024) & ~63u);
	if (!(rnd() & 15))
		cpu.rsi += 16;
	cpu.rax = rnd() & 7;
	cpu.rdx = 0;
	memset((uint8_t *)cpu.rsi + 512, 0, 64);
	if (!is_restore(z->mnemonic))
		return;
	state_to_oracle();
	oracle_run(fx ? fxsave : rnd() & 1 ? xsave : xsavec, 4);
	forget_mxcsr_mask(memory);
	if (!(rnd() & 7))
		corrupt((uint8_t *)cpu.rsi);
	random_vectors();
	random_x87(unmask);
	cpu.rax = rnd() & 7;
}

static bool is_save(const ZydisDecodedInstruction *z)
{
	switch (z->meta.isa_set) {
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64:
	case ZYDIS_ISA_SET_XSAVE:
	case ZYDIS_ISA_SET_XSAVEC:
	case ZYDIS_ISA_SET_XSAVEOPT:
	case ZYDIS_ISA_SET_XSAVES:
		return true;
	default:
		return false;
	}
}

static void prepare(const ZydisDecodedInstruction *z, bool unmask)
{
	if (z->meta.isa_set == ZYDIS_ISA_SET_AVX2GATHER)
		prepare_gather(z);
	if (is_save(z))
		prepare_save(z, unmask);
}

/* ---- comparing ---- */

static void dump(const char *what, const uint8_t *a, const uint8_t *b, unsigned n)
{
	print_error("%s: oracle ", what);
	for (unsigned k = 0; k < n; k++)
		print_error("%02x", a[n - 1 - k]);
	print_error(" ours ");
	for (unsigned k = 0; k < n; k++)
		print_error("%02x", b[n - 1 - k]);
	print_error("\n");
}

static bool same(const char *what, const void *a, const void *b, unsigned n)
{
	if (!memcmp(a, b, n))
		return true;
	dump(what, a, b, n);
	return false;
}

static bool compare_vectors(void)
{
	bool ok = same("mxcsr", oracle_state.xsave + FPU_MXCSR, fpu_mxcsr(&cpu), 4);

	for (unsigned n = 0; n < 16; n++) {
		ok &= same("xmm", oracle_state.xsave + FPU_XMM + 16 * n, fpu_xmm(&cpu, n), 16);
		ok &= same("ymm high", oracle_state.xsave + FPU_YMMH + 16 * n,
		           fpu_xmm(&cpu, n) + YMM_HIGH, 16);
	}
	return ok;
}

static bool compare_x87(void)
{
	bool ok = same("fcw, fsw", oracle_state.xsave, cpu.fpu.area, 4);

	ok &= same("ftw", oracle_state.xsave + 4, cpu.fpu.area + 4, 1);
	for (unsigned n = 0; n < 8; n++)
		ok &= same("st", oracle_state.xsave + FPU_ST + 16 * n, fpu_slot(&cpu, n), 10);
	return ok;
}

static bool compare_integers(const ZydisDecodedInstruction *z)
{
	uint64_t flags = flags_get_arith(&cpu);
	bool ok = true;

	for (unsigned n = 0; n < 16; n++)
		if (n != R_RSP)
			ok &= same("gpr", &oracle_state.gpr[n], &cpu.gpr[n], 8);
	oracle_state.rflags &= RFLAGS_ARITH;
	return ok & same("flags", &oracle_state.rflags, &flags, 8);
}

/* The signals that a fault of ours shows up as on the host. */
static bool fault_matches(int vector, int sig)
{
	switch (vector) {
	case NO_FAULT:
		return sig == 0;
	case EXC_UD:
		return sig == SIGILL;
	case EXC_XM:
	case EXC_MF:
		return sig == SIGFPE;
	default:
		return sig == SIGSEGV || sig == SIGBUS;
	}
}

static void print_case(const uint8_t *bytes, const ZydisDecodedInstruction *z)
{
	ZydisFormatter f;
	ZydisDecodedInstruction again;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	char text[128];

	ZydisDecoderDecodeFull(&decoder, bytes, z->length, &again, op);
	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	ZydisFormatterFormatInstruction(&f, &again, op, z->operand_count_visible, text,
	                                sizeof(text), 0, NULL);
	print_error("%s  [", text);
	for (unsigned n = 0; n < z->length; n++)
		print_error(" %02x", bytes[n]);
	print_error(" ]\n");
}

/* Of 10 bytes, 8 may be stored before the others fault (SDM 3A 8.1.1): Intel's processors do so. */
static bool may_store_part(const ZydisDecodedInstruction *z, int vector)
{
	bool ten = z->mnemonic == ZYDIS_MNEMONIC_FBSTP ||
	           (z->mnemonic == ZYDIS_MNEMONIC_FSTP && z->opcode == 0xdb);

	return ten && vector == EXC_PF;
}

/* Runs one instruction on both sides from the present state; false when they differ. */
static bool try_one(const uint8_t *bytes, const ZydisDecodedInstruction *z, const struct insn *i)
{
	static uint8_t before[MEMORY_BYTES], after[MEMORY_BYTES];
	int sig, vector;
	bool ok;

	state_to_oracle();
	memcpy(before, memory, MEMORY_BYTES);
	sig = oracle_run(bytes, z->length);
	memcpy(after, memory, MEMORY_BYTES);
	forget_mxcsr_mask(after);
	memcpy(memory, before, MEMORY_BYTES);
	vector = our_run(i);
	ok = fault_matches(vector, sig);
	if (!ok)
		print_error("oracle signal %d, our vector %d\n", sig, vector);
	if (ok && vector == NO_FAULT)
		ok &= compare_vectors() & compare_x87() & compare_integers(z);
	if (ok && vector == EXC_XM)
		ok &= same("mxcsr", oracle_state.xsave + FPU_MXCSR, fpu_mxcsr(&cpu), 4);
	if (ok && !may_store_part(z, vector) && memcmp(after, memory, MEMORY_BYTES)) {
		print_error("memory differs\n");
		ok = false;
	}
	if (!ok)
		print_case(bytes, z);
	return ok;
}

/* ---- random encodings ---- */

/* Opcode, ModRM (a register, [RSI] or anything) and what may follow. */
static unsigned put_random_tail(uint8_t *b, unsigned n)
{
	static const uint8_t keep[] = { 0xff, 0x38, 0xff }, set[] = { 0xc0, 0x06, 0 };
	unsigned shape = rnd() % 3;

	b[n++] = rnd();
	b[n++] = (rnd() & keep[shape]) | set[shape];
	for (unsigned k = 0; k < 6; k++)
		b[n++] = rnd() & 1 ? rnd() & 0x1f : rnd();
	return n;
}

static unsigned random_legacy(uint8_t *b)
{
	static const uint8_t prefix[] = { 0, 0x66, 0xf2, 0xf3 };
	unsigned n = 0, p = rnd() & 3, map = rnd() & 7;

	if (p)
		b[n++] = prefix[p];
	if (rnd() & 1)
		b[n++] = 0x40 | (rnd() & 0xf);
	b[n++] = 0x0f;
	if (map == 0)
		b[n++] = 0x38;
	if (map == 1)
		b[n++] = 0x3a;
	return put_random_tail(b, n);
}

static unsigned random_vex(uint8_t *b)
{
	unsigned n = 0;

	b[n++] = 0xc4;
	b[n++] = (rnd() & 0xe0) | (1 + rnd() % 3);
	b[n++] = rnd() & 1 ? rnd() : rnd() | 0x78;
	return put_random_tail(b, n);
}

/* VGATHERxxx and VPGATHERxx: VEX.66.0F38 90 to 93 with a vector index. */
static unsigned random_gather(uint8_t *b)
{
	unsigned n = 0;

	b[n++] = 0xc4;
	b[n++] = 0xe2;
	b[n++] = (rnd() & 0xfc) | 1;
	b[n++] = 0x90 | (rnd() & 3);
	b[n++] = (rnd() & 0x38) | 0x04;
	b[n++] = (rnd() & 0xf8) | 6;
	memset(b + n, 0, 8);
	return n + 8;
}

/* The XSAVE and FXSAVE groups at [RSI]. */
static unsigned random_save(uint8_t *b)
{
	static const uint8_t group[][2] = {
		{ 0xae, 0x06 }, { 0xae, 0x0e }, { 0xae, 0x16 }, { 0xae, 0x1e }, { 0xae, 0x26 },
		{ 0xae, 0x2e }, { 0xae, 0x36 }, { 0xc7, 0x1e }, { 0xc7, 0x26 }, { 0xc7, 0x2e },
	};
	const uint8_t *g = group[rnd() % ARRAY_SIZE(group)];
	unsigned n = 0;

	if (rnd() & 1)
		b[n++] = 0x48;
	b[n++] = 0x0f;
	b[n++] = g[0];
	b[n++] = g[1];
	memset(b + n, 0, 8);
	return n + 8;
}

static unsigned random_x87_bytes(uint8_t *b)
{
	unsigned n = put_random_tail(b, 0);

	b[0] = 0xd8 | (b[0] & 7);
	return n;
}

static void sweep(unsigned (*make)(uint8_t *b), unsigned tries, bool unmask)
{
	unsigned failed = 0, ran = 0;
	static bool reported[ZYDIS_MNEMONIC_MAX_VALUE + 1];

	sigaction(SIGFPE, &sigfpe, NULL);
	memset(reported, 0, sizeof(reported));
	for (unsigned n = 0; n < tries && failed < 20; n++) {
		uint8_t bytes[32];
		unsigned size = make(bytes);
		ZydisDecodedInstruction z;
		struct insn i;

		if (!decode_one(bytes, size, &z, &i) || (is_save(&z) && i.base != R_RSI))
			continue;
		if (i.fn == native_no_room) {
			our_run(&i);
			assert_true(interp.flush);
			decode_one(bytes, size, &z, &i);
		}
		ran++;
		random_state(unmask);
		prepare(&z, unmask);
		if (!try_one(bytes, &z, &i) && !reported[z.mnemonic]) {
			reported[z.mnemonic] = true;
			failed++;
		}
	}
	print_message("%u instructions\n", ran);
	assert_int_equal(failed, 0);
}

static unsigned tries(void)
{
	const char *s = getenv("NATIVE_TRIES");

	return s ? (unsigned)atoi(s) : 20000;
}

static void test_legacy(void **state)
{
	sweep(random_legacy, tries(), false);
}

static void test_vex(void **state)
{
	sweep(random_vex, tries(), false);
}

static void test_x87(void **state)
{
	sweep(random_x87_bytes, tries(), false);
}

static void test_legacy_unmasked(void **state)
{
	sweep(random_legacy, tries(), true);
}

static void test_vex_unmasked(void **state)
{
	sweep(random_vex, tries(), true);
}

static void test_x87_unmasked(void **state)
{
	sweep(random_x87_bytes, tries(), true);
}

static void test_gather(void **state)
{
	sweep(random_gather, tries() / 4, false);
}

static void test_save(void **state)
{
	sweep(random_save, tries() / 4, false);
}

static void test_save_unmasked(void **state)
{
	sweep(random_save, tries() / 4, true);
}

/* ---- what must be on, and who says so (SDM 3A 2.5, SDM 2A 2.4) ---- */

static const struct {
	const char *text;
	uint8_t bytes[8];
	uint64_t cr0, cr4, xcr0; /* bits to flip */
	uint16_t fsw;
	int vector;
} refusals[] = {
	{ "addps", { 0x0f, 0x58, 0xc1 }, 0, 0, 0, 0, NO_FAULT },
	{ "addps", { 0x0f, 0x58, 0xc1 }, CR0_TS, 0, 0, 0, EXC_NM },
	{ "addps", { 0x0f, 0x58, 0xc1 }, CR0_TS | CR0_EM, 0, 0, 0, EXC_UD },
	{ "addps", { 0x0f, 0x58, 0xc1 }, CR0_TS, CR4_OSFXSR, 0, 0, EXC_UD },
	{ "movups", { 0x0f, 0x10, 0xc1 }, 0, CR4_OSFXSR, 0, 0, EXC_UD },
	{ "addps, x87 pending", { 0x0f, 0x58, 0xc1 }, 0, 0, 0, 1, NO_FAULT },
	{ "vaddps", { 0xc5, 0xf0, 0x58, 0xc1 }, 0, CR4_OSFXSR, 0, 0, NO_FAULT },
	{ "vaddps", { 0xc5, 0xf0, 0x58, 0xc1 }, CR0_EM, 0, 0, 0, NO_FAULT },
	{ "vaddps", { 0xc5, 0xf0, 0x58, 0xc1 }, CR0_TS, 0, 0, 0, EXC_NM },
	{ "vaddps", { 0xc5, 0xf0, 0x58, 0xc1 }, CR0_TS, CR4_OSXSAVE, 0, 0, EXC_UD },
	{ "vaddps", { 0xc5, 0xf0, 0x58, 0xc1 }, CR0_TS, 0, XCR0_AVX, 0, EXC_UD },
	{ "vaddps", { 0xc5, 0xf0, 0x58, 0xc1 }, CR0_PE, 0, 0, 0, EXC_UD },
	{ "vzeroupper", { 0xc5, 0xf8, 0x77 }, 0, 0, XCR0_AVX, 0, EXC_UD },
	{ "paddb mm", { 0x0f, 0xfc, 0xc1 }, 0, CR4_OSFXSR, 0, 0, NO_FAULT },
	{ "paddb mm", { 0x0f, 0xfc, 0xc1 }, CR0_EM, 0, 0, 0, EXC_UD },
	{ "paddb mm", { 0x0f, 0xfc, 0xc1 }, CR0_TS, 0, 0, 1, EXC_NM },
	{ "paddb mm", { 0x0f, 0xfc, 0xc1 }, 0, 0, 0, 1, EXC_MF },
	{ "fadd", { 0xd8, 0xc1 }, CR0_EM, 0, 0, 0, EXC_NM },
	{ "fadd", { 0xd8, 0xc1 }, CR0_TS, 0, 0, 1, EXC_NM },
	{ "fadd", { 0xd8, 0xc1 }, 0, 0, 0, 1, EXC_MF },
	{ "fnstsw ax", { 0xdf, 0xe0 }, 0, 0, 0, 1, NO_FAULT },
	{ "fninit", { 0xdb, 0xe3 }, CR0_TS, 0, 0, 0, EXC_NM },
	{ "fwait", { 0x9b }, CR0_TS, 0, 0, 0, EXC_NM },
	{ "fwait", { 0x9b }, CR0_TS | CR0_MP, 0, 0, 0, NO_FAULT },
	{ "fwait", { 0x9b }, 0, 0, 0, 1, EXC_MF },
	{ "fxsave", { 0x0f, 0xae, 0x06 }, CR0_TS, 0, 0, 0, EXC_NM },
	{ "xsave", { 0x0f, 0xae, 0x26 }, CR0_TS, CR4_OSXSAVE, 0, 0, EXC_UD },
	{ "xsave", { 0x0f, 0xae, 0x26 }, CR0_TS, 0, 0, 0, EXC_NM },
	{ "xgetbv", { 0x0f, 0x01, 0xd0 }, 0, CR4_OSXSAVE, 0, 0, EXC_UD },
};

static void test_refusals(void **state)
{
	const struct cpu saved = cpu;

	for (unsigned n = 0; n < ARRAY_SIZE(refusals); n++) {
		ZydisDecodedInstruction z;
		struct insn i;

		cpu = saved;
		assert_true(decode_one(refusals[n].bytes, 8, &z, &i));
		cpu.rsi = (uintptr_t)memory;
		cpu.rcx = 0;
		*fpu_fcw(&cpu) = 0x340;
		*fpu_fsw(&cpu) = refusals[n].fsw;
		*fpu_mxcsr(&cpu) = MXCSR_INIT;
		cpu.cr0 ^= refusals[n].cr0;
		cpu.cr4 ^= refusals[n].cr4;
		cpu.xcr0 ^= refusals[n].xcr0;
		if (our_run(&i) != refusals[n].vector) {
			print_error("row %u, %s: vector %d\n", n, refusals[n].text, fault_vector);
			fail();
		}
	}
	cpu = saved;
}

/* ---- what the host cannot be asked: protection keys, supervisor forms, instruction pointers ----
 */

static int run_bytes(const char *bytes, unsigned size)
{
	uint8_t code[16] = { 0 };
	ZydisDecodedInstruction z;
	struct insn i;

	memcpy(code, bytes, size);
	assert_true(decode_one(code, sizeof(code), &z, &i));
	return our_run(&i);
}

/* Compacted, PKRU takes AVX's place when AVX is not asked for (SDM 1 13.4.3). */
static void test_pkru(void **state)
{
	const struct cpu saved = cpu;
	uint64_t header[2], pkru;

	random_state(false);
	cpu.xcr0 |= XCR0_PKRU;
	cpu.cpl = 0;
	cpu.rsi = (uintptr_t)memory;
	cpu.rax = XCR0_SSE | XCR0_PKRU;
	cpu.rdx = 0;
	cpu.pkru = 0x55555554;
	assert_int_equal(run_bytes("\x48\x0f\xc7\x2e", 4), NO_FAULT); /* xsaves64 [rsi] */
	memcpy(header, memory + 512, sizeof(header));
	memcpy(&pkru, memory + 576, 8);
	assert_int_equal(header[0], XCR0_SSE | XCR0_PKRU);
	assert_int_equal(header[1], BIT(63) | XCR0_SSE | XCR0_PKRU);
	assert_int_equal(pkru, 0x55555554);
	memset(memory + 528, 0, 48);
	cpu.pkru = 0;
	assert_int_equal(run_bytes("\x48\x0f\xc7\x1e", 4), NO_FAULT); /* xrstors64 [rsi] */
	assert_int_equal(cpu.pkru, 0x55555554);
	cpu.cpl = 3;
	assert_int_equal(run_bytes("\x48\x0f\xc7\x1e", 4), EXC_GP);
	assert_int_equal(run_bytes("\x48\x0f\xae\x26", 4), NO_FAULT); /* xsave64 [rsi] */
	memcpy(&pkru, memory + 832, 8);
	assert_int_equal(pkru, 0x55555554);
	cpu = saved;
}

static void test_pointers(void **state)
{
	const struct cpu saved = cpu;

	random_state(false);
	fpu_set_fcw(&cpu, FCW_INIT);
	*fpu_fsw(&cpu) = 0;
	cpu.rsi = (uintptr_t)memory;
	assert_int_equal(run_bytes("\xdc\x46\x08", 3), NO_FAULT); /* fadd qword [rsi+8] */
	assert_int_equal(fpu_pointers(&cpu)->ip, 0x1000);
	assert_int_equal(fpu_pointers(&cpu)->dp, cpu.rsi + 8);
	assert_int_equal(*fpu_fop(&cpu), 0);
	fpu_set_fcw(&cpu, 0x340);
	*fpu_fsw(&cpu) = 0;
	*fpu_ftw(&cpu) = 0;
	assert_int_equal(run_bytes("\xd8\xc1", 2), NO_FAULT); /* fadd st0, st1: stack underflow */
	assert_true(*fpu_fsw(&cpu) & FSW_ES);
	assert_int_equal(*fpu_fop(&cpu), 0x0c1);
	cpu = saved;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_legacy),        cmocka_unit_test(test_vex),
		cmocka_unit_test(test_x87),           cmocka_unit_test(test_legacy_unmasked),
		cmocka_unit_test(test_vex_unmasked),  cmocka_unit_test(test_x87_unmasked),
		cmocka_unit_test(test_gather),        cmocka_unit_test(test_save),
		cmocka_unit_test(test_save_unmasked), cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_pkru),          cmocka_unit_test(test_pointers),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

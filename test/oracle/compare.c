/*
 * Comparing two outcomes, and the list of differences that mean nothing.
 *
 * Never compared: RF (pushed set by faults, clear by traps, and Linux shows its own), undefined
 * flags, the address and opcode of the last x87 instruction (AMD keeps them only for a pending
 * exception), MXCSR_MASK, and padding of the XSAVE area. A component whose XSTATE_BV bit is clear
 * counts as being in its initial state, whatever its bytes say (SDM 1, 13.6).
 */
#include <stdio.h>
#include <string.h>
#include "oracle.h"

static const char *const gpr_name[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	                                  "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

#define FPU_HEADER 512

/* x87 state that is compared: control and status word, tags; the registers' ten bytes each. */
struct x87_image {
	uint16_t control, status;
	uint8_t tags;
	uint8_t st[8][10];
};

static struct x87_image x87_image(const struct fpu *f)
{
	struct x87_image x;

	memset(&x, 0, sizeof(x));
	x.control = 0x37f;
	if (!(f->area[FPU_HEADER] & XCR0_X87))
		return x;
	memcpy(&x.control, f->area, 2);
	memcpy(&x.status, f->area + 2, 2);
	x.tags = f->area[4];
	for (unsigned i = 0; i < 8; i++)
		memcpy(x.st[i], f->area + FPU_ST + i * 16, 10);
	return x;
}

struct sse_image {
	uint32_t mxcsr;
	uint8_t xmm[256], ymmh[256];
};

static struct sse_image sse_image(const struct fpu *f)
{
	struct sse_image x;

	memset(&x, 0, sizeof(x));
	memcpy(&x.mxcsr, f->area + FPU_MXCSR, 4);
	if (f->area[FPU_HEADER] & XCR0_SSE)
		memcpy(x.xmm, f->area + FPU_XMM, 256);
	if (f->area[FPU_HEADER] & XCR0_AVX)
		memcpy(x.ymmh, f->area + FPU_YMMH, 256);
	return x;
}

/* Linux says "protection" for every fault beyond what user space can map, mapped or not. */
#define USER_END 0x7ffffffff000ull

static uint32_t comparable_error(const struct oracle_state *s)
{
	return s->vector == EXC_PF && s->cr2 >= USER_END ? s->error | 1 : s->error;
}

static bool has_error(unsigned vector)
{
	return vector == EXC_PF || (vector >= EXC_TS && vector <= EXC_GP) || vector == EXC_AC;
}

static bool host_emulates;

void oracle_host_emulates(void)
{
	host_emulates = true;
}

bool oracle_may_set_nt(void)
{
	return !host_emulates;
}

bool oracle_is_emulated(const struct oracle_state *native)
{
	return host_emulates && (native->vector == EXC_GP || native->vector == EXC_UD);
}

/* What raises #GP in ring 3 its emulator looks at, which takes it for #UD, or for #SS. */
static bool is_emulated_gp(const struct oracle_state *a, const struct oracle_state *b)
{
	return host_emulates && a->vector == EXC_GP && (b->vector == EXC_UD || b->vector == EXC_SS);
}

static bool exception_differs(const struct oracle_state *a, const struct oracle_state *b)
{
	if (is_emulated_gp(a, b))
		return false;
	if (a->vector != b->vector)
		return true;
	if (has_error(a->vector) && comparable_error(a) != comparable_error(b))
		return true;
	return a->vector == EXC_PF && a->cr2 != b->cr2;
}

unsigned oracle_compare(const struct oracle_state *a, const struct oracle_memory *ma,
                        const struct oracle_state *b, const struct oracle_memory *mb,
                        uint32_t undefined)
{
	struct x87_image xa = x87_image(&a->fpu), xb = x87_image(&b->fpu);
	struct sse_image sa = sse_image(&a->fpu), sb = sse_image(&b->fpu);
	unsigned diff = 0;

	if (memcmp(a->gpr, b->gpr, sizeof(a->gpr)))
		diff |= DIFF_GPR;
	if (a->rip != b->rip)
		diff |= DIFF_RIP;
	if (host_emulates)
		undefined |= RFLAGS_NT;
	if ((a->rflags ^ b->rflags) & ~(undefined | RFLAGS_RF))
		diff |= DIFF_FLAGS;
	if (exception_differs(a, b))
		diff |= DIFF_EXCEPTION;
	if (a->fs_base != b->fs_base || a->gs_base != b->gs_base)
		diff |= DIFF_BASES;
	if (memcmp(&xa, &xb, sizeof(xa)))
		diff |= DIFF_X87;
	if (memcmp(&sa, &sb, sizeof(sa)))
		diff |= DIFF_SSE;
	if (memcmp(ma, mb, sizeof(*ma)))
		diff |= DIFF_MEMORY;
	return diff;
}

/* The same fault, but for the offset in the page. */
static bool same_page_faults(const struct oracle_state *a, const struct oracle_state *b)
{
	return a->vector == EXC_PF && b->vector == EXC_PF &&
	       comparable_error(a) == comparable_error(b) && !((a->cr2 ^ b->cr2) & PAGE_MASK);
}

static bool on_amd(void)
{
	return __builtin_cpu_is("amd");
}

static bool stack_or_gp(const struct oracle_state *s)
{
	return s->vector == EXC_SS || s->vector == EXC_GP;
}

static bool op_prefix_and_rex_w(const ZydisDecodedInstruction *z)
{
	return z->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE && z->raw.rex.W;
}

/*
 * Results that the manuals leave open and where processors in fact differ. Found by reducing a
 * difference to one instruction, so a rule sees exactly that one.
 */
const char *oracle_excuse(const struct oracle_state *in, const ZydisDecodedInstruction *z,
                          const ZydisDecodedOperand *op, unsigned diff,
                          const struct oracle_state *native, const struct oracle_state *engine)
{
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
		if (native->rflags & RFLAGS_ZF && diff == DIFF_GPR)
			return "BSF, BSR: destination undefined for a zero source (SDM 2A)";
		break;
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		if (op[0].size == 16 && !(diff & ~(DIFF_GPR | DIFF_MEMORY | DIFF_FLAGS)))
			return "SHLD, SHRD: undefined for counts beyond 16 bits (SDM 2B)";
		break;
	case ZYDIS_MNEMONIC_BSWAP:
		if (op[0].size == 16)
			return "BSWAP of 16 bits is undefined (SDM 2A)";
		break;
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
		if (diff == DIFF_EXCEPTION && native->vector == EXC_PF && engine->vector == EXC_PF)
			return "which of the bytes that are not mapped CR2 names";
		break;
	case ZYDIS_MNEMONIC_MOVBE:
		if (op_prefix_and_rex_w(z) && diff == DIFF_EXCEPTION && stack_or_gp(native) &&
		    stack_or_gp(engine))
			return "MOVBE with 66 and REX.W: Intel minds segment prefixes in #SS or "
			       "#GP";
		if (op_prefix_and_rex_w(z) && diff == DIFF_MEMORY && native->vector == EXC_PF)
			return "MOVBE with 66 and REX.W: Intel stores one half before the other "
			       "faults";
		break;
	case ZYDIS_MNEMONIC_CALL:
		if (on_amd() && diff == DIFF_EXCEPTION && native->vector != EXC_BP &&
		    engine->vector != EXC_BP)
			return "CALL: AMD's order of the target's fault and the stack's";
		break;
	case ZYDIS_MNEMONIC_MASKMOVQ:
		if (on_amd() && diff == DIFF_X87 && native->vector != EXC_BP)
			return "MASKMOVQ: how far AMD enters MMX state before it faults";
		break;
	case ZYDIS_MNEMONIC_FSTP:
	case ZYDIS_MNEMONIC_FBSTP:
		if (op[0].size == 80 && diff == DIFF_MEMORY && native->vector == EXC_PF)
			return "10 bytes: 8 may be stored before the others fault (SDM 3A 8.1.1)";
		break;
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		if (diff == DIFF_EXCEPTION && same_page_faults(native, engine))
			return "which of the bytes that are not mapped CR2 names";
		break;
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		if (diff & DIFF_EXCEPTION)
			return "MXCSR.MM exists on AMD only (APM 2, 11.2)";
		break;
	default:
		break;
	}
	if (in->rflags & RFLAGS_AC && (native->vector == EXC_AC || engine->vector == EXC_AC))
		return "alignment checks: order against page faults, and operands beyond 8 bytes";
	if (oracle_is_emulated(native))
		return "KVM's host emulates an instruction that raises #GP or #UD";
	if (z->meta.category == ZYDIS_CATEGORY_AVX2GATHER && native->vector != EXC_BP &&
	    !(diff & ~(DIFF_SSE | DIFF_EXCEPTION)))
		return "gather: elements beyond the faulting one may be done or not (SDM 2C)";
	return NULL;
}

static void print_gprs(const struct oracle_state *a, const struct oracle_state *b)
{
	for (unsigned i = 0; i < 16; i++)
		if (a->gpr[i] != b->gpr[i])
			printf("    %-7s expected %016lx  actual %016lx\n", gpr_name[i], a->gpr[i],
			       b->gpr[i]);
}

static void print_flags(const struct oracle_state *a, const struct oracle_state *b,
                        uint32_t undefined)
{
	static const char *const name[22] = { "CF", 0,    "PF",        0,           "AF",
		                              0,    "ZF", "SF",        "TF",        "IF",
		                              "DF", "OF", [14] = "NT", [18] = "AC", [21] = "ID" };

	printf("    rflags  expected %06lx  actual %06lx, differing:", a->rflags, b->rflags);
	for (unsigned i = 0; i < ARRAY_SIZE(name); i++)
		if (((a->rflags ^ b->rflags) & ~(uint64_t)(undefined | RFLAGS_RF)) >> i & 1)
			printf(" %s", name[i] ? name[i] : "?");
	printf("\n");
}

static void print_exception(const char *who, const struct oracle_state *s)
{
	static const char *const special[] = { "system call", "endless loop",
		                               "process or engine died" };

	if (s->vector >= ORACLE_SYSCALL)
		printf("    %s ends by %s\n", who, special[s->vector - ORACLE_SYSCALL]);
	else
		printf("    %s ends by vector %u error %x cr2 %lx rip %lx\n", who, s->vector,
		       has_error(s->vector) ? s->error : 0, s->vector == EXC_PF ? s->cr2 : 0,
		       s->rip);
}

static void print_bytes(const char *what, uint64_t where, const uint8_t *a, const uint8_t *b,
                        unsigned n)
{
	printf("    %s %lx\n      expected", what, where);
	for (unsigned i = 0; i < n; i++)
		printf(" %02x", a[i]);
	printf("\n      actual  ");
	for (unsigned i = 0; i < n; i++)
		printf(" %02x", b[i]);
	printf("\n");
}

static void print_memory(uint64_t va, const uint8_t *a, const uint8_t *b, size_t n)
{
	unsigned shown = 0;

	for (size_t i = 0; i < n && shown < 4; i += 16)
		if (memcmp(a + i, b + i, 16)) {
			print_bytes("memory", va + i, a + i, b + i, 16);
			shown++;
		}
}

static void print_x87(const struct fpu *fa, const struct fpu *fb)
{
	struct x87_image a = x87_image(fa), b = x87_image(fb);

	printf("    x87     expected control %04x status %04x tags %02x  actual %04x %04x %02x\n",
	       a.control, a.status, a.tags, b.control, b.status, b.tags);
	for (unsigned i = 0; i < 8; i++)
		if (memcmp(a.st[i], b.st[i], 10))
			print_bytes("st", i, a.st[i], b.st[i], 10);
}

static void print_sse(const struct fpu *fa, const struct fpu *fb)
{
	struct sse_image a = sse_image(fa), b = sse_image(fb);

	printf("    mxcsr   expected %08x  actual %08x\n", a.mxcsr, b.mxcsr);
	for (unsigned i = 0; i < 16; i++) {
		if (memcmp(a.xmm + i * 16, b.xmm + i * 16, 16))
			print_bytes("xmm", i, a.xmm + i * 16, b.xmm + i * 16, 16);
		if (memcmp(a.ymmh + i * 16, b.ymmh + i * 16, 16))
			print_bytes("ymm high half", i, a.ymmh + i * 16, b.ymmh + i * 16, 16);
	}
}

void oracle_print_difference(const struct oracle_state *a, const struct oracle_memory *ma,
                             const struct oracle_state *b, const struct oracle_memory *mb,
                             uint32_t undefined)
{
	unsigned diff = oracle_compare(a, ma, b, mb, undefined);

	if (diff & (DIFF_EXCEPTION | DIFF_RIP)) {
		print_exception("expected", a);
		print_exception("actual  ", b);
	}
	print_gprs(a, b);
	if (diff & DIFF_FLAGS)
		print_flags(a, b, undefined);
	if (diff & DIFF_BASES)
		printf("    fs, gs  expected %lx %lx  actual %lx %lx\n", a->fs_base, a->gs_base,
		       b->fs_base, b->gs_base);
	if (diff & DIFF_X87)
		print_x87(&a->fpu, &b->fpu);
	if (diff & DIFF_SSE)
		print_sse(&a->fpu, &b->fpu);
	print_memory(ORACLE_DATA, ma->data, mb->data, sizeof(ma->data));
	print_memory(ORACLE_STACK, ma->stack, mb->stack, sizeof(ma->stack));
}

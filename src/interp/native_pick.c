/*
 * Choosing the routine of a vector instruction, and which instruction sets there are at all.
 */
#include "cpu/cpuid.h"
#include "interp/native.h"

enum cpuid_register { EAX, EBX, ECX, EDX };

/* The CPUID bit of each instruction set extension that is run natively. */
static const struct {
	uint16_t set; /* ZydisISASet */
	uint8_t reg, bit;
	uint32_t leaf, sub;
} features[] = {
	{ ZYDIS_ISA_SET_X87, EDX, 0, 1, 0 },
	{ ZYDIS_ISA_SET_PPRO, EDX, 0, 1, 0 }, /* FCOMI and its like */
	{ ZYDIS_ISA_SET_FCMOV, EDX, 15, 1, 0 },
	{ ZYDIS_ISA_SET_PENTIUMMMX, EDX, 23, 1, 0 },
	{ ZYDIS_ISA_SET_SSE, EDX, 25, 1, 0 },
	{ ZYDIS_ISA_SET_SSEMXCSR, EDX, 25, 1, 0 },
	{ ZYDIS_ISA_SET_SSE2, EDX, 26, 1, 0 },
	{ ZYDIS_ISA_SET_SSE2MMX, EDX, 26, 1, 0 },
	{ ZYDIS_ISA_SET_SSE3, ECX, 0, 1, 0 },
	{ ZYDIS_ISA_SET_SSE3X87, ECX, 0, 1, 0 },
	{ ZYDIS_ISA_SET_PCLMULQDQ, ECX, 1, 1, 0 },
	{ ZYDIS_ISA_SET_SSSE3, ECX, 9, 1, 0 },
	{ ZYDIS_ISA_SET_SSSE3MMX, ECX, 9, 1, 0 },
	{ ZYDIS_ISA_SET_FMA, ECX, 12, 1, 0 },
	{ ZYDIS_ISA_SET_SSE4, ECX, 19, 1, 0 },
	{ ZYDIS_ISA_SET_SSE42, ECX, 20, 1, 0 },
	{ ZYDIS_ISA_SET_AES, ECX, 25, 1, 0 },
	{ ZYDIS_ISA_SET_AVXAES, ECX, 25, 1, 0 },
	{ ZYDIS_ISA_SET_AVX, ECX, 28, 1, 0 },
	{ ZYDIS_ISA_SET_F16C, ECX, 29, 1, 0 },
	{ ZYDIS_ISA_SET_AVX2, EBX, 5, 7, 0 },
	{ ZYDIS_ISA_SET_AVX2GATHER, EBX, 5, 7, 0 },
	{ ZYDIS_ISA_SET_SHA, EBX, 29, 7, 0 },
	{ ZYDIS_ISA_SET_GFNI, ECX, 8, 7, 0 },
	{ ZYDIS_ISA_SET_AVX_GFNI, ECX, 8, 7, 0 },
	{ ZYDIS_ISA_SET_VAES, ECX, 9, 7, 0 },
	{ ZYDIS_ISA_SET_VPCLMULQDQ, ECX, 10, 7, 0 },
	{ ZYDIS_ISA_SET_AVX_VNNI, EAX, 4, 7, 1 },
	{ ZYDIS_ISA_SET_SSE4A, ECX, 6, 0x80000001, 0 },
};

void native_list_offers(const struct cpu *c, bool offers[ZYDIS_ISA_SET_MAX_VALUE + 1])
{
	for (unsigned k = 0; k < ARRAY_SIZE(features); k++) {
		uint32_t regs[4];

		cpuid_query(c, features[k].leaf, features[k].sub, regs);
		offers[features[k].set] = regs[features[k].reg] >> features[k].bit & 1;
	}
}

/* The exception classes of SDM 2A 2.4 tell which instructions look at MXCSR; MMX conversions have
 * none. */
static bool uses_mxcsr(const ZydisDecodedInstruction *z)
{
	switch (z->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE3:
	case ZYDIS_EXCEPTION_CLASS_AVX2:
	case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11:
		return true;
	default:
		break;
	}
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_CVTPI2PS:
	case ZYDIS_MNEMONIC_CVTPI2PD:
	case ZYDIS_MNEMONIC_CVTPS2PI:
	case ZYDIS_MNEMONIC_CVTPD2PI:
	case ZYDIS_MNEMONIC_CVTTPS2PI:
	case ZYDIS_MNEMONIC_CVTTPD2PI:
		return true;
	default:
		return false;
	}
}

/* Bytes that the address of a memory operand must be a multiple of. AMD's SHA unit does not look.
 */
static unsigned alignment(const struct op_decode *d, const struct native_form *f)
{
	const ZydisDecodedInstruction *z = d->z;

	if (z->meta.isa_set == ZYDIS_ISA_SET_SHA && cpuid_is_amd(d->c->cpuid))
		return 0;
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
		return 0;
	default:
		break;
	}
	if (f->flags & FORM_VEX)
		return z->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1 ? f->mem_size : 0;
	return f->mem_size == 16 ? 16 : 0;
}

static insn_fn choose(const struct native_form *f, bool amd)
{
	/* [AVX][rounding][memory] */
	static const insn_fn simple[2][2][2] = {
		{ { native_sse_rr, native_sse_rm },
		  { native_sse_rr_rounding, native_sse_rm_rounding } },
		{ { native_avx_rr, native_avx_rm },
		  { native_avx_rr_rounding, native_avx_rm_rounding } },
	};
	const uint32_t frequent = FORM_LOAD | FORM_VEX | FORM_SSE | FORM_MXCSR;

	if (!amd && !(~f->flags & (FORM_STORE | FORM_MXCSR)))
		return native_convert_store;
	if (f->flags & ~frequent)
		return native_any;
	return simple[!!(f->flags & FORM_VEX)][!!(f->flags & FORM_MXCSR)][!!f->mem_size];
}

insn_fn native_pick_vector(const struct op_decode *d, struct insn *i)
{
	struct native_form f;
	const struct native_op *op;

	if (!native_offers(d->c, d->z->meta.isa_set) || !native_encode(d, &f, i))
		return NULL;
	if (uses_mxcsr(d->z))
		f.flags |= FORM_MXCSR;
	f.mem_align = alignment(d, &f);
	op = native_find(d->c, &f);
	if (!op) {
		i->flags |= INSN_END;
		return native_no_room;
	}
	i->imm = (int64_t)(uintptr_t)op;
	return choose(&f, cpuid_is_amd(d->c->cpuid));
}

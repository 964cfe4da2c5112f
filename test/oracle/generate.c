/*
 * Random instruction sequences.
 *
 * Bytes are drawn by the structure of the encoding (prefixes, opcode map, ModRM, SIB) and Zydis
 * says what came out; that reaches every form of every instruction without a list of them. Then the
 * filter refuses what cannot be compared (below), the memory operands are aimed at the areas of
 * oracle.h, and branches at a later instruction of the sequence, so that every sequence ends. Some
 * sequences are loops: a byte of memory counts their turns, and pointers move on in them.
 *
 * Flags that an instruction leaves undefined (Zydis knows, from the manuals) are followed through
 * the sequence along both ways of each branch: an instruction that would read one is refused, and
 * the comparison is told which of them do not count.
 */
#include <string.h>
#include "oracle.h"

const char *const oracle_class_name[CLASS_COUNT] = { "integer", "x87", "sse", "avx" };

#define BRANCH_REACH 4 /* instructions; keeps within 8-bit displacements */

/* Instruction set extensions that take part: user level, deterministic, and in our CPUID model when
 * the host has them. (A host without one raises #UD, and so must we.) */
static const bool extension_taken[ZYDIS_ISA_EXT_MAX_VALUE + 1] = {
	[ZYDIS_ISA_EXT_ADOX_ADCX] = true,  [ZYDIS_ISA_EXT_AES] = true,
	[ZYDIS_ISA_EXT_AVX] = true,        [ZYDIS_ISA_EXT_AVX2] = true,
	[ZYDIS_ISA_EXT_AVX2GATHER] = true, [ZYDIS_ISA_EXT_AVXAES] = true,
	[ZYDIS_ISA_EXT_BASE] = true,       [ZYDIS_ISA_EXT_BMI1] = true,
	[ZYDIS_ISA_EXT_BMI2] = true,       [ZYDIS_ISA_EXT_CET] = true,
	[ZYDIS_ISA_EXT_CLFLUSHOPT] = true, [ZYDIS_ISA_EXT_CLFSH] = true,
	[ZYDIS_ISA_EXT_CLWB] = true,       [ZYDIS_ISA_EXT_F16C] = true,
	[ZYDIS_ISA_EXT_FMA] = true,        [ZYDIS_ISA_EXT_GFNI] = true,
	[ZYDIS_ISA_EXT_LONGMODE] = true,   [ZYDIS_ISA_EXT_LZCNT] = true,
	[ZYDIS_ISA_EXT_MMX] = true,        [ZYDIS_ISA_EXT_MOVBE] = true,
	[ZYDIS_ISA_EXT_PAUSE] = true,      [ZYDIS_ISA_EXT_PCLMULQDQ] = true,
	[ZYDIS_ISA_EXT_RDWRFSGS] = true,   [ZYDIS_ISA_EXT_SHA] = true,
	[ZYDIS_ISA_EXT_SMAP] = true,       [ZYDIS_ISA_EXT_SSE] = true,
	[ZYDIS_ISA_EXT_SSE2] = true,       [ZYDIS_ISA_EXT_SSE3] = true,
	[ZYDIS_ISA_EXT_SSE4] = true,       [ZYDIS_ISA_EXT_SSSE3] = true,
	[ZYDIS_ISA_EXT_VAES] = true,       [ZYDIS_ISA_EXT_VPCLMULQDQ] = true,
	[ZYDIS_ISA_EXT_X87] = true,        [ZYDIS_ISA_EXT_AMD3DNOW_PREFETCH] = true,
};

static const uint16_t refused[] = {
	/* Leave the process, or would if they could. */
	ZYDIS_MNEMONIC_SYSCALL,
	ZYDIS_MNEMONIC_SYSENTER,
	ZYDIS_MNEMONIC_SYSRET,
	ZYDIS_MNEMONIC_SYSEXIT,
	ZYDIS_MNEMONIC_INT,
	ZYDIS_MNEMONIC_INT1,
	ZYDIS_MNEMONIC_INT3,
	ZYDIS_MNEMONIC_INTO,
	/* Differ by machine or by time. */
	ZYDIS_MNEMONIC_CPUID,
	ZYDIS_MNEMONIC_RDTSC,
	ZYDIS_MNEMONIC_RDPMC,
	ZYDIS_MNEMONIC_XGETBV,
	/* Linux emulates them under UMIP, with dummy values. */
	ZYDIS_MNEMONIC_SGDT,
	ZYDIS_MNEMONIC_SIDT,
	ZYDIS_MNEMONIC_SLDT,
	ZYDIS_MNEMONIC_STR,
	ZYDIS_MNEMONIC_SMSW,
	/* Need the host's descriptor tables. */
	ZYDIS_MNEMONIC_LAR,
	ZYDIS_MNEMONIC_LSL,
	ZYDIS_MNEMONIC_VERR,
	ZYDIS_MNEMONIC_VERW,
	ZYDIS_MNEMONIC_LFS,
	ZYDIS_MNEMONIC_LGS,
	ZYDIS_MNEMONIC_LSS,
	ZYDIS_MNEMONIC_IRET,
	ZYDIS_MNEMONIC_IRETD,
	ZYDIS_MNEMONIC_IRETQ,
	/* Store the address of the last x87 instruction, which AMD gives only with a pending
	 * exception (APM 2, 11.4.4.3). */
	ZYDIS_MNEMONIC_FNSAVE,
	ZYDIS_MNEMONIC_FNSTENV,
	ZYDIS_MNEMONIC_FXSAVE,
	ZYDIS_MNEMONIC_FXSAVE64,
	/* #UD by design, with operand decoding that differs by vendor. */
	ZYDIS_MNEMONIC_UD0,
	ZYDIS_MNEMONIC_UD1,
};

/* Flags change only if a count is not zero; Zydis reports them as modified. */
static const uint16_t flags_by_count[] = {
	ZYDIS_MNEMONIC_SHL, ZYDIS_MNEMONIC_SHR,  ZYDIS_MNEMONIC_SAR,
	ZYDIS_MNEMONIC_ROL, ZYDIS_MNEMONIC_ROR,  ZYDIS_MNEMONIC_RCL,
	ZYDIS_MNEMONIC_RCR, ZYDIS_MNEMONIC_SHLD, ZYDIS_MNEMONIC_SHRD,
};

static bool listed(const uint16_t *list, size_t n, ZydisMnemonic m)
{
	for (size_t i = 0; i < n; i++)
		if (list[i] == m)
			return true;
	return false;
}

/* A candidate and what Zydis makes of it. */
struct candidate {
	uint8_t bytes[40];
	unsigned n;
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static void put(struct candidate *c, uint8_t byte)
{
	c->bytes[c->n++] = byte;
}

static void put32(struct candidate *c, uint32_t v)
{
	memcpy(c->bytes + c->n, &v, 4);
	c->n += 4;
}

/* A displacement in bytes, that keeps alignment more often than not. */
static uint32_t displacement(struct oracle_rng *r)
{
	return rng_chance(r, 70) ? (rng_below(r, 8) - 4) * 32 : rng_next(r) % 256 - 128;
}

static uint32_t data_address(struct oracle_rng *r)
{
	uint32_t align = rng_chance(r, 60) ? ~31u : ~0u;

	switch (rng_below(r, 40)) {
	case 0:
		return ORACLE_DATA + PAGE_SIZE - rng_below(r, 40);
	case 1:
		return ORACLE_RODATA - 16 + (rng_below(r, 128) & align);
	case 2:
		return rng_next(r) & 0x7fffffff;
	default:
		return ORACLE_DATA + (rng_below(r, ORACLE_DATA_BYTES - 64) & align);
	}
}

/* ModRM with a memory operand. REX or VEX may turn the registers into others; most of both
 * halves of the register file are pointers (see state.c). */
static void put_memory(struct oracle_rng *r, struct candidate *c, unsigned reg)
{
	static const uint8_t bases[] = { R_RBX, R_RSI, R_RDI, R_RBP };
	unsigned base = bases[rng_below(r, ARRAY_SIZE(bases))];

	switch (rng_below(r, 32)) {
	case 0 ... 3: /* relative to RIP: aimed once the length is known */
		put(c, reg << 3 | 5);
		put32(c, 0);
		break;
	case 4 ... 11: /* absolute */
		put(c, reg << 3 | 4);
		put(c, 0x25);
		put32(c, data_address(r));
		break;
	case 12 ... 14: /* base + index * scale + disp8 */
		put(c, 0x40 | reg << 3 | 4);
		put(c, rng_below(r, 4) << 6 | (rng_chance(r, 70) ? R_RCX : rng_below(r, 8)) << 3 |
		               base);
		put(c, displacement(r));
		break;
	case 15 ... 18: /* base + disp32 */
		put(c, 0x80 | reg << 3 | base);
		put32(c, displacement(r) * 2);
		break;
	case 19 ... 22: /* [rsp + disp8] */
		put(c, 0x40 | reg << 3 | 4);
		put(c, 0x24);
		put(c, displacement(r));
		break;
	case 23: /* anything at all */
		put(c, rng_next(r) & 0x7f);
		put32(c, rng_next(r));
		put32(c, rng_next(r));
		break;
	default:
		put(c, 0x40 | reg << 3 | base);
		put(c, displacement(r));
		break;
	}
}

static void put_modrm(struct oracle_rng *r, struct candidate *c, unsigned memory_percent)
{
	unsigned reg = rng_below(r, 8);

	if (rng_chance(r, memory_percent))
		put_memory(r, c, reg);
	else
		put(c, 0xc0 | reg << 3 | rng_below(r, 8));
}

/* Whatever immediate the opcode has: small numbers often, as counts and selectors of lanes. */
static void put_immediate(struct oracle_rng *r, struct candidate *c)
{
	uint64_t v = rng_next(r);

	if (rng_chance(r, 40))
		v = rng_below(r, 34);
	else if (rng_chance(r, 20))
		v = -(uint64_t)rng_below(r, 130);
	memcpy(c->bytes + c->n, &v, 8);
	c->n += 8;
}

static void put_prefixes(struct oracle_rng *r, struct candidate *c, unsigned simd_percent)
{
	static const uint8_t segment[] = { 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26 };
	static const uint8_t simd[] = { 0x66, 0xf2, 0xf3 };

	if (rng_chance(r, 4))
		put(c, segment[rng_below(r, ARRAY_SIZE(segment))]);
	if (rng_chance(r, 4))
		put(c, 0x67);
	if (rng_chance(r, simd_percent))
		put(c, simd[rng_below(r, ARRAY_SIZE(simd))]);
	if (rng_chance(r, 1))
		put(c, simd[rng_below(r, ARRAY_SIZE(simd))]);
	/* The same ones again, up to the longest instruction there is. */
	if (c->n && rng_chance(r, 1))
		for (unsigned n = rng_below(r, 12); n; n--)
			put(c, c->bytes[rng_below(r, c->n)]);
}

/* REX.X, and its inverse in VEX, is rare: it turns "no index" into R12. */
static void put_rex(struct oracle_rng *r, struct candidate *c)
{
	if (rng_chance(r, 45))
		put(c, 0x40 | (rng_chance(r, 60) ? 8 : 0) |
		               (rng_next(r) & (rng_chance(r, 25) ? 7 : 5)));
}

static void put_vex(struct oracle_rng *r, struct candidate *c, unsigned map, unsigned pp, bool wide)
{
	unsigned v = rng_chance(r, 15) ? 15 : rng_below(r, 16);

	if (map == 1 && rng_chance(r, 30)) {
		put(c, 0xc5);
		put(c, (rng_next(r) & 0x80) | v << 3 | wide << 2 | pp);
		return;
	}
	put(c, 0xc4);
	put(c, ((rng_next(r) & 0xe0) | (rng_chance(r, 80) ? 0x40 : 0)) | map);
	put(c, (rng_next(r) & 0x80) | v << 3 | wide << 2 | pp);
}

static void make_integer(struct oracle_rng *r, struct candidate *c)
{
	static const uint8_t map38[] = { 0xf0, 0xf1, 0xf5, 0xf6 };
	static const uint8_t vex38[] = { 0xf2, 0xf3, 0xf5, 0xf7, 0xf5, 0xf7 };
	unsigned kind = rng_below(r, 20);

	if (kind >= 18) {
		bool rorx = rng_chance(r, 15);

		put_vex(r, c, rorx ? 3 : 2, rorx ? 3 : rng_below(r, 4), rng_chance(r, 3));
		put(c, rorx ? 0xf0 : vex38[rng_below(r, ARRAY_SIZE(vex38))]);
		put_modrm(r, c, 40);
		return;
	}
	if (rng_chance(r, 5))
		put(c, 0xf0);
	put_prefixes(r, c, 25);
	put_rex(r, c);
	if (kind >= 12)
		put(c, 0x0f);
	if (kind == 17) {
		put(c, 0x38);
		put(c, map38[rng_below(r, ARRAY_SIZE(map38))]);
	} else {
		put(c, rng_next(r));
	}
	put_modrm(r, c, 45);
}

static void make_x87(struct oracle_rng *r, struct candidate *c)
{
	put_prefixes(r, c, 3);
	if (rng_chance(r, 10))
		put(c, 0x40 | (rng_next(r) & 15));
	put(c, rng_chance(r, 2) ? 0x9b : 0xd8 + rng_below(r, 8));
	put_modrm(r, c, 35);
}

static void make_sse(struct oracle_rng *r, struct candidate *c)
{
	unsigned map = rng_below(r, 10);

	put_prefixes(r, c, 65);
	put_rex(r, c);
	put(c, 0x0f);
	if (map == 8)
		put(c, 0x38);
	if (map == 9)
		put(c, 0x3a);
	put(c, rng_next(r));
	put_modrm(r, c, 35);
}

static void make_avx(struct oracle_rng *r, struct candidate *c)
{
	if (rng_chance(r, 4))
		put(c, rng_chance(r, 50) ? 0x64 : 0x67);
	put_vex(r, c, 1 + rng_below(r, 3), rng_chance(r, 60) ? 1 : rng_below(r, 4),
	        rng_chance(r, 50));
	put(c, rng_next(r));
	put_modrm(r, c, 35);
}

static void (*const make[CLASS_COUNT])(struct oracle_rng *, struct candidate *) = {
	[CLASS_INTEGER] = make_integer,
	[CLASS_X87] = make_x87,
	[CLASS_SSE] = make_sse,
	[CLASS_AVX] = make_avx,
};

static enum oracle_class class_of(const ZydisDecodedInstruction *z)
{
	switch (z->meta.isa_ext) {
	case ZYDIS_ISA_EXT_X87:
		return CLASS_X87;
	case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_BMI2:
		return CLASS_INTEGER;
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_GFNI:
	case ZYDIS_ISA_EXT_MMX:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
	case ZYDIS_ISA_EXT_SHA:
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_SSSE3:
		return z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? CLASS_AVX : CLASS_SSE;
	default:
		return z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? CLASS_AVX : CLASS_INTEGER;
	}
}

static bool is_branch(const ZydisDecodedInstruction *z)
{
	return z->meta.category == ZYDIS_CATEGORY_COND_BR ||
	       z->meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
	       z->meta.category == ZYDIS_CATEGORY_CALL || z->meta.category == ZYDIS_CATEGORY_RET;
}

static bool is_relative(const ZydisDecodedInstruction *z)
{
	return z->raw.imm[0].is_relative;
}

static bool has_prefix(const ZydisDecodedInstruction *z, uint8_t byte)
{
	for (unsigned i = 0; i < z->raw.prefix_count; i++)
		if (z->raw.prefixes[i].value == byte)
			return true;
	return false;
}

static bool loads_segment(const struct candidate *c)
{
	for (unsigned i = 0; i < c->z.operand_count_visible; i++)
		if (c->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    c->op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
		    ZydisRegisterGetClass(c->op[i].reg.value) == ZYDIS_REGCLASS_SEGMENT)
			return true;
	return false;
}

static bool is_allowed(struct oracle_rng *r, const struct candidate *c)
{
	const ZydisDecodedInstruction *z = &c->z;

	if (!extension_taken[z->meta.isa_ext] || listed(refused, ARRAY_SIZE(refused), z->mnemonic))
		return false;
	if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	if (z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || loads_segment(c))
		return false;
	/* All privileged instructions do one thing here: they fault. */
	if (z->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED || z->meta.category == ZYDIS_CATEGORY_IO ||
	    z->meta.category == ZYDIS_CATEGORY_IOSTRINGOP)
		return rng_chance(r, 2);
	if (is_branch(z)) {
		/* AMD truncates RIP with an operand-size prefix, Intel ignores it (APM 3, 1.2.7).
		 */
		if (has_prefix(z, 0x66))
			return false;
		/* On AMD, and undocumented, F2 and F3 choose between LOOPNE and LOOPE. */
		if ((z->opcode == 0xe0 || z->opcode == 0xe1) &&
		    (has_prefix(z, 0xf2) || has_prefix(z, 0xf3)))
			return false;
		return is_relative(z) || rng_chance(r, 5);
	}
	/* PREFETCHW of a register is #UD on AMD, a NOP on Intel. */
	if (z->opcode == 0x0d && z->opcode_map == ZYDIS_OPCODE_MAP_0F && z->raw.modrm.mod == 3)
		return false;
	/* With REX.B, AMD executes F3 90 as XCHG of R8, Intel as PAUSE. */
	if (z->mnemonic == ZYDIS_MNEMONIC_PAUSE && z->raw.rex.B)
		return false;
	if (z->meta.category == ZYDIS_CATEGORY_AVX2GATHER)
		return rng_chance(r, 20);
	return true;
}

/* Flags that a candidate reads, and those it leaves undefined on top of the given ones. */
static uint32_t flags_read(const struct candidate *c)
{
	switch (c->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_LAHF:
		return RFLAGS_ARITH;
	default:
		return c->z.cpu_flags ? c->z.cpu_flags->tested : 0;
	}
}

static uint32_t flags_undefined(const struct candidate *c, uint32_t before)
{
	const ZydisAccessedFlags *f = c->z.cpu_flags;
	uint32_t after = before;

	if (!f)
		return before;
	if (listed(flags_by_count, ARRAY_SIZE(flags_by_count), c->z.mnemonic)) {
		bool by_one = c->z.operand_count_visible == 1 ||
		              (c->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
		               c->op[1].imm.value.u == 1 && c->z.operand_count_visible == 2);
		uint32_t also = by_one ? 0 : RFLAGS_OF;

		/* A count beyond the operand's width leaves CF undefined in SHL and SHR, and all
		 * flags in SHLD and SHRD (SDM 2B). */
		if (c->op[0].size < 32 && !by_one)
			also |= RFLAGS_CF;
		if (c->z.operand_count_visible == 3 && c->op[0].size < 32)
			also |= RFLAGS_ARITH;
		return before | f->undefined | also;
	}
	if (!(c->z.attributes &
	      (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)))
		after &= ~(f->modified | f->set_0 | f->set_1);
	return (after | f->undefined) & RFLAGS_ARITH;
}

static bool decode(const ZydisDecoder *d, struct candidate *c)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, c->bytes, 15, &c->z, c->op));
}

/* Operands whose place is known only now: RIP-relative and absolute 64-bit addresses. */
static void aim_memory(struct oracle_rng *r, struct candidate *c, uint64_t address)
{
	const ZydisDecodedInstruction *z = &c->z;
	uint64_t target = data_address(r);

	if (z->raw.disp.size == 64) {
		memcpy(c->bytes + z->raw.disp.offset, &target, 8);
	} else if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM && z->raw.modrm.mod == 0 &&
	           z->raw.modrm.rm == 5) {
		uint32_t disp = target - (address + z->length);

		memcpy(c->bytes + z->raw.disp.offset, &disp, 4);
	}
}

/* Makes the instruction one that must not execute: with a prefix that it does not allow, or longer
 * than 15 bytes. False when it turns out to be legal after all. */
static bool spoil(struct oracle_generator *g, enum oracle_class class, struct candidate *c)
{
	static const uint8_t before_vex[] = { 0x66, 0xf2, 0xf3, 0x48, 0xf0 };
	uint8_t prefix = 0xf0;
	unsigned n = 1, length = c->z.length;

	if (class == CLASS_AVX)
		prefix = before_vex[rng_below(&g->rng, ARRAY_SIZE(before_vex))];
	if (rng_chance(&g->rng, 20)) {
		prefix = 0x2e;
		n = 16 - length;
	}
	memmove(c->bytes + n, c->bytes, length);
	memset(c->bytes, prefix, n);
	if (decode(&g->decoder, c))
		return false;
	c->z.length = length + n;
	return true;
}

static void draw_class(struct oracle_generator *g, enum oracle_class class, uint32_t undefined,
                       struct candidate *c)
{
	do {
		c->n = 0;
		make[class](&g->rng, c);
		put_immediate(&g->rng, c);
	} while (!decode(&g->decoder, c) || class_of(&c->z) != class || !is_allowed(&g->rng, c) ||
	         flags_read(c) & undefined);
}

/* Draws until an instruction fits. The class is chosen first: the odds of a random encoding to be
 * valid differ between them. */
static void draw(struct oracle_generator *g, uint64_t address, uint32_t undefined,
                 struct candidate *c)
{
	unsigned class;

	do
		class = rng_below(&g->rng, CLASS_COUNT);
	while (!(g->classes & BIT(class)));
	draw_class(g, class, undefined, c);
	if (rng_below(&g->rng, 400) == 0) {
		struct candidate spoiled = *c;

		if (!is_branch(&c->z) && spoil(g, class, &spoiled)) {
			*c = spoiled;
			return;
		}
	}
	aim_memory(&g->rng, c, address);
}

/* A branch to be aimed when its target's place is known. */
struct fixup {
	uint8_t target;        /* index of an instruction */
	uint8_t at, size, end; /* of the displacement in the sequence; where it counts from */
};

static void aim_branches(struct oracle_sequence *seq, const struct fixup *fix, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		unsigned last = seq->nr - (seq->loop ? 2 : 0); /* turns have to be counted */
		unsigned target = fix[i].target < last ? fix[i].target : last;
		int32_t disp = seq->insn[target].offset - fix[i].end;

		memcpy(seq->bytes + fix[i].at, &disp, fix[i].size);
	}
}

/* --- loops --- */

/* What compare.c excuses can't be told from other differences once it is carried around a loop. */
static const uint16_t refused_in_loops[] = {
	ZYDIS_MNEMONIC_BSF,        ZYDIS_MNEMONIC_BSR,        ZYDIS_MNEMONIC_SHLD,
	ZYDIS_MNEMONIC_SHRD,       ZYDIS_MNEMONIC_BSWAP,      ZYDIS_MNEMONIC_FLDENV,
	ZYDIS_MNEMONIC_FRSTOR,     ZYDIS_MNEMONIC_MOVBE,      ZYDIS_MNEMONIC_CALL,
	ZYDIS_MNEMONIC_MASKMOVQ,   ZYDIS_MNEMONIC_FSTP,       ZYDIS_MNEMONIC_FBSTP,
	ZYDIS_MNEMONIC_VMASKMOVPS, ZYDIS_MNEMONIC_VMASKMOVPD, ZYDIS_MNEMONIC_VPMASKMOVD,
	ZYDIS_MNEMONIC_VPMASKMOVQ, ZYDIS_MNEMONIC_LDMXCSR,    ZYDIS_MNEMONIC_VLDMXCSR,
	ZYDIS_MNEMONIC_FXRSTOR,    ZYDIS_MNEMONIC_FXRSTOR64,  ZYDIS_MNEMONIC_POPF,
	ZYDIS_MNEMONIC_POPFQ,
};

static bool may_loop(const ZydisDecodedInstruction *z)
{
	return z->meta.category != ZYDIS_CATEGORY_AVX2GATHER &&
	       !listed(refused_in_loops, ARRAY_SIZE(refused_in_loops), z->mnemonic);
}

/* A pointer or an index moves on: ADD, SUB, LEA of a small constant, INC, DEC. */
static void draw_step(struct oracle_generator *g, struct candidate *c)
{
	static const uint8_t regs[] = { R_RBX, R_RSI, R_RDI, R_RBP, R_RSP, 11, 12, 13, 14, R_RCX };
	unsigned reg = regs[rng_below(&g->rng, ARRAY_SIZE(regs))];
	uint8_t by =
	        rng_chance(&g->rng, 60) ? 1u << rng_below(&g->rng, 7) : (uint8_t)rng_next(&g->rng);

	c->n = 0;
	switch (rng_below(&g->rng, 4)) {
	case 0:
		put(c, 0x48 | (reg >> 3) * 5);
		put(c, 0x8d);
		put(c, 0x40 | (reg & 7) << 3 | (reg & 7));
		if ((reg & 7) == R_RSP)
			put(c, 0x24);
		put(c, by);
		break;
	case 1:
		put(c, 0x48 | reg >> 3);
		put(c, 0xff);
		put(c, 0xc0 | rng_below(&g->rng, 2) << 3 | (reg & 7));
		break;
	default:
		put(c, 0x48 | reg >> 3);
		put(c, 0x83);
		put(c, 0xc0 | (rng_chance(&g->rng, 30) ? 0x28 : 0) | (reg & 7));
		put(c, by);
	}
	memset(c->bytes + c->n, 0, sizeof(c->bytes) - c->n);
	decode(&g->decoder, c);
}

/* MOV, ADD, XOR, CMP between a register that is no pointer and memory at one of many bases. */
static void draw_access(struct oracle_generator *g, struct candidate *c)
{
	static const uint8_t opcodes[] = { 0x8b, 0x89, 0x03, 0x01, 0x33, 0x39 };
	static const uint8_t bases[] = { R_RBX, R_RSI, R_RDI, R_RBP, R_RSP, 11, 12, 13, 14, 15 };
	static const uint8_t regs[] = { R_RAX, R_RDX, 8 };
	unsigned base = bases[rng_below(&g->rng, ARRAY_SIZE(bases))];
	unsigned reg = regs[rng_below(&g->rng, ARRAY_SIZE(regs))];
	bool index = rng_chance(&g->rng, 20);

	c->n = 0;
	put(c, (rng_chance(&g->rng, 60) ? 0x48 : 0x40) | (reg >> 3) << 2 | base >> 3);
	put(c, opcodes[rng_below(&g->rng, ARRAY_SIZE(opcodes))]);
	put(c, 0x40 | (reg & 7) << 3 | (index || (base & 7) == R_RSP ? 4 : base & 7));
	if (index || (base & 7) == R_RSP)
		put(c, (index ? R_RCX : R_RSP) << 3 | (base & 7));
	put(c, (uint8_t)(rng_below(&g->rng, 8) * 8));
	memset(c->bytes + c->n, 0, sizeof(c->bytes) - c->n);
	decode(&g->decoder, c);
}

static void draw_in_loop(struct oracle_generator *g, uint64_t address, uint32_t undefined,
                         struct candidate *c)
{
	unsigned kind = rng_below(&g->rng, 100);

	if (g->classes & BIT(CLASS_INTEGER) && kind < 50) {
		if (kind < 20)
			draw_step(g, c);
		else
			draw_access(g, c);
		return;
	}
	do
		draw(g, address, undefined, c);
	while (!may_loop(&c->z));
}

/* sub byte [ORACLE_COUNTER], 1; jnz start */
static unsigned put_loop_end(struct oracle_sequence *seq, unsigned offset)
{
	uint8_t bytes[14] = { 0x80, 0x2c, 0x25, 0, 0, 0, 0, 1, 0x0f, 0x85 };
	int32_t counter = ORACLE_COUNTER, back = -(int32_t)(offset + sizeof(bytes));

	memcpy(bytes + 3, &counter, 4);
	memcpy(bytes + 10, &back, 4);
	memcpy(seq->bytes + offset, bytes, sizeof(bytes));
	seq->insn[seq->nr++] =
	        (struct oracle_insn){ ZYDIS_MNEMONIC_SUB, CLASS_INTEGER, offset, 8, 0 };
	seq->insn[seq->nr++] =
	        (struct oracle_insn){ ZYDIS_MNEMONIC_JNZ, CLASS_INTEGER, offset + 8, 6, 0 };
	return offset + sizeof(bytes);
}

void oracle_generate(struct oracle_generator *g, uint64_t address, struct oracle_sequence *seq)
{
	struct fixup fix[ORACLE_INSNS];
	unsigned nr_fix = 0, offset = 0, i;
	uint32_t joining[ORACLE_INSNS + BRANCH_REACH + 1] = { 0 };
	uint32_t undefined = 0;
	struct candidate c;

	memset(seq->bytes, 0xcc, sizeof(seq->bytes));
	seq->loop = rng_chance(&g->rng, 20);
	seq->nr = 1 + rng_below(&g->rng, ORACLE_INSNS - (seq->loop ? 2 : 0));
	for (i = 0; i < seq->nr; i++) {
		const ZydisDecodedInstruction *z = &c.z;

		undefined |= joining[i];
		if (seq->loop)
			draw_in_loop(g, address + offset, undefined, &c);
		else
			draw(g, address + offset, undefined, &c);
		memcpy(seq->bytes + offset, c.bytes, z->length);
		seq->insn[i] = (struct oracle_insn){ z->mnemonic, class_of(z), offset, z->length,
			                             undefined };
		undefined = flags_undefined(&c, undefined);
		if (is_relative(z)) {
			unsigned target = i + 1 + rng_below(&g->rng, BRANCH_REACH);

			fix[nr_fix++] =
			        (struct fixup){ target, offset + z->raw.imm[0].offset,
				                z->raw.imm[0].size / 8, offset + z->length };
			for (unsigned t = i + 1; t <= target; t++)
				joining[t] |= undefined;
		}
		offset += z->length;
	}
	for (unsigned t = i; t < ARRAY_SIZE(joining); t++)
		undefined |= joining[t];
	if (seq->loop) {
		offset = put_loop_end(seq, offset);
		seq->insn[i].undefined = undefined;
		undefined = 0;
	}
	seq->insn[seq->nr] = (struct oracle_insn){ .offset = offset, .undefined = undefined };
	aim_branches(seq, fix, nr_fix);
}

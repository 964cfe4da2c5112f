/*
 * The x87 control instructions: they move the environment about and compute nothing, so they are C.
 * The F(N) forms do not wait for a pending exception; the others do.
 */
#include <string.h>
#include "interp/fpu.h"

#define TAG_VALID   0
#define TAG_ZERO    1
#define TAG_SPECIAL 2
#define TAG_EMPTY   3

static void check_present(struct cpu *c)
{
	if (c->cr0 & (CR0_EM | CR0_TS))
		cpu_raise(c, EXC_NM, 0);
}

void fpu_set_top(struct cpu *c, unsigned top)
{
	unsigned by = (top - fpu_top(c)) & 7;
	uint8_t old[8][16];

	if (!by)
		return;
	memcpy(old, fpu_st(c, 0), sizeof(old));
	for (unsigned n = 0; n < 8; n++)
		memcpy(fpu_st(c, n), old[(n + by) & 7], 16);
	*fpu_fsw(c) = (*fpu_fsw(c) & ~FSW_TOP) | top << 11;
}

void fpu_update_es(struct cpu *c)
{
	*fpu_fsw(c) &= ~(FSW_ES | FSW_B);
	if (fpu_pending(c))
		*fpu_fsw(c) |= FSW_ES | FSW_B;
}

void fpu_set_fcw(struct cpu *c, uint16_t value)
{
	*fpu_fcw(c) = (value & FCW_VALID) | FCW_FIXED;
	fpu_update_es(c);
}

/* SDM 3A 9.2: MP says that WAIT takes part in lazy switching. */
void fpu_wait(struct cpu *c, const struct insn *i)
{
	if ((c->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		cpu_raise(c, EXC_NM, 0);
	if (fpu_pending(c))
		cpu_raise(c, EXC_MF, 0);
}

void fpu_nop(struct cpu *c, const struct insn *i)
{
	check_present(c);
}

void fpu_emms(struct cpu *c, const struct insn *i)
{
	check_mmx(c);
	fpu_set_top(c, 0);
	*fpu_ftw(c) = 0;
}

static void reset_environment(struct cpu *c)
{
	fpu_set_top(c, 0);
	*fpu_fcw(c) = FCW_INIT;
	*fpu_fsw(c) = 0;
	*fpu_ftw(c) = 0;
	*fpu_fop(c) = 0;
	*fpu_pointers(c) = (struct fpu_pointers){ 0, 0 };
}

void fpu_ninit(struct cpu *c, const struct insn *i)
{
	check_present(c);
	reset_environment(c);
}

void fpu_nclex(struct cpu *c, const struct insn *i)
{
	check_present(c);
	/* The exception flags, the stack fault flag, ES and B. */
	*fpu_fsw(c) &= 0x7f00;
}

void fpu_nstcw(struct cpu *c, const struct insn *i)
{
	check_present(c);
	store16(c, access_ea(c, i, 2, true), *fpu_fcw(c), i->seg);
}

void fpu_nstsw(struct cpu *c, const struct insn *i)
{
	check_present(c);
	if (i->flags & INSN_MEM)
		store16(c, access_ea(c, i, 2, true), *fpu_fsw(c), i->seg);
	else
		reg_set(c, R_RAX, 2, *fpu_fsw(c));
}

void fpu_ldcw(struct cpu *c, const struct insn *i)
{
	check_x87(c);
	fpu_set_fcw(c, load16(c, access_ea(c, i, 2, false), i->seg));
}

/* ---- the environment in memory: seven fields of 2 or 4 bytes, SDM 1 8.1.10 ---- */

enum { ENV_FCW, ENV_FSW, ENV_FTW, ENV_FIP, ENV_FCS, ENV_FDP, ENV_FDS, ENV_FIELDS };

struct environment {
	uint32_t field[ENV_FIELDS];
	unsigned size; /* of a field in memory */
	bool real;     /* the format of real-address and virtual-8086 mode */
};

static struct environment environment_format(const struct cpu *c, const struct insn *i)
{
	return (struct environment){
		.size = i->opsize == 2 ? 2 : 4,
		.real = !(c->cr0 & CR0_PE) || (c->rflags & RFLAGS_VM),
	};
}

static unsigned tag_of(const uint8_t *st)
{
	uint64_t mantissa;
	uint16_t exponent;

	memcpy(&mantissa, st, 8);
	memcpy(&exponent, st + 8, 2);
	exponent &= 0x7fff;
	if (!exponent && !mantissa)
		return TAG_ZERO;
	if (!exponent || exponent == 0x7fff || !(mantissa >> 63))
		return TAG_SPECIAL;
	return TAG_VALID;
}

static uint16_t full_tag_word(struct cpu *c)
{
	uint16_t tags = 0;

	for (unsigned n = 0; n < 8; n++) {
		bool used = *fpu_ftw(c) >> n & 1;
		unsigned tag = used ? tag_of(fpu_st(c, (n - fpu_top(c)) & 7)) : TAG_EMPTY;

		tags |= tag << (2 * n);
	}
	return tags;
}

static uint8_t abridged_tag_word(uint16_t tags)
{
	uint8_t used = 0;

	for (unsigned n = 0; n < 8; n++)
		if ((tags >> (2 * n) & 3) != TAG_EMPTY)
			used |= 1 << n;
	return used;
}

static void fill_environment(struct cpu *c, struct environment *e)
{
	uint32_t ip = fpu_pointers(c)->ip, dp = fpu_pointers(c)->dp, op = *fpu_fop(c);

	/* Where a field is wider than its register the rest reads as ones. */
	e->field[ENV_FCW] = *fpu_fcw(c) | 0xffff0000;
	e->field[ENV_FSW] = *fpu_fsw(c) | 0xffff0000;
	e->field[ENV_FTW] = full_tag_word(c) | 0xffff0000;
	e->field[ENV_FIP] = ip;
	e->field[ENV_FDP] = dp;
	if (e->real) {
		e->field[ENV_FIP] = ip & 0xffff;
		e->field[ENV_FCS] = (ip >> 16) << 12 | op;
		e->field[ENV_FDP] = dp & 0xffff;
		e->field[ENV_FDS] = (dp >> 16) << 12;
	} else {
		e->field[ENV_FCS] = op << 16;
		e->field[ENV_FDS] = 0xffff0000;
	}
}

static void take_environment(struct cpu *c, const struct environment *e)
{
	uint64_t ip = e->field[ENV_FIP], dp = e->field[ENV_FDP];
	uint32_t cs = e->field[ENV_FCS], ds = e->field[ENV_FDS];

	if (e->real) {
		ip = (ip & 0xffff) | (uint64_t)(cs >> 12) << 16;
		dp = (dp & 0xffff) | (uint64_t)(ds >> 12) << 16;
	}
	*fpu_pointers(c) = (struct fpu_pointers){ (uint32_t)ip, (uint32_t)dp };
	*fpu_fop(c) = (e->real ? cs : cs >> 16) & FOP_VALID;
	fpu_set_top(c, (e->field[ENV_FSW] & FSW_TOP) >> 11);
	*fpu_fsw(c) = e->field[ENV_FSW];
	*fpu_ftw(c) = abridged_tag_word(e->field[ENV_FTW]);
	fpu_set_fcw(c, e->field[ENV_FCW]);
}

static unsigned pack_environment(const struct environment *e, uint8_t *p)
{
	for (unsigned n = 0; n < ENV_FIELDS; n++)
		memcpy(p + n * e->size, &e->field[n], e->size);
	return ENV_FIELDS * e->size;
}

static unsigned unpack_environment(struct environment *e, const uint8_t *p)
{
	for (unsigned n = 0; n < ENV_FIELDS; n++)
		memcpy(&e->field[n], p + n * e->size, e->size);
	return ENV_FIELDS * e->size;
}

static void write_image(struct cpu *c, const struct insn *i, const uint8_t *image, unsigned size)
{
	gva_t va = access_ea(c, i, size, true);

	mmu_probe(c, va, size, MMU_WRITE, i->seg);
	mmu_copy_out(c, va, image, size, i->seg);
}

#define IMAGE_MAX (ENV_FIELDS * 4 + 8 * 10)

void fpu_nstenv(struct cpu *c, const struct insn *i)
{
	struct environment e = environment_format(c, i);
	uint8_t image[IMAGE_MAX];

	check_present(c);
	fill_environment(c, &e);
	write_image(c, i, image, pack_environment(&e, image));
	*fpu_fcw(c) |= FSW_ERRORS; /* masks all */
	fpu_update_es(c);
}

void fpu_nsave(struct cpu *c, const struct insn *i)
{
	struct environment e = environment_format(c, i);
	uint8_t image[IMAGE_MAX];
	unsigned size;

	check_present(c);
	fill_environment(c, &e);
	size = pack_environment(&e, image);
	for (unsigned n = 0; n < 8; n++, size += 10)
		memcpy(image + size, fpu_st(c, n), 10);
	write_image(c, i, image, size);
	reset_environment(c);
}

void fpu_ldenv(struct cpu *c, const struct insn *i)
{
	struct environment e = environment_format(c, i);
	uint8_t image[IMAGE_MAX];
	unsigned size = ENV_FIELDS * e.size;

	check_x87(c);
	mmu_copy_in(c, image, access_ea(c, i, size, false), size, i->seg);
	unpack_environment(&e, image);
	take_environment(c, &e);
}

void fpu_rstor(struct cpu *c, const struct insn *i)
{
	struct environment e = environment_format(c, i);
	uint8_t image[IMAGE_MAX];
	unsigned at, size = ENV_FIELDS * e.size + 8 * 10;

	check_x87(c);
	mmu_copy_in(c, image, access_ea(c, i, size, false), size, i->seg);
	at = unpack_environment(&e, image);
	take_environment(c, &e);
	for (unsigned n = 0; n < 8; n++, at += 10)
		memcpy(fpu_st(c, n), image + at, 10);
}

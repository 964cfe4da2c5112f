/*
 * Where a case starts: registers and memory full of the values that make trouble.
 *
 * The generator relies on a convention here. Pointers into the data area: RBX, RSI, RDI, R11..R15;
 * into the stack: RSP, RBP; small numbers, good as counts and indices: RCX, R9, R10; the rest
 * anything.
 */
#include <string.h>
#include "oracle.h"

uint64_t rng_next(struct oracle_rng *r)
{
	/* splitmix64, Steele et al., OOPSLA 2014 */
	uint64_t z = r->s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Integers at which carries, signs and widths change. */
static const uint64_t edges[] = {
	0,
	1,
	2,
	0x7f,
	0x80,
	0xff,
	0x7fff,
	0x8000,
	0xffff,
	0x7fffffff,
	0x80000000,
	0xffffffff,
	~0ull,
	1ull << 63,
	~0ull >> 1,
	0x100,
	0x10000,
	1ull << 32,
	0x55555555,
	0xaaaaaaaaull,
	0x0101010101010101ull,
	~1ull,
	63,
	64,
};

static uint64_t random_integer(struct oracle_rng *r)
{
	uint64_t v = rng_next(r);

	switch (rng_below(r, 4)) {
	case 0:
		return edges[rng_below(r, ARRAY_SIZE(edges))];
	case 1:
		return v >> rng_below(r, 64);
	default:
		return v;
	}
}

/* Single and double precision numbers: normal, tiny, infinite, NaN, denormal. */
static uint64_t random_double(struct oracle_rng *r)
{
	static const uint64_t special[] = {
		0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000,
		0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000001, 0x7ff0000000000001,
		0x0000000000000001, 0x000fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff,
		0x41dfffffffc00000, 0xc1e0000000000000, 0x43e0000000000000, 0x3fe0000000000000,
	};

	if (rng_chance(r, 30))
		return special[rng_below(r, ARRAY_SIZE(special))];
	/* Exponents around 1.0, so that sums and products do not all overflow. */
	return (rng_next(r) & 0x800fffffffffffffull) | (uint64_t)(1023 - 40 + rng_below(r, 80))
	                                                       << 52;
}

static uint32_t random_float(struct oracle_rng *r)
{
	static const uint32_t special[] = {
		0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00001,
		0x7f800001, 0x00000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0xcf000000,
	};

	if (rng_chance(r, 30))
		return special[rng_below(r, ARRAY_SIZE(special))];
	return (rng_next(r) & 0x807fffff) | (127 - 30 + rng_below(r, 60)) << 23;
}

static uint64_t random_lane(struct oracle_rng *r)
{
	switch (rng_below(r, 3)) {
	case 0:
		return random_double(r);
	case 1:
		return random_float(r) | (uint64_t)random_float(r) << 32;
	default:
		return random_integer(r);
	}
}

static void random_lanes(struct oracle_rng *r, void *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t v = random_lane(r);

		memcpy((uint8_t *)p + i, &v, 8);
	}
}

void oracle_random_memory(struct oracle_rng *r, struct oracle_memory *m, uint8_t rodata[PAGE_SIZE])
{
	random_lanes(r, m->data, sizeof(m->data));
	random_lanes(r, m->stack, sizeof(m->stack));
	random_lanes(r, rodata, PAGE_SIZE);
	m->stack[ORACLE_COUNTER - ORACLE_STACK] = (uint8_t)(1 + rng_below(r, 24));
}

/* An address in the data area; one in 12 near an edge or nowhere. */
static uint64_t random_pointer(struct oracle_rng *r)
{
	switch (rng_below(r, 36)) {
	case 0: /* across the two pages */
		return ORACLE_DATA + PAGE_SIZE - rng_below(r, 40);
	case 1: /* out of the writable pages into the read-only one */
		return ORACLE_RODATA - rng_below(r, 40);
	case 2: /* the end of everything */
		return ORACLE_RODATA + PAGE_SIZE - rng_below(r, 40);
	case 3: /* not canonical */
		return rng_next(r) | 1ull << 62;
	case 4:
		return random_integer(r);
	default:
		return ORACLE_DATA + 512 + rng_below(r, ORACLE_DATA_BYTES - 1024);
	}
}

static void random_gprs(struct oracle_rng *r, struct oracle_state *s)
{
	static const uint8_t pointers[] = { R_RBX, R_RSI, R_RDI, 11, 12, 13, 14, 15 };
	static const uint8_t small[] = { R_RCX, 9, 10 };

	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = random_integer(r);
	for (unsigned i = 0; i < ARRAY_SIZE(pointers); i++)
		s->gpr[pointers[i]] = random_pointer(r) & (rng_chance(r, 90) ? ~31ull : ~0ull);
	for (unsigned i = 0; i < ARRAY_SIZE(small); i++)
		if (rng_chance(r, 85))
			s->gpr[small[i]] = rng_below(r, 40);
	s->gpr[R_RSP] = ORACLE_STACK + 1024 + rng_below(r, 128) * 16 + (rng_chance(r, 20) ? 8 : 0);
	if (rng_chance(r, 3))
		s->gpr[R_RSP] = ORACLE_STACK + rng_below(r, PAGE_SIZE + 1);
	s->gpr[R_RBP] =
	        rng_chance(r, 50) ? random_pointer(r) : ORACLE_STACK + 2048 + rng_below(r, 512);
}

static void random_x87(struct oracle_rng *r, uint8_t *area)
{
	uint16_t control = 0x033f | 0x40, status = rng_below(r, 8) << 11;

	control |= rng_below(r, 4) << 10; /* rounding */
	if (rng_chance(r, 25))
		control = (control & ~0x300) | rng_below(r, 4) << 8; /* precision */
	if (rng_chance(r, 5))
		control &= ~(1u << rng_below(r, 6));
	memcpy(area, &control, 2);
	memcpy(area + 2, &status, 2);
	area[4] = rng_chance(r, 50) ? 0xff : rng_next(r);
	for (unsigned i = 0; i < 8; i++) {
		uint64_t mantissa = rng_next(r) | 1ull << 63;
		uint16_t exponent = (16383 - 40 + rng_below(r, 80)) | (rng_below(r, 2) << 15);

		if (rng_chance(r, 20)) {
			mantissa = edges[rng_below(r, ARRAY_SIZE(edges))];
			exponent = rng_chance(r, 50) ? 0x7fff : 0;
		}
		memcpy(area + FPU_ST + i * 16, &mantissa, 8);
		memcpy(area + FPU_ST + i * 16 + 8, &exponent, 2);
	}
}

static uint32_t random_mxcsr(struct oracle_rng *r)
{
	uint32_t v = 0x1f80 | rng_below(r, 4) << 13;

	if (rng_chance(r, 15))
		v |= 0x8000; /* flush to zero */
	if (rng_chance(r, 15))
		v |= 0x40; /* denormals are zeros */
	if (rng_chance(r, 5))
		v &= ~(0x80u << rng_below(r, 6));
	return v;
}

void oracle_random_state(struct oracle_rng *r, struct oracle_state *s)
{
	uint32_t mxcsr = random_mxcsr(r);

	memset(s, 0, sizeof(*s));
	random_gprs(r, s);
	s->rflags = RFLAGS_1 | RFLAGS_IF | (rng_next(r) & RFLAGS_ARITH);
	if (rng_chance(r, 10))
		s->rflags |= RFLAGS_DF;
	if (rng_chance(r, 1))
		s->rflags |= RFLAGS_AC;
	if (rng_chance(r, 5))
		s->rflags |= rng_next(r) & (RFLAGS_ID | RFLAGS_NT);
	s->fs_base = ORACLE_DATA + 256;
	s->gs_base = ORACLE_DATA + 512;
	random_x87(r, s->fpu.area);
	memcpy(s->fpu.area + FPU_MXCSR, &mxcsr, 4);
	random_lanes(r, s->fpu.area + FPU_XMM, 256);
	random_lanes(r, s->fpu.area + FPU_YMMH, 256);
	s->fpu.area[512] = XCR0_X87 | XCR0_SSE | XCR0_AVX; /* XSTATE_BV: all of it is in use */
}

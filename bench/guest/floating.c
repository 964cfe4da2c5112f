/* Floating point and SIMD. The compiler may not fuse operations: results are the same to the bit.
 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double next_fraction(uint64_t *seed)
{
	return (next_random(seed) >> 11) * 0x1p-53;
}

static uint64_t bits_of(double value)
{
	uint64_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

/* --- Product of two matrices of doubles, 128 x 128; amount: rounds. --- */

#define EDGE 128

typedef double matrix[EDGE][EDGE];

static __attribute__((noinline)) void multiply(matrix c, const matrix a, const matrix b)
{
	for (int i = 0; i < EDGE; i++) {
		for (int j = 0; j < EDGE; j++) {
			double sum = 0;

			for (int k = 0; k < EDGE; k++)
				sum += a[i][k] * b[k][j];
			c[i][j] = sum / EDGE;
		}
	}
}

static uint64_t matmul(unsigned long amount, char **arguments)
{
	static matrix a, b, c;
	uint64_t seed = SEED, sum = 0;

	for (int i = 0; i < EDGE * EDGE; i++) {
		a[i / EDGE][i % EDGE] = next_fraction(&seed) + 0.5;
		b[i / EDGE][i % EDGE] = next_fraction(&seed) + 0.5;
	}
	while (amount--) {
		multiply(c, a, b);
		memcpy(a, c, sizeof(a));
		sum = mix(sum, bits_of(c[amount % EDGE][7]));
	}
	return sum;
}

/*
 * --- The mathematical library; amount: thousands of arguments. Its routines differ in the last bit
 * between CPUs with and without fused operations: the checksum is of what they agree on. ---
 */
static uint64_t libm(unsigned long amount, char **arguments)
{
	uint64_t seed = SEED;
	double sum = 0;

	for (unsigned long i = 0; i < 1000 * amount; i++) {
		double x = 10 * next_fraction(&seed) + 0.1;

		sum += sin(x) + exp(x / 5) + pow(x, 1.3) + sqrt(x) + log(x) + atan2(x, 3);
	}
	return llround(sum * 100);
}

/* --- Bodies that attract each other; amount: thousands of steps. --- */

#define BODIES 5

struct body {
	double at[3], speed[3], mass;
};

static void attract(struct body *a, struct body *b, double dt)
{
	double d[3], square = 0.01, pull;

	for (int k = 0; k < 3; k++) {
		d[k] = a->at[k] - b->at[k];
		square += d[k] * d[k];
	}
	pull = dt / (square * sqrt(square));
	for (int k = 0; k < 3; k++) {
		a->speed[k] -= d[k] * b->mass * pull;
		b->speed[k] += d[k] * a->mass * pull;
	}
}

static uint64_t nbody(unsigned long amount, char **arguments)
{
	struct body bodies[BODIES];
	uint64_t seed = SEED, sum = 0;

	for (int i = 0; i < BODIES; i++) {
		for (int k = 0; k < 3; k++) {
			bodies[i].at[k] = 20 * next_fraction(&seed) - 10;
			bodies[i].speed[k] = next_fraction(&seed) - 0.5;
		}
		bodies[i].mass = next_fraction(&seed);
	}
	for (unsigned long step = 0; step < 1000 * amount; step++) {
		for (int i = 0; i < BODIES; i++)
			for (int j = i + 1; j < BODIES; j++)
				attract(&bodies[i], &bodies[j], 0.001);
		for (int i = 0; i < BODIES; i++)
			for (int k = 0; k < 3; k++)
				bodies[i].at[k] += 0.001 * bodies[i].speed[k];
	}
	for (int i = 0; i < BODIES; i++)
		sum = mix(sum, bits_of(bodies[i].at[i % 3]));
	return sum;
}

/* --- y = a x + y in single precision, 4096 long, with AVX2 if there is; amount: rounds. --- */

#define LENGTH 4096

static uint64_t saxpy(unsigned long amount, char **arguments)
{
	void (*routine)(float *, const float *, float, size_t) =
	        __builtin_cpu_supports("avx2") ? saxpy_avx2 : saxpy_sse2;
	static float x[LENGTH], y[LENGTH];
	uint64_t seed = SEED, sum = 0;

	for (int i = 0; i < LENGTH; i++) {
		x[i] = next_fraction(&seed);
		y[i] = next_fraction(&seed);
	}
	for (unsigned long i = 0; i < amount; i++)
		routine(y, x, i % 2 ? 0.7f : -0.69f, LENGTH);
	for (int i = 0; i < LENGTH; i++)
		sum = mix(sum, bits_of(y[i]));
	return sum;
}

/* --- The library's memcpy: a few bytes at a time, and 4 MiB at a time. --- */

static void *(*volatile copy)(void *, const void *, size_t) = memcpy;

/* amount: thousands of copies of up to 128 bytes */
static uint64_t copy_small(unsigned long amount, char **arguments)
{
	static char from[4096], to[4096];
	uint64_t seed = SEED, sum = 0;

	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = next_random(&seed);
	for (unsigned long i = 0; i < 1000 * amount; i++) {
		uint64_t r = next_random(&seed);

		copy(to + (r & 2047), from + (r >> 16 & 2047), r >> 32 & 127);
	}
	for (size_t i = 0; i < sizeof(to); i++)
		sum = mix(sum, to[i]);
	return sum;
}

/* amount: rounds */
static uint64_t copy_large(unsigned long amount, char **arguments)
{
	size_t size = 4 << 20;
	char *a = must(malloc(size)), *b = must(malloc(size));
	uint64_t seed = SEED, sum = 0;

	for (size_t i = 0; i < size; i++)
		a[i] = next_random(&seed);
	while (amount--) {
		copy(b, a, size);
		a[amount % size] ^= 1;
	}
	for (size_t i = 0; i < size; i += 61)
		sum = mix(sum, b[i]);
	free(a);
	free(b);
	return sum;
}

const struct work float_works[] = {
	{ "matmul", matmul },
	{ "libm", libm },
	{ "nbody", nbody },
	{ "saxpy", saxpy },
	{ "copy-small", copy_small },
	{ "copy-large", copy_large },
	{ NULL },
};

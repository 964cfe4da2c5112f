/*
 * numbers ROUNDS: integer and floating-point arithmetic. Prints the same on every machine: doubles
 * are added in one order, and nothing is left to the precision of intermediate results.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BIG_LIMBS 200

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static unsigned count_primes(unsigned limit)
{
	unsigned char *composite = calloc(limit, 1);
	unsigned count = 0;

	for (unsigned i = 2; i < limit; i++) {
		if (composite[i])
			continue;
		count++;
		for (unsigned j = 2 * i; j < limit; j += i)
			composite[j] = 1;
	}
	free(composite);
	return count;
}

/* n! in limbs of nine decimal digits, the lowest first. */
static void print_factorial(unsigned n)
{
	uint32_t limb[BIG_LIMBS] = { 1 };
	int top = 0;

	for (unsigned i = 2; i <= n; i++) {
		uint64_t carry = 0;

		for (int j = 0; j <= top; j++) {
			carry += (uint64_t)limb[j] * i;
			limb[j] = carry % 1000000000;
			carry /= 1000000000;
		}
		if (carry)
			limb[++top] = carry;
	}
	printf("%u! = %u", n, limb[top]);
	for (int j = top - 1; j >= 0; j--)
		printf("%09u", limb[j]);
	printf("\n");
}

/* Signed and unsigned division, remainders, shifts and rotations of every width. */
static uint64_t mix_integers(unsigned rounds)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < rounds; i++) {
		uint64_t a = next_random(), b = next_random() | 1;
		int64_t s = (int64_t)a, d = (int64_t)(b >> (a & 63)) | 1;
		int32_t s32 = (int32_t)a, d32 = (int32_t)(b & 0xffff) + 1;
		int16_t s16 = (int16_t)a;
		int8_t s8 = (int8_t)b;

		sum += a / b ^ a % (b >> 32 | 1);
		sum ^= (uint64_t)(s / (d | 2)) + (uint64_t)(s % (d | 2));
		sum += (uint64_t)(s32 / d32) ^ (uint64_t)(s32 % d32);
		sum ^= (uint64_t)(s16 * s8) << (b & 31);
		sum += (uint64_t)(s >> (b & 63)) - (a << (b & 63));
		sum = sum << (a & 63 ? a & 63 : 1) | sum >> (64 - (a & 63 ? a & 63 : 1));
	}
	return sum;
}

static uint64_t power_mod(uint64_t base, uint64_t exponent, uint64_t modulus)
{
	uint64_t result = 1;

	for (base %= modulus; exponent; exponent >>= 1) {
		if (exponent & 1)
			result = result * base % modulus;
		base = base * base % modulus;
	}
	return result;
}

static unsigned mandelbrot(int size)
{
	unsigned sum = 0;

	for (int row = 0; row < size; row++)
		for (int column = 0; column < size; column++) {
			double cr = 3.0 * column / size - 2, ci = 2.0 * row / size - 1;
			double r = 0, i = 0;
			int n = 0;

			for (; n < 50 && r * r + i * i < 4; n++) {
				double next = r * r - i * i + cr;

				i = 2 * r * i + ci;
				r = next;
			}
			sum = sum * 31 + n;
		}
	return sum;
}

/* The determinant by elimination with pivots. */
static double determinant(double *m, int n)
{
	double product = 1;

	for (int k = 0; k < n; k++) {
		int pivot = k;

		for (int i = k + 1; i < n; i++)
			if (fabs(m[i * n + k]) > fabs(m[pivot * n + k]))
				pivot = i;
		for (int j = 0; pivot != k && j < n; j++) {
			double t = m[k * n + j];

			m[k * n + j] = m[pivot * n + j];
			m[pivot * n + j] = t;
		}
		product *= pivot == k ? m[k * n + k] : -m[k * n + k];
		for (int i = k + 1; i < n; i++) {
			double f = m[i * n + k] / m[k * n + k];

			for (int j = k; j < n; j++)
				m[i * n + j] -= f * m[k * n + j];
		}
	}
	return product;
}

static void print_determinant(int n)
{
	double *m = malloc(sizeof(*m) * n * n);

	for (int i = 0; i < n * n; i++)
		m[i] = (double)(int64_t)next_random() / 9223372036854775808.0;
	printf("determinant of %d: %.15g\n", n, determinant(m, n));
	free(m);
}

/* Conversions between all the number formats, at values where they round. */
static void print_conversions(unsigned rounds)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < rounds; i++) {
		uint64_t bits = next_random();
		float f = (float)((int64_t)bits >> 1);
		double d = (double)bits, small = (double)(int32_t)bits / 1024;
		long double l = (long double)bits / 3;

		sum = sum * 31 + (uint64_t)(int64_t)f;
		sum = sum * 31 + (uint64_t)(d / 4);
		sum = sum * 31 + (uint64_t)(int64_t)small;
		sum = sum * 31 + (uint64_t)(int64_t)(l / 16);
		sum = sum * 31 + (uint64_t)(int32_t)(float)small;
		sum = sum * 31 + (d < l) + (f > small) * 2 + (d == (double)f) * 4;
	}
	printf("conversions: %016llx\n", (unsigned long long)sum);
}

static void print_series(int terms)
{
	long double e = 0, term = 1;
	double pi = 0;
	float harmonic = 0;

	for (int i = 1; i <= terms; i++) {
		e += term;
		term /= i;
		pi += (i & 1 ? 4.0 : -4.0) / (2 * i - 1);
		harmonic += 1.0f / i;
	}
	printf("e %.18Lg pi %.17g harmonic %.9g\n", e, pi, harmonic);
	printf("sqrt %.17g floor %g %g ldexp %g\n", sqrt(terms), floor(-pi), ceil(pi),
	       ldexp(pi, terms % 50));
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? atoi(argv[1]) : 1;

	for (unsigned i = 1; i <= rounds; i++) {
		printf("primes: %u\n", count_primes(20000 + i));
		print_factorial(100 + i);
		printf("integers: %016llx\n", (unsigned long long)mix_integers(20000));
		printf("power: %llu\n",
		       (unsigned long long)power_mod(3, 1000000006 - i, 1000000007));
		printf("mandelbrot: %u\n", mandelbrot(40));
		print_determinant(20 + i);
		print_conversions(5000);
		print_series(2000 + i);
	}
	return 0;
}

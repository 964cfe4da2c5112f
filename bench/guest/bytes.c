/* Byte loops: strings, checksums, a hash. */
#include "bench.h"

#include <string.h>

#define SIZE 65536

static void fill(uint8_t *data, size_t size)
{
	uint64_t seed = SEED;

	for (size_t i = 0; i < size; i++)
		data[i] = next_random(&seed) >> 32;
}

/* --- Loops over strings as a plain library has them; amount: rounds over 64 KiB of text. --- */

static __attribute__((noinline)) size_t length(const char *s)
{
	const char *end = s;

	while (*end)
		end++;
	return end - s;
}

static __attribute__((noinline)) const char *find(const char *s, char c)
{
	for (; *s; s++)
		if (*s == c)
			return s;
	return NULL;
}

static __attribute__((noinline)) int compare(const char *a, const char *b, size_t n)
{
	for (; n; n--, a++, b++)
		if (*a != *b)
			return (unsigned char)*a - (unsigned char)*b;
	return 0;
}

static uint64_t string(unsigned long amount, char **arguments)
{
	static char text[SIZE], copy[SIZE];
	uint64_t sum = 0;

	fill((uint8_t *)text, SIZE);
	for (size_t i = 0; i < SIZE; i++)
		text[i] = i % 61 == 60 ? '\0' : 'a' + (text[i] & 15);
	text[SIZE - 1] = '\0';
	memcpy(copy, text, SIZE);
	while (amount--) {
		for (const char *s = text; s < text + SIZE;) {
			size_t n = length(s);
			const char *at = find(s, 'a' + (amount & 15));

			sum += n + (at ? at - s : 99);
			sum += compare(s, copy + (s - text), n + 1);
			s += n + 1;
		}
	}
	return sum;
}

/* --- CRC-32 by a table of 256; amount: rounds over 64 KiB. --- */

static uint64_t crc32(unsigned long amount, char **arguments)
{
	static uint8_t data[SIZE];
	static uint32_t table[256];
	uint32_t crc = ~0u;

	fill(data, SIZE);
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;

		for (int k = 0; k < 8; k++)
			v = v >> 1 ^ (v & 1 ? 0xedb88320 : 0);
		table[i] = v;
	}
	while (amount--)
		for (size_t i = 0; i < SIZE; i++)
			crc = table[(crc ^ data[i]) & 255] ^ crc >> 8;
	return ~crc;
}

/* --- SHA-256 in plain C (FIPS 180-4); amount: rounds over 64 KiB. --- */

/* The first 32 bits of the fraction of the root of a prime: of degree 2 or 3. */
static uint32_t root_fraction(unsigned prime, int degree)
{
	unsigned __int128 target = (unsigned __int128)prime << 32 * degree;
	uint64_t root = 0;

	for (int bit = 36; bit >= 0; bit--) {
		uint64_t next = root | 1ull << bit;
		unsigned __int128 power = (unsigned __int128)next * next;

		if (degree == 3)
			power *= next;
		if (power <= target)
			root = next;
	}
	return root;
}

static void sha256_constants(uint32_t k[64], uint32_t h[8])
{
	unsigned prime = 2;

	for (int i = 0; i < 64; i++, prime++) {
		for (unsigned d = 2; d * d <= prime;)
			if (prime % d)
				d++;
			else
				prime++, d = 2;
		k[i] = root_fraction(prime, 3);
		if (i < 8)
			h[i] = root_fraction(prime, 2);
	}
}

static uint32_t ror(uint32_t v, int n)
{
	return v >> n | v << (32 - n);
}

static void sha256_block(const uint32_t k[64], uint32_t h[8], const uint8_t *data)
{
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++, data += 4)
		w[i] = (uint32_t)data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = w[i - 15], b = w[i - 2];

		w[i] = w[i - 16] + (ror(a, 7) ^ ror(a, 18) ^ a >> 3) + w[i - 7] +
		       (ror(b, 17) ^ ror(b, 19) ^ b >> 10);
	}
	memcpy(s, h, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t e = s[4], a = s[0], t1, t2;

		t1 = s[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & s[5]) ^ (~e & s[6])) +
		     k[i] + w[i];
		t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) +
		     ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
		memmove(s + 1, s, 7 * sizeof(*s));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

static uint64_t sha256(unsigned long amount, char **arguments)
{
	static const uint8_t abc[64] = { 'a', 'b', 'c', 0x80, [63] = 24 };
	static uint8_t data[SIZE];
	uint32_t k[64], h[8], check[8];

	sha256_constants(k, h);
	memcpy(check, h, sizeof(h));
	sha256_block(k, check, abc);
	if (check[0] != 0xba7816bf) /* of the standard's example */
		die("sha256");
	fill(data, SIZE);
	while (amount--)
		for (size_t i = 0; i < SIZE; i += 64)
			sha256_block(k, h, data + i);
	return (uint64_t)h[0] << 32 | h[7];
}

const struct work byte_works[] = {
	{ "string", string },
	{ "crc32", crc32 },
	{ "sha256", sha256 },
	{ NULL },
};

/*
 * The integer loop mix: small kernels of the kinds that programs spend their time in, freestanding,
 * so that the engine and nothing else is measured. Each checks its own answer: PASS goes to the
 * exit port when all were right.
 */
#include <stdint.h>

#define N 8192

/* Bytes for the exit port: process status 33 and 35. */
#define PASS 0x10
#define FAIL 0x11

unsigned bench_main(void);

static uint32_t numbers[N];
static uint64_t seed = 88172645463325252ull;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static int sort(void)
{
	for (unsigned i = 0; i < N; i++)
		numbers[i] = next_random();
	for (unsigned gap = N / 2; gap; gap /= 2) {
		for (unsigned i = gap; i < N; i++) {
			uint32_t v = numbers[i];
			unsigned j = i;

			for (; j >= gap && numbers[j - gap] > v; j -= gap)
				numbers[j] = numbers[j - gap];
			numbers[j] = v;
		}
	}
	for (unsigned i = 1; i < N; i++)
		if (numbers[i - 1] > numbers[i])
			return 0;
	return 1;
}

static int crc(void)
{
	static uint32_t table[256];
	uint32_t c = ~0u;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;

		for (int k = 0; k < 8; k++)
			v = v >> 1 ^ (v & 1 ? 0xedb88320 : 0);
		table[i] = v;
	}
	for (int round = 0; round < 20000; round++)
		for (const char *s = "123456789"; *s; s++)
			c = table[(c ^ (uint8_t)*s) & 255] ^ c >> 8;
	/* One round from a fresh start is the published check value. */
	c = ~0u;
	for (const char *s = "123456789"; *s; s++)
		c = table[(c ^ (uint8_t)*s) & 255] ^ c >> 8;
	return ~c == 0xcbf43926;
}

static __attribute__((noinline)) unsigned fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static int calls(void)
{
	return fib(24) == 46368;
}

struct node {
	struct node *child[2];
	uint32_t key;
};

static int tree(void)
{
	static struct node pool[N];
	struct node *root = 0;
	unsigned found = 0;

	for (unsigned i = 0; i < N; i++) {
		struct node *n = &pool[i], **at = &root;

		*n = (struct node){ .key = next_random() };
		while (*at)
			at = &(*at)->child[n->key > (*at)->key];
		*at = n;
	}
	for (unsigned i = 0; i < N; i++) {
		const struct node *n = root;

		while (n && n->key != pool[i].key)
			n = n->child[pool[i].key > n->key];
		found += n != 0;
	}
	return found == N;
}

/* A byte-code interpreter: sums 1..n on a little stack machine. */
static int machine(void)
{
	enum { PUSH_N, ADD_ACC, DEC_N, JNZ, STOP };
	static const uint8_t program[] = { PUSH_N, ADD_ACC, DEC_N, JNZ, 0, STOP };
	uint64_t n = 100000, acc = 0, top = 0;

	for (unsigned pc = 0;;) {
		switch (((volatile const uint8_t *)program)[pc++]) {
		case PUSH_N:
			top = n;
			break;
		case ADD_ACC:
			acc += top;
			break;
		case DEC_N:
			n--;
			break;
		case JNZ:
			pc = n ? program[pc] : pc + 1;
			break;
		case STOP:
			return acc == 5000050000ull;
		}
	}
}

static int hash(void)
{
	static uint32_t slot[4 * N];
	unsigned hits = 0;

	for (unsigned i = 0; i < 4 * N; i++)
		slot[i] = 0;
	for (unsigned i = 1; i <= N; i++) {
		uint32_t h = i * 2654435761u >> 17;

		while (slot[h % (4 * N)])
			h++;
		slot[h % (4 * N)] = i;
	}
	for (unsigned i = 1; i <= 2 * N; i++) {
		uint32_t h = i * 2654435761u >> 17;

		while (slot[h % (4 * N)] && slot[h % (4 * N)] != i)
			h++;
		hits += slot[h % (4 * N)] == i;
	}
	return hits == N;
}

unsigned bench_main(void)
{
	for (int round = 0; round < 20; round++)
		if (!sort() || !crc() || !calls() || !tree() || !machine() || !hash())
			return FAIL;
	return PASS;
}

/* Integer and pointer code, as compilers make it. */
#include "bench.h"

#include <stdlib.h>

/* --- Quicksort of 64 K numbers; amount: rounds. --- */

#define SORTED 65536

static void quicksort(int32_t *low, int32_t *high)
{
	while (low < high) {
		int32_t pivot = low[(high - low) / 2], *i = low, *j = high;

		while (i <= j) {
			while (*i < pivot)
				i++;
			while (*j > pivot)
				j--;
			if (i <= j) {
				int32_t t = *i;

				*i++ = *j;
				*j-- = t;
			}
		}
		quicksort(low, j);
		low = i;
	}
}

static uint64_t sort(unsigned long amount, char **arguments)
{
	static int32_t numbers[SORTED];
	uint64_t seed = SEED, sum = 0;

	while (amount--) {
		for (size_t i = 0; i < SORTED; i++)
			numbers[i] = next_random(&seed);
		quicksort(numbers, numbers + SORTED - 1);
		for (size_t i = 0; i < SORTED; i += 64)
			sum = mix(sum, numbers[i]);
	}
	return sum;
}

/* --- A hash table with chains, filled, read and emptied; amount: rounds of 32 K keys. --- */

#define BUCKETS 16384
#define KEYS    32768

struct entry {
	struct entry *next;
	uint64_t key, value;
};

static struct entry **bucket_of(struct entry **table, uint64_t key)
{
	return &table[key * 0x9e3779b97f4a7c15 >> 50];
}

static struct entry *lookup(struct entry **table, uint64_t key)
{
	struct entry *e = *bucket_of(table, key);

	while (e && e->key != key)
		e = e->next;
	return e;
}

static uint64_t hash(unsigned long amount, char **arguments)
{
	static struct entry *table[BUCKETS];
	struct entry *pool = must(calloc(KEYS, sizeof(*pool)));
	uint64_t seed = SEED, sum = 0;

	while (amount--) {
		uint64_t first = seed;

		for (size_t i = 0; i < KEYS; i++) {
			struct entry **bucket, *e = &pool[i];

			e->key = next_random(&seed);
			e->value = i;
			bucket = bucket_of(table, e->key);
			e->next = *bucket;
			*bucket = e;
		}
		for (size_t i = 0; i < 4 * KEYS; i++) {
			const struct entry *e = lookup(table, i % 2 ? i : next_random(&first));

			sum += e ? e->value : 1;
		}
		for (size_t i = 0; i < BUCKETS; i++)
			table[i] = NULL;
	}
	free(pool);
	return sum;
}

/* --- A binary search tree of allocated nodes; amount: rounds of 16 K keys. --- */

#define NODES 16384

struct node {
	struct node *child[2];
	uint64_t key;
};

static void insert(struct node **at, uint64_t key)
{
	while (*at)
		at = &(*at)->child[key > (*at)->key];
	*at = must(calloc(1, sizeof(**at)));
	(*at)->key = key;
}

static uint64_t remove_all(struct node *n, unsigned depth)
{
	uint64_t sum;

	if (!n)
		return depth;
	sum = mix(remove_all(n->child[0], depth + 1), n->key);
	sum += remove_all(n->child[1], depth + 1);
	free(n);
	return sum;
}

static uint64_t tree(unsigned long amount, char **arguments)
{
	uint64_t seed = SEED, sum = 0;

	while (amount--) {
		struct node *root = NULL;
		uint64_t first = seed;

		for (size_t i = 0; i < NODES; i++)
			insert(&root, next_random(&seed));
		for (size_t i = 0; i < 2 * NODES; i++) {
			uint64_t key = i % 2 ? i : next_random(&first);
			const struct node *n = root;

			while (n && n->key != key)
				n = n->child[key > n->key];
			sum += n ? 3 : 1;
		}
		sum = mix(sum, remove_all(root, 0));
	}
	return sum;
}

/* --- An interpreter of byte code, which sums Collatz sequences; amount: their number. --- */

enum op { LOAD, ADD, SUB, MUL, SHR, ANDI, JZ, JNZ, JUMP, MOVE, HALT };

struct insn {
	uint8_t op, a, b, c;
	int32_t immediate;
};

/* Registers: 0 counts down, 1 is the number, 2 the sum of steps, 3 to 5 are scratch. */
static const struct insn collatz[] = {
	{ MOVE, 1, 0, 0, 0 }, /* 0: next sequence */
	{ LOAD, 4, 0, 0, 1 }, /* 1: next step */
	{ ADD, 2, 2, 4, 0 },  { ANDI, 3, 1, 0, 1 },  { JNZ, 3, 0, 0, 7 },
	{ SHR, 1, 1, 0, 1 },  { JUMP, 0, 0, 0, 10 }, { LOAD, 5, 0, 0, 3 }, /* 7: odd */
	{ MUL, 1, 1, 5, 0 },  { ADD, 1, 1, 4, 0 },   { SUB, 3, 1, 4, 0 },  /* 10: at one? */
	{ JNZ, 3, 0, 0, 1 },  { SUB, 0, 0, 4, 0 },   { LOAD, 4, 0, 0, 1 },
	{ SUB, 3, 0, 4, 0 },  { JNZ, 3, 0, 0, 0 },   { HALT, 0, 0, 0, 0 },
};

static __attribute__((noinline)) void execute(const struct insn *program, uint64_t *r)
{
	for (const struct insn *i = program;; i++) {
		switch ((enum op)i->op) {
		case LOAD:
			r[i->a] = i->immediate;
			break;
		case ADD:
			r[i->a] = r[i->b] + r[i->c];
			break;
		case SUB:
			r[i->a] = r[i->b] - r[i->c];
			break;
		case MUL:
			r[i->a] = r[i->b] * r[i->c];
			break;
		case SHR:
			r[i->a] = r[i->b] >> i->immediate;
			break;
		case ANDI:
			r[i->a] = r[i->b] & i->immediate;
			break;
		case JZ:
			if (!r[i->a])
				i = program + i->immediate - 1;
			break;
		case JNZ:
			if (r[i->a])
				i = program + i->immediate - 1;
			break;
		case JUMP:
			i = program + i->immediate - 1;
			break;
		case MOVE:
			r[i->a] = r[i->b];
			break;
		case HALT:
			return;
		}
	}
}

static uint64_t interpret(unsigned long amount, char **arguments)
{
	uint64_t r[8] = { amount };

	execute(collatz, r);
	return r[2];
}

/* --- Calls: Fibonacci numbers by the definition; amount: which one. --- */

static __attribute__((noinline)) uint64_t fibonacci(unsigned long n)
{
	return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static uint64_t fib(unsigned long amount, char **arguments)
{
	return fibonacci(amount);
}

/* --- Calls through pointers, chosen by data; amount: thousands of calls. --- */

static uint64_t rotate(uint64_t v)
{
	return v << 13 | v >> 51;
}

static uint64_t scale(uint64_t v)
{
	return v * 0x9e3779b97f4a7c15;
}

static uint64_t flip(uint64_t v)
{
	return ~v ^ v >> 9;
}

static uint64_t step(uint64_t v)
{
	return v + 0x1234567;
}

static uint64_t dispatch(unsigned long amount, char **arguments)
{
	static uint64_t (*volatile const routines[])(uint64_t) = { rotate, scale, flip, step };
	uint64_t value = SEED;

	for (unsigned long i = 0; i < 1000 * amount; i++)
		value = routines[value >> 33 & 3](value);
	return value;
}

/* --- Division and remainder: greatest common divisors; amount: thousands of them. --- */

static uint64_t divide(unsigned long amount, char **arguments)
{
	uint64_t seed = SEED, sum = 0;

	for (unsigned long i = 0; i < 1000 * amount; i++) {
		uint64_t a = next_random(&seed) >> 20, b = next_random(&seed) >> 30;

		while (b) {
			uint64_t rest = a % b;

			a = b;
			b = rest;
		}
		sum += a;
	}
	return sum;
}

/* --- Pointer chasing through 8 MiB, in one random cycle; amount: thousands of steps. --- */

#define LINES 131072

struct line {
	struct line *next;
	uint64_t value, fill[6];
};

static uint64_t chase(unsigned long amount, char **arguments)
{
	struct line *lines = must(calloc(LINES, sizeof(*lines)));
	const struct line *at = lines;
	uint64_t seed = SEED, sum = 0;

	for (size_t i = 0; i < LINES; i++)
		lines[i] = (struct line){ .next = &lines[i], .value = i };
	/* Sattolo's shuffle leaves a single cycle. */
	for (size_t i = LINES - 1; i; i--) {
		size_t j = next_random(&seed) % i;
		struct line *t = lines[i].next;

		lines[i].next = lines[j].next;
		lines[j].next = t;
	}
	for (unsigned long i = 0; i < 1000 * amount; i++, at = at->next)
		sum += at->value ^ i;
	free(lines);
	return sum;
}

const struct work integer_works[] = {
	{ "sort", sort },           { "hash", hash },   { "tree", tree },
	{ "interpret", interpret }, { "fib", fib },     { "dispatch", dispatch },
	{ "divide", divide },       { "chase", chase }, { NULL },
};

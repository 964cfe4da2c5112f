/*
 * data ROUNDS: data structures, strings, calls through pointers, deep recursion.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 257

static uint32_t random_state = 2463534242u;

static uint32_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state;
}

static uint32_t hash_bytes(const void *data, size_t size)
{
	const unsigned char *p = data;
	uint32_t hash = 2166136261u;

	while (size--)
		hash = (hash ^ *p++) * 16777619u;
	return hash;
}

/* Words and how often each was counted. */
struct entry {
	struct entry *next;
	unsigned count;
	char word[12];
};

static struct entry *bucket[BUCKETS];

static void count_word(const char *word)
{
	struct entry **e = &bucket[hash_bytes(word, strlen(word)) % BUCKETS];

	while (*e && strcmp((*e)->word, word))
		e = &(*e)->next;
	if (!*e) {
		*e = calloc(1, sizeof(**e));
		snprintf((*e)->word, sizeof((*e)->word), "%s", word);
	}
	(*e)->count++;
}

static int by_count(const void *a, const void *b)
{
	const struct entry *x = *(struct entry *const *)a, *y = *(struct entry *const *)b;

	if (x->count != y->count)
		return x->count < y->count ? 1 : -1;
	return strcmp(x->word, y->word);
}

static void print_words(unsigned words)
{
	struct entry *all[BUCKETS * 8];
	size_t n = 0;
	char word[12];

	for (unsigned i = 0; i < words; i++) {
		uint32_t letter = next_random() % 5;

		snprintf(word, sizeof(word), "%c%o", 'a' + (int)letter, next_random() % 100);
		count_word(word);
	}
	for (int i = 0; i < BUCKETS; i++)
		for (struct entry *e = bucket[i]; e && n < BUCKETS * 8; e = e->next)
			all[n++] = e;
	qsort(all, n, sizeof(all[0]), by_count);
	for (size_t i = 0; i < 5; i++)
		printf("%s %u; ", all[i]->word, all[i]->count);
	printf("%zu words\n", n);
}

/* A treap: a search tree by key and a heap by weight. */
struct node {
	struct node *left, *right;
	uint32_t key, weight;
};

static struct node *rotate(struct node *n, int right)
{
	struct node *up = right ? n->left : n->right;

	if (right) {
		n->left = up->right;
		up->right = n;
	} else {
		n->right = up->left;
		up->left = n;
	}
	return up;
}

static struct node *insert(struct node *n, uint32_t key)
{
	if (!n) {
		n = calloc(1, sizeof(*n));
		n->key = key;
		n->weight = next_random();
	} else if (key < n->key) {
		n->left = insert(n->left, key);
		if (n->left->weight > n->weight)
			n = rotate(n, 1);
	} else if (key > n->key) {
		n->right = insert(n->right, key);
		if (n->right->weight > n->weight)
			n = rotate(n, 0);
	}
	return n;
}

static uint32_t hash_tree(const struct node *n, uint32_t hash)
{
	if (!n)
		return hash;
	hash = hash_tree(n->left, hash) * 31 + n->key;
	return hash_tree(n->right, hash);
}

static int depth(const struct node *n)
{
	int left = n ? depth(n->left) : 0, right = n ? depth(n->right) : 0;

	return n ? 1 + (left > right ? left : right) : 0;
}

static void free_tree(struct node *n)
{
	if (n) {
		free_tree(n->left);
		free_tree(n->right);
		free(n);
	}
}

static void print_tree(unsigned nodes)
{
	struct node *root = NULL;

	for (unsigned i = 0; i < nodes; i++)
		root = insert(root, next_random() % (2 * nodes));
	printf("tree: %08x, depth %d\n", hash_tree(root, 1), depth(root));
	free_tree(root);
}

/* Expressions, by recursive descent. */
static const char *input;

static long sum(void);

static long factor(void)
{
	long value;

	if (*input == '(') {
		input++;
		value = sum();
		input++;
		return value;
	}
	if (*input == '-') {
		input++;
		return -factor();
	}
	for (value = 0; isdigit((unsigned char)*input); input++)
		value = value * 10 + *input - '0';
	return value;
}

static long product(void)
{
	long value = factor();

	while (*input == '*' || *input == '/') {
		char operation = *input++;
		long right = factor();

		value = operation == '*' ? value * right : value / (right ? right : 1);
	}
	return value;
}

static long sum(void)
{
	long value = product();

	while (*input == '+' || *input == '-') {
		char operation = *input++;
		long right = product();

		value = operation == '+' ? value + right : value - right;
	}
	return value;
}

static char *make_expression(char *p, int levels)
{
	if (!levels)
		return p + sprintf(p, "%u", next_random() % 1000);
	*p++ = '(';
	p = make_expression(p, levels - 1);
	*p++ = "+-*/"[next_random() % 4];
	p = make_expression(p, levels - 1);
	*p++ = ')';
	return p;
}

static void print_expressions(int count)
{
	char text[4096];
	long total = 0;

	for (int i = 0; i < count; i++) {
		*make_expression(text, 5) = 0;
		input = text;
		total = total * 7 + sum() % 1000003;
	}
	printf("expressions: %ld\n", total);
}

static int queens(int n, unsigned columns, unsigned left, unsigned right)
{
	unsigned free = ((1u << n) - 1) & ~(columns | left | right);
	int count = 0;

	if (columns == (1u << n) - 1)
		return 1;
	while (free) {
		unsigned bit = free & -free;

		free ^= bit;
		count += queens(n, columns | bit, (left | bit) << 1, (right | bit) >> 1);
	}
	return count;
}

/* Calls with many arguments of mixed kinds, through pointers. */
static double mixed(const char *kinds, ...)
{
	double total = 0;
	va_list args;

	va_start(args, kinds);
	for (; *kinds; kinds++)
		switch (*kinds) {
		case 'i':
			total = total * 3 + va_arg(args, int);
			break;
		case 'l':
			total = total * 3 + va_arg(args, long);
			break;
		case 'd':
			total = total * 3 + va_arg(args, double);
			break;
		default:
			total += strlen(va_arg(args, char *));
		}
	va_end(args);
	return total;
}

static long add(long a, long b)
{
	return a + b;
}
static long subtract(long a, long b)
{
	return a - b;
}
static long multiply(long a, long b)
{
	return a * b % 1000003;
}
static long exclusive(long a, long b)
{
	return a ^ b;
}

static void print_calls(int count)
{
	static long (*const call[])(long, long) = { add, subtract, multiply, exclusive };
	long value = 1;

	for (int i = 0; i < count; i++)
		value = call[next_random() % 4](value, (long)(next_random() % 1000));
	printf("calls: %ld %.17g\n", value,
	       mixed("idlsidlsdddddddddi", 1, 2.5, 3L, "four", 5, 6.5, 7L, "eight", 1.0, 2.0, 3.0,
	             4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10));
}

static void print_strings(int count)
{
	char text[256], copy[256];
	uint32_t hash = 0;

	for (int i = 0; i < count; i++) {
		uint32_t number = next_random();
		double d = (double)number / 1000 * (i + 1), back;
		int length = snprintf(text, sizeof(text), "%08x|%.17g|%+d|%s|%5.2e", number, d,
		                      i - count / 2, i % 2 ? "odd" : "even", d);

		back = strtod(strchr(text, '|') + 1, NULL);
		memmove(copy, text + 1, length);
		memset(copy + length - 1, '#', 3);
		hash = hash * 31 + hash_bytes(copy, length + 2) + (back == d) +
		       strspn(text, "0123");
	}
	printf("strings: %08x\n", hash);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1;

	for (int i = 1; i <= rounds; i++) {
		print_words(2000);
		print_tree(1500);
		print_expressions(40);
		printf("queens: %d\n", queens(7, 0, 0, 0));
		print_calls(5000);
		print_strings(300);
	}
	return 0;
}

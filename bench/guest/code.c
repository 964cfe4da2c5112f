/* Code that the program itself writes, as just-in-time compilers do. */
#include "bench.h"

#include <string.h>
#include <sys/mman.h>

typedef uint32_t routine_fn(uint32_t);

static uint8_t *code_pages(size_t size)
{
	void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC,
	                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		die("mmap");
	return pages;
}

/* mov %edi,%eax; then additions and exclusive ors of random numbers; ret. Returns the end. */
static uint8_t *write_routine(uint8_t *at, int operations, uint64_t *seed)
{
	*at++ = 0x89;
	*at++ = 0xf8;
	for (int i = 0; i < operations; i++) {
		uint32_t number = next_random(seed);

		*at++ = i % 2 ? 0x35 : 0x05;
		memcpy(at, &number, sizeof(number));
		at += sizeof(number);
	}
	*at++ = 0xc3;
	return at;
}

static uint32_t call(uint8_t *code, uint32_t value)
{
	routine_fn *routine;

	memcpy(&routine, &code, sizeof(routine));
	return routine(value);
}

/* --- One routine, changed and called again and again; amount: thousands of changes. --- */

static uint64_t modify(unsigned long amount, char **arguments)
{
	uint8_t *code = code_pages(4096);
	uint64_t seed = SEED;
	uint32_t sum = 0;

	write_routine(code, 4, &seed);
	for (unsigned long i = 0; i < 1000 * amount; i++) {
		uint32_t number = next_random(&seed);

		memcpy(code + 3, &number, sizeof(number));
		sum = call(code, sum) + call(code, i);
	}
	munmap(code, 4096);
	return sum;
}

/* --- New routines in fresh pages, each called 20 times; amount: batches of 128. --- */

#define BATCH 128
#define ROOM  512

static uint64_t generate(unsigned long amount, char **arguments)
{
	uint64_t seed = SEED;
	uint32_t sum = 0;

	while (amount--) {
		uint8_t *code = code_pages(BATCH * ROOM);

		for (int i = 0; i < BATCH; i++)
			write_routine(code + i * ROOM, 40, &seed);
		for (int i = 0; i < 20 * BATCH; i++)
			sum = call(code + i % BATCH * ROOM, sum);
		munmap(code, BATCH * ROOM);
	}
	return sum;
}

const struct work code_works[] = {
	{ "modify", modify },
	{ "generate", generate },
	{ NULL },
};

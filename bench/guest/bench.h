/*
 * The kernels of the benchmark suite: programs that do a fixed amount of work, the same on every
 * machine, and return a checksum of what they computed. main.c times them.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

/* Does amount units of the work, whatever its unit is, and returns a checksum. */
typedef uint64_t work_fn(unsigned long amount, char **arguments);

struct work {
	const char *name;
	work_fn *run;
};

/* Each file's works, ended by one without a name. */
extern const struct work integer_works[];
extern const struct work byte_works[];
extern const struct work float_works[];
extern const struct work system_works[];
extern const struct work process_works[];
extern const struct work thread_works[];
extern const struct work code_works[];

/* vector.c, compiled for the baseline and for AVX2. */
void saxpy_sse2(float *y, const float *x, float a, size_t n);
void saxpy_avx2(float *y, const float *x, float a, size_t n);

/* Runs a command and prints how long it took; returns its status. */
int time_command(const char *name, char **command);

double seconds_now(void);

/* Ends the program with a message about errno. */
_Noreturn void die(const char *what);

/* An xorshift generator: the same numbers everywhere. */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

#define SEED 88172645463325252ull

/* Adds a value to a checksum. */
static inline uint64_t mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value) * 1099511628211ull + (sum >> 29);
}

static inline void *must(void *memory)
{
	if (!memory)
		die("memory");
	return memory;
}

#endif

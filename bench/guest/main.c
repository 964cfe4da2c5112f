/*
 * kernels NAME AMOUNT [ARGUMENT]...   does one work and prints "NAME seconds checksum"
 * kernels time NAME COMMAND...        the same for a program, with its output before it
 */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct work *const lists[] = {
	integer_works, byte_works,   float_works, system_works,
	process_works, thread_works, code_works,
};

double seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

void die(const char *what)
{
	fprintf(stderr, "kernels: %s: %s\n", what, strerror(errno));
	exit(1);
}

static const struct work *find_work(const char *name)
{
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		for (const struct work *w = lists[i]; w->name; w++)
			if (!strcmp(w->name, name))
				return w;
	return NULL;
}

int main(int argc, char **argv)
{
	const struct work *work;
	double start, seconds;
	uint64_t sum;

	if (argc > 3 && !strcmp(argv[1], "time"))
		return time_command(argv[2], argv + 3);
	work = argc > 2 ? find_work(argv[1]) : NULL;
	if (!work) {
		fprintf(stderr,
		        "usage: kernels NAME AMOUNT [ARGUMENT]... | time NAME COMMAND...\n");
		return 2;
	}
	start = seconds_now();
	sum = work->run(strtoul(argv[2], NULL, 0), argv + 3);
	seconds = seconds_now() - start;
	printf("%s %.6f %016" PRIx64 "\n", work->name, seconds, sum);
	return 0;
}

/* Fork, exec, page faults. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t wait_for(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("fork");
	return status;
}

/* --- A child that ends at once; amount: children. --- */

static uint64_t forks(unsigned long amount, char **arguments)
{
	uint64_t sum = 0;

	for (unsigned long i = 0; i < amount; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(i & 63);
		sum = mix(sum, wait_for(pid));
	}
	return sum;
}

/* --- A child that becomes another program, the argument; amount: children. --- */

static uint64_t execs(unsigned long amount, char **arguments)
{
	uint64_t sum = 0;

	for (unsigned long i = 0; i < amount; i++) {
		pid_t pid = fork();

		if (!pid) {
			execl(arguments[0], arguments[0], (char *)NULL);
			_exit(127);
		}
		sum = mix(sum, wait_for(pid));
	}
	return sum;
}

/* --- Pages touched for the first time and given back; amount: rounds of 1024. --- */

#define PAGES 1024

static uint64_t faults(unsigned long amount, char **arguments)
{
	uint64_t sum = 0;

	while (amount--) {
		char *pages = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE,
		                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (pages == MAP_FAILED)
			die("mmap");
		/* Huge pages would make it a test of clearing memory. */
		madvise(pages, PAGES * 4096, MADV_NOHUGEPAGE);
		for (size_t i = 0; i < PAGES; i++)
			pages[i * 4096] = i;
		sum = mix(sum, pages[(amount % PAGES) * 4096]);
		munmap(pages, PAGES * 4096);
	}
	return sum;
}

/* --- A child that writes to 64 pages of its parent's memory; amount: children. --- */

#define SHARED 64

static uint64_t copies(unsigned long amount, char **arguments)
{
	volatile char *pages = must(aligned_alloc(4096, SHARED * 4096));
	uint64_t sum = 0;

	memset((char *)pages, 1, SHARED * 4096);
	for (unsigned long i = 0; i < amount; i++) {
		pid_t pid = fork();

		if (!pid) {
			for (size_t k = 0; k < SHARED; k++)
				pages[k * 4096] += i;
			_exit(pages[(i % SHARED) * 4096] & 63);
		}
		sum = mix(sum, wait_for(pid));
	}
	return sum;
}

const struct work process_works[] = {
	{ "fork", forks }, { "exec", execs }, { "fault", faults }, { "cow", copies }, { NULL },
};

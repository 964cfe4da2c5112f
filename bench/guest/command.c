/* Times a program that cannot time itself, from fork to exit. */
#include "bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Copies what the program printed, and returns a checksum of it. */
static uint64_t show_output(int file)
{
	uint64_t sum = SEED;
	char buffer[4096];
	ssize_t n;

	lseek(file, 0, SEEK_SET);
	while ((n = read(file, buffer, sizeof(buffer))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			sum = mix(sum, (unsigned char)buffer[i]);
		fwrite(buffer, 1, n, stdout);
	}
	return sum;
}

int time_command(const char *name, char **command)
{
	int status, file = memfd_create("output", 0);
	double start = seconds_now(), seconds;
	uint64_t sum;
	pid_t pid = fork();

	if (file < 0 || pid < 0)
		die(name);
	if (!pid) {
		dup2(file, STDOUT_FILENO);
		dup2(file, STDERR_FILENO);
		execvp(command[0], command);
		die(command[0]);
	}
	waitpid(pid, &status, 0);
	seconds = seconds_now() - start;
	sum = show_output(file);
	printf("%s %.6f %016" PRIx64 "\n", name, seconds, sum);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

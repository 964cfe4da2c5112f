/* System calls, pipes, signals. */
#include "bench.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- The cheapest system call; amount: thousands. --- */

static uint64_t getpids(unsigned long amount, char **arguments)
{
	long first = syscall(SYS_getpid);
	uint64_t same = 0;

	for (unsigned long i = 0; i < 1000 * amount; i++)
		same += syscall(SYS_getpid) == first;
	return same;
}

/* --- Files in memory, made, written, read and closed; amount: files. --- */

static uint64_t files(unsigned long amount, char **arguments)
{
	char block[512] = { 1, 2, 3 };
	struct stat info;
	uint64_t sum = 0;

	for (unsigned long i = 0; i < amount; i++) {
		int fd = memfd_create("bench", 0);

		if (fd < 0)
			die("memfd_create");
		for (int k = 0; k < 8; k++)
			sum += write(fd, block, sizeof(block));
		lseek(fd, 0, SEEK_SET);
		for (int k = 0; k < 8; k++)
			sum += read(fd, block, sizeof(block));
		fstat(fd, &info);
		sum += info.st_size + block[2];
		close(fd);
	}
	return sum;
}

/* --- A byte to another process and back, through pipes; amount: thousands of round trips. --- */

static _Noreturn void echo(int in, int out)
{
	uint8_t byte;

	while (read(in, &byte, 1) == 1) {
		byte = byte * 5 + 1;
		if (write(out, &byte, 1) != 1)
			_exit(1);
	}
	_exit(0);
}

static uint64_t pipes(unsigned long amount, char **arguments)
{
	int there[2], back[2];
	uint64_t sum = 0;
	uint8_t byte = 0;
	pid_t pid;

	if (pipe(there) || pipe(back))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		close(there[1]);
		echo(there[0], back[1]);
	}
	for (unsigned long i = 0; i < 1000 * amount; i++) {
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			die("pipe");
		sum = mix(sum, byte);
	}
	close(there[1]);
	waitpid(pid, NULL, 0);
	return sum;
}

/* --- A signal to oneself, with a handler; amount: thousands. --- */

static volatile uint64_t handled;

static void count_signal(int signal)
{
	handled += signal;
}

static uint64_t signals(unsigned long amount, char **arguments)
{
	struct sigaction action = { .sa_handler = count_signal };
	pid_t self = getpid();

	sigaction(SIGUSR1, &action, NULL);
	for (unsigned long i = 0; i < 1000 * amount; i++)
		kill(self, SIGUSR1);
	return handled;
}

const struct work system_works[] = {
	{ "getpid", getpids }, { "files", files }, { "pipe", pipes },
	{ "signal", signals }, { NULL },
};

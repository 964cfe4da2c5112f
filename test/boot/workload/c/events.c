/*
 * events ROUNDS: signals that instructions raise, jumps out of their handlers, threads, processes.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE    4096
#define THREADS 4

static sigjmp_buf back;
static volatile int last_code;
static unsigned char *page;
static volatile int zero;

static void jump_back(int number, siginfo_t *info, void *context)
{
	last_code = info->si_code;
	siglongjmp(back, number);
}

static void write_null(void)
{
	*(volatile int *)(uintptr_t)zero = 1;
}

static void write_read_only(void)
{
	page[1] = 2;
}

static void run_data(void)
{
	((void (*)(void))page)();
}

static void divide(void)
{
	last_code = 100 / zero;
}

static void undefined(void)
{
	asm volatile("ud2");
}

static void breakpoint(void)
{
	asm volatile("int3");
}

static void call_non_canonical(void)
{
	((void (*)(void))(0x8000000000000000u + zero))();
}

static void privileged(void)
{
	asm volatile("hlt");
}

static const struct {
	const char *name;
	void (*act)(void);
} acts[] = {
	{ "write to null", write_null },
	{ "write to read-only page", write_read_only },
	{ "run data", run_data },
	{ "divide by zero", divide },
	{ "undefined opcode", undefined },
	{ "breakpoint", breakpoint },
	{ "non-canonical", call_non_canonical },
	{ "privileged", privileged },
};

static void print_faults(int show)
{
	for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
		int number = sigsetjmp(back, 1);

		if (!number) {
			acts[i].act();
			printf("%s: no signal\n", acts[i].name);
		} else if (show) {
			printf("%s: signal %d, code %d\n", acts[i].name, number, last_code);
		}
	}
}

/* A fault that is repaired: the handler makes the page writable, and the store is done again. */
static void make_writable(int number, siginfo_t *info, void *context)
{
	mprotect(page, PAGE, PROT_READ | PROT_WRITE);
	last_code++;
}

static void repair(int rounds)
{
	struct sigaction action = { .sa_sigaction = make_writable, .sa_flags = SA_SIGINFO };
	struct sigaction before;

	sigaction(SIGSEGV, &action, &before);
	last_code = 0;
	for (int i = 0; i < rounds; i++) {
		mprotect(page, PAGE, PROT_READ);
		page[i % PAGE] += 3;
	}
	sigaction(SIGSEGV, &before, NULL);
	mprotect(page, PAGE, PROT_READ);
	printf("repaired: %d, %d\n", last_code, page[0]);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static int turn;
static long ticks;

/* The threads count one after the other. */
static void *count_in_turn(void *arg)
{
	int me = (int)(intptr_t)arg;

	for (int i = 0; i < 100; i++) {
		pthread_mutex_lock(&lock);
		while (turn != me)
			pthread_cond_wait(&turned, &lock);
		ticks = ticks * 5 % 1000003 + me;
		turn = (turn + 1) % THREADS;
		pthread_cond_broadcast(&turned);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void print_threads(void)
{
	pthread_t thread[THREADS];

	turn = 0;
	for (intptr_t i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, count_in_turn, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	printf("threads: %ld\n", ticks);
}

static void child(int in, int out)
{
	long value;

	while (read(in, &value, sizeof(value)) == sizeof(value)) {
		value = value * 3 + 1;
		if (write(out, &value, sizeof(value)) != sizeof(value))
			_exit(1);
	}
	_exit(7);
}

static void print_process(int rounds)
{
	int to[2], from[2], status;
	long value = 1;
	pid_t pid;

	fflush(stdout);
	if (pipe(to) || pipe(from) || (pid = fork()) < 0) {
		perror("process");
		exit(1);
	}
	if (!pid) {
		close(to[1]);
		child(to[0], from[1]);
	}
	close(to[0]);
	for (int i = 0; i < rounds; i++) {
		value %= 1000003;
		if (write(to[1], &value, sizeof(value)) != sizeof(value) ||
		    read(from[0], &value, sizeof(value)) != sizeof(value))
			printf("the pipe broke: %d\n", errno);
	}
	close(to[1]);
	waitpid(pid, &status, 0);
	close(from[0]);
	close(from[1]);
	printf("process: %ld, status %d\n", value, WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1;
	static const int numbers[] = { SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGBUS };
	struct sigaction action = { .sa_sigaction = jump_back, .sa_flags = SA_SIGINFO };

	page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaction(numbers[i], &action, NULL);
	for (int i = 0; i < rounds; i++) {
		for (int j = 0; j < 20; j++)
			print_faults(j == 0);
		repair(200);
		print_threads();
		print_process(100);
	}
	return 0;
}

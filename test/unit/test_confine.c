/* What a confined process can do, and how it ends when it does something else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/confine.h"

static const struct confine_limits limits = { .memory = 64 * MiB, .file = MiB, .cpu_seconds = 1 };

static int end_of(int (*act)(void))
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(confine_enter(&limits) ? 99 : act());
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void assert_signal(int (*act)(void), int sig)
{
	int status = end_of(act);

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), sig);
}

static void assert_status(int (*act)(void), int n)
{
	int status = end_of(act);

	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), n);
}

static int file;

static int work(void)
{
	char *buf = malloc(16 * MiB), got[5] = "";

	if (!buf)
		return 1;
	memset(buf, 1, 16 * MiB);
	free(buf);
	if (write(file, "text", 4) != 4 || pread(file, got, 4, 0) != 4 || strcmp(got, "text"))
		return 2;
	return 7;
}

static void allowed(void **state)
{
	file = memfd_create("file", MFD_CLOEXEC);
	assert_true(file >= 0);
	assert_status(work, 7);
	close(file);
}

static int open_file(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static int make_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static int start_process(void)
{
	return fork();
}

static int start_program(void)
{
	return execl("/bin/true", "true", NULL);
}

static int lift_limit(void)
{
	return confine_enter(&limits);
}

static void refused(void **state)
{
	static int (*const acts[])(void) = { open_file, make_socket, start_process, start_program,
		                             lift_limit };

	for (size_t i = 0; i < ARRAY_SIZE(acts); i++)
		assert_signal(acts[i], SIGSYS);
}

static int take_memory(void)
{
	return malloc(128 * MiB) ? 1 : 7;
}

static int write_long(void)
{
	static char buf[64 * KiB];

	for (int i = 0; i < 16; i++)
		if (write(file, buf, sizeof(buf)) != sizeof(buf))
			return 1;
	return write(file, buf, 1) == 1 ? 2 : 3;
}

static int loop(void)
{
	for (volatile unsigned n = 0;; n++)
		;
	return 0;
}

static void limited(void **state)
{
	assert_status(take_memory, 7);
	file = memfd_create("file", MFD_CLOEXEC);
	assert_signal(write_long, SIGXFSZ);
	close(file);
	assert_signal(loop, SIGXCPU);
}

static void *open_later(void *opaque)
{
	pthread_barrier_wait(opaque); /* all of it has been started */
	pthread_barrier_wait(opaque);
	open_file();
	return NULL;
}

/* The thread was there before. */
static void threads(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		pthread_barrier_t barrier;
		pthread_t thread;

		pthread_barrier_init(&barrier, NULL, 2);
		if (pthread_create(&thread, NULL, open_later, &barrier))
			_exit(98);
		pthread_barrier_wait(&barrier);
		if (confine_enter(&limits))
			_exit(99);
		pthread_barrier_wait(&barrier);
		pthread_join(thread, NULL);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSYS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(allowed),
		cmocka_unit_test(refused),
		cmocka_unit_test(limited),
		cmocka_unit_test(threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

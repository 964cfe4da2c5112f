#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "unit.h"
#include "base/base.h"
#include "base/resident.h"

/* Runs with stderr in a pipe; returns what was written. */
static size_t capture(void (*fn)(void), char *buf, size_t size)
{
	int fds[2], saved = dup(STDERR_FILENO);
	ssize_t n;

	assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
	dup2(fds[1], STDERR_FILENO);
	fn();
	dup2(saved, STDERR_FILENO);
	n = read(fds[0], buf, size - 1);
	close(fds[0]);
	close(fds[1]);
	close(saved);
	n = n < 0 ? 0 : n;
	buf[n] = '\0';
	return (size_t)n;
}

static void say_two(void)
{
	log_warn("disk %d of %s", 3, "vm");
	log_info("quiet");
}

static void say_long(void)
{
	log_error("%0*d", 5000, 7);
}

static void log_writes_lines(void **state)
{
	char buf[4096];

	capture(say_two, buf, sizeof(buf));
	assert_string_equal(buf, "trapeze: disk 3 of vm\n");
	log_set_level(LOG_DEBUG);
	capture(say_two, buf, sizeof(buf));
	assert_string_equal(buf, "trapeze: disk 3 of vm\ntrapeze: quiet\n");
	log_set_level(LOG_WARN);
}

static void log_cuts_long_lines(void **state)
{
	char buf[8192];
	size_t n = capture(say_long, buf, sizeof(buf));

	assert_in_range(n, 100, 1024);
	assert_ptr_equal(strchr(buf, '\n'), buf + n - 1);
}

static void clocks_move_forward(void **state)
{
	uint64_t a = clock_ns(), b = clock_ns();

	assert_true(b >= a && a > 0);
	assert_true(clock_utc_ns() > 1600000000ull * 1000000000ull);
}

/* Counter ticks a second over 20 ms; wrong by the time that a busy host keeps us waiting in
 * between. */
static double measured_hz(void)
{
	uint64_t t0 = clock_tsc(), n0 = clock_ns(), t1, n1;

	usleep(20000);
	t1 = clock_tsc();
	n1 = clock_ns();
	return (double)(t1 - t0) * 1e9 / (double)(n1 - n0);
}

static void tsc_frequency_matches_the_clock(void **state)
{
	double hz = (double)clock_tsc_hz(), seen = 0;

	assert_true(hz > 1e8);
	for (unsigned tries = 0; tries < 20; tries++) {
		seen = measured_hz();
		if (seen > 0.999 * hz && seen < 1.001 * hz)
			return;
	}
	fail_msg("told %.0f Hz, measured %.0f Hz", hz, seen);
}

static uint8_t *map_of(int fd, size_t size)
{
	uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_true(p != MAP_FAILED);
	memset(p, 1, size);
	return p;
}

/* Room for what else the process comes to use meanwhile, a sanitizer's shadow for one. */
static void resident_pages_count_once(void **state)
{
	const size_t size = 64 * MiB, slack = 24 * MiB;
	int fd = memfd_create("twice", 0), other = memfd_create("once", 0);
	uint64_t before = resident_bytes(), once, twice;
	uint8_t *one, *two, *three;

#ifdef __SANITIZE_THREAD__
	skip(); /* its shadow of what is touched is larger than that */
#endif
	assert_true(before > 0 && !ftruncate(fd, (off_t)size) && !ftruncate(other, (off_t)size));
	one = map_of(fd, size);
	once = resident_bytes();
	two = map_of(fd, size);
	three = map_of(other, size);
	twice = resident_bytes();
	assert_in_range(once, before + size - slack, before + size + slack);
	assert_in_range(twice, once + size - slack, once + size + slack);
	munmap(one, size);
	munmap(two, size);
	munmap(three, size);
	close(fd);
	close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(log_writes_lines),
		cmocka_unit_test(log_cuts_long_lines),
		cmocka_unit_test(resident_pages_count_once),
		cmocka_unit_test(clocks_move_forward),
		cmocka_unit_test(tsc_frequency_matches_the_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

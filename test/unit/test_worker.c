/* A worker's thread: woken before and after it has a bell, by both at once, and its end. */
#include "unit.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "base/worker.h"

struct job {
	struct worker worker;
	_Atomic unsigned runs;
	_Atomic uint64_t rings;
};

static void run(void *opaque)
{
	struct job *j = opaque;

	j->rings += worker_take_rings(&j->worker);
	j->runs++;
}

static void begin(struct job *j)
{
	memset(j, 0, sizeof(*j));
	assert_int_equal(worker_start(&j->worker, "test", run, j), 0);
}

static void wake(struct job *j)
{
	unsigned before = j->runs;

	worker_wake(&j->worker);
	while (j->runs == before)
		sched_yield();
}

static void ring(int bell)
{
	const uint64_t one = 1;

	assert_int_equal(write(bell, &one, sizeof(one)), sizeof(one));
}

static void wait_for_rings(struct job *j, uint64_t n)
{
	while (j->rings < n)
		sched_yield();
	assert_int_equal(j->rings, n);
}

static bool is_sleeping(struct job *j)
{
	bool sleeping;

	pthread_mutex_lock(&j->worker.lock);
	sleeping = j->worker.sleeping && !j->worker.pending;
	pthread_mutex_unlock(&j->worker.lock);
	return sleeping;
}

static void a_wake_is_a_run(void **state)
{
	struct job j;

	begin(&j);
	for (unsigned n = 0; n < 1000; n++)
		wake(&j);
	assert_int_equal(j.runs, 1000);
	worker_end(&j.worker);
	worker_end(&j.worker);
}

/* Asked for while the thread sleeps without it. */
static void the_bell_wakes_too(void **state)
{
	struct job j;
	int bell;

	begin(&j);
	wake(&j);
	while (!is_sleeping(&j))
		sched_yield();
	bell = worker_bell(&j.worker);
	assert_true(bell >= 0);
	assert_int_equal(worker_bell(&j.worker), bell);
	for (unsigned n = 1; n <= 1000; n++) {
		ring(bell);
		wait_for_rings(&j, n);
	}
	wake(&j);
	worker_end(&j.worker);
	assert_int_equal(j.rings, 1000);
	assert_true(j.runs >= 1002);
}

/* However wakes and rings meet, each ring is counted once. */
static void rings_are_not_wakes(void **state)
{
	struct job j;
	int bell;

	begin(&j);
	bell = worker_bell(&j.worker);
	for (unsigned n = 0; n < 20000; n++) {
		worker_wake(&j.worker);
		ring(bell);
		if (n % 3)
			worker_wake(&j.worker);
	}
	wait_for_rings(&j, 20000);
	worker_end(&j.worker);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_wake_is_a_run),
		cmocka_unit_test(the_bell_wakes_too),
		cmocka_unit_test(rings_are_not_wakes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

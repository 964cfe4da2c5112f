/* Threads: locks, wake-ups, creation. */
#include "bench.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS 4

static void start_thread(pthread_t *thread, void *(*body)(void *), void *argument)
{
	if (pthread_create(thread, NULL, body, argument))
		die("pthread_create");
}

/* --- Four threads, one lock; amount: thousands of times that each takes it. --- */

struct counter {
	pthread_mutex_t lock;
	uint64_t value;
	unsigned long rounds;
};

static void *count_up(void *argument)
{
	struct counter *c = argument;

	for (unsigned long i = 0; i < c->rounds; i++) {
		pthread_mutex_lock(&c->lock);
		c->value += i;
		pthread_mutex_unlock(&c->lock);
	}
	return NULL;
}

static uint64_t mutex(unsigned long amount, char **arguments)
{
	struct counter counter = { .lock = PTHREAD_MUTEX_INITIALIZER, .rounds = 1000 * amount };
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		start_thread(&threads[i], count_up, &counter);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	return counter.value;
}

/* --- Two threads that take turns, asleep in between; amount: thousands of turns. --- */

struct turns {
	_Atomic uint32_t turn;
	uint32_t last;
};

static void futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
	syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Takes each second turn, from the given one on. */
static void take_turns(struct turns *t, uint32_t mine)
{
	for (; mine < t->last; mine += 2) {
		uint32_t now;

		while ((now = atomic_load(&t->turn)) != mine)
			futex(&t->turn, FUTEX_WAIT, now);
		atomic_store(&t->turn, mine + 1);
		futex(&t->turn, FUTEX_WAKE, INT_MAX);
	}
}

static void *odd_turns(void *argument)
{
	take_turns(argument, 1);
	return NULL;
}

static uint64_t turns(unsigned long amount, char **arguments)
{
	struct turns t = { .last = 1000 * amount };
	pthread_t other;

	start_thread(&other, odd_turns, &t);
	take_turns(&t, 0);
	pthread_join(other, NULL);
	return t.turn;
}

/* --- Threads that end at once; amount: threads. --- */

static void *add_one(void *argument)
{
	++*(uint64_t *)argument;
	return NULL;
}

static uint64_t creations(unsigned long amount, char **arguments)
{
	uint64_t sum = 0;

	while (amount--) {
		pthread_t thread;

		start_thread(&thread, add_one, &sum);
		pthread_join(thread, NULL);
	}
	return sum;
}

/* --- Atomic operations without contention; amount: thousands of rounds. --- */

static uint64_t atomics(unsigned long amount, char **arguments)
{
	_Atomic uint64_t value = SEED, count = 0;

	for (unsigned long i = 0; i < 1000 * amount; i++) {
		uint64_t seen = atomic_fetch_add(&count, 3);

		atomic_compare_exchange_strong(&value, &seen, i);
		atomic_fetch_xor(&value, i);
	}
	return mix(atomic_load(&value), atomic_load(&count));
}

const struct work thread_works[] = {
	{ "mutex", mutex },    { "futex", turns }, { "thread", creations },
	{ "atomic", atomics }, { NULL },
};

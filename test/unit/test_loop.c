/* The event loop: order of timers, cancelling and rearming, use from several threads, descriptors.
 */
#include "base/loop.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <cmocka.h>

#define MSEC 1000000ull

struct fixture {
	struct loop *loop;
	pthread_mutex_t lock;
	int order[256];
	int fired;
};

struct probe {
	struct fixture *f;
	struct timer timer;
	int id;
	uint64_t again_ns; /* rearm from the callback, this much later */
	int times;
};

static void probe_fire(void *opaque)
{
	struct probe *p = opaque;

	pthread_mutex_lock(&p->f->lock);
	if (p->f->fired < (int)ARRAY_SIZE(p->f->order))
		p->f->order[p->f->fired] = p->id;
	p->f->fired++;
	pthread_mutex_unlock(&p->f->lock);
	if (p->times-- > 1)
		timer_arm(&p->timer, clock_ns() + p->again_ns);
}

static void probe_init(struct probe *p, struct fixture *f, int id)
{
	*p = (struct probe){ .f = f, .id = id };
	timer_init(&p->timer, f->loop, probe_fire, p);
}

static int fired(struct fixture *f)
{
	int n;

	pthread_mutex_lock(&f->lock);
	n = f->fired;
	pthread_mutex_unlock(&f->lock);
	return n;
}

static bool wait_fired(struct fixture *f, int n)
{
	for (int i = 0; i < 5000; i++) {
		if (fired(f) >= n)
			return true;
		usleep(1000);
	}
	return false;
}

static int setup(void **state)
{
	static struct fixture f;

	f = (struct fixture){ .lock = PTHREAD_MUTEX_INITIALIZER };
	*state = &f;
	return loop_new(&f.loop);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	loop_free(f->loop);
	return 0;
}

static void test_order(void **state)
{
	struct fixture *f = *state;
	uint64_t now = clock_ns();
	struct probe p[100];

	/* Deadlines in a scrambled order, a few cancelled and rearmed, before the loop runs. */
	for (int i = 0; i < 100; i++) {
		probe_init(&p[i], f, i);
		timer_arm(&p[i].timer, now + 50 * MSEC);
	}
	for (int i = 0; i < 100; i++) {
		int j = i * 37 % 100;

		timer_arm(&p[j].timer, now + (uint64_t)(j + 1) * 1000);
	}
	for (int i = 0; i < 100; i += 10) {
		timer_cancel(&p[i].timer);
		assert_int_equal(p[i].timer.deadline_ns, 0);
	}
	assert_int_equal(loop_start(f->loop), 0);
	assert_true(wait_fired(f, 90));
	for (int i = 0, expect = 0; i < 90; i++, expect++) {
		if (expect % 10 == 0)
			expect++;
		assert_int_equal(f->order[i], expect);
	}
	for (int i = 0; i < 100; i++)
		timer_fini(&p[i].timer);
}

static void test_deadline(void **state)
{
	struct fixture *f = *state;
	uint64_t start;
	struct probe p;

	probe_init(&p, f, 0);
	assert_int_equal(loop_start(f->loop), 0);
	start = clock_ns();
	timer_arm(&p.timer, start + 20 * MSEC);
	assert_true(wait_fired(f, 1));
	assert_true(clock_ns() >= start + 20 * MSEC);
	timer_arm(&p.timer, 0); /* the past fires at once */
	assert_true(wait_fired(f, 2));
	timer_arm(&p.timer, UINT64_MAX); /* the end of time does not */
	usleep(5000);
	assert_int_equal(fired(f), 2);
	timer_arm(&p.timer, clock_ns() + MSEC); /* an earlier deadline replaces a later one */
	assert_true(wait_fired(f, 3));
	timer_fini(&p.timer);
}

static void test_cancel(void **state)
{
	struct fixture *f = *state;
	struct probe early, late;

	probe_init(&early, f, 1);
	probe_init(&late, f, 2);
	assert_int_equal(loop_start(f->loop), 0);
	timer_arm(&early.timer, clock_ns() + 200 * MSEC);
	timer_arm(&late.timer, clock_ns() + 210 * MSEC);
	timer_cancel(&early.timer);
	timer_cancel(&early.timer);
	assert_true(wait_fired(f, 1));
	assert_int_equal(f->order[0], 2);
	usleep(10000);
	assert_int_equal(fired(f), 1);
	timer_fini(&early.timer);
	timer_fini(&late.timer);
	timer_fini(&late.timer);
}

static void test_rearm(void **state)
{
	struct fixture *f = *state;
	struct probe p;

	probe_init(&p, f, 0);
	p.times = 20;
	p.again_ns = MSEC / 10;
	assert_int_equal(loop_start(f->loop), 0);
	timer_arm(&p.timer, 1);
	assert_true(wait_fired(f, 20));
	timer_fini(&p.timer);
	assert_int_equal(fired(f), 20);
}

static void *hammer(void *opaque)
{
	struct fixture *f = opaque;
	struct probe p;

	probe_init(&p, f, 0);
	for (int i = 0; i < 2000; i++) {
		timer_arm(&p.timer, clock_ns() + (uint64_t)(i % 7) * 10000);
		if (i % 3 == 0)
			timer_cancel(&p.timer);
	}
	timer_arm(&p.timer, 1);
	timer_fini(&p.timer); /* p is on this stack: its callback must be over */
	return NULL;
}

static void test_threads(void **state)
{
	struct fixture *f = *state;
	pthread_t thread[4];

	assert_int_equal(loop_start(f->loop), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, hammer, f), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	assert_in_range(fired(f), 0, 4 * 2001);
}

struct pipe_end {
	int fd;
	atomic_int bytes;
};

static void pipe_readable(void *opaque, uint32_t events)
{
	struct pipe_end *p = opaque;
	char c;

	if ((events & EPOLLIN) && read(p->fd, &c, 1) == 1)
		atomic_fetch_add(&p->bytes, 1);
}

static bool wait_bytes(struct pipe_end *p, int n)
{
	for (int i = 0; i < 5000; i++) {
		if (atomic_load(&p->bytes) >= n)
			return true;
		usleep(1000);
	}
	return false;
}

static void test_fds(void **state)
{
	struct fixture *f = *state;
	struct pipe_end p = { 0 };
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	p.fd = fd[0];
	assert_int_equal(loop_start(f->loop), 0);
	assert_int_equal(loop_add_fd(f->loop, fd[0], EPOLLIN, pipe_readable, &p), 0);
	assert_true(loop_add_fd(f->loop, fd[0], EPOLLIN, pipe_readable, &p) < 0);
	assert_true(loop_add_fd(f->loop, -1, EPOLLIN, pipe_readable, &p) < 0);
	assert_int_equal(write(fd[1], "ab", 2), 2);
	assert_true(wait_bytes(&p, 2));

	assert_int_equal(loop_mod_fd(f->loop, fd[0], 0), 0);
	assert_int_equal(write(fd[1], "c", 1), 1);
	usleep(5000);
	assert_int_equal(atomic_load(&p.bytes), 2);
	assert_int_equal(loop_mod_fd(f->loop, fd[0], EPOLLIN), 0);
	assert_true(wait_bytes(&p, 3));

	loop_del_fd(f->loop, fd[0]);
	assert_int_equal(write(fd[1], "d", 1), 1);
	usleep(5000);
	assert_int_equal(atomic_load(&p.bytes), 3);
	assert_true(loop_mod_fd(f->loop, fd[0], EPOLLIN) < 0);
	assert_int_equal(loop_add_fd(f->loop, fd[0], EPOLLIN, pipe_readable, &p), 0);
	assert_true(wait_bytes(&p, 4));
	loop_del_fd(f->loop, fd[0]);
	close(fd[0]);
	close(fd[1]);
}

static void test_nothing(void **state)
{
	loop_free(NULL);
	timer_fini(&(struct timer){ 0 });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deadline, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rearm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

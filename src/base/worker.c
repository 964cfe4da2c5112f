#include "base/worker.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"

/* What worker_wake() adds to the bell, so that others' rings can be told from it. */
#define WAKE BIT(32)

/* Until the bell rings; true when somebody else than worker_wake() did it. */
static bool listen_locked(struct worker *w)
{
	uint64_t count = 0;

	pthread_mutex_unlock(&w->lock);
	if (read(w->bell, &count, sizeof(count)) < 0)
		count = 0;
	pthread_mutex_lock(&w->lock);
	w->rings += count & (WAKE - 1);
	return count & (WAKE - 1);
}

static void sleep_locked(struct worker *w)
{
	w->sleeping = true;
	if (w->bell < 0)
		pthread_cond_wait(&w->cond, &w->lock);
	else if (listen_locked(w))
		w->pending = true;
	w->sleeping = false;
}

static void rouse_locked(struct worker *w)
{
	uint64_t wake = WAKE;

	if (!w->sleeping)
		return;
	/* It may have begun to sleep before there was a bell, or not have noticed yet that it was
	 * woken: one wake too many does no harm. */
	pthread_cond_signal(&w->cond);
	if (w->bell >= 0 && write(w->bell, &wake, sizeof(wake)) < 0)
		log_error("waking a thread: %s", strerror(errno));
}

static void *worker_main(void *opaque)
{
	struct worker *w = opaque;

	pthread_mutex_lock(&w->lock);
	while (!w->ending) {
		if (!w->pending) {
			sleep_locked(w);
			continue;
		}
		w->pending = false;
		pthread_mutex_unlock(&w->lock);
		w->run(w->opaque);
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int worker_start(struct worker *w, const char *name, void (*run)(void *opaque), void *opaque)
{
	int rc;

	*w = (struct worker){ .run = run, .opaque = opaque, .bell = -1 };
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	rc = thread_start(&w->thread, name, worker_main, w);
	w->started = !rc;
	return rc;
}

void worker_wake(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->pending = true;
	rouse_locked(w);
	pthread_mutex_unlock(&w->lock);
}

int worker_bell(struct worker *w)
{
	int fd;

	pthread_mutex_lock(&w->lock);
	if (w->bell < 0) {
		fd = eventfd(0, EFD_CLOEXEC);
		w->bell = fd < 0 ? -errno : fd;
		rouse_locked(w); /* to sleep on it instead */
	}
	fd = w->bell;
	pthread_mutex_unlock(&w->lock);
	return fd;
}

uint64_t worker_take_rings(struct worker *w)
{
	uint64_t rings = w->rings;

	w->rings = 0;
	return rings;
}

void worker_end(struct worker *w)
{
	if (!w->started)
		return;
	pthread_mutex_lock(&w->lock);
	w->ending = true;
	rouse_locked(w);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	w->started = false;
	if (w->bell >= 0)
		close(w->bell);
	pthread_cond_destroy(&w->cond);
	pthread_mutex_destroy(&w->lock);
}

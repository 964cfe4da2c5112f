#include "base/worker.h"

#include <signal.h>

static void *worker_main(void *opaque)
{
	struct worker *w = opaque;

	pthread_mutex_lock(&w->lock);
	while (!w->ending) {
		if (!w->pending) {
			w->sleeping = true;
			pthread_cond_wait(&w->cond, &w->lock);
			w->sleeping = false;
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

/* Signals stay with the threads that asked for them. */
static int make_thread(pthread_t *thread, const char *name, void *(*main)(void *), void *opaque)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(thread, NULL, main, opaque);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!rc)
		pthread_setname_np(*thread, name);
	return rc;
}

int worker_start(struct worker *w, const char *name, void (*run)(void *opaque), void *opaque)
{
	int rc;

	*w = (struct worker){ .run = run, .opaque = opaque };
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	rc = make_thread(&w->thread, name, worker_main, w);
	w->started = !rc;
	return rc;
}

void worker_wake(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->pending = true;
	if (w->sleeping)
		pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

void worker_end(struct worker *w)
{
	if (!w->started)
		return;
	pthread_mutex_lock(&w->lock);
	w->ending = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	w->started = false;
	pthread_cond_destroy(&w->cond);
	pthread_mutex_destroy(&w->lock);
}

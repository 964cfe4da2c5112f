#include "base/worker.h"

#include "base/thread.h"

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

int worker_start(struct worker *w, const char *name, void (*run)(void *opaque), void *opaque)
{
	int rc;

	*w = (struct worker){ .run = run, .opaque = opaque };
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

#include "base/thread.h"

#include <signal.h>

int thread_start(pthread_t *out, const char *name, void *(*main)(void *opaque), void *opaque)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(out, NULL, main, opaque);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!rc)
		pthread_setname_np(*out, name);
	return rc;
}

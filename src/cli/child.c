#include "cli/child.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

static int spawn(pid_t *pid, const char *const argv[], int from, int pipe_end, int third)
{
	posix_spawn_file_actions_t actions;
	int rc = posix_spawn_file_actions_init(&actions);

	if (rc)
		return -rc;
	rc = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	/* Its standard output is not ours, which may be somebody's data. */
	if (!rc && from != 1)
		rc = posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	if (!rc)
		rc = posix_spawn_file_actions_adddup2(&actions, pipe_end, from);
	if (!rc && third >= 0)
		rc = posix_spawn_file_actions_adddup2(&actions, third, 3);
	if (!rc)
		rc = posix_spawnp(pid, argv[0], &actions, NULL, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return -rc;
}

/* dup2() onto 3 must not hit what is to be copied next. */
static int make_pipe(int fd[2])
{
	int high;

	if (pipe2(fd, O_CLOEXEC))
		return -errno;
	high = fcntl(fd[1], F_DUPFD_CLOEXEC, 4);
	close(fd[1]);
	fd[1] = high;
	if (high >= 0)
		return 0;
	close(fd[0]);
	return -EMFILE;
}

int child_start(struct child *c, const char *const argv[], int from, int third)
{
	int fd[2];
	int rc = make_pipe(fd);

	if (rc)
		return rc;
	rc = spawn(&c->pid, argv, from, fd[1], third);
	close(fd[1]);
	c->out = rc ? NULL : fdopen(fd[0], "r");
	if (!c->out)
		close(fd[0]);
	if (rc || c->out)
		return rc;
	waitpid(c->pid, NULL, 0); /* its pipe is gone, and so it will be */
	return -ENOMEM;
}

int child_end(struct child *c)
{
	int status;

	fclose(c->out);
	c->out = NULL;
	while (waitpid(c->pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

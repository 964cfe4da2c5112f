#include "base/unix_socket.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int make_address(struct sockaddr_un *addr, const char *path)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(addr->sun_path))
		return -ENAMETOOLONG;
	strcpy(addr->sun_path, path);
	return 0;
}

static int connect_to(const struct sockaddr_un *addr, int type)
{
	int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), rc;

	if (fd < 0)
		return -errno;
	if (!connect(fd, (const struct sockaddr *)addr, sizeof(*addr)))
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

/* 0 when the address is free now, or -errno. */
static int clear_stale(const struct sockaddr_un *addr, int type)
{
	struct stat st;
	int fd;

	if (lstat(addr->sun_path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = connect_to(addr, type);
	if (fd >= 0)
		close(fd);
	/* EPROTOTYPE: somebody listens, for another type of socket. */
	if (fd >= 0 || fd == -EAGAIN || fd == -EPROTOTYPE)
		return -EADDRINUSE;
	if (fd != -ECONNREFUSED)
		return fd;
	return unlink(addr->sun_path) ? -errno : 0;
}

int unix_socket_listen(const char *path, int type, int backlog)
{
	struct sockaddr_un addr;
	int rc = make_address(&addr, path), fd;

	if (!rc)
		rc = clear_stale(&addr, type);
	if (rc)
		return rc;
	fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr))) {
		rc = -errno;
	} else if (listen(fd, backlog)) {
		rc = -errno;
		unlink(path);
	}
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

int unix_socket_connect(const char *path, int type)
{
	struct sockaddr_un addr;
	int rc = make_address(&addr, path);

	return rc ? rc : connect_to(&addr, type);
}

void unix_socket_explain(const char *path, int rc, char *err, size_t errlen)
{
	struct sockaddr_un addr;

	if (rc == -EADDRINUSE)
		snprintf(err, errlen, "%s: another process listens on it", path);
	else if (rc == -EEXIST)
		snprintf(err, errlen, "%s: exists and is not a socket", path);
	else if (rc == -ENAMETOOLONG)
		snprintf(err, errlen, "%s: path has %zu bytes, a socket's may have %zu", path,
		         strlen(path), sizeof(addr.sun_path) - 1);
	else
		snprintf(err, errlen, "%s: %s", path, strerror(-rc));
}

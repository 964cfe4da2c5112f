/*
 * Unix sockets by path: what everything that listens on one has to get right once.
 */
#pragma once

#include "base/base.h"

/*
 * Listens on path. A socket there that nobody listens on is left from a process that was killed,
 * and goes; anything else stays. type: SOCK_STREAM or SOCK_SEQPACKET. A descriptor, non-blocking,
 * whose owner unlinks the path in the end; or -errno: -EADDRINUSE when another process listens on
 * it, -EEXIST when it is no socket, -ENAMETOOLONG.
 */
int unix_socket_listen(const char *path, int type, int backlog);
/* A connected descriptor, non-blocking, or -errno. */
int unix_socket_connect(const char *path, int type);
/* What an error of these means, "PATH: another process listens on it". */
void unix_socket_explain(const char *path, int rc, char *err, size_t errlen);

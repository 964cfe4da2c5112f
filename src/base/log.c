/*
 * Messages to stderr. A line is formatted in a buffer and leaves with a single write(2), so lines
 * of several threads never mix and no lock is held while a slow terminal takes its time.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

#define LINE_MAX_BYTES 1024

static atomic_int max_level = LOG_WARN;

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

/* Best effort: with stderr closed or full there is nobody left to tell. */
static void write_line(const char *buf, size_t n)
{
	ssize_t rc;

	do {
		rc = write(STDERR_FILENO, buf, n);
	} while (rc < 0 && errno == EINTR);
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	static const char prefix[] = "trapeze: ";
	char line[LINE_MAX_BYTES];
	const size_t start = sizeof(prefix) - 1;
	const size_t room = sizeof(line) - start - 1; /* one byte stays free for the newline */
	int saved_errno = errno;
	va_list ap;
	size_t len;
	int n;

	if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
		return;
	memcpy(line, prefix, start);
	va_start(ap, fmt);
	n = vsnprintf(line + start, room, fmt, ap);
	va_end(ap);
	if (n >= 0) {
		len = start + ((size_t)n < room ? (size_t)n : room - 1);
		line[len++] = '\n';
		write_line(line, len);
	}
	errno = saved_errno;
}

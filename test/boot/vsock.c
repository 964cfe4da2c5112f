/*
 * A program for both ends of a vsock: in the guest it listens or connects, and echoes, sends or counts.
 *
 *   vsock listen PORT   takes one connection and sends back what comes, until the end
 *   vsock send PORT N   connects to the host, sends N bytes of a pattern, reads them back, compares
 *   vsock refuse PORT   connects to the host, and says what it was told
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

static uint8_t buf[65536];

static int fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	return 1;
}

static int echo(int fd)
{
	unsigned long long sum = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (ssize_t at = 0, out; at < n; at += out) {
			out = write(fd, buf + at, (size_t)(n - at));
			if (out < 0)
				return fail("write");
		}
		sum += (unsigned long long)n;
	}
	printf("echoed %llu\n", sum);
	return n < 0 ? fail("read") : 0;
}

static int do_listen(unsigned port)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0), peer;

	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1))
		return fail("listen");
	printf("listening\n");
	fflush(stdout);
	peer = accept(fd, NULL, NULL);
	return peer < 0 ? fail("accept") : echo(peer);
}

static uint8_t pattern(unsigned long long i)
{
	return (uint8_t)(i * 131 + (i >> 8) * 7 + (i >> 16));
}

/* Sends in a child, for both directions to be full at once. */
static int exchange(int fd, unsigned long long total)
{
	unsigned long long done = 0;
	ssize_t n;

	if (fork() == 0) {
		while (done < total) {
			size_t len = total - done < sizeof(buf) ? (size_t)(total - done) : sizeof(buf);

			for (size_t i = 0; i < len; i++)
				buf[i] = pattern(done + i);
			n = write(fd, buf, len);
			if (n <= 0)
				_exit(1);
			done += (unsigned long long)n;
		}
		shutdown(fd, SHUT_WR);
		_exit(0);
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++)
			if (buf[i] != pattern(done++)) {
				printf("wrong at %llu\n", done - 1);
				return 1;
			}
	printf("got %llu of %llu\n", done, total);
	return done != total;
}

static int do_connect(unsigned port, const char *total)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fail("connect");
	return total ? exchange(fd, strtoull(total, NULL, 10)) : 0;
}

int main(int argc, char **argv)
{
	unsigned port = argc > 2 ? (unsigned)atoi(argv[2]) : 0;

	if (argc == 3 && !strcmp(argv[1], "listen"))
		return do_listen(port);
	if (argc == 4 && !strcmp(argv[1], "send"))
		return do_connect(port, argv[3]);
	if (argc == 3 && !strcmp(argv[1], "refuse"))
		return do_connect(port, NULL);
	return 2;
}

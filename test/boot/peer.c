/*
 * The guest's end of connections that busybox has no tool for.
 *
 *   peer listen PORT    vsock: takes one connection and sends back what comes, until the end
 *   peer send PORT N    vsock: connects to the host, sends N bytes of a pattern, reads them back,
 *                       compares
 *   peer refuse PORT    vsock: connects to the host, and says what it was told
 *   peer datagram PORT  UDP: sends back each datagram, until one that says "end"
 */
#include <errno.h>
#include <netinet/in.h>
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
	struct sockaddr_vm a = { .svm_family = AF_VSOCK,
		                 .svm_cid = VMADDR_CID_ANY,
		                 .svm_port = port };
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
			size_t len =
			        total - done < sizeof(buf) ? (size_t)(total - done) : sizeof(buf);

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
	struct sockaddr_vm a = { .svm_family = AF_VSOCK,
		                 .svm_cid = VMADDR_CID_HOST,
		                 .svm_port = port };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fail("connect");
	return total ? exchange(fd, strtoull(total, NULL, 10)) : 0;
}

static int do_datagram(unsigned port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (bind(fd, (struct sockaddr *)&a, sizeof(a)))
		return fail("bind");
	for (;;) {
		struct sockaddr_in from;
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);

		if (n < 0)
			return fail("recvfrom");
		if (n == 3 && !memcmp(buf, "end", 3))
			return 0;
		if (sendto(fd, buf, (size_t)n, 0, (struct sockaddr *)&from, len) != n)
			return fail("sendto");
	}
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
	if (argc == 3 && !strcmp(argv[1], "datagram"))
		return do_datagram(port);
	return 2;
}

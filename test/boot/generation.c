/*
 * A machine whose VM generation ID changes while it runs, as that of a restored one will. The
 * command has nothing that changes it, so this starts the machine by the monitor's own interface.
 *
 *     generation ENGINE KERNEL INITRD APPEND
 *
 * Prints the serial port's output. Each line that ends in MARK is followed by a new ID.
 */
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "engine/engine.h"
#include "monitor/vm_private.h"

#define MARK    "new generation, please\r\n"
#define SECONDS 240

static struct vm *vm;
static int wanted; /* an eventfd */

/* On a vCPU's thread. */
static size_t print(void *opaque, const uint8_t *buf, size_t n)
{
	static const char mark[] = MARK;
	static size_t seen;

	fwrite(buf, 1, n, stdout);
	fflush(stdout);
	for (size_t i = 0; i < n; i++) {
		seen = buf[i] == (uint8_t)mark[seen] ? seen + 1 : buf[i] == (uint8_t)mark[0];
		if (seen == sizeof(mark) - 1) {
			eventfd_write(wanted, 1);
			seen = 0;
		}
	}
	return n;
}

static void *change(void *opaque)
{
	eventfd_t count;

	while (!eventfd_read(wanted, &count))
		board_new_generation(vm->board);
	return NULL;
}

int main(int argc, char **argv)
{
	struct vm_config config = { .memory = 512 * MiB,
		                    .vcpus = 1,
		                    .console = { .output = print } };
	enum vm_outcome outcome = VM_HOST_ERROR;
	char err[512] = "";
	pthread_t thread;

	if (argc != 5 || !(config.engine = engine_find(argv[1])))
		return 2;
	config.kernel = argv[2];
	config.initrd = argv[3];
	config.append = argv[4];
	wanted = eventfd(0, EFD_CLOEXEC);
	if (wanted >= 0 && !vm_new(&vm, &config, err, sizeof(err)) && !vm_start(vm) &&
	    !thread_start(&thread, "generation", change, NULL))
		outcome = vm_wait(vm, clock_ns() + SECONDS * 1000000000ull, NULL);
	fprintf(stderr, "%s%s\n", err, vm_outcome_name(outcome));
	return outcome != VM_POWEROFF;
}

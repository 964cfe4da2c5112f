/*
 * The machine from inside. Private to src/monitor/.
 */
#pragma once

#include "base/loop.h"
#include "device/virtio/balloon.h"
#include "device/virtio/console.h"
#include "machine/board.h"
#include "mem/mem.h"
#include "monitor/alloc.h"
#include "monitor/serial.h"
#include "monitor/vcpu.h"
#include "monitor/vm.h"

struct vm {
	struct vm_config config;
	struct loop *loop; /* the devices' timers */
	struct mem *mem;
	struct cpuid_model *cpuid;
	struct engine_vm *engine_vm; /* NULL when the engine has none */
	uint64_t tsc_hz;
	struct alloc alloc;
	struct serial serial;
	struct virtio_console *console; /* the board's, as the next; or NULL */
	struct virtio_balloon *balloon;
	struct block *block[VM_MAX_DISKS]; /* outlive the board, whose devices use them */
	struct board *board;
	struct vcpu_group group;
	_Atomic bool stop_wanted; /* vm_stop() came while the group stood still */
	pthread_mutex_t pause_lock;
	pthread_cond_t pause_ends; /* on CLOCK_MONOTONIC */
	bool paused, continue_wanted;
	uint64_t start_ns, end_ns;
	uint64_t reboots;
};

/* Plugs in what the configuration asks for. 0 or -errno with a line in err. */
int plug_devices(struct vm *vm, char *err, size_t errlen);
/* Its part for --net, --share and --vsock. */
int plug_connections(struct vm *vm, char *err, size_t errlen);
/* Says what failed unless rc is 0, and returns it. */
int plug_fail(int rc, const char *what, char *err, size_t errlen);
/* After the board is gone: writes out and closes what it has used. Errors are logged. */
void unplug_backends(struct vm *vm);

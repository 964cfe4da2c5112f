/*
 * The machine from inside. Private to src/monitor/.
 */
#pragma once

#include "base/loop.h"
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
	struct board *board;
	struct vcpu_group group;
	_Atomic bool stop_wanted; /* vm_stop() came while the group stood still */
	uint64_t start_ns, end_ns;
	uint64_t reboots;
};

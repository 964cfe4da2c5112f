/* Signals of a vCPU's thread: kicks, and traps in translated code. Private to src/engine/bt. */
#pragma once

#include "engine/bt/bt.h"

/* Once a process. */
void signal_install(void);
/* On the vCPU's thread, before it runs code: from then on handlers find b. */
void signal_enter_thread(struct bt *b);
/* From any thread, after attention has been set: translated code comes back to C soon. */
void signal_notify(struct bt *b);

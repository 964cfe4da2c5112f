/*
 * The user's terminal: raw while a guest has it, and itself again on every way out.
 *
 * State is per process, as the terminal is, and lives in file scope so that signal handlers reach
 * it.
 */
#pragma once

#include "base/base.h"

/* Makes the terminal fd raw until terminal_restore(); nothing happens when fd is no terminal or
 * this process is in its background. True when it is raw now. */
bool terminal_make_raw(int fd);
/* Async-signal-safe, and harmless when there is nothing to restore. */
void terminal_restore(void);

/* Restores the terminal before the process dies of its own fault (SIGSEGV, SIGABRT, ...). */
void terminal_catch_crashes(void);

/* What the host offers. Private to src/engine/bt. */
#pragma once

#include <stdbool.h>

/* WRGSBASE may be executed outside the kernel. */
bool host_has_fsgsbase(void);
/* The x87 operand pointer changes with unmasked exceptions only (CPUID 7.EBX[6]). */
bool host_keeps_x87_operand(void);
bool host_has_xsave(void);

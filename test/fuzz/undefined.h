/*
 * Flags that the manual leaves undefined: after which a comparison of two processors means little.
 */
#pragma once

#include "guest.h"

/*
 * Steps the interpreter from the state that has been loaded to HLT or a triple fault. The flags
 * that are undefined then, or ~0: an undefined one has been used on the way, an instruction has
 * overwritten itself, the guest has written its page tables, or it takes long.
 */
uint64_t undefined_flags(struct guest *g);

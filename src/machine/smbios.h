/*
 * A minimal set of SMBIOS structures (DMTF DSP0134 3.4): guests print what machine they are on, and
 * Linux trusts the PCI configuration ports of a machine whose firmware has a date.
 */
#pragma once

#include "mem/mem.h"

/* Writes them at GPA_SMBIOS, where guests scan. -EFAULT when that is not memory. */
int smbios_build(struct mem *m);

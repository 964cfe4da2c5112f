/*
 * One access to guest RAM through its host address. Sizes are 1, 2, 4 or 8 bytes; any alignment. An
 * aligned one is a single host access (volatile: neither split nor merged nor moved against
 * others), which is what x86-TSO asks of the guest's.
 */
#pragma once

#include "base/base.h"

typedef volatile uint16_t host_u16 __attribute__((aligned(1)));
typedef volatile uint32_t host_u32 __attribute__((aligned(1)));
typedef volatile uint64_t host_u64 __attribute__((aligned(1)));

static inline __attribute__((always_inline)) uint64_t host_load(const void *p, unsigned size)
{
	switch (size) {
	case 1:
		return *(const volatile uint8_t *)p;
	case 2:
		return *(const host_u16 *)p;
	case 4:
		return *(const host_u32 *)p;
	default:
		return *(const host_u64 *)p;
	}
}

static inline __attribute__((always_inline)) void host_store(void *p, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		*(volatile uint8_t *)p = (uint8_t)value;
		break;
	case 2:
		*(host_u16 *)p = (uint16_t)value;
		break;
	case 4:
		*(host_u32 *)p = (uint32_t)value;
		break;
	default:
		*(host_u64 *)p = value;
		break;
	}
}

/*
 * Layout of the XSAVE area (SDM 1 13.4), in memory as XSAVE writes it and as CPUID leaf 0xD
 * describes it. x87 and SSE have their places in the legacy region; the others follow the header.
 */
#pragma once

#include "cpu/cpu.h"

#define XSAVE_XSTATE_BV 512 /* offsets of the header's fields */
#define XSAVE_XCOMP_BV  520
#define XSAVE_EXTENDED  576     /* first byte behind the header */
#define XSAVE_COMPACTED BIT(63) /* of XCOMP_BV */

struct xsave_component {
	uint8_t bit;     /* of XCR0 */
	uint16_t offset; /* in the standard format; compacted ones follow each other without gaps */
	uint16_t size;
};

static const struct xsave_component xsave_components[] = {
	{ 2, FPU_YMMH, 256 },
	{ 9, 832, 8 },
};
#define XSAVE_MAX_BYTES 840

/* The host's CPU and kernel; a file of its own, for <sys/auxv.h> has names that the MMU has, too.
 */
#include "engine/bt/host.h"

#include <cpuid.h>
#include <sys/auxv.h>

#define HWCAP2_FSGSBASE (1u << 1) /* of the kernel's <asm/hwcap2.h> */

bool host_has_fsgsbase(void)
{
	return getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
}

bool host_keeps_x87_operand(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & 1u << 6;
}

bool host_has_xsave(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && c & bit_OSXSAVE;
}

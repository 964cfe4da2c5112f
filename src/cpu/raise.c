/*
 * How a fault leaves the routine that found it: recorded in the vCPU, then a jump to the run loop.
 */
#include "cpu/cpu.h"

_Noreturn void cpu_raise(struct cpu *c, int vector, uint32_t error)
{
	c->fault.vector = vector;
	c->fault.error = error;
	__builtin_longjmp(c->jmp, 1);
}

_Noreturn void cpu_raise_pf(struct cpu *c, gva_t va, uint32_t error)
{
	c->cr2 = va;
	cpu_raise(c, EXC_PF, error);
}

/*
 * The loop that the compiler makes into vectors: compiled once for the baseline and once for AVX2,
 * as SAXPY. No fused operations, so both give the same bits.
 */
#include "bench.h"

void SAXPY(float *restrict y, const float *restrict x, float a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] = a * x[i] + y[i];
}

/*
 * A fuzz target without libFuzzer: a fixed number of inputs, the same ones each time, for the tests
 * of every change.
 *
 *     slice COUNT LENGTH
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state = 0x9e3779b97f4a7c15ull;

static uint8_t next_byte(void)
{
	state ^= state << 13; /* xorshift64 */
	state ^= state >> 7;
	state ^= state << 17;
	return (uint8_t)(state >> 32);
}

int main(int argc, char **argv)
{
	unsigned long count = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
	size_t most = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	uint8_t *data = malloc(most + 1);

	if (!count || !most || !data)
		return 1;
	for (unsigned long n = 0; n < count; n++) {
		size_t size = (next_byte() | (size_t)next_byte() << 8) % (most + 1);

		for (size_t i = 0; i < size; i++)
			data[i] = next_byte();
		LLVMFuzzerTestOneInput(data, size);
	}
	free(data);
	return 0;
}

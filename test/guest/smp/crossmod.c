/* Code that one CPU writes and another runs (SDM 3A 8.1.3). */
#include "smp.h"

#define TURNS 1000

/* mov $value, %eax; ret, with the value aligned. */
static uint8_t code[4096] __attribute__((aligned(4096)));
#define VALUE (*(volatile uint32_t *)(code + 4))

static uint32_t call_code(void)
{
	return ((uint32_t(*)(void))(code + 3))();
}

static volatile unsigned offered, taken, wrong, behind;
static volatile bool stop;

/* Runs what is offered, after a serializing instruction. */
static void take(unsigned cpu)
{
	for (unsigned i = 1; i <= TURNS; i++) {
		while (offered != i)
			pause();
		cpuid(0, 0);
		wrong += call_code() != i;
		taken = i;
	}
}

static void offer(void)
{
	smp_begin(1, take);
	for (unsigned i = 1; i <= TURNS; i++) {
		VALUE = i;
		offered = i;
		if (!WAIT_FOR(taken == i, 5000))
			break;
	}
	ok_equal("patched code is seen after a handshake", smp_wait(1) ? wrong : TURNS, 0);
}

/* Runs it all the time: each value is one that was written, none older than one seen before. */
static void watch(unsigned cpu)
{
	uint32_t last = 0;

	while (!stop) {
		uint32_t v = call_code();

		wrong += v > TURNS;
		behind += v < last;
		last = v;
		taken = v;
	}
}

static void patch_running(void)
{
	VALUE = 0;
	wrong = behind = 0;
	taken = 1;
	smp_begin(1, watch);
	WAIT_FOR(taken == 0, 2000);
	for (unsigned i = 1; i <= TURNS; i++) {
		VALUE = i;
		for (unsigned spin = 0; spin < 50; spin++)
			pause();
	}
	ok("a change to running code is seen in time", WAIT_FOR(taken == TURNS, 2000));
	stop = true;
	smp_wait(1);
	ok_equal("whole", wrong, 0);
	ok_equal("in order", behind, 0);
}

/* A jump's target changes between two functions; the jump is patched by a locked exchange. */
static void test_jumps(void)
{
	static const uint8_t two[] = { 0xb8, 2, 0, 0, 0, 0xc3 };
	uint32_t original = *(uint32_t *)(code + 4);

	memcpy(code + 64, two, sizeof(two));
	/* At the entry: eb rel8 over the mov; the bytes of mov come back afterwards. */
	code[3] = 0xeb;
	code[4] = 64 - 5;
	cpuid(0, 0);
	ok_equal("own changes are seen by the next jump", call_code(), 2);
	code[3] = 0xb8;
	*(uint32_t *)(code + 4) = original;
	ok_equal("and back", call_code(), original);
}

void guest_run(void)
{
	ok_equal("all CPUs come", smp_start(), 2);
	code[3] = 0xb8;
	code[8] = 0xc3;
	offer();
	patch_running();
	test_jumps();
}

/*
 * Random bytes as guest code, in every mode, on a vCPU whose registers, descriptor tables and page
 * tables are hostile too.
 *
 * Input: as guest.h has it; header.run is 1 for blocks, else steps. The machine around the vCPU
 * answers every exit, so nothing ends a run but a triple fault or the budget. Inputs are stepped,
 * which is bounded by itself, or run in blocks until another thread kicks. Sanitizers find the
 * faults, guest_check_state() what no guest may bring about.
 */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "guest.h"
#include "interp/interp.h"

#define MAX_STEPS 64
#define MAX_EXITS 64
#define KICK_US   500

static void *kick_often(void *opaque)
{
	struct guest *g = opaque;

	for (;;) {
		usleep(KICK_US);
		cpu_raise_attention(g->cpu, ATTN_KICK);
	}
	return NULL;
}

static struct guest *make_guest(void)
{
	struct guest *g = guest_new(interp_new);
	pthread_t kicker;

	pthread_create(&kicker, NULL, kick_often, g);
	return g;
}

static void execute(struct guest *g, bool blocks)
{
	struct exit e = { .reason = EXIT_NONE };

	for (unsigned n = 0; n < MAX_STEPS && g->exits < MAX_EXITS; n++) {
		guest_send_event(g);
		if (blocks)
			interp_run(g->cpu, &e);
		else
			interp_step(g->cpu, &e);
		check(e.reason != EXIT_ERROR);
		if (e.reason == EXIT_SHUTDOWN || (blocks && e.reason == EXIT_KICK))
			return;
		if (e.reason == EXIT_INIT)
			cpu_init_signal(g->cpu);
		guest_check_state(g);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct guest *g;
	struct guest_header h;

	if (size < sizeof(h) || size > MAX_INPUT)
		return 0;
	if (!g)
		g = make_guest();
	memcpy(&h, data, sizeof(h));
	guest_load(g, &h, data + sizeof(h), size - sizeof(h), 0);
	interp_flush(g->cpu);
	execute(g, h.run & 1);
	guest_check_tlb(g);
	return 0;
}

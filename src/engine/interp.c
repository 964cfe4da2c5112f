/*
 * The engine "interp": the interpreter of src/interp/ behind the engine table. struct cpu is the
 * reference at all times, so there is nothing to synchronise.
 */
#include "engine/engine.h"
#include "interp/interp.h"

static void kick(struct cpu *c)
{
	cpu_raise_attention(c, ATTN_KICK);
}

static void sync_nothing(struct cpu *c)
{
}

const struct engine_ops engine_interp = {
	.name = "interp",
	.what = "software interpreter: runs anywhere, the reference for every other engine",
	.create = interp_new,
	.destroy = interp_free,
	.run = interp_run,
	.kick = kick,
	.sync_out = sync_nothing,
	.sync_in = sync_nothing,
	.invalidate = interp_flush,
};

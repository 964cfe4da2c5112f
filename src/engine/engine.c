/*
 * The engines there are, the fastest first. A new one is a row here.
 */
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

const struct engine_ops *const engine_table[] = {
	&engine_bt,
	&engine_interp,
	&engine_kvm,
	NULL,
};

const struct engine_ops *engine_find(const char *name)
{
	for (const struct engine_ops *const *e = engine_table; *e; e++)
		if (!strcmp((*e)->name, name))
			return *e;
	return NULL;
}

/* Why not KVM, in words; false when it is to be chosen. */
static bool is_kvm_refused(char *why, size_t size)
{
	struct engine_kvm_speed speed;

	if (engine_kvm_probe(false, &speed, why, size))
		return true;
	if (!speed.ring0_ps) {
		snprintf(why, size, "KVM does not run ring 0 here");
		return true;
	}
	snprintf(why, size, "KVM takes %.1f ns for an instruction in ring 0",
	         (double)speed.ring0_ps / 1000);
	return speed.ring0_ps > ENGINE_KVM_SLOW_PS;
}

const struct engine_ops *engine_auto(char *why, size_t size)
{
	char unwanted[256];

	if (!why) {
		why = unwanted;
		size = sizeof(unwanted);
	}
	if (!is_kvm_refused(why, size))
		return &engine_kvm;
	return engine_bt_runs_here() ? &engine_bt : &engine_interp;
}

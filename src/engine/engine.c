/*
 * The engines there are, the fastest first. A new one is a row here.
 */
#include "engine/engine.h"

#include <string.h>

const struct engine_ops *const engine_table[] = {
	&engine_bt,
	&engine_interp,
	NULL,
};

const struct engine_ops *engine_find(const char *name)
{
	for (const struct engine_ops *const *e = engine_table; *e; e++)
		if (!strcmp((*e)->name, name))
			return *e;
	return NULL;
}

/* KVM is not an engine yet; it will have to run ring 0 at hardware speed to be chosen. */
const struct engine_ops *engine_auto(void)
{
	return engine_bt_runs_here() ? &engine_bt : &engine_interp;
}

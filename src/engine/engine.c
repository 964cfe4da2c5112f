/*
 * The engines there are. A new one is a row here.
 */
#include "engine/engine.h"

#include <string.h>

const struct engine_ops *const engine_table[] = {
	&engine_interp,
	&engine_bt,
	NULL,
};

const struct engine_ops *engine_find(const char *name)
{
	for (const struct engine_ops *const *e = engine_table; *e; e++)
		if (!strcmp((*e)->name, name))
			return *e;
	return NULL;
}

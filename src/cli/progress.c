#include "cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "cli/options.h"

#define BAR_CHARS   40u
#define INTERVAL_NS 100000000ull

void progress_init(struct progress *p, const char *what)
{
	*p = (struct progress){ .what = what, .shown = isatty(STDERR_FILENO) };
}

void progress_update(struct progress *p, uint64_t done, uint64_t total)
{
	static const char full[] = "########################################";
	double part = total ? (double)done / (double)total : 1;
	unsigned chars = (unsigned)(part * BAR_CHARS);
	char a[32], b[32];

	_Static_assert(sizeof(full) == BAR_CHARS + 1, "a bar's length");
	if (!p->shown || clock_ns() < p->next_ns)
		return;
	p->next_ns = clock_ns() + INTERVAL_NS;
	fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%, %s of %s\033[K", p->what, (int)chars, full,
	        (int)(BAR_CHARS - chars), "", part * 100, options_format_bytes(done, a, sizeof(a)),
	        options_format_bytes(total, b, sizeof(b)));
}

void progress_fini(struct progress *p)
{
	if (p->shown && p->next_ns)
		fputs("\r\033[K", stderr);
	p->next_ns = 0;
}

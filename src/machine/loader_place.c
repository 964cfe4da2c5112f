/*
 * Guest memory for the loader: where things may go, and putting them there.
 */
#include "machine/loader_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define LOADER_AREA_END (GPA_CMDLINE + CMDLINE_BYTES)

uint8_t *loader_host(struct loader *l, gpa_t gpa, uint64_t len)
{
	uint64_t end = gpa + len;

	if (end < gpa || gpa < LOADER_AREA_END)
		return NULL;
	if (gpa < GPA_HIGH_LOAD && end > GPA_EBDA)
		return NULL;
	return mem_host(l->m, gpa, len, true);
}

gpa_t loader_low_end(const struct loader *l)
{
	const struct mem_bank *b = mem_find(l->m, GPA_HIGH_LOAD);

	return b ? b->base + b->size : GPA_HIGH_LOAD;
}

/*
 * A machine that restarts has old contents in its memory, so clearing is needed, but it must not
 * populate a large piece of memory that nobody has touched: give the pages back instead.
 */
void loader_zero(uint8_t *host, uint64_t len)
{
	uint8_t *page = (uint8_t *)(((uintptr_t)host + PAGE_SIZE - 1) & PAGE_MASK);
	uint64_t head = (uint64_t)(page - host), whole;

	if (len < MiB) {
		memset(host, 0, len);
		return;
	}
	whole = (len - head) & PAGE_MASK;
	memset(host, 0, head);
	if (madvise(page, whole, MADV_REMOVE) < 0)
		memset(page, 0, whole);
	memset(page + whole, 0, len - head - whole);
}

int loader_alloc_list(struct loader *l, uint64_t len, gpa_t *gpa, void **host)
{
	uint64_t used = (l->lists_used + 7) & ~7ull;

	if (used > BOOT_LISTS_BYTES || len > BOOT_LISTS_BYTES - used)
		return loader_fail(l, -ENOSPC,
		                   "modules and their arguments need more than %llu KiB",
		                   BOOT_LISTS_BYTES / KiB);
	*gpa = GPA_BOOT_LISTS + used;
	*host = mem_host(l->m, *gpa, len, true);
	if (!*host)
		return loader_fail(l, -EFAULT, "no memory at %#llx", (unsigned long long)*gpa);
	memset(*host, 0, len);
	l->lists_used = used + len;
	return 0;
}

int loader_put_string(struct loader *l, const char *s, gpa_t *gpa)
{
	uint64_t len = strlen(s) + 1;
	void *host;
	int rc = loader_alloc_list(l, len, gpa, &host);

	if (!rc)
		memcpy(host, s, len);
	return rc;
}

int loader_put_cmdline(struct loader *l, const char *first, uint64_t limit)
{
	const char *text = l->a->cmdline ? l->a->cmdline : "";
	const char *space = first && *text ? " " : "";
	uint64_t len = (first ? strlen(first) : 0) + strlen(space) + strlen(text);
	char *host = mem_host(l->m, GPA_CMDLINE, CMDLINE_BYTES, true);

	if (limit > CMDLINE_BYTES - 1)
		limit = CMDLINE_BYTES - 1;
	if (len > limit)
		return loader_fail(
		        l, -E2BIG,
		        "the command line is %llu bytes long: this kernel takes at most %llu",
		        (unsigned long long)len, (unsigned long long)limit);
	if (!host)
		return loader_fail(l, -EFAULT, "no memory at %#llx", GPA_CMDLINE);
	snprintf(host, CMDLINE_BYTES, "%s%s%s", first ? first : "", space, text);
	return 0;
}

int loader_put_file_high(struct loader *l, const char *what, const char *path, gpa_t floor,
                         gpa_t limit, gpa_t *gpa, uint64_t *size)
{
	struct loader_file f;
	uint8_t *host;
	int rc = loader_file_open(l, what, path, UINT32_MAX, &f);

	if (rc)
		return rc;
	*size = f.size;
	*gpa = f.size > limit ? 0 : (limit - f.size) & PAGE_MASK;
	host = *gpa < floor ? NULL : loader_host(l, *gpa, f.size);
	if (host)
		rc = loader_file_read(l, &f, host);
	else
		rc = loader_fail(
		        l, -ENOSPC,
		        "%s '%s' is %llu MiB and does not fit between the kernel, which ends "
		        "at %llu MiB, and %llu MiB: the guest has %llu MiB",
		        what, path, MiB_UP(f.size), MiB_UP(floor), limit / MiB,
		        (unsigned long long)(l->m->ram_bytes / MiB));
	loader_file_close(&f);
	return rc;
}

static int put_module(struct loader *l, const char *what, const char *path, gpa_t next,
                      struct loader_module *mod)
{
	gpa_t base = (next + PAGE_SIZE - 1) & PAGE_MASK;
	gpa_t limit = loader_low_end(l);
	struct loader_file f;
	uint8_t *host;
	int rc = loader_file_open(l, what, path, UINT32_MAX, &f);

	if (rc)
		return rc;
	mod->base = base;
	mod->size = f.size;
	host = loader_host(l, base, f.size);
	if (host)
		rc = loader_file_read(l, &f, host);
	else
		rc = loader_fail(
		        l, -ENOSPC,
		        "%s '%s' is %llu MiB and does not fit between %llu MiB and %llu MiB: "
		        "the guest has %llu MiB",
		        what, path, MiB_UP(f.size), MiB_UP(base), limit / MiB,
		        (unsigned long long)(l->m->ram_bytes / MiB));
	loader_file_close(&f);
	return rc;
}

/* One "PATH ARGUMENTS" string. */
static int put_module_string(struct loader *l, const char *what, const char *string, gpa_t next,
                             bool whole, struct loader_module *mod)
{
	size_t len = strcspn(string, " ");
	const char *args = string[len] ? string + len + 1 : "";
	char path[4096];
	int rc;

	if (len >= sizeof(path))
		return loader_fail(l, -ENAMETOOLONG, "%s path is %zu bytes long: at most %zu", what,
		                   len, sizeof(path) - 1);
	memcpy(path, string, len);
	path[len] = '\0';
	rc = put_module(l, what, path, next, mod);
	if (rc)
		return rc;
	return loader_put_string(l, whole ? string : args, &mod->args);
}

int loader_put_modules(struct loader *l, gpa_t next, bool whole_string,
                       struct loader_module mod[LOADER_MAX_MODULES], unsigned *nr)
{
	unsigned n = 0;
	int rc = 0;

	if (l->a->nr_modules >= LOADER_MAX_MODULES)
		return loader_fail(l, -E2BIG, "%u modules: at most %d can be given",
		                   l->a->nr_modules, LOADER_MAX_MODULES - 1);
	if (l->a->initrd) {
		rc = put_module(l, "initrd", l->a->initrd, next, &mod[n]);
		if (!rc)
			rc = loader_put_string(l, whole_string ? l->a->initrd : "", &mod[n].args);
		next = mod[n].base + mod[n].size;
		n++;
	}
	for (unsigned i = 0; i < l->a->nr_modules && !rc; i++) {
		rc = put_module_string(l, "module", l->a->modules[i], next, whole_string, &mod[n]);
		next = mod[n].base + mod[n].size;
		n++;
	}
	*nr = n;
	return rc;
}

/*
 * libFuzzer target: any bytes as a kernel image. The last byte of the input chooses how to load.
 */
#include <stdlib.h>
#include <string.h>

#include "machine/loader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void check_result(struct mem *m, const struct loader_result *r)
{
	static struct cpu c;

	check(r->format[0]);
	check(r->kernel_base < r->kernel_end);
	check(r->entry - r->kernel_base < r->kernel_end - r->kernel_base);
	check(mem_host(m, r->kernel_base, r->kernel_end - r->kernel_base, true));
	loader_setup_cpu(r, &c);
	check(c.rip == r->entry);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct loader_args args = { .kernel = "fuzz", .cmdline = "quiet" };
	struct loader_result r;
	struct mem *m;
	uint8_t choice;
	char err[256];
	int rc;

	if (!size)
		return 0;
	choice = data[--size];
	args.guest_decompresses = choice & 1;
	args.rsdp = choice & 2 ? 0xf8000 : 0;
	check(mem_new(&m, MEM_MIN_BYTES) == 0);
	rc = loader_load_image(m, &args, data, size, &r, err, sizeof(err));
	check((rc == 0) == (err[0] == '\0'));
	check(!strchr(err, '\n'));
	if (!rc)
		check_result(m, &r);
	mem_free(m);
	return 0;
}

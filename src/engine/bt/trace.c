/*
 * --perf-map names every block in /tmp/perf-PID.map, where `perf report` looks for names of code
 * that belongs to no file; the name says where the guest's code was when the block was made, and
 * its privilege. --trace writes each block's guest and host code to a file, by Zydis.
 */
#include "engine/bt/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

#define NAME_BYTES 4096

static FILE *open_file(const char *path, const char *mode)
{
	FILE *f = fopen(path, mode);

	if (!f)
		log_error("%s: %s", path, strerror(errno));
	else
		setvbuf(f, NULL, _IOLBF, 0);
	return f;
}

int trace_open(struct bt *b)
{
	const struct engine_options *o = b->cpu->options;
	char name[NAME_BYTES];

	if (o && o->perf_map) {
		snprintf(name, sizeof(name), "/tmp/perf-%d.map", getpid());
		b->perf_map = open_file(name, "a");
		if (!b->perf_map)
			return -errno;
	}
	if (o && o->trace) {
		/* One file a vCPU, so that lines do not mix. */
		if (b->cpu->id)
			snprintf(name, sizeof(name), "%s.%u", o->trace, b->cpu->id);
		else
			snprintf(name, sizeof(name), "%s", o->trace);
		b->trace = open_file(name, "w");
		if (!b->trace)
			return -errno;
	}
	return 0;
}

void trace_close(struct bt *b)
{
	if (b->perf_map)
		fclose(b->perf_map);
	if (b->trace)
		fclose(b->trace);
	b->perf_map = b->trace = NULL;
}

static void disassemble(FILE *f, ZydisMachineMode mode, const uint8_t *bytes, size_t n,
                        uint64_t address, const char *indent)
{
	ZydisDisassembledInstruction d;

	while (n && ZYAN_SUCCESS(ZydisDisassembleATT(mode, address, bytes, n, &d))) {
		fprintf(f, "%s%012" PRIx64 "  %s\n", indent, address, d.text);
		bytes += d.info.length;
		n -= d.info.length;
		address += d.info.length;
	}
}

void trace_print_block(FILE *f, struct bt *b, const struct bt_block *k, gva_t rip)
{
	bool code32 = k->key & BT_KEY_32;

	fprintf(f, "block %016" PRIx64 " %s%s%s, %u instructions, %u bytes of host code\n", rip,
	        k->key & BT_KEY_CPL3 ? "user" : "kernel", code32 ? ", 32-bit" : "",
	        k->key & BT_KEY_UNMERGED ? ", unmerged" : "", k->nr_insns, k->end - k->start);
	disassemble(f, code32 ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LONG_64, k->host,
	            k->bytes, rip, "  ");
	disassemble(f, ZYDIS_MACHINE_MODE_LONG_64, b->cache->exec + k->start, k->end - k->start,
	            cache_address(b, k->start), "      ");
}

void trace_block(struct bt *b, const struct bt_block *k)
{
	gva_t rip = b->pc + ((uintptr_t)k->host & ~PAGE_MASK);

	if (b->perf_map)
		fprintf(b->perf_map, "%" PRIx64 " %x guest_%s_%" PRIx64 "\n",
		        cache_address(b, k->start), k->end - k->start,
		        k->key & BT_KEY_CPL3 ? "user" : "kernel", rip);
	if (b->trace)
		trace_print_block(b->trace, b, k, rip);
}

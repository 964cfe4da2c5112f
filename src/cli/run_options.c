/*
 * The options of `trapeze run`. One row each: --help and the parser read the same table, the
 * manual page and the completions have the same order.
 */
#include "cli/run.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "cli/options.h"
#include "engine/engine.h"
#include "mem/mem.h"

#define DEFAULT_MEMORY  (512 * MiB)
#define TIMEOUT_SECONDS (365 * 24 * 3600.0)

static int parse_path(const char **out, const struct option_row *row, const char *value)
{
	if (!*value) {
		log_error("%s: the file name is empty", row->name);
		return -EINVAL;
	}
	*out = value;
	return 0;
}

static int parse_kernel(void *opts, const struct option_row *row, const char *value)
{
	return parse_path(&((struct run_options *)opts)->vm.kernel, row, value);
}

static int parse_initrd(void *opts, const struct option_row *row, const char *value)
{
	return parse_path(&((struct run_options *)opts)->vm.initrd, row, value);
}

static int parse_append(void *opts, const struct option_row *row, const char *value)
{
	((struct run_options *)opts)->vm.append = value;
	return 0;
}

/* What the host could give at best, swap included: a guest larger than this only fails later. */
static uint64_t host_memory(void)
{
	struct sysinfo info;

	if (sysinfo(&info))
		return MEM_MAX_BYTES;
	return ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
}

static int parse_memory(void *opts, const struct option_row *row, const char *value)
{
	struct run_options *o = opts;
	uint64_t host = host_memory();
	char low[32], high[32];

	if (options_parse_bytes(value, &o->vm.memory)) {
		log_error("%s %s: not a size such as 512M or 6G", row->name, value);
		return -EINVAL;
	}
	if (o->vm.memory < MEM_MIN_BYTES || o->vm.memory > MEM_MAX_BYTES) {
		log_error("%s %s: not from %s to %s", row->name, value,
		          options_format_bytes(MEM_MIN_BYTES, low, sizeof(low)),
		          options_format_bytes(MEM_MAX_BYTES, high, sizeof(high)));
		return -EINVAL;
	}
	if (o->vm.memory > host) {
		log_error("%s %s: this host has %s", row->name, value,
		          options_format_bytes(host, high, sizeof(high)));
		return -EINVAL;
	}
	if (o->vm.memory % PAGE_SIZE) {
		log_error("%s %s: not a multiple of 4K", row->name, value);
		return -EINVAL;
	}
	return 0;
}

static int parse_vcpus(void *opts, const struct option_row *row, const char *value)
{
	uint64_t n;
	int rc = options_parse_number(row, value, 1, VM_MAX_VCPUS, &n);

	if (!rc)
		((struct run_options *)opts)->vm.vcpus = (unsigned)n;
	return rc;
}

static int parse_code_cache(void *opts, const struct option_row *row, const char *value)
{
	struct run_options *o = opts;
	uint64_t *bytes = &o->vm.engine_options.code_cache;
	char low[32], high[32];

	if (options_parse_bytes(value, bytes)) {
		log_error("%s %s: not a size such as 64M", row->name, value);
		return -EINVAL;
	}
	if (*bytes >= ENGINE_CODE_CACHE_MIN && *bytes <= ENGINE_CODE_CACHE_MAX)
		return 0;
	log_error("%s %s: not from %s to %s", row->name, value,
	          options_format_bytes(ENGINE_CODE_CACHE_MIN, low, sizeof(low)),
	          options_format_bytes(ENGINE_CODE_CACHE_MAX, high, sizeof(high)));
	return -EINVAL;
}

static int parse_trace(void *opts, const struct option_row *row, const char *value)
{
	return parse_path(&((struct run_options *)opts)->vm.engine_options.trace, row, value);
}

static int parse_check(void *opts, const struct option_row *row, const char *value)
{
	if (strcmp(value, "interp")) {
		log_error("%s %s: not one of interp", row->name, value);
		return -EINVAL;
	}
	((struct run_options *)opts)->vm.engine_options.check = true;
	return 0;
}

static int parse_perf_map(void *opts, const struct option_row *row, const char *value)
{
	((struct run_options *)opts)->vm.engine_options.perf_map = true;
	return 0;
}

static int parse_engine(void *opts, const struct option_row *row, const char *value)
{
	struct run_options *o = opts;

	o->vm.engine = engine_find(value);
	if (o->vm.engine || !strcmp(value, "auto"))
		return 0;
	log_error("%s %s: no such engine ('trapeze engines' lists them)", row->name, value);
	return -EINVAL;
}

static int parse_cpu(void *opts, const struct option_row *row, const char *value)
{
	((struct run_options *)opts)->vm.cpu = value;
	return 0;
}

static int parse_irqchip(void *opts, const struct option_row *row, const char *value)
{
	static const char *const name[IRQCHIP_KINDS] = {
		[IRQCHIP_OWN] = "own",
		[IRQCHIP_SPLIT] = "split",
		[IRQCHIP_KERNEL] = "kernel",
	};
	struct engine_options *o = &((struct run_options *)opts)->vm.engine_options;

	o->irqchip_any = !strcmp(value, "auto");
	for (unsigned n = 0; n < IRQCHIP_KINDS && !o->irqchip_any; n++)
		if (!strcmp(value, name[n])) {
			o->irqchip = (enum irqchip_kind)n;
			return 0;
		}
	if (o->irqchip_any)
		return 0;
	log_error("%s %s: not one of auto, kernel, split, own", row->name, value);
	return -EINVAL;
}

static int parse_serial(void *opts, const struct option_row *row, const char *value)
{
	((struct run_options *)opts)->serial = value;
	return 0;
}

static int parse_module(void *opts, const struct option_row *row, const char *value)
{
	struct vm_config *vm = &((struct run_options *)opts)->vm;

	if (vm->nr_modules == VM_MAX_MODULES) {
		log_error("%s %s: more than %d modules", row->name, value, VM_MAX_MODULES);
		return -EINVAL;
	}
	return parse_path(&vm->module[vm->nr_modules++], row, value);
}

static int parse_testdev(void *opts, const struct option_row *row, const char *value)
{
	((struct run_options *)opts)->vm.testdev = true;
	return 0;
}

static int parse_decompress(void *opts, const struct option_row *row, const char *value)
{
	bool guest = !strcmp(value, "guest");

	if (!guest && strcmp(value, "host")) {
		log_error("%s %s: not one of host, guest", row->name, value);
		return -EINVAL;
	}
	((struct run_options *)opts)->vm.guest_decompresses = guest;
	return 0;
}

static int parse_exit_on_reboot(void *opts, const struct option_row *row, const char *value)
{
	((struct run_options *)opts)->vm.exit_on_reboot = true;
	return 0;
}

static int parse_timeout(void *opts, const struct option_row *row, const char *value)
{
	char *end;
	double seconds = strtod(value, &end);

	if (!isdigit((unsigned char)value[0]) || *end || !(seconds > 0) ||
	    seconds > TIMEOUT_SECONDS) {
		log_error("%s %s: not seconds above 0, up to %.0f", row->name, value,
		          TIMEOUT_SECONDS);
		return -EINVAL;
	}
	((struct run_options *)opts)->timeout_ns = (uint64_t)ceil(seconds * 1e9);
	return 0;
}

static int parse_stats(void *opts, const struct option_row *row, const char *value)
{
	return parse_path(&((struct run_options *)opts)->stats, row, value);
}

static int parse_verbose(void *opts, const struct option_row *row, const char *value)
{
	log_set_level(LOG_INFO);
	return 0;
}

static int parse_help(void *opts, const struct option_row *row, const char *value)
{
	((struct run_options *)opts)->help = true;
	return 0;
}

static const struct option_row run_table[] = {
	{ "--kernel", NULL, "FILE", parse_kernel,
	  "what to boot: a Linux bzImage, an ELF image with a\n"
	  "PVH note, or a multiboot image" },
	{ "--initrd", NULL, "FILE", parse_initrd, "initial RAM disk" },
	{ "--append", NULL, "TEXT", parse_append, "kernel command line" },
	{ "--memory", NULL, "SIZE", parse_memory, "guest RAM, with K, M or G (default 512M)" },
	{ "--vcpus", NULL, "N", parse_vcpus, "virtual CPUs, 1 to 16 (default 1)" },
	{ "--engine", NULL, "NAME", parse_engine,
	  "how to execute guest code: auto (default), bt,\n"
	  "interp or kvm ('trapeze engines' says more)" },
	{ "--cpu", NULL, "MODEL", parse_cpu,
	  "what CPUID shows: host (default), or x86-64-v1 to\n"
	  "x86-64-v4 with the features of that level" },
	{ "--irqchip", NULL, "WHERE", parse_irqchip,
	  "where engine kvm has interrupt controllers: auto\n"
	  "(default), kernel, split or own" },
	{ "--code-cache", NULL, "SIZE", parse_code_cache,
	  "room for translated code, for all vCPUs together\n"
	  "(default 64M)" },
	{ "--trace", NULL, "FILE", parse_trace, "write the guest and host code of every block" },
	{ "--perf-map", NULL, NULL, parse_perf_map, "name translated code for perf(1)" },
	{ "--check", NULL, "ENGINE", parse_check,
	  "compare every block of bt with interp, stop where\n"
	  "they differ" },
	{ "--serial", NULL, "WHERE", parse_serial,
	  "the guest's serial port: stdio (default),\n"
	  "file:PATH, unix:PATH, pty or none" },
	{ "--module", NULL, "'FILE ARGS'", parse_module, "a multiboot module; may be given again" },
	{ "--testdev", NULL, NULL, parse_testdev, "add the devices of QEMU's pc-testdev" },
	{ "--decompress", NULL, "WHO", parse_decompress,
	  "who unpacks a bzImage: host (default) or guest" },
	{ "--exit-on-reboot", NULL, NULL, parse_exit_on_reboot,
	  "end with status 3 when the guest reboots" },
	{ "--timeout", NULL, "SECONDS", parse_timeout, "end with status 4 after this time" },
	{ "--stats", NULL, "FILE", parse_stats, "write statistics as JSON" },
	{ "--verbose", "-v", NULL, parse_verbose, "say more on stderr" },
	{ "--help", "-h", NULL, parse_help, "print this text" },
	{ 0 },
};

static int check_check(const struct vm_config *vm)
{
	if (vm->engine != &engine_bt) {
		log_error("--check interp: not with --engine %s, only with bt", vm->engine->name);
		return -EINVAL;
	}
	if (vm->vcpus > 1) {
		log_error("--check interp: not with --vcpus %u, only with 1", vm->vcpus);
		return -EINVAL;
	}
	return 0;
}

int run_parse(struct run_options *opts, int argc, char **argv)
{
	*opts = (struct run_options){
		.vm = { .memory = DEFAULT_MEMORY, .vcpus = 1, .engine_options.irqchip_any = true },
		.serial = "stdio",
	};
	if (options_parse(run_table, opts, argc, argv))
		return -EINVAL;
	if (!opts->vm.kernel && !opts->help) {
		log_error("run: no --kernel given (--help lists the options)");
		return -EINVAL;
	}
	if (!opts->vm.engine && !opts->help)
		opts->vm.engine = engine_auto(NULL, 0);
	return opts->vm.engine_options.check ? check_check(&opts->vm) : 0;
}

void run_print_help(void)
{
	puts("usage: trapeze run --kernel FILE [OPTION]...\n");
	options_print_help(run_table, stdout);
	puts("\nOn a terminal, Ctrl-A x ends the machine and Ctrl-A ? lists the keys.\n"
	     "Status: 0 powered off, 2 crashed, 3 rebooted, 4 timeout, 1 usage or host error.");
}

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
#define MAX_PORT_NAME   64
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

/* Port 0 is the console; it is there, going nowhere, when only others are asked for. */
static int parse_console(void *opts, const struct option_row *row, const char *value)
{
	struct run_options *o = opts;

	o->port[0] = value;
	if (!o->vm.nr_ports)
		o->vm.nr_ports = 1;
	return 0;
}

static int parse_port(void *opts, const struct option_row *row, const char *value)
{
	struct run_options *o = opts;
	unsigned n = o->vm.nr_ports ? o->vm.nr_ports : 1;
	const char *where = strchr(value, '=');

	if (!where || where == value || where - value > MAX_PORT_NAME) {
		log_error("%s %s: not NAME=WHERE with a name of 1 to %d characters", row->name,
		          value, MAX_PORT_NAME);
		return -EINVAL;
	}
	if (n == VM_MAX_PORTS) {
		log_error("%s %s: more than %d ports", row->name, value, VM_MAX_PORTS - 1);
		return -EINVAL;
	}
	o->port_text[n] = strdup(value);
	if (!o->port_text[n]) {
		log_error("%s %s: %s", row->name, value, strerror(ENOMEM));
		return -ENOMEM;
	}
	o->port_text[n][where - value] = '\0';
	o->vm.port[n].name = o->port_text[n];
	o->port[n] = o->port_text[n] + (where - value) + 1;
	o->vm.nr_ports = n + 1;
	return 0;
}

static int parse_balloon(void *opts, const struct option_row *row, const char *value)
{
	struct vm_config *vm = &((struct run_options *)opts)->vm;

	if (options_parse_bytes(value, &vm->balloon_keep)) {
		log_error("%s %s: not a size such as 512M", row->name, value);
		return -EINVAL;
	}
	vm->balloon = true;
	return 0;
}

static int parse_watchdog(void *opts, const struct option_row *row, const char *value)
{
	static const char *const name[] = { [VM_WATCHDOG_RESET] = "reset",
		                            [VM_WATCHDOG_POWEROFF] = "poweroff",
		                            [VM_WATCHDOG_PAUSE] = "pause" };

	for (unsigned i = VM_WATCHDOG_RESET; i < ARRAY_SIZE(name); i++) {
		if (strcmp(value, name[i]))
			continue;
		((struct run_options *)opts)->vm.watchdog = (enum vm_watchdog)i;
		return 0;
	}
	log_error("%s %s: not one of reset, poweroff, pause", row->name, value);
	return -EINVAL;
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

static int parse_disk(void *opts, const struct option_row *row, const char *value)
{
	return run_parse_disk(opts, row->name, value);
}

static int parse_image(void *opts, const struct option_row *row, const char *value)
{
	return run_parse_image(opts, value);
}

static int parse_rng(void *opts, const struct option_row *row, const char *value)
{
	((struct run_options *)opts)->vm.rng = true;
	return 0;
}

static int parse_net(void *opts, const struct option_row *row, const char *value)
{
	struct vm_config *vm = &((struct run_options *)opts)->vm;

	if (vm->nr_nets == VM_MAX_NETS) {
		log_error("%s %s: more than %d network cards", row->name, value, VM_MAX_NETS);
		return -EINVAL;
	}
	vm->net[vm->nr_nets++] = value;
	return 0;
}

static int parse_share(void *opts, const struct option_row *row, const char *value)
{
	struct vm_config *vm = &((struct run_options *)opts)->vm;

	if (vm->nr_shares == VM_MAX_SHARES) {
		log_error("%s %s: more than %d shared directories", row->name, value,
		          VM_MAX_SHARES);
		return -EINVAL;
	}
	vm->share[vm->nr_shares++] = value;
	return 0;
}

static int parse_vsock(void *opts, const struct option_row *row, const char *value)
{
	((struct run_options *)opts)->vm.vsock = value;
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
	{ "--console", NULL, "WHERE", parse_console,
	  "add a virtio console; WHERE as for --serial" },
	{ "--port", NULL, "NAME=WHERE", parse_port, "add a named port to it; may be given again" },
	{ "--image", NULL, "PATH[,KEY=VALUE]", parse_image,
	  "the first disk, keys as for --disk; without --kernel,\n"
	  "boots the newest kernel in its /boot" },
	{ "--disk", NULL, "PATH[,KEY=VALUE]", parse_disk,
	  "a disk image; keys: format=raw|qcow2, readonly,\n"
	  "iops=N, bps=SIZE, serial=TEXT, if=virtio|nvme,\n"
	  "werror=report|pause;\n"
	  "may be given again" },
	{ "--balloon", NULL, "SIZE", parse_balloon,
	  "add a memory balloon that leaves SIZE to the guest;\n"
	  "what the guest does not use goes back to the host" },
	{ "--rng", NULL, NULL, parse_rng, "add a source of random numbers (virtio-rng)" },
	{ "--net", NULL, "KIND[,KEY=VALUE]", parse_net,
	  "add a network card: user (NAT, needs no rights), tap,\n"
	  "or link (a cable to another machine); the manual has\n"
	  "the keys; may be given again" },
	{ "--share", NULL, "path=DIR,tag=NAME", parse_share,
	  "show the guest a directory, which it mounts with\n"
	  "'mount -t virtiofs NAME ...'; ',readonly' and\n"
	  "',owner=root' may follow; may be given again" },
	{ "--vsock", NULL, "path=PATH,cid=N", parse_vsock,
	  "add a socket device that ends at a unix socket" },
	{ "--watchdog", NULL, "ACTION", parse_watchdog,
	  "add a watchdog (i6300esb) that does ACTION when\n"
	  "its time is over: reset, poweroff or pause" },
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

/* Standard input and output are one console's. */
static int check_stdio(const struct run_options *opts)
{
	unsigned users = !strcmp(opts->serial, "stdio");

	for (unsigned i = 0; i < opts->vm.nr_ports; i++)
		users += opts->port[i] && !strcmp(opts->port[i], "stdio");
	if (users <= 1)
		return 0;
	log_error("run: %u users of stdio, at most one is possible ('--serial none' frees it)",
	          users);
	return -EINVAL;
}

static int check_balloon(const struct vm_config *vm)
{
	char most[32];

	if (!vm->balloon || (vm->balloon_keep && vm->balloon_keep <= vm->memory))
		return 0;
	log_error("--balloon: not from 1M to the guest's memory of %s",
	          options_format_bytes(vm->memory, most, sizeof(most)));
	return -EINVAL;
}

int run_parse(struct run_options *opts, int argc, char **argv)
{
	*opts = (struct run_options){
		.vm = { .memory = DEFAULT_MEMORY, .vcpus = 1, .engine_options.irqchip_any = true },
		.serial = "stdio",
	};
	if (options_parse(run_table, opts, argc, argv))
		return -EINVAL;
	if (!opts->vm.kernel && !opts->image && !opts->help) {
		log_error("run: no --kernel or --image given (--help lists the options)");
		return -EINVAL;
	}
	if (check_stdio(opts) || check_balloon(&opts->vm))
		return -EINVAL;
	if (!opts->vm.engine && !opts->help)
		opts->vm.engine = engine_auto(NULL, 0);
	return opts->vm.engine_options.check ? check_check(&opts->vm) : 0;
}

void run_free_options(struct run_options *opts)
{
	run_free_boot(&opts->boot);
	for (unsigned i = 0; i < opts->vm.nr_disks; i++)
		free(opts->disk_text[i]);
	for (unsigned i = 0; i < opts->vm.nr_ports; i++)
		free(opts->port_text[i]);
}

void run_print_help(void)
{
	puts("usage: trapeze run --kernel FILE|--image PATH [OPTION]...\n");
	options_print_help(run_table, stdout);
	puts("\nOn a terminal, Ctrl-A x ends the machine and Ctrl-A ? lists the keys.\n"
	     "Status: 0 powered off, 2 crashed, 3 rebooted, 4 timeout, 1 usage or host error.");
}

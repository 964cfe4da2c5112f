/*
 * trapeze info: what this host is, what its KVM offers and how fast it is, which engine `auto`
 * takes and why.
 */
#include "cli/cli.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

#define COLUMN 28

static void print_line(void *opaque, const char *name, const char *value)
{
	printf("%*s%-*s %s\n", opaque ? 2 : 0, "", opaque ? COLUMN - 2 : COLUMN, name, value);
}

/* The processor's own name for itself, without the blanks around it. */
static void print_cpu(void)
{
	uint32_t name[13] = { 0 };
	char *text = (char *)name;

	for (uint32_t n = 0; n < 3; n++)
		__get_cpuid(0x80000002 + n, &name[4 * n], &name[4 * n + 1], &name[4 * n + 2],
		            &name[4 * n + 3]);
	while (*text == ' ')
		text++;
	print_line(NULL, "CPU", *text ? text : "without a name");
}

/* A parameter of a kernel module: Y or N, or 0 when there is none. */
static char read_parameter(const char *path)
{
	FILE *f = fopen(path, "re");
	int c;

	if (!f)
		return 0;
	c = fgetc(f);
	fclose(f);
	return c == 'Y' || c == '1' ? 'Y' : 'N';
}

static const struct {
	const char *name, *paging, *parameter;
	uint32_t leaf;
	bool ecx2; /* SVM: bit 2 of ECX; else VMX: bit 5 */
} kinds[] = {
	{ "VT-x", "EPT", "/sys/module/kvm_intel/parameters/ept", 1, false },
	{ "AMD-V", "NPT", "/sys/module/kvm_amd/parameters/npt", 0x80000001, true },
};

static void print_virtualization(void)
{
	char text[128] = "none that this CPU shows";

	for (size_t n = 0; n < ARRAY_SIZE(kinds); n++) {
		uint32_t a, b, c = 0, d;
		char paging;

		if (!__get_cpuid(kinds[n].leaf, &a, &b, &c, &d) ||
		    !(c & (kinds[n].ecx2 ? BIT(2) : BIT(5))))
			continue;
		paging = read_parameter(kinds[n].parameter);
		snprintf(text, sizeof(text), "%s, %s %s", kinds[n].name, kinds[n].paging,
		         paging == 'Y'   ? "in use"
		         : paging == 'N' ? "off"
		                         : "unknown: its KVM module is not loaded");
	}
	print_line(NULL, "hardware virtualization", text);
}

static void print_speed(const char *name, uint64_t ps)
{
	char text[64] = "does not run";

	if (ps)
		snprintf(text, sizeof(text), "%.2f ns an instruction%s", (double)ps / 1000,
		         ps > ENGINE_KVM_SLOW_PS ? ": emulated by the host" : "");
	print_line(text, name, text);
}

static void print_kvm(void)
{
	struct engine_kvm_speed speed;
	char err[256];

	if (engine_kvm_probe(true, &speed, err, sizeof(err))) {
		print_line(NULL, "KVM", err);
		return;
	}
	print_line(NULL, "KVM", "can be used");
	engine_kvm_describe(print_line, err);
	print_speed("ring 0", speed.ring0_ps);
	print_speed("ring 3", speed.ring3_ps);
}

static void print_engines(void)
{
	char why[256], text[384];
	const struct engine_ops *chosen = engine_auto(why, sizeof(why));

	snprintf(text, sizeof(text), "%s, because %s", chosen->name, why);
	print_line(NULL, "auto takes", text);
	for (const struct engine_ops *const *e = engine_table; *e; e++)
		print_line(text, (*e)->name, (*e)->what);
}

static void print_models(void)
{
	char text[256] = "";

	for (unsigned n = 0; cpuid_model_name(n); n++) {
		size_t len = strlen(text);

		snprintf(text + len, sizeof(text) - len, "%s%s", n ? ", " : "",
		         cpuid_model_name(n));
	}
	print_line(NULL, "CPU models", text);
}

int cli_info(int argc, char **argv)
{
	if (argc > 1) {
		log_error("%s: unexpected argument '%s'", argv[0], argv[1]);
		return CLI_ERROR;
	}
	print_cpu();
	print_virtualization();
	print_kvm();
	print_engines();
	print_models();
	return CLI_OK;
}

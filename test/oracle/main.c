/*
 * oracle: runs random instruction sequences on the host CPU and on an engine, and compares.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"

#define SKIPPED 77 /* as meson has it */

struct options {
	uint64_t seed, count;
	unsigned classes;
	const char *engine;
	bool verbose, self;
};

static const struct option long_options[] = {
	{ "seed", required_argument, NULL, 's' },  { "count", required_argument, NULL, 'n' },
	{ "class", required_argument, NULL, 'c' }, { "engine", required_argument, NULL, 'e' },
	{ "verbose", no_argument, NULL, 'v' },     { "self", no_argument, NULL, 'x' },
	{ "help", no_argument, NULL, 'h' },        { 0 },
};

static const char help[] =
        "usage: oracle [--seed S] [--count N] [--class integer|x87|sse|avx|all] [--engine NAME]\n"
        "              [--verbose] [--self]\n"
        "Compares N random instructions on the host CPU with an engine (default interp).\n"
        "--self compares the host with itself: what remains is noise of the harness.\n"
        "Exit status: 0 no difference, 1 differences, 2 the harness failed.\n";

static unsigned class_mask(const char *name)
{
	if (!strcmp(name, "all"))
		return BIT(CLASS_COUNT) - 1;
	for (unsigned i = 0; i < CLASS_COUNT; i++)
		if (!strcmp(name, oracle_class_name[i]))
			return BIT(i);
	fprintf(stderr, "oracle: --class %s: not one of integer, x87, sse, avx, all\n", name);
	exit(2);
}

static void parse(struct options *o, int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (c) {
		case 's':
			o->seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			o->count = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			o->classes = class_mask(optarg);
			break;
		case 'e':
			o->engine = optarg;
			break;
		case 'v':
			o->verbose = true;
			break;
		case 'x':
			o->self = true;
			break;
		default:
			fputs(help, c == 'h' ? stdout : stderr);
			exit(c == 'h' ? 0 : 2);
		}
	}
}

static void make_batch(struct oracle_generator *g, struct oracle_batch *b,
                       struct oracle_sequence *seq)
{
	memset(b->code, 0xcc, sizeof(b->code));
	oracle_random_memory(&g->rng, &b->initial, b->rodata);
	b->nr = ORACLE_BATCH;
	for (unsigned i = 0; i < b->nr; i++) {
		uint64_t start = ORACLE_CODE + i * ORACLE_SLOT;

		oracle_generate(g, start, &seq[i]);
		memcpy(b->code + i * ORACLE_SLOT, seq[i].bytes, seq[i].insn[seq[i].nr].offset);
		oracle_random_state(&g->rng, &b->in[i]);
		b->in[i].rip = start;
		if (seq[i].loop) /* alignment checks are excused, see compare.c */
			b->in[i].rflags &= ~RFLAGS_AC;
		if (!oracle_may_set_nt())
			b->in[i].rflags &= ~RFLAGS_NT;
	}
}

static uint64_t total_insns(const struct oracle_check *k)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < CLASS_COUNT; i++)
		sum += k->insns[i];
	return sum;
}

static void print_summary(const struct oracle_check *k, double seconds)
{
	for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
		if (k->seen[m])
			printf("  %-16s %u differences\n",
			       m ? ZydisMnemonicGetString(m) : "(sequence)", k->seen[m]);
	for (unsigned n = 0; n < CHECK_EXCUSES && k->excuse[n].why; n++)
		printf("  excused %5lu: %s\n", k->excuse[n].count, k->excuse[n].why);
	printf("%lu instructions", total_insns(k));
	for (unsigned i = 0; i < CLASS_COUNT; i++)
		printf(", %s %lu", oracle_class_name[i], k->insns[i]);
	printf("\n%lu cases, %lu ended by a fault, %lu not comparable, %lu excused, %lu "
	       "differences, "
	       "%.0f instructions/s\n",
	       k->cases, k->faults, k->dropped, k->excused, k->differences,
	       total_insns(k) / seconds);
}

int main(int argc, char **argv)
{
	static struct oracle_check check;
	static struct oracle_batch batch;
	static struct oracle_sequence seq[ORACLE_BATCH];
	struct options o = {
		.seed = 1, .count = 1000000, .classes = BIT(CLASS_COUNT) - 1, .engine = "interp"
	};
	struct oracle_generator g;
	struct oracle_side *native, *engine;
	uint64_t begin = clock_ns();
	bool ok = true;
	int rc;

	setlinebuf(stdout); /* a run that is cut off has said what it found */
	parse(&o, argc, argv);
	if (oracle_native_new(&native))
		return 2;
	rc = o.self ? oracle_native_new(&engine) : oracle_engine_new(&engine, o.engine, o.classes);
	if (rc)
		return rc == -ENOTSUP ? SKIPPED : 2;
	g = (struct oracle_generator){ .rng = { o.seed }, .classes = o.classes };
	ZydisDecoderInit(&g.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	check_init(&check, native, engine);
	check.verbose = o.verbose;
	while (ok && total_insns(&check) < o.count) {
		make_batch(&g, &batch, seq);
		ok = check_batch(&check, &batch, seq);
	}
	native->ops->free(native);
	engine->ops->free(engine);
	print_summary(&check, (clock_ns() - begin) / 1e9);
	if (!ok)
		return 2;
	return check.differences ? 1 : 0;
}

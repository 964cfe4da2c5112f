/*
 * trapeze: finds the verb and calls it. The table below is the whole command line above `run`.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

static int show_engines(int argc, char **argv);
static int show_version(int argc, char **argv);
static int show_help(int argc, char **argv);

static const struct cli_verb verbs[] = {
	{ "run", NULL, "run one machine in the foreground", cli_run },
	{ "image", NULL, "make, describe, check and convert disk images", cli_image },
	{ "engines", NULL, "list the ways to execute guest code", show_engines },
	{ "info", NULL, "tell what this host offers, and which engine it gets", cli_info },
	{ "version", "--version", "print the version", show_version },
	{ "help", "--help", "print this text", show_help },
};

/* For verbs that take none. */
static int refuse_arguments(int argc, char **argv)
{
	if (argc < 2)
		return CLI_OK;
	log_error("%s: unexpected argument '%s'", argv[0], argv[1]);
	return CLI_ERROR;
}

static void print_engine(const struct engine_ops *e, const char *but)
{
	printf("%-8s %s%s%s\n", e->name, e->what, *but ? "; " : "", but);
}

/* The one that auto takes comes first. */
static int show_engines(int argc, char **argv)
{
	const struct engine_ops *first;
	char why[256];

	if (refuse_arguments(argc, argv))
		return CLI_ERROR;
	first = engine_auto(why, sizeof(why));
	print_engine(first, "");
	for (const struct engine_ops *const *e = engine_table; *e; e++)
		if (*e != first)
			print_engine(*e, *e == &engine_kvm ? why : "");
	return CLI_OK;
}

static int show_version(int argc, char **argv)
{
	if (refuse_arguments(argc, argv))
		return CLI_ERROR;
	puts("trapeze " TRAPEZE_VERSION);
	return CLI_OK;
}

static void print_usage(FILE *f)
{
	fputs("usage: trapeze VERB [OPTION]...\n\n", f);
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		fprintf(f, "  %-10s %s\n", verbs[i].name, verbs[i].what);
	fputs("\n'trapeze run --help' lists the options of run; trapeze(1) explains them.\n", f);
}

static int show_help(int argc, char **argv)
{
	if (refuse_arguments(argc, argv))
		return CLI_ERROR;
	print_usage(stdout);
	return CLI_OK;
}

static const struct cli_verb *find_verb(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		const struct cli_verb *v = &verbs[i];
		if (!strcmp(name, v->name) || (v->alias && !strcmp(name, v->alias)))
			return v;
	}
	return NULL;
}

/*
 * A descriptor 0, 1 or 2 that the caller closed would be handed out again by the next open(), and a
 * guest's serial output would land in a file of ours. Plug each with one that fails the wrong way
 * round: reading 0 and writing 1 or 2 still give EBADF, as if they were closed.
 */
static void plug_standard_fds(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) == -1 && errno == EBADF)
			(void)!open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
}

/* What a verb printed may still sit in a buffer, or in a full disk's: only closing tells. */
static int close_output(int status)
{
	bool failed = ferror(stdout);

	if (fclose(stdout) == EOF || failed) {
		log_error("cannot write to standard output: %s", strerror(errno));
		return CLI_ERROR;
	}
	return status;
}

int main(int argc, char **argv)
{
	const struct cli_verb *verb;

	plug_standard_fds();
	if (argc < 2) {
		log_error("no verb given ('trapeze help' lists them)");
		return CLI_ERROR;
	}
	verb = find_verb(argv[1]);
	if (!verb) {
		log_error("unknown verb '%s' ('trapeze help' lists them)", argv[1]);
		return CLI_ERROR;
	}
	return close_output(verb->main(argc - 1, argv + 1));
}

/*
 * trapeze image: finds the verb, and has those that are short: create, resize, rebase. Each verb
 * has a table of options, from which its --help derives.
 */
#include "cli/image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "block/block.h"
#include "cli/progress.h"

static int take_word(void *opts, const struct option_row *row, const char *value)
{
	struct image_options *o = opts;

	if (!*value || o->second) {
		log_error(*value ? "unexpected argument '%s'" : "an argument is empty", value);
		return -EINVAL;
	}
	*(o->file ? &o->second : &o->file) = value;
	return 0;
}

static int parse_format(void *opts, const struct option_row *row, const char *value)
{
	struct image_options *o = opts;

	if (strcmp(value, "raw") && strcmp(value, "qcow2")) {
		log_error("%s %s: not one of raw, qcow2", row->name, value);
		return -EINVAL;
	}
	if (!strcmp(row->name, "--backing-format"))
		o->create.backing_format = value;
	else if (!strcmp(row->name, "--to"))
		o->out_format = value;
	else
		o->format = value;
	return 0;
}

static int parse_backing(void *opts, const struct option_row *row, const char *value)
{
	((struct image_options *)opts)->create.backing = value;
	return 0;
}

static int parse_cluster_size(void *opts, const struct option_row *row, const char *value)
{
	struct image_options *o = opts;

	if (options_parse_bytes(value, &o->create.cluster_size) || !o->create.cluster_size) {
		log_error("%s %s: not a size such as 64K", row->name, value);
		return -EINVAL;
	}
	return 0;
}

static int parse_refcount_bits(void *opts, const struct option_row *row, const char *value)
{
	uint64_t n;
	int rc = options_parse_number(row, value, 1, 64, &n);

	if (!rc)
		((struct image_options *)opts)->create.refcount_bits = (unsigned)n;
	return rc;
}

static int parse_version(void *opts, const struct option_row *row, const char *value)
{
	uint64_t n;
	int rc = options_parse_number(row, value, 2, 3, &n);

	if (!rc)
		((struct image_options *)opts)->create.version = (unsigned)n;
	return rc;
}

static int parse_size_option(void *opts, const struct option_row *row, const char *value)
{
	struct image_options *o = opts;

	if (options_parse_bytes(value, &o->size) || !o->size) {
		log_error("%s %s: not a size such as 4G", row->name, value);
		return -EINVAL;
	}
	return 0;
}

static int parse_debian(void *opts, const struct option_row *row, const char *value)
{
	struct image_options *o = opts;
	const struct {
		const char *name, **out;
	} texts[] = {
		{ "--packages", &o->packages },
		{ "--hostname", &o->hostname },
		{ "--ssh-key", &o->ssh_key },
		{ "--suite", &o->suite },
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (!strcmp(row->name, texts[i].name))
			*texts[i].out = value;
	return 0;
}

static int parse_flag(void *opts, const struct option_row *row, const char *value)
{
	struct image_options *o = opts;
	const struct {
		const char *name;
		bool *flag;
	} flags[] = {
		{ "--json", &o->json },
		{ "--repair", &o->repair },
		{ "--shrink", &o->shrink },
		{ "--unsafe", &o->unsafe },
		{ "--lazy-refcounts", &o->create.lazy_refcounts },
		{ "--help", &o->help },
	};

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		if (!strcmp(row->name, flags[i].name))
			*flags[i].flag = true;
	return 0;
}

#define ROW_HELP                                                    \
	{                                                           \
		"--help", "-h", NULL, parse_flag, "print this text" \
	}
#define ROW_FORMAT                                                \
	{                                                         \
		"--format", "-f", "FORMAT", parse_format,         \
		        "raw or qcow2; else it is told from the " \
		        "content"                                 \
	}
#define ROW_JSON                                               \
	{                                                      \
		"--json", NULL, NULL, parse_flag, "print JSON" \
	}
#define ROWS_QCOW2                                                                                 \
	{ "--cluster-size", NULL, "SIZE", parse_cluster_size, "of qcow2, 512B to 2M; 64K" },       \
	        { "--refcount-bits", NULL, "N", parse_refcount_bits,                               \
		  "of qcow2, 1, 2, 4, ... 64; 16" },                                               \
	        { "--version", NULL, "N", parse_version, "of qcow2, 2 or 3; 3" },                  \
	{                                                                                          \
		"--lazy-refcounts", NULL, NULL, parse_flag, "of qcow2: others may delay refcounts" \
	}

static const struct option_row create_rows[] = {
	{ "FILE [SIZE]", NULL, "", take_word, "the image, and the disk's size: 512M, 20G" },
	{ "--format", "-f", "FORMAT", parse_format, "raw or qcow2, the default" },
	{ "--backing", "-b", "FILE", parse_backing,
	  "show this image where the new one has no data;\na relative path is seen from the "
	  "image's folder" },
	{ "--backing-format", "-F", "FORMAT", parse_format,
	  "raw or qcow2; else told from its "
	  "content" },
	ROWS_QCOW2,
	ROW_HELP,
	{ 0 },
};

static const struct option_row info_rows[] = {
	{ "FILE", NULL, "", take_word, "the image" }, ROW_FORMAT, ROW_JSON, ROW_HELP, { 0 },
};

static const struct option_row check_rows[] = {
	{ "FILE", NULL, "", take_word, "the qcow2 image" },
	{ "--repair", "-r", NULL, parse_flag, "give leaked clusters back" },
	ROW_JSON,
	ROW_HELP,
	{ 0 },
};

static const struct option_row convert_rows[] = {
	{ "FROM TO", NULL, "", take_word, "the image, and the new one" },
	ROW_FORMAT,
	{ "--to", "-O", "FORMAT", parse_format, "of the new image: raw or qcow2, the default" },
	ROWS_QCOW2,
	ROW_HELP,
	{ 0 },
};

static const struct option_row debian_rows[] = {
	{ "FILE", NULL, "", take_word, "the new qcow2 image" },
	{ "--size", NULL, "SIZE", parse_size_option, "of the disk; 4G" },
	{ "--packages", NULL, "NAME,...", parse_debian, "to install, too" },
	{ "--hostname", NULL, "NAME", parse_debian, "of the machine; debian" },
	{ "--ssh-key", NULL, "FILE", parse_debian,
	  "public keys with which ssh lets root in; else it\nlets nobody in" },
	{ "--suite", NULL, "NAME", parse_debian, "Debian's release; bookworm" },
	ROW_HELP,
	{ 0 },
};

static const struct option_row resize_rows[] = {
	{ "FILE SIZE", NULL, "", take_word, "the image, and its size: 20G, or 4G more: +4G" },
	ROW_FORMAT,
	{ "--shrink", NULL, NULL, parse_flag, "allow a smaller size, which loses data" },
	ROW_HELP,
	{ 0 },
};

static const struct option_row rebase_rows[] = {
	{ "FILE", NULL, "", take_word, "the qcow2 image" },
	{ "--backing", "-b", "FILE", parse_backing, "the new backing file; '' for none" },
	{ "--backing-format", "-F", "FORMAT", parse_format,
	  "raw or qcow2; else told from its "
	  "content" },
	{ "--unsafe", "-u", NULL, parse_flag, "change the name only, whatever the files have" },
	ROW_HELP,
	{ 0 },
};

static int parse_size(const char *text, uint64_t *size)
{
	if (!options_parse_bytes(text, size))
		return 0;
	log_error("%s: not a size such as 512M or 20G", text);
	return -EINVAL;
}

static int run_create(const struct image_options *o)
{
	struct image_create_options create = o->create;
	char err[IMAGE_ERR];

	create.format = o->format ? o->format : "qcow2";
	create.size = UINT64_MAX;
	if (o->second && parse_size(o->second, &create.size))
		return CLI_ERROR;
	if (!image_create(o->file, &create, err, sizeof(err)))
		return CLI_OK;
	log_error("%s", err);
	return CLI_ERROR;
}

/* "20G", or "+4G" beyond what it is now. */
static int new_size(const char *text, uint64_t old, uint64_t *size)
{
	if (parse_size(text + (text[0] == '+'), size))
		return -EINVAL;
	if (text[0] == '+' && __builtin_add_overflow(old, *size, size)) {
		log_error("%s: too large", text);
		return -EINVAL;
	}
	*size = (*size + BLOCK_SECTOR - 1) / BLOCK_SECTOR * BLOCK_SECTOR;
	return 0;
}

static int resize_disk(struct block *b, const struct image_options *o)
{
	char err[IMAGE_ERR], old[32], new[32];
	struct block_info info;
	uint64_t size;

	block_get_info(b, &info);
	if (new_size(o->second, info.size, &size))
		return CLI_ERROR;
	if (size < info.size && !o->shrink) {
		log_error("%s: %s is less than its %s, and would lose data: --shrink allows it",
		          o->file, options_format_bytes(size, new, sizeof(new)),
		          options_format_bytes(info.size, old, sizeof(old)));
		return CLI_ERROR;
	}
	if (!block_resize(b, size, err, sizeof(err)))
		return CLI_OK;
	log_error("%s", err);
	return CLI_ERROR;
}

static int run_resize(const struct image_options *o)
{
	struct block_options options = { .format = o->format };
	char err[IMAGE_ERR];
	struct block *b;
	int rc, status;

	if (!o->second) {
		log_error("no size given (--help)");
		return CLI_ERROR;
	}
	if (block_open(&b, o->file, &options, err, sizeof(err))) {
		log_error("%s", err);
		return CLI_ERROR;
	}
	status = resize_disk(b, o);
	rc = block_close(b);
	if (rc)
		log_error("%s: %s", o->file, strerror(-rc));
	return rc ? CLI_ERROR : status;
}

static void show_progress(void *opaque, uint64_t done, uint64_t total)
{
	progress_update(opaque, done, total);
}

static int run_rebase(const struct image_options *o)
{
	const char *backing = o->create.backing;
	struct progress p;
	struct image_rebase r = { .backing_format = o->create.backing_format,
		                  .unsafe = o->unsafe,
		                  .progress = show_progress,
		                  .opaque = &p };
	char err[IMAGE_ERR];
	int rc;

	if (!backing) {
		log_error("--backing: no new backing file given");
		return CLI_ERROR;
	}
	r.backing = *backing ? backing : NULL;
	progress_init(&p, "rebase");
	rc = image_rebase(o->file, &r, err, sizeof(err));
	progress_fini(&p);
	if (rc)
		log_error("%s", err);
	return rc ? CLI_ERROR : CLI_OK;
}

static const struct image_verb {
	const char *name, *words, *what;
	const struct option_row *rows;
	int (*run)(const struct image_options *o); /* an exit status */
} image_verbs[] = {
	{ "create", "FILE [SIZE]", "make an image", create_rows, run_create },
	{ "info", "FILE", "say what an image is", info_rows, image_info_verb },
	{ "check", "FILE", "look for damage and leaks", check_rows, image_check_verb },
	{ "convert", "FROM TO", "copy to an image of another format", convert_rows,
	  image_convert_verb },
	{ "debian", "FILE", "make an image with Debian on it", debian_rows, image_debian_verb },
	{ "resize", "FILE SIZE", "change the disk's size", resize_rows, run_resize },
	{ "rebase", "FILE", "change the backing file", rebase_rows, run_rebase },
};

static void print_verbs(FILE *f)
{
	fputs("usage: trapeze image VERB [OPTION]...\n\n", f);
	for (size_t i = 0; i < ARRAY_SIZE(image_verbs); i++)
		fprintf(f, "  %-10s %s\n", image_verbs[i].name, image_verbs[i].what);
	fputs("\n'trapeze image VERB --help' lists the options of each.\n", f);
}

static int run_verb(const struct image_verb *v, int argc, char **argv)
{
	struct image_options o = { 0 };

	if (options_parse(v->rows, &o, argc, argv))
		return CLI_ERROR;
	if (o.help) {
		printf("usage: trapeze image %s [OPTION]... %s\n\n", v->name, v->words);
		options_print_help(v->rows, stdout);
		return CLI_OK;
	}
	if (!o.file) {
		log_error("image %s: no file given (--help)", v->name);
		return CLI_ERROR;
	}
	if (o.second && !strchr(v->words, ' ')) {
		log_error("image %s: unexpected argument '%s'", v->name, o.second);
		return CLI_ERROR;
	}
	return v->run(&o);
}

int cli_image(int argc, char **argv)
{
	if (argc < 2) {
		log_error("image: no verb given ('trapeze image --help' lists them)");
		return CLI_ERROR;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		print_verbs(stdout);
		return CLI_OK;
	}
	for (size_t i = 0; i < ARRAY_SIZE(image_verbs); i++)
		if (!strcmp(argv[1], image_verbs[i].name))
			return run_verb(&image_verbs[i], argc - 1, argv + 1);
	log_error("image: unknown verb '%s' ('trapeze image --help' lists them)", argv[1]);
	return CLI_ERROR;
}

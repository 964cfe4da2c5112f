/* trapeze image info and check: what an image is, and whether it is sound. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/image.h"

/* As of qemu-img check. */
enum check_status {
	CHECK_OK = 0,
	CHECK_ERROR = 1, /* could not be done */
	CHECK_CORRUPT = 2,
	CHECK_LEAKS = 3,
};

#define MAX_LINES 50u /* of findings */

static int print_json(json_t *j)
{
	int rc = json_dumpf(j, stdout, JSON_INDENT(2));

	putchar('\n');
	json_decref(j);
	return rc ? CLI_ERROR : CLI_OK;
}

static void set_integer(json_t *j, const char *key, uint64_t value)
{
	json_object_set_new(j, key, json_integer((json_int_t)value));
}

/* A name from the file may be no UTF-8: then there is none. */
static void set_string(json_t *j, const char *key, const char *value)
{
	json_t *s = value ? json_string(value) : NULL;

	json_object_set_new(j, key, s ? s : json_null());
}

static json_t *describe(const char *file, const struct image_details *d)
{
	json_t *j = json_object();

	set_string(j, "file", file);
	set_string(j, "format", d->format);
	set_integer(j, "size", d->size);
	set_integer(j, "used_bytes", d->used);
	set_integer(j, "file_bytes", d->file_size);
	set_string(j, "backing", d->backing);
	set_string(j, "backing_path", d->backing_path);
	set_string(j, "backing_format", d->backing_format);
	if (!d->version)
		return j;
	set_integer(j, "version", d->version);
	set_integer(j, "cluster_size", d->cluster_size);
	set_integer(j, "refcount_bits", d->refcount_bits);
	set_string(j, "compression", d->zstd ? "zstd" : "zlib");
	set_integer(j, "snapshots", d->snapshots);
	json_object_set_new(j, "lazy_refcounts", json_boolean(d->lazy_refcounts));
	json_object_set_new(j, "dirty", json_boolean(d->dirty));
	json_object_set_new(j, "corrupt", json_boolean(d->corrupt));
	return j;
}

static void print_size(const char *what, uint64_t bytes)
{
	char text[32];

	printf("%-15s %s (%" PRIu64 " bytes)\n", what,
	       options_format_bytes(bytes, text, sizeof(text)), bytes);
}

static void print_details(const char *file, const struct image_details *d)
{
	char text[32];

	printf("%-15s %s\n%-15s %s", "file", file, "format", d->format);
	if (d->version)
		printf(", version %u%s%s", d->version, d->lazy_refcounts ? ", lazy refcounts" : "",
		       d->zstd ? ", zstd" : "");
	putchar('\n');
	print_size("size", d->size);
	print_size("on the host", d->used);
	if (d->version)
		printf("%-15s %s\n%-15s %u bits\n", "clusters",
		       options_format_bytes(d->cluster_size, text, sizeof(text)), "refcounts",
		       d->refcount_bits);
	if (d->snapshots)
		printf("%-15s %u\n", "snapshots", d->snapshots);
	if (d->backing)
		printf("%-15s %s (%s%s%s)\n", "backing file", d->backing, d->backing_path,
		       d->backing_format ? ", " : "", d->backing_format ? d->backing_format : "");
	if (d->dirty)
		puts("dirty: its refcounts were not written; the next writer makes them anew");
	if (d->corrupt)
		puts("corrupt: somebody found damage and marked it");
}

int image_info_verb(const struct image_options *o)
{
	struct image_details d;
	char err[IMAGE_ERR];
	int status = CLI_OK;

	if (image_describe(o->file, o->format, &d, err, sizeof(err))) {
		log_error("%s", err);
		return CLI_ERROR;
	}
	if (o->json)
		status = print_json(describe(o->file, &d));
	else
		print_details(o->file, &d);
	image_details_fini(&d);
	return status;
}

struct findings {
	bool quiet;
	unsigned lines;
};

static void print_finding(void *opaque, const char *line)
{
	struct findings *f = opaque;

	if (f->quiet || f->lines > MAX_LINES)
		return;
	puts(f->lines++ < MAX_LINES ? line : "...");
}

static int status_of(const struct image_check *c)
{
	return c->corruptions ? CHECK_CORRUPT : c->leaks ? CHECK_LEAKS : CHECK_OK;
}

static void print_check(const char *file, const struct image_check *c)
{
	printf("%s: %" PRIu64 " of %" PRIu64 " clusters in use, %" PRIu64 " of them compressed\n",
	       file, c->allocated, c->clusters, c->compressed);
	if (c->corruptions)
		printf("%" PRIu64 " corruptions: data is lost, or will be when the image is "
		       "written\n",
		       c->corruptions);
	if (c->repaired)
		printf("%" PRIu64 " leaks repaired\n", c->repaired);
	if (c->leaks)
		printf("%" PRIu64 " leaked clusters: space is lost, nothing else%s\n", c->leaks,
		       c->corruptions ? "" : "; --repair gives it back");
	if (!c->corruptions && !c->leaks)
		puts("no damage, no leaks");
}

static json_t *describe_check(const char *file, const struct image_check *c)
{
	json_t *j = json_object();

	set_string(j, "file", file);
	set_integer(j, "corruptions", c->corruptions);
	set_integer(j, "leaks", c->leaks);
	set_integer(j, "leaks_repaired", c->repaired);
	set_integer(j, "clusters", c->clusters);
	set_integer(j, "clusters_allocated", c->allocated);
	set_integer(j, "clusters_compressed", c->compressed);
	set_integer(j, "file_end", c->file_end);
	return j;
}

int image_check_verb(const struct image_options *o)
{
	struct findings f = { .quiet = o->json };
	struct image_check c = { .report = print_finding, .opaque = &f };
	char err[IMAGE_ERR];

	if (image_check(o->file, NULL, o->repair, &c, err, sizeof(err))) {
		log_error("%s", err);
		return CHECK_ERROR;
	}
	if (o->json && print_json(describe_check(o->file, &c)))
		return CHECK_ERROR;
	if (!o->json)
		print_check(o->file, &c);
	return status_of(&c);
}

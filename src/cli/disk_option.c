/*
 * --disk PATH[,KEY[=VALUE]]...: a table of keys.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "cli/run.h"

#define MAX_IOPS 1000000000ull

struct key {
	const char *name;
	bool has_value;
	/* text is the whole option, for messages. */
	int (*parse)(struct vm_disk *d, const char *value, const char *text);
};

static int refuse(const char *text, const char *what)
{
	log_error("%s: %s", text, what);
	return -EINVAL;
}

static int parse_format(struct vm_disk *d, const char *value, const char *text)
{
	if (strcmp(value, "raw") && strcmp(value, "qcow2"))
		return refuse(text, "format is not one of raw, qcow2");
	d->options.format = value;
	return 0;
}

static int parse_readonly(struct vm_disk *d, const char *value, const char *text)
{
	d->options.readonly = true;
	return 0;
}

static int parse_iops(struct vm_disk *d, const char *value, const char *text)
{
	char *end;
	uint64_t n = strtoull(value, &end, 10);

	if (*value < '0' || *value > '9' || *end || n < 1 || n > MAX_IOPS)
		return refuse(text, "iops is not a number from 1 to 1000000000");
	d->options.iops = n;
	return 0;
}

static int parse_bps(struct vm_disk *d, const char *value, const char *text)
{
	if (options_parse_bytes(value, &d->options.bytes_per_s) || !d->options.bytes_per_s)
		return refuse(text, "bps is not a number of bytes such as 10M");
	return 0;
}

static int parse_serial(struct vm_disk *d, const char *value, const char *text)
{
	if (strlen(value) > VM_SERIAL_BYTES)
		return refuse(text, "serial has more than 20 characters");
	for (const char *p = value; *p; p++)
		if (*p < ' ' || *p > '~')
			return refuse(text, "serial has characters other than ASCII's");
	d->serial = value;
	return 0;
}

static int parse_if(struct vm_disk *d, const char *value, const char *text)
{
	if (!strcmp(value, "virtio"))
		d->bus = VM_DISK_VIRTIO;
	else if (!strcmp(value, "nvme"))
		d->bus = VM_DISK_NVME;
	else
		return refuse(text, "if is not one of virtio, nvme");
	return 0;
}

static int parse_werror(struct vm_disk *d, const char *value, const char *text)
{
	d->pause_when_full = !strcmp(value, "pause");
	if (!d->pause_when_full && strcmp(value, "report"))
		return refuse(text, "werror is not one of report, pause");
	return 0;
}

static const struct key keys[] = {
	{ "format", true, parse_format }, { "readonly", false, parse_readonly },
	{ "iops", true, parse_iops },     { "bps", true, parse_bps },
	{ "serial", true, parse_serial }, { "if", true, parse_if },
	{ "werror", true, parse_werror },
};

static int parse_key(struct vm_disk *d, char *word, const char *text)
{
	char *value = strchr(word, '=');

	if (value)
		*value++ = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (strcmp(word, keys[i].name))
			continue;
		if (keys[i].has_value != !!value) {
			log_error("%s: %s %s value", text, word, value ? "takes no" : "needs a");
			return -EINVAL;
		}
		return keys[i].parse(d, value, text);
	}
	log_error("%s: no such key as '%s', only format, readonly, iops, bps, serial, if, "
	          "werror",
	          text, word);
	return -EINVAL;
}

static int parse_words(struct vm_disk *d, char *words, const char *text)
{
	char *word, *rest = strchr(words, ',');

	if (rest)
		*rest++ = '\0';
	if (!*words)
		return refuse(text, "the file name is empty");
	while ((word = strsep(&rest, ",")))
		if (parse_key(d, word, text))
			return -EINVAL;
	return 0;
}

int run_parse_disk(struct run_options *opts, const char *option, const char *value)
{
	struct vm_disk *d = &opts->vm.disk[opts->vm.nr_disks];
	char *copy, *text;
	int rc;

	if (opts->vm.nr_disks == VM_MAX_DISKS) {
		log_error("%s %s: more than %d disks", option, value, VM_MAX_DISKS);
		return -EINVAL;
	}
	copy = strdup(value);
	if (!copy || asprintf(&text, "%s %s", option, value) < 0) {
		free(copy);
		log_error("%s: %s", option, strerror(ENOMEM));
		return -ENOMEM;
	}
	opts->disk_text[opts->vm.nr_disks++] = copy;
	*d = (struct vm_disk){ .path = copy };
	rc = parse_words(d, copy, text);
	free(text);
	return rc;
}

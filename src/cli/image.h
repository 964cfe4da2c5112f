/* `trapeze image`: what its verbs share. Private to this folder. */
#pragma once

#include "block/image.h"
#include "cli/cli.h"
#include "cli/options.h"

#define IMAGE_ERR 512

/* Everything that the options of a verb may say; each verb has the rows that it understands. */
struct image_options {
	const char *file, *second; /* words that are no options, in this order */
	const char *format, *out_format;
	struct image_create_options create;
	const char *packages, *hostname, *ssh_key, *suite; /* of debian, NULL for the defaults */
	uint64_t size;                                     /* of debian's disk, 0: the default */
	bool json, repair, shrink, unsafe, help;
};

int image_info_verb(const struct image_options *o);
int image_check_verb(const struct image_options *o);
int image_convert_verb(const struct image_options *o);
int image_debian_verb(const struct image_options *o);

/* Image files for the tests of src/block: each in a folder that teardown removes. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/block.h"

struct image_folder {
	char path[64];
	char err[512];
	char buf[256]; /* the last image_path() */
};

static inline int make_folder(void **state)
{
	struct image_folder *f = test_calloc(1, sizeof(*f));

	snprintf(f->path, sizeof(f->path), "/tmp/trapeze-block-XXXXXX");
	assert_non_null(mkdtemp(f->path));
	*state = f;
	return 0;
}

static inline int remove_folder(void **state)
{
	struct image_folder *f = *state;
	DIR *d = opendir(f->path);
	struct dirent *entry;

	while (d && (entry = readdir(d)))
		unlinkat(dirfd(d), entry->d_name, 0);
	closedir(d);
	assert_int_equal(rmdir(f->path), 0);
	test_free(f);
	return 0;
}

static inline const char *image_path(struct image_folder *f, const char *name)
{
	snprintf(f->buf, sizeof(f->buf), "%s/%s", f->path, name);
	return f->buf;
}

static inline const char *make_file(struct image_folder *f, const char *name, uint64_t size)
{
	int fd = open(image_path(f, name), O_RDWR | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
	return f->buf;
}

/* An open that has to succeed. */
static inline struct block *open_image(struct image_folder *f, const char *name,
                                       struct block_options o)
{
	struct block *b = NULL;
	int rc = block_open(&b, image_path(f, name), &o, f->err, sizeof(f->err));

	if (rc)
		print_error("%s\n", f->err);
	assert_int_equal(rc, 0);
	return b;
}

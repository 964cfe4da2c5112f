/*
 * Files of an ext2, ext3 or ext4 file system that fills a whole disk, read through the block layer
 * and without mounting anything. libext2fs knows the format; what a hostile disk could make it
 * allocate or walk through is bounded here.
 *
 * All return 0, or -errno with one line in err.
 */
#pragma once

#include "base/base.h"

struct block;
struct ext4;

#define EXT4_NAME 256 /* of a file, with its NUL */

/* name is the image's, for messages; disk must outlive it. The journal is not replayed. */
int ext4_open(struct ext4 **out, struct block *disk, const char *name, char *err, size_t errlen);
void ext4_close(struct ext4 *fs); /* safe on NULL */

/*
 * The file of a folder in the root folder whose name starts with prefix, the last by version where
 * there are more. -ENOENT when there is none.
 */
int ext4_find_newest(struct ext4 *fs, const char *folder, const char *prefix, char found[EXT4_NAME],
                     char *err, size_t errlen);
/* Appends the content of such a file, of at most max bytes, to fd. */
int ext4_copy(struct ext4 *fs, const char *folder, const char *file, uint64_t max, int fd,
              char *err, size_t errlen);

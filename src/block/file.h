/*
 * A file of the host that holds an image: opening, locks, and plain synchronous access, which is
 * what metadata uses. Data goes through aio.h. Private to this folder.
 */
#pragma once

#include "base/base.h"
#include "block/errbuf.h"

struct file {
	int fd; /* -1: not open */
	char *path;
	bool readonly;
	bool device;       /* a block device: its size is fixed */
	uint64_t dev, ino; /* who it is, whatever its path */
};

struct file_mode {
	bool readonly;
	bool unlocked;
	bool create; /* it must not exist, or is emptied once the lock is held */
};

/* 0 or -errno with a line in e: no such file, not a file... */
int file_open(struct file *f, const char *path, const struct file_mode *mode,
              const struct errbuf *e);
/* Locks it, unless unlocked, and empties it, if it is to be created. */
int file_claim(struct file *f, const struct file_mode *mode, const struct errbuf *e);
/* Unlocks, too. Safe on a file that is not open. */
void file_close(struct file *f);

int file_size(const struct file *f, uint64_t *size);
uint64_t file_used(const struct file *f); /* bytes taken on the host */
/* All of it, or -errno. What lies beyond the end of the file reads as zeroes. */
int file_read(const struct file *f, uint64_t offset, void *buf, size_t len);
int file_write(const struct file *f, uint64_t offset, const void *buf, size_t len);
int file_sync(const struct file *f);
int file_truncate(const struct file *f, uint64_t size);

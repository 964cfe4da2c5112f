/*
 * Guest memory for devices: ranges of guest physical addresses as lists of host addresses.
 *
 * A list stays valid for as long as the machine lives, but the guest writes the same bytes while a
 * device works on them: what a decision depends on is copied once, and the copy is looked at. After
 * a device has written, it says so (dma_wrote()), for code may be watched there; dma_write() does
 * that by itself.
 */
#pragma once

#include <sys/uio.h>
#include "mem/mem.h"

struct dma {
	struct iovec *iov;
	unsigned nr, max;
	uint64_t len; /* bytes in all */
};

/*
 * Appends [gpa, gpa+len), of which no element spans banks. 0; -EFAULT where some of it is not
 * memory, or ROM that is to be written; -E2BIG when the list is full. Then nothing was appended.
 */
int dma_add(struct dma *d, const struct mem *m, gpa_t gpa, uint64_t len, bool writable);

/* Copies between the list, from byte `at` of it on, and a buffer; returns how many bytes there
 * were, at most len. */
uint64_t dma_read(const struct dma *d, uint64_t at, void *buf, uint64_t len);
uint64_t dma_write(const struct dma *d, struct mem *m, uint64_t at, const void *buf, uint64_t len);
/* The first len bytes of the list were written by other means. */
void dma_wrote(const struct dma *d, struct mem *m, uint64_t len);

/* Arithmetic on scatter lists. Private to this folder. */
#pragma once

#include <sys/uio.h>

#include "base/base.h"

/* Describes len bytes of src from byte skip on in dst, which has room for nr entries. How many were
 * needed. src holds that many bytes. */
unsigned iov_slice(struct iovec *dst, const struct iovec *src, unsigned nr, uint64_t skip,
                   uint64_t len);
void iov_zero(const struct iovec *iov, unsigned nr, uint64_t skip, uint64_t len);
void iov_copy_to(const struct iovec *iov, unsigned nr, uint64_t skip, const void *buf, size_t len);
void iov_copy_from(const struct iovec *iov, unsigned nr, uint64_t skip, void *buf, size_t len);

/*
 * The compressions that kernels are shipped in.
 */
#pragma once

#include "base/base.h"

enum compression {
	COMPRESSION_NONE,
	COMPRESSION_GZIP,
	COMPRESSION_XZ,
	COMPRESSION_ZSTD,
	COMPRESSION_LZ4
};

/* By the first bytes; COMPRESSION_NONE when they are none of ours. */
enum compression decompress_probe(const uint8_t *data, uint64_t size);
const char *decompress_name(enum compression c);

/*
 * Unpacks all of data into exactly out_size bytes. 0, -EINVAL when the data is corrupt or gives
 * another size, -ENOMEM.
 */
int decompress(enum compression c, const uint8_t *data, uint64_t size, uint8_t *out,
               uint64_t out_size);

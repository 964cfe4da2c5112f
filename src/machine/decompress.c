#include "machine/decompress.h"

#include <errno.h>
#include <string.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

/* A dictionary of 32 MiB is what the kernel's Makefile asks of xz; some room above it. */
#define XZ_MEMORY_LIMIT (256 * MiB)
/* lz4's legacy framing: magic, then blocks of a 32-bit size and as many bytes, 8 MiB unpacked each.
 */
#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_LEGACY_BLOCK (8 * MiB)

static int unpack_gzip(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t out_size)
{
	z_stream z = { .next_in = (Bytef *)data,
		       .avail_in = (uInt)size,
		       .next_out = out,
		       .avail_out = (uInt)out_size };
	int rc;

	if (size > UINT32_MAX || out_size > UINT32_MAX)
		return -EINVAL;
	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return -ENOMEM;
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return rc == Z_STREAM_END && z.total_out == out_size ? 0 : -EINVAL;
}

static int unpack_xz(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t out_size)
{
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_ret rc = lzma_stream_decoder(&s, XZ_MEMORY_LIMIT, LZMA_CONCATENATED);

	if (rc != LZMA_OK)
		return -ENOMEM;
	s.next_in = data;
	s.avail_in = size;
	s.next_out = out;
	s.avail_out = out_size;
	rc = lzma_code(&s, LZMA_FINISH);
	lzma_end(&s);
	if (rc == LZMA_MEM_ERROR)
		return -ENOMEM;
	return rc == LZMA_STREAM_END && s.total_out == out_size ? 0 : -EINVAL;
}

static int unpack_zstd(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t out_size)
{
	return ZSTD_decompress(out, out_size, data, size) == out_size ? 0 : -EINVAL;
}

static int unpack_lz4(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t out_size)
{
	uint64_t pos = 0, done = 0;

	while (size - pos >= 4) {
		uint64_t room = out_size - done;
		uint32_t word;
		int n;

		memcpy(&word, data + pos, 4);
		pos += 4;
		if (word == LZ4_LEGACY_MAGIC)
			continue;
		if (word > size - pos || word > LZ4_COMPRESSBOUND(LZ4_LEGACY_BLOCK))
			return -EINVAL;
		n = LZ4_decompress_safe((const char *)data + pos, (char *)out + done, (int)word,
		                        (int)(room < LZ4_LEGACY_BLOCK ? room : LZ4_LEGACY_BLOCK));
		if (n < 0)
			return -EINVAL;
		pos += word;
		done += (unsigned)n;
	}
	return pos == size && done == out_size ? 0 : -EINVAL;
}

static const struct {
	const char *name;
	uint8_t magic[6];
	uint8_t magic_len;
	int (*unpack)(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t out_size);
} formats[] = {
	[COMPRESSION_GZIP] = { "gzip", { 0x1f, 0x8b }, 2, unpack_gzip },
	[COMPRESSION_XZ] = { "xz", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, unpack_xz },
	[COMPRESSION_ZSTD] = { "zstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4, unpack_zstd },
	[COMPRESSION_LZ4] = { "lz4", { 0x02, 0x21, 0x4c, 0x18 }, 4, unpack_lz4 },
};

enum compression decompress_probe(const uint8_t *data, uint64_t size)
{
	for (enum compression c = COMPRESSION_GZIP; c < ARRAY_SIZE(formats); c++)
		if (size >= formats[c].magic_len &&
		    !memcmp(data, formats[c].magic, formats[c].magic_len))
			return c;
	return COMPRESSION_NONE;
}

const char *decompress_name(enum compression c)
{
	return c == COMPRESSION_NONE ? "unknown" : formats[c].name;
}

int decompress(enum compression c, const uint8_t *data, uint64_t size, uint8_t *out,
               uint64_t out_size)
{
	return c == COMPRESSION_NONE ? -EINVAL : formats[c].unpack(data, size, out, out_size);
}

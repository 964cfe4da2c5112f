/*
 * The layout of a qcow2 file: numbers of its specification (docs/interop/qcow2 of QEMU). All of a
 * file is big endian. Private to this folder.
 */
#pragma once

#include <endian.h>
#include <string.h>

#include "base/base.h"

#define QCOW2_MAGIC            0x514649fbu
#define QCOW2_V2_HEADER        72u
#define QCOW2_V3_HEADER        104u
#define QCOW2_MIN_CLUSTER_BITS 9u
#define QCOW2_MAX_CLUSTER_BITS 21u
#define QCOW2_MAX_BACKING_NAME 1023u
#define QCOW2_MAX_L1_BYTES     (32 * MiB) /* the limits of QEMU, which has to read our images */
#define QCOW2_MAX_REFTABLE     (8 * MiB)

/* Where the fields of the header are. */
enum {
	QCOW2_AT_VERSION = 4,
	QCOW2_AT_BACKING_OFFSET = 8,
	QCOW2_AT_BACKING_SIZE = 16,
	QCOW2_AT_CLUSTER_BITS = 20,
	QCOW2_AT_SIZE = 24,
	QCOW2_AT_CRYPT = 32,
	QCOW2_AT_L1_SIZE = 36,
	QCOW2_AT_L1_OFFSET = 40,
	QCOW2_AT_REFTABLE_OFFSET = 48,
	QCOW2_AT_REFTABLE_CLUSTERS = 56,
	QCOW2_AT_SNAPSHOTS = 60,
	QCOW2_AT_SNAPSHOTS_OFFSET = 64,
	QCOW2_AT_INCOMPATIBLE = 72,
	QCOW2_AT_COMPATIBLE = 80,
	QCOW2_AT_AUTOCLEAR = 88,
	QCOW2_AT_REFCOUNT_ORDER = 96,
	QCOW2_AT_HEADER_LENGTH = 100,
	QCOW2_AT_COMPRESSION = 104,
};

#define QCOW2_INCOMPATIBLE_DIRTY       BIT(0)
#define QCOW2_INCOMPATIBLE_CORRUPT     BIT(1)
#define QCOW2_INCOMPATIBLE_DATA_FILE   BIT(2)
#define QCOW2_INCOMPATIBLE_COMPRESSION BIT(3)
#define QCOW2_INCOMPATIBLE_EXTENDED_L2 BIT(4)
#define QCOW2_COMPATIBLE_LAZY          BIT(0)
#define QCOW2_AUTOCLEAR_BITMAPS        BIT(0)

#define QCOW2_EXTENSION_END            0u
#define QCOW2_EXTENSION_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXTENSION_BITMAPS        0x23852875u

/* Entries of L1 and L2 tables, and of the refcount table. */
#define QCOW2_COPIED            BIT(63)
#define QCOW2_COMPRESSED        BIT(62)
#define QCOW2_ZERO              BIT(0)
#define QCOW2_OFFSET            0x00fffffffffffe00ull
#define QCOW2_L1_RESERVED       (~(QCOW2_COPIED | QCOW2_OFFSET))
#define QCOW2_L2_RESERVED       (~(QCOW2_COPIED | QCOW2_COMPRESSED | QCOW2_OFFSET | QCOW2_ZERO))
#define QCOW2_REFTABLE_RESERVED 0x1ffull

#define QCOW2_SNAPSHOT_BYTES 40u /* the fixed part of an entry */

static inline uint32_t qcow2_get32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline uint64_t qcow2_get64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static inline void qcow2_put32(void *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void qcow2_put64(void *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

static inline bool qcow2_has_magic(const void *header)
{
	return qcow2_get32(header) == QCOW2_MAGIC;
}

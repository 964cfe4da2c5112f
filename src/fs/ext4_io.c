#include "fs/ext4_io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BLOCK_SIZE 1024 /* until the superblock has been read */

void ext4_io_name(char name[EXT4_IO_NAME], struct block *disk)
{
	snprintf(name, EXT4_IO_NAME, "%p", (void *)disk);
}

static errcode_t open_channel(const char *name, int flags, io_channel *channel)
{
	io_channel c = calloc(1, sizeof(*c));
	void *disk;

	if (!c || sscanf(name, "%p", &disk) != 1) {
		free(c);
		return ENOMEM;
	}
	c->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	c->manager = &ext4_io_manager;
	c->block_size = FIRST_BLOCK_SIZE;
	c->refcount = 1;
	c->private_data = disk;
	*channel = c;
	return 0;
}

static errcode_t close_channel(io_channel c)
{
	if (--c->refcount == 0)
		free(c);
	return 0;
}

static errcode_t set_block_size(io_channel c, int size)
{
	c->block_size = size;
	return 0;
}

/* The disk's sectors that have these bytes, which need not be whole ones. */
static int read_bytes(struct block *disk, uint64_t offset, uint8_t *to, uint64_t len)
{
	struct block_info info;
	uint64_t start, end;
	uint8_t *buf;
	int rc;

	block_get_info(disk, &info);
	start = offset / info.sector * info.sector;
	end = (offset + len + info.sector - 1) / info.sector * info.sector;
	if (offset > info.size || len > info.size - offset || end > info.size)
		return -EIO;
	buf = malloc(end - start);
	if (!buf)
		return -ENOMEM;
	rc = block_read(disk, start, buf, end - start);
	if (!rc)
		memcpy(to, buf + (offset - start), len);
	free(buf);
	return rc;
}

/* count: blocks, or if negative bytes. */
static errcode_t read_blocks64(io_channel c, unsigned long long block, int count, void *data)
{
	uint64_t size = (uint64_t)c->block_size, offset;
	uint64_t len = count < 0 ? (uint64_t)(-(int64_t)count) : (uint64_t)count * size;

	if (__builtin_mul_overflow(block, size, &offset) || len > BLOCK_MAX_LEN)
		return EXT2_ET_SHORT_READ;
	return read_bytes(c->private_data, offset, data, len) ? EXT2_ET_SHORT_READ : 0;
}

static errcode_t read_blocks(io_channel c, unsigned long block, int count, void *data)
{
	return read_blocks64(c, block, count, data);
}

static errcode_t refuse_write64(io_channel c, unsigned long long block, int count, const void *data)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t refuse_write(io_channel c, unsigned long block, int count, const void *data)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t flush_channel(io_channel c)
{
	return 0;
}

struct struct_io_manager ext4_io_manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "trapeze",
	.open = open_channel,
	.close = close_channel,
	.set_blksize = set_block_size,
	.read_blk = read_blocks,
	.read_blk64 = read_blocks64,
	.write_blk = refuse_write,
	.write_blk64 = refuse_write64,
	.flush = flush_channel,
};

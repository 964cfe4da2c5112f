/* The block layer as libext2fs sees it. Private to this folder. */
#pragma once

#include <ext2fs/ext2fs.h>

#include "block/block.h"

/* A manager's open() gets no more than a name: this is the address of a struct block as text. */
#define EXT4_IO_NAME 32
void ext4_io_name(char name[EXT4_IO_NAME], struct block *disk);

/* Reads only. Errors are libext2fs's. */
extern struct struct_io_manager ext4_io_manager;

/*
 * QEMU's firmware configuration device, port interface without DMA (QEMU docs/specs/fw_cfg): write
 * a 16-bit key to port 0x510, read the item's bytes one after another from port 0x511.
 *
 * Numbers are little-endian, except the file directory, which is big-endian. Past the end of an
 * item, and for a key that nobody added, reads give zeros.
 */
#pragma once

#include "bus/bus.h"

#define FW_CFG_PORT      0x510
#define FW_CFG_LEN       2
#define FW_CFG_MAX_ITEMS 64
#define FW_CFG_MAX_FILES 32
#define FW_CFG_NAME_LEN  56 /* with the terminating zero */

enum fw_cfg_key {
	FW_CFG_SIGNATURE = 0x00,
	FW_CFG_ID = 0x01,
	FW_CFG_RAM_SIZE = 0x03,
	FW_CFG_NOGRAPHIC = 0x04,
	FW_CFG_NB_CPUS = 0x05,
	FW_CFG_KERNEL_ADDR = 0x07,
	FW_CFG_KERNEL_SIZE = 0x08,
	FW_CFG_INITRD_ADDR = 0x0a,
	FW_CFG_INITRD_SIZE = 0x0b,
	FW_CFG_BOOT_MENU = 0x0e,
	FW_CFG_MAX_CPUS = 0x0f,
	FW_CFG_KERNEL_ENTRY = 0x10,
	FW_CFG_KERNEL_DATA = 0x11,
	FW_CFG_INITRD_DATA = 0x12,
	FW_CFG_CMDLINE_ADDR = 0x13,
	FW_CFG_CMDLINE_SIZE = 0x14,
	FW_CFG_CMDLINE_DATA = 0x15,
	FW_CFG_SETUP_ADDR = 0x16,
	FW_CFG_SETUP_SIZE = 0x17,
	FW_CFG_SETUP_DATA = 0x18,
	FW_CFG_FILE_DIR = 0x19,
	FW_CFG_FILE_FIRST = 0x20,
};

struct fw_cfg_item {
	uint16_t key;
	uint32_t len;
	uint8_t *data; /* owned */
};

struct fw_cfg_file {
	uint32_t size; /* big-endian, from here to name */
	uint16_t select;
	uint16_t reserved;
	char name[FW_CFG_NAME_LEN];
};

struct fw_cfg {
	unsigned nr_items, nr_files;
	struct fw_cfg_item item[FW_CFG_MAX_ITEMS];
	struct {
		uint32_t count; /* big-endian */
		struct fw_cfg_file file[FW_CFG_MAX_FILES];
	} dir;
	uint16_t key;    /* selected */
	uint32_t offset; /* of the next byte in the selected item */
};

extern const struct bus_ops fw_cfg_ops;

/* With the signature, the interface's version and an empty directory. 0 or -ENOMEM. */
int fw_cfg_init(struct fw_cfg *f);
void fw_cfg_fini(struct fw_cfg *f);
void fw_cfg_reset(struct fw_cfg *f);

/* Data is copied; adding a key again replaces it. Before vCPUs run. 0, -ENOMEM or -ENOSPC. */
int fw_cfg_add(struct fw_cfg *f, uint16_t key, const void *data, uint32_t len);
int fw_cfg_add_u16(struct fw_cfg *f, uint16_t key, uint16_t value);
int fw_cfg_add_u32(struct fw_cfg *f, uint16_t key, uint32_t value);
int fw_cfg_add_u64(struct fw_cfg *f, uint16_t key, uint64_t value);
/* RAM_SIZE, NB_CPUS, MAX_CPUS and NOGRAPHIC. */
int fw_cfg_add_machine(struct fw_cfg *f, uint64_t ram_bytes, unsigned nr_cpus);
/* CMDLINE_SIZE and CMDLINE_DATA, with the terminating zero. */
int fw_cfg_add_cmdline(struct fw_cfg *f, const char *cmdline);
/* A named file, which gets the next key of the directory. -ENAMETOOLONG, -EEXIST besides. */
int fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, uint32_t len);

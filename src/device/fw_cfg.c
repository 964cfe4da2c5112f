#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/fw_cfg.h"

#define ID_TRADITIONAL 1u      /* no DMA */
#define KEY_MASK       0xbfffu /* 0x4000 was a write channel, 0x8000 marks keys of the architecture */

_Static_assert(sizeof(struct fw_cfg_file) == 64, "directory entries are 64 bytes");

static struct fw_cfg_item *find_item(struct fw_cfg *f, uint16_t key)
{
	for (unsigned i = 0; i < f->nr_items; i++) {
		if (f->item[i].key == key)
			return &f->item[i];
	}
	return NULL;
}

static uint8_t next_byte(struct fw_cfg *f)
{
	const struct fw_cfg_item *item = find_item(f, f->key);

	if (!item || f->offset >= item->len)
		return 0;
	return item->data[f->offset++];
}

static uint64_t read_data(void *dev, uint64_t off, unsigned size)
{
	return size == 1 ? next_byte(dev) : 0;
}

/* Only the 16-bit write of the selector does anything: items are read-only. */
static void write_selector(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct fw_cfg *f = dev;

	if (off != 0 || size != 2)
		return;
	f->key = value & KEY_MASK;
	f->offset = 0;
}

const struct bus_ops fw_cfg_ops = {
	.read = read_data,
	.write = write_selector,
};

int fw_cfg_add(struct fw_cfg *f, uint16_t key, const void *data, uint32_t len)
{
	struct fw_cfg_item *item = find_item(f, key);
	uint8_t *copy;

	if (!item && f->nr_items == FW_CFG_MAX_ITEMS)
		return -ENOSPC;
	copy = malloc(len ? len : 1);
	if (!copy)
		return -ENOMEM;
	if (len)
		memcpy(copy, data, len);
	if (!item)
		item = &f->item[f->nr_items++];
	else
		free(item->data);
	*item = (struct fw_cfg_item){ .key = key, .len = len, .data = copy };
	return 0;
}

int fw_cfg_add_u16(struct fw_cfg *f, uint16_t key, uint16_t value)
{
	value = htole16(value);
	return fw_cfg_add(f, key, &value, sizeof(value));
}

int fw_cfg_add_u32(struct fw_cfg *f, uint16_t key, uint32_t value)
{
	value = htole32(value);
	return fw_cfg_add(f, key, &value, sizeof(value));
}

int fw_cfg_add_u64(struct fw_cfg *f, uint16_t key, uint64_t value)
{
	value = htole64(value);
	return fw_cfg_add(f, key, &value, sizeof(value));
}

int fw_cfg_add_machine(struct fw_cfg *f, uint64_t ram_bytes, unsigned nr_cpus)
{
	int rc = fw_cfg_add_u64(f, FW_CFG_RAM_SIZE, ram_bytes);

	if (!rc)
		rc = fw_cfg_add_u16(f, FW_CFG_NB_CPUS, (uint16_t)nr_cpus);
	if (!rc)
		rc = fw_cfg_add_u16(f, FW_CFG_MAX_CPUS, (uint16_t)nr_cpus);
	if (!rc)
		rc = fw_cfg_add_u16(f, FW_CFG_NOGRAPHIC, 1);
	return rc;
}

int fw_cfg_add_cmdline(struct fw_cfg *f, const char *cmdline)
{
	uint32_t size = (uint32_t)strlen(cmdline) + 1;
	int rc = fw_cfg_add_u32(f, FW_CFG_CMDLINE_SIZE, size);

	return rc ? rc : fw_cfg_add(f, FW_CFG_CMDLINE_DATA, cmdline, size);
}

/* The directory is an item like any other, rewritten whenever a file joins. */
static int publish_dir(struct fw_cfg *f)
{
	f->dir.count = htobe32(f->nr_files);
	return fw_cfg_add(f, FW_CFG_FILE_DIR, &f->dir,
	                  (uint32_t)(sizeof(f->dir.count) + f->nr_files * sizeof(f->dir.file[0])));
}

static bool file_exists(const struct fw_cfg *f, const char *name)
{
	for (unsigned i = 0; i < f->nr_files; i++) {
		if (!strcmp(f->dir.file[i].name, name))
			return true;
	}
	return false;
}

int fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, uint32_t len)
{
	uint16_t key = (uint16_t)(FW_CFG_FILE_FIRST + f->nr_files);
	struct fw_cfg_file *file;
	int rc;

	if (strlen(name) >= FW_CFG_NAME_LEN)
		return -ENAMETOOLONG;
	if (file_exists(f, name))
		return -EEXIST;
	if (f->nr_files == FW_CFG_MAX_FILES)
		return -ENOSPC;
	rc = fw_cfg_add(f, key, data, len);
	if (rc)
		return rc;
	file = &f->dir.file[f->nr_files++];
	file->size = htobe32(len);
	file->select = htobe16(key);
	strcpy(file->name, name);
	return publish_dir(f);
}

int fw_cfg_init(struct fw_cfg *f)
{
	int rc;

	memset(f, 0, sizeof(*f));
	rc = fw_cfg_add(f, FW_CFG_SIGNATURE, "QEMU", 4);
	if (!rc)
		rc = fw_cfg_add_u32(f, FW_CFG_ID, ID_TRADITIONAL);
	if (!rc)
		rc = publish_dir(f);
	if (rc)
		fw_cfg_fini(f);
	return rc;
}

void fw_cfg_fini(struct fw_cfg *f)
{
	for (unsigned i = 0; i < f->nr_items; i++)
		free(f->item[i].data);
	f->nr_items = 0;
}

void fw_cfg_reset(struct fw_cfg *f)
{
	f->key = FW_CFG_SIGNATURE;
	f->offset = 0;
}

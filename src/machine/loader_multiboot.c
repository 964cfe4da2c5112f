/*
 * Multiboot 1 (specification 0.6.96): ELF32 images and images that say in their header where to go.
 */
#include "machine/loader_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "machine/e820.h"

#define HEADER_MAGIC  0x1badb002
#define HEADER_SEARCH 8192
#define ENTRY_MAGIC   0x2badb002 /* EAX at the entry point */
#define BOOTLOADER    "Trapeze " TRAPEZE_VERSION

/* Flags of the header. Bits 0-15 are demands: one we do not know of must be refused. */
#define HEADER_ALIGN   BIT(0) /* modules on page boundaries: always so here */
#define HEADER_MEMORY  BIT(1) /* wants the memory fields: always given */
#define HEADER_VIDEO   BIT(2) /* wants a video mode: a wish, and there is no display */
#define HEADER_DEMANDS 0xffffu
#define HEADER_ADDRESS BIT(16) /* the address fields are valid */

struct header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

/* Flags of the information structure. */
#define INFO_MEMORY     BIT(0)
#define INFO_CMDLINE    BIT(2)
#define INFO_MODULES    BIT(3)
#define INFO_MMAP       BIT(6)
#define INFO_BOOTLOADER BIT(9)

struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table;
	uint32_t boot_loader_name, apm_table;
	uint32_t vbe[4], framebuffer[7];
};

struct module {
	uint32_t start, end, string, reserved;
};

struct mmap_entry {
	uint32_t size; /* of what follows */
	uint64_t base, len;
	uint32_t type;
} __attribute__((packed));

_Static_assert(sizeof(struct info) == 116, "multiboot information");
_Static_assert(offsetof(struct info, mmap_length) == 44, "multiboot information layout");
_Static_assert(offsetof(struct info, boot_loader_name) == 64, "multiboot information layout");
_Static_assert(sizeof(struct mmap_entry) == 24, "multiboot memory map entry");

/* Offset of the header, or -1. Only the fields that the flags announce need to be in the file. */
static int64_t find_header(const struct image *img, struct header *h)
{
	uint64_t end = img->size < HEADER_SEARCH ? img->size : HEADER_SEARCH;

	for (uint64_t off = 0; off + 12 <= end; off += 4) {
		memset(h, 0, sizeof(*h));
		memcpy(h, img->data + off, 12);
		if (h->magic != HEADER_MAGIC || h->magic + h->flags + h->checksum != 0)
			continue;
		if (!(h->flags & HEADER_ADDRESS))
			return (int64_t)off;
		if (off + sizeof(*h) > end)
			continue;
		memcpy(h, img->data + off, sizeof(*h));
		return (int64_t)off;
	}
	return -1;
}

/* Without addresses of its own only an ELF32 image can be entered; an ELF64 one may have PVH. */
bool multiboot_probe(const struct image *img)
{
	struct header h;

	if (find_header(img, &h) < 0)
		return false;
	return h.flags & HEADER_ADDRESS || !elf_is64(img);
}

static int load_elf(struct loader *l, const struct image *img)
{
	struct elf_file elf;
	uint64_t base, end, entry;
	int rc;

	if (!elf_probe(img))
		return loader_fail(
		        l, -ENOEXEC,
		        "'%s' has a Multiboot header without addresses and is not an ELF file",
		        img->name);
	rc = elf_parse(l, img, &elf);
	if (rc)
		return rc;
	if (!elf_extent(&elf, &base, &end) || !elf_entry(&elf, &entry))
		return loader_fail(l, -EINVAL,
		                   "'%s' is corrupt: its entry point %#" PRIx64 " is in no segment",
		                   img->name, elf.entry);
	l->r->kernel_base = base;
	l->r->kernel_end = end;
	l->r->entry = entry;
	return elf_load(l, img, &elf, 0);
}

/* What the address fields say, with every difference and sum checked. */
struct flat {
	uint64_t offset, size, bss;
};

static bool read_addresses(const struct image *img, const struct header *h, uint64_t header_off,
                           struct flat *f)
{
	uint64_t before = (uint64_t)h->header_addr - h->load_addr;

	if (h->header_addr < h->load_addr || before > header_off)
		return false;
	f->offset = header_off - before;
	f->size = img->size - f->offset;
	if (h->load_end_addr) {
		if (h->load_end_addr < h->load_addr)
			return false;
		f->size = h->load_end_addr - h->load_addr;
	}
	f->bss = 0;
	if (h->bss_end_addr) {
		if (h->bss_end_addr < h->load_addr + f->size)
			return false;
		f->bss = h->bss_end_addr - (h->load_addr + f->size);
	}
	return h->entry_addr >= h->load_addr && h->entry_addr - h->load_addr < f->size + f->bss;
}

static int load_flat(struct loader *l, const struct image *img, const struct header *h,
                     uint64_t header_off)
{
	struct flat f;
	uint8_t *host;

	if (!read_addresses(img, h, header_off, &f))
		return loader_fail(l, -EINVAL,
		                   "'%s': Multiboot addresses contradict each other: header %#x, "
		                   "load %#x to %#x, bss to %#x, entry %#x",
		                   img->name, h->header_addr, h->load_addr, h->load_end_addr,
		                   h->bss_end_addr, h->entry_addr);
	if (f.size > img->size - f.offset)
		return loader_fail(l, -EINVAL,
		                   "'%s' is truncated: %" PRIu64 " bytes to load at %" PRIu64
		                   " of %" PRIu64,
		                   img->name, f.size, f.offset, img->size);
	host = loader_host(l, h->load_addr, f.size + f.bss);
	if (!host)
		return loader_fail(l, -ENOSPC,
		                   "'%s': %#" PRIx64
		                   " bytes at %#x do not lie in memory free for a "
		                   "kernel: the guest has %llu MiB",
		                   img->name, f.size + f.bss, h->load_addr,
		                   (unsigned long long)(l->m->ram_bytes / MiB));
	memcpy(host, img->data + f.offset, f.size);
	loader_zero(host + f.size, f.bss);
	l->r->kernel_base = h->load_addr;
	l->r->kernel_end = h->load_addr + f.size + f.bss;
	l->r->entry = h->entry_addr;
	return 0;
}

static int load_kernel(struct loader *l, const struct image *img)
{
	const uint32_t known = HEADER_ALIGN | HEADER_MEMORY | HEADER_VIDEO;
	struct header h;
	int64_t off = find_header(img, &h);
	bool flat = h.flags & HEADER_ADDRESS;

	if (h.flags & HEADER_DEMANDS & ~known)
		return loader_fail(l, -ENOTSUP,
		                   "'%s' demands Multiboot features %#x: %#x are supported",
		                   img->name, h.flags & HEADER_DEMANDS, known);
	snprintf(l->r->format, sizeof(l->r->format), "Multiboot %s", flat ? "flat image" : "ELF32");
	return flat ? load_flat(l, img, &h, (uint64_t)off) : load_elf(l, img);
}

static int write_modules(struct loader *l, struct info *info)
{
	struct loader_module mod[LOADER_MAX_MODULES];
	struct module *list;
	gpa_t gpa;
	unsigned n;
	gpa_t floor = l->r->kernel_end < GPA_HIGH_LOAD ? GPA_HIGH_LOAD : l->r->kernel_end;
	int rc = loader_put_modules(l, floor, true, mod, &n);

	if (rc)
		return rc;
	info->flags |= INFO_MODULES;
	info->mods_count = n;
	if (!n)
		return 0;
	rc = loader_alloc_list(l, n * sizeof(*list), &gpa, (void **)&list);
	if (rc)
		return rc;
	info->mods_addr = (uint32_t)gpa;
	for (unsigned i = 0; i < n; i++)
		list[i] = (struct module){ .start = (uint32_t)mod[i].base,
			                   .end = (uint32_t)(mod[i].base + mod[i].size),
			                   .string = (uint32_t)mod[i].args };
	return 0;
}

static int write_mmap(struct loader *l, struct info *info)
{
	struct e820_entry map[E820_MAX];
	struct mmap_entry *list;
	unsigned n = e820_build(l->m, map);
	gpa_t gpa;
	int rc = loader_alloc_list(l, n * sizeof(*list), &gpa, (void **)&list);

	if (rc)
		return rc;
	info->flags |= INFO_MMAP | INFO_MEMORY;
	info->mmap_addr = (uint32_t)gpa;
	info->mmap_length = (uint32_t)(n * sizeof(*list));
	for (unsigned i = 0; i < n; i++)
		list[i] = (struct mmap_entry){ .size = sizeof(*list) - sizeof(list->size),
			                       .base = map[i].base,
			                       .len = map[i].size,
			                       .type = map[i].type };
	info->mem_lower = GPA_EBDA / KiB;
	info->mem_upper = (uint32_t)((loader_low_end(l) - GPA_HIGH_LOAD) / KiB);
	return 0;
}

static int write_strings(struct loader *l, struct info *info)
{
	gpa_t name;
	int rc = loader_put_string(l, BOOTLOADER, &name);

	/* By convention the first word is the kernel's own name, as a program's argv[0]. */
	if (!rc)
		rc = loader_put_cmdline(l, l->a->kernel, CMDLINE_BYTES);
	info->flags |= INFO_BOOTLOADER | INFO_CMDLINE;
	info->boot_loader_name = (uint32_t)name;
	info->cmdline = (uint32_t)GPA_CMDLINE;
	return rc;
}

int multiboot_load(struct loader *l, const struct image *img)
{
	struct info info = { 0 };
	int rc = load_kernel(l, img);

	if (rc || (rc = write_modules(l, &info)) || (rc = write_mmap(l, &info)) ||
	    (rc = write_strings(l, &info)))
		return rc;
	l->r->mode = LOADER_FLAT32;
	l->r->rax = ENTRY_MAGIC;
	l->r->rbx = GPA_BOOT_INFO;
	rc = mem_write(l->m, GPA_BOOT_INFO, &info, sizeof(info));
	return rc ? loader_fail(l, rc, "no memory at %#llx", GPA_BOOT_INFO) : 0;
}

/*
 * ELF kernels with a PVH entry note: Xen's doc/misc/pvh.pandoc and
 * public/arch-x86/hvm/start_info.h.
 *
 * The kernel is entered in 32-bit mode without paging at the address in the note
 * XEN_ELFNOTE_PHYS32_ENTRY, with EBX pointing to struct hvm_start_info. A kernel with the note
 * XEN_ELFNOTE_PHYS32_RELOC may be moved; that is done only when it does not fit where it was
 * linked.
 */
#include "machine/loader_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "machine/e820.h"

#define NOTE_PHYS32_ENTRY 18
#define NOTE_PHYS32_RELOC 20
#define START_MAGIC       0x336ec578

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp;
	uint64_t memmap; /* version 1 */
	uint32_t memmap_entries, reserved;
};

struct start_module {
	uint64_t base, size, cmdline, reserved;
};

struct start_memmap {
	uint64_t base, size;
	uint32_t type, reserved;
};

_Static_assert(sizeof(struct start_info) == 56, "hvm_start_info");
_Static_assert(sizeof(struct start_module) == 32, "hvm_modlist_entry");
_Static_assert(sizeof(struct start_memmap) == 24, "hvm_memmap_table_entry");

/* Any x86 ELF file that is not Multiboot ends here, to be told what it lacks. */
bool pvh_probe(const struct image *img)
{
	return elf_probe(img);
}

static bool read_entry(const struct image *img, const struct elf_file *elf, uint64_t *entry)
{
	uint32_t len;
	const uint8_t *desc = elf_xen_note(img, elf, NOTE_PHYS32_ENTRY, &len);

	*entry = 0;
	if (!desc || (len != 4 && len != 8))
		return false;
	memcpy(entry, desc, len);
	return true;
}

/* The values of PHYS32_RELOC, each optional: alignment, lowest first byte, highest last byte. */
static bool read_relocation(const struct image *img, const struct elf_file *elf, uint32_t v[3])
{
	uint32_t len;
	const uint8_t *desc = elf_xen_note(img, elf, NOTE_PHYS32_RELOC, &len);

	if (!desc)
		return false;
	v[0] = 2 * MiB;
	v[1] = 0;
	v[2] = UINT32_MAX;
	memcpy(v, desc, len < 12 ? len & ~3u : 12);
	return v[0] >= PAGE_SIZE && (v[0] & (v[0] - 1)) == 0;
}

/* How far to move a kernel that occupies [base, end): 0 when it fits as it is. */
static int place_kernel(struct loader *l, const struct image *img, const struct elf_file *elf,
                        uint64_t base, uint64_t end, uint64_t *delta)
{
	gpa_t top = loader_low_end(l), to;
	uint32_t reloc[3];

	*delta = 0;
	if (base >= GPA_HIGH_LOAD && end <= top)
		return 0;
	if (read_relocation(img, elf, reloc)) {
		to = reloc[1] < GPA_HIGH_LOAD ? GPA_HIGH_LOAD : reloc[1];
		to = (to + reloc[0] - 1) & ~((uint64_t)reloc[0] - 1);
		if (top > (uint64_t)reloc[2] + 1)
			top = (uint64_t)reloc[2] + 1;
		/* What was aligned stays aligned relative to the whole. */
		to += base % reloc[0];
		if (to < top && end - base <= top - to) {
			*delta = to - base;
			return 0;
		}
	}
	return loader_fail(l, -ENOSPC,
	                   "kernel '%s' needs memory from %#" PRIx64 " to %#" PRIx64
	                   ": the guest has %llu MiB",
	                   img->name, base, end, (unsigned long long)(l->m->ram_bytes / MiB));
}

static int load_kernel(struct loader *l, const struct image *img)
{
	uint64_t base, end, entry, delta;
	struct elf_file elf;
	int rc = elf_parse(l, img, &elf);

	if (rc)
		return rc;
	if (!read_entry(img, &elf, &entry))
		return loader_fail(l, -ENOEXEC, "'%s' is an ELF%d file without a PVH entry note%s",
		                   img->name, elf.is64 ? 64 : 32,
		                   elf.is64 ? " (Multiboot takes 32-bit ELF only)"
		                            : " or a Multiboot header");
	if (!elf_extent(&elf, &base, &end))
		return loader_fail(l, -ENOEXEC, "'%s' has nothing to load", img->name);
	if (entry < base || entry >= end)
		return loader_fail(l, -EINVAL,
		                   "'%s' is corrupt: PVH entry %#" PRIx64 " is not in %#" PRIx64
		                   " to %#" PRIx64,
		                   img->name, entry, base, end);
	rc = place_kernel(l, img, &elf, base, end, &delta);
	if (rc)
		return rc;
	l->r->kernel_base = base + delta;
	l->r->kernel_end = end + delta;
	l->r->entry = entry + delta;
	snprintf(l->r->format, sizeof(l->r->format), "ELF%d with PVH entry%s", elf.is64 ? 64 : 32,
	         delta ? ", relocated" : "");
	return elf_load(l, img, &elf, delta);
}

static int write_modules(struct loader *l, struct start_info *info)
{
	struct loader_module mod[LOADER_MAX_MODULES];
	struct start_module *list;
	unsigned n;
	int rc = loader_put_modules(l, l->r->kernel_end, false, mod, &n);

	if (rc || !n)
		return rc;
	rc = loader_alloc_list(l, n * sizeof(*list), &info->modlist, (void **)&list);
	if (rc)
		return rc;
	info->nr_modules = n;
	for (unsigned i = 0; i < n; i++)
		list[i] = (struct start_module){ mod[i].base, mod[i].size, mod[i].args, 0 };
	return 0;
}

static int write_memmap(struct loader *l, struct start_info *info)
{
	struct e820_entry map[E820_MAX];
	struct start_memmap *list;
	unsigned n = e820_build(l->m, map);
	int rc = loader_alloc_list(l, n * sizeof(*list), &info->memmap, (void **)&list);

	if (rc)
		return rc;
	info->memmap_entries = n;
	for (unsigned i = 0; i < n; i++)
		list[i] = (struct start_memmap){ map[i].base, map[i].size, map[i].type, 0 };
	return 0;
}

int pvh_load(struct loader *l, const struct image *img)
{
	struct start_info info = {
		.magic = START_MAGIC, .version = 1, .cmdline = GPA_CMDLINE, .rsdp = l->a->rsdp
	};
	int rc = load_kernel(l, img);

	if (rc || (rc = write_modules(l, &info)) || (rc = write_memmap(l, &info)) ||
	    (rc = loader_put_cmdline(l, NULL, CMDLINE_BYTES)))
		return rc;
	l->r->mode = LOADER_FLAT32;
	l->r->rbx = GPA_BOOT_INFO;
	rc = mem_write(l->m, GPA_BOOT_INFO, &info, sizeof(info));
	return rc ? loader_fail(l, rc, "no memory at %#llx", GPA_BOOT_INFO) : 0;
}

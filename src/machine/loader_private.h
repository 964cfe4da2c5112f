/*
 * What the parts of the loader share. Only src/machine/loader*.c include this.
 */
#pragma once

#include "machine/layout.h"
#include "machine/loader.h"

/* A file's bytes in host memory. */
struct image {
	const char *name;
	const uint8_t *data;
	uint64_t size;
};

/* One loading in progress. */
struct loader {
	struct mem *m;
	const struct loader_args *a;
	struct loader_result *r;
	char *err;
	size_t errlen;
	gpa_t lists_used; /* bytes taken of the area at GPA_BOOT_LISTS */
};

/* Writes the message and returns rc, so that a check reads: return loader_fail(l, -EINVAL, ...). */
int loader_fail(struct loader *l, int rc, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/* loader_file.c: files into host or guest memory. */
#define KERNEL_FILE_MAX GiB
struct loader_file {
	int fd;
	uint64_t size;
	const char *what; /* "kernel", "initrd", "module", for messages */
	const char *path;
};
/* Regular, readable, not empty and at most max bytes, or a message. Close with loader_file_close().
 */
int loader_file_open(struct loader *l, const char *what, const char *path, uint64_t max,
                     struct loader_file *f);
void loader_file_close(struct loader_file *f);
/* Reads all of it. */
int loader_file_read(struct loader *l, const struct loader_file *f, void *buf);

/* loader_place.c: guest memory for the loader's purposes. */
#define MiB_UP(bytes) (((bytes) + MiB - 1) / MiB)
/* Host address of [gpa, gpa+len) if a kernel may be put there, else NULL. */
uint8_t *loader_host(struct loader *l, gpa_t gpa, uint64_t len);
/* End of the RAM bank at 1 MiB: what a kernel can have in one piece below the hole. */
gpa_t loader_low_end(const struct loader *l);
void loader_zero(uint8_t *host, uint64_t len);
/* Room among the boot lists, 8-byte aligned and zeroed; -ENOSPC with a message when they are full.
 */
int loader_alloc_list(struct loader *l, uint64_t len, gpa_t *gpa, void **host);
int loader_put_string(struct loader *l, const char *s, gpa_t *gpa);
/* The command line at GPA_CMDLINE, with an optional first word; limit excludes the final NUL. */
int loader_put_cmdline(struct loader *l, const char *first, uint64_t limit);
/* Loads a file at the highest page-aligned place below limit and not below floor. */
int loader_put_file_high(struct loader *l, const char *what, const char *path, gpa_t floor,
                         gpa_t limit, gpa_t *gpa, uint64_t *size);
/* The initrd, if there is one, and then the modules, each at the lowest page at or above *next. */
struct loader_module {
	gpa_t base, size, args; /* args: a string, what followed the path (PVH) or all of it */
};
#define LOADER_MAX_MODULES 64
int loader_put_modules(struct loader *l, gpa_t next, bool whole_string,
                       struct loader_module mod[LOADER_MAX_MODULES], unsigned *nr);

/* loader_elf.c */
#define ELF_MAX_SEGMENTS 64
struct elf_segment {
	uint32_t type;
	uint64_t offset, vaddr, paddr, filesz, memsz, align;
};
struct elf_file {
	bool is64;
	uint16_t machine;
	uint64_t entry;
	unsigned nr;
	struct elf_segment seg[ELF_MAX_SEGMENTS];
};
bool elf_probe(const struct image *img);
bool elf_is64(const struct image *img);
/* Headers of an x86 or x86-64 executable. Segments are inside the file when this succeeds. */
int elf_parse(struct loader *l, const struct image *img, struct elf_file *elf);
/* First and last physical byte (exclusive) of what is loaded; false when nothing is. */
bool elf_extent(const struct elf_file *elf, uint64_t *base, uint64_t *end);
/* Copies the segments to their physical addresses plus delta and clears the rest of them. */
int elf_load(struct loader *l, const struct image *img, const struct elf_file *elf, uint64_t delta);
/* Whether elf_load() works on an image that lies at guest address base itself: no segment is copied
 * over one that is still to be copied. */
bool elf_moves_in_place(const struct elf_file *elf, uint64_t base);
/* Physical address of the entry point: e_entry may be physical or virtual. False: in no segment. */
bool elf_entry(const struct elf_file *elf, uint64_t *entry);
/* The descriptor of a note of owner "Xen" in a PT_NOTE, or NULL. */
const uint8_t *elf_xen_note(const struct image *img, const struct elf_file *elf, uint32_t type,
                            uint32_t *len);

/* One function a format. probe looks at the content only. */
bool bzimage_probe(const struct image *img);
int bzimage_load(struct loader *l, const struct image *img);
bool multiboot_probe(const struct image *img);
int multiboot_load(struct loader *l, const struct image *img);
bool pvh_probe(const struct image *img);
int pvh_load(struct loader *l, const struct image *img);

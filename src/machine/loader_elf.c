/*
 * ELF executables of both sizes, as loaders of kernels see them: program headers only.
 */
#include "machine/loader_private.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

bool elf_probe(const struct image *img)
{
	return img->size >= EI_NIDENT && !memcmp(img->data, ELFMAG, SELFMAG);
}

bool elf_is64(const struct image *img)
{
	return elf_probe(img) && img->data[EI_CLASS] == ELFCLASS64;
}

static bool in_file(const struct image *img, uint64_t offset, uint64_t len)
{
	return offset <= img->size && len <= img->size - offset;
}

/* What the two kinds of file header agree on. */
struct header {
	uint16_t type, phentsize, phnum;
	uint64_t phoff;
};

static bool read_header(const struct image *img, struct elf_file *elf, struct header *h)
{
	Elf64_Ehdr e64;
	Elf32_Ehdr e32;

	elf->is64 = elf_is64(img);
	if (!in_file(img, 0, elf->is64 ? sizeof(e64) : sizeof(e32)))
		return false;
	if (elf->is64) {
		memcpy(&e64, img->data, sizeof(e64));
		*h = (struct header){ e64.e_type, e64.e_phentsize, e64.e_phnum, e64.e_phoff };
		elf->entry = e64.e_entry;
		elf->machine = e64.e_machine;
	} else {
		memcpy(&e32, img->data, sizeof(e32));
		*h = (struct header){ e32.e_type, e32.e_phentsize, e32.e_phnum, e32.e_phoff };
		elf->entry = e32.e_entry;
		elf->machine = e32.e_machine;
	}
	return true;
}

static void read_segment(const uint8_t *p, bool is64, struct elf_segment *s)
{
	Elf64_Phdr p64;
	Elf32_Phdr p32;

	if (is64) {
		memcpy(&p64, p, sizeof(p64));
		*s = (struct elf_segment){ p64.p_type,   p64.p_offset, p64.p_vaddr, p64.p_paddr,
			                   p64.p_filesz, p64.p_memsz,  p64.p_align };
	} else {
		memcpy(&p32, p, sizeof(p32));
		*s = (struct elf_segment){ p32.p_type,   p32.p_offset, p32.p_vaddr, p32.p_paddr,
			                   p32.p_filesz, p32.p_memsz,  p32.p_align };
	}
}

static int check_segment(struct loader *l, const struct image *img, unsigned i,
                         const struct elf_segment *s)
{
	if (s->type != PT_LOAD && s->type != PT_NOTE)
		return 0;
	if (!in_file(img, s->offset, s->filesz))
		return loader_fail(
		        l, -EINVAL,
		        "'%s' is truncated: segment %u takes %#llx bytes at %#llx of %#llx",
		        img->name, i, (unsigned long long)s->filesz, (unsigned long long)s->offset,
		        (unsigned long long)img->size);
	if (s->type == PT_LOAD && s->filesz > s->memsz)
		return loader_fail(
		        l, -EINVAL,
		        "'%s' is corrupt: segment %u has %#llx bytes in file, %#llx in memory",
		        img->name, i, (unsigned long long)s->filesz, (unsigned long long)s->memsz);
	if (s->type == PT_LOAD && s->paddr + s->memsz < s->paddr)
		return loader_fail(
		        l, -EINVAL, "'%s' is corrupt: segment %u wraps at %#llx + %#llx bytes",
		        img->name, i, (unsigned long long)s->paddr, (unsigned long long)s->memsz);
	return 0;
}

static int check_header(struct loader *l, const struct image *img, const struct elf_file *elf,
                        const struct header *h)
{
	size_t want = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	if (img->data[EI_DATA] != ELFDATA2LSB ||
	    (elf->machine != EM_X86_64 && elf->machine != EM_386))
		return loader_fail(l, -ENOEXEC,
		                   "'%s' is an ELF file for machine %u: x86 is %d, x86-64 is %d",
		                   img->name, elf->machine, EM_386, EM_X86_64);
	if (h->type != ET_EXEC && h->type != ET_DYN)
		return loader_fail(l, -ENOEXEC, "'%s' is an ELF file of type %u, not an executable",
		                   img->name, h->type);
	if (h->phentsize != want)
		return loader_fail(l, -EINVAL,
		                   "'%s' is corrupt: program headers of %u bytes, not %zu",
		                   img->name, h->phentsize, want);
	if (h->phnum == 0 || h->phnum > ELF_MAX_SEGMENTS)
		return loader_fail(l, -EINVAL, "'%s' has %u program headers: 1 to %d can be loaded",
		                   img->name, h->phnum, ELF_MAX_SEGMENTS);
	if (!in_file(img, h->phoff, (uint64_t)h->phnum * want))
		return loader_fail(
		        l, -EINVAL, "'%s' is truncated: program headers at %#llx of %#llx bytes",
		        img->name, (unsigned long long)h->phoff, (unsigned long long)img->size);
	return 0;
}

int elf_parse(struct loader *l, const struct image *img, struct elf_file *elf)
{
	struct header h;
	int rc;

	if (!read_header(img, elf, &h))
		return loader_fail(l, -EINVAL, "'%s' is truncated: an ELF header in %llu bytes",
		                   img->name, (unsigned long long)img->size);
	rc = check_header(l, img, elf, &h);
	elf->nr = rc ? 0 : h.phnum;
	for (unsigned i = 0; i < elf->nr && !rc; i++) {
		read_segment(img->data + h.phoff + i * h.phentsize, elf->is64, &elf->seg[i]);
		rc = check_segment(l, img, i, &elf->seg[i]);
	}
	return rc;
}

static bool is_loaded(const struct elf_segment *s)
{
	return s->type == PT_LOAD && s->memsz;
}

bool elf_extent(const struct elf_file *elf, uint64_t *base, uint64_t *end)
{
	*base = UINT64_MAX;
	*end = 0;
	for (unsigned i = 0; i < elf->nr; i++) {
		const struct elf_segment *s = &elf->seg[i];

		if (!is_loaded(s))
			continue;
		if (s->paddr < *base)
			*base = s->paddr;
		if (s->paddr + s->memsz > *end)
			*end = s->paddr + s->memsz;
	}
	return *base < *end;
}

static bool overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

bool elf_moves_in_place(const struct elf_file *elf, uint64_t base)
{
	for (unsigned i = 0; i < elf->nr; i++) {
		const struct elf_segment *to = &elf->seg[i];

		for (unsigned j = i + 1; is_loaded(to) && j < elf->nr; j++) {
			const struct elf_segment *from = &elf->seg[j];

			if (is_loaded(from) &&
			    overlap(to->paddr, to->filesz, base + from->offset, from->filesz))
				return false;
		}
	}
	return true;
}

/* All are copied before any is cleared, because the image may lie where it is loaded. */
int elf_load(struct loader *l, const struct image *img, const struct elf_file *elf, uint64_t delta)
{
	uint8_t *host[ELF_MAX_SEGMENTS];

	for (unsigned i = 0; i < elf->nr; i++) {
		const struct elf_segment *s = &elf->seg[i];
		gpa_t gpa = s->paddr + delta;

		if (!is_loaded(s))
			continue;
		host[i] = loader_host(l, gpa, s->memsz);
		if (!host[i])
			return loader_fail(
			        l, -ENOSPC,
			        "'%s': segment %u, %#llx bytes at %#llx, does not lie in "
			        "memory free for a kernel: the guest has %llu MiB",
			        img->name, i, (unsigned long long)s->memsz, (unsigned long long)gpa,
			        (unsigned long long)(l->m->ram_bytes / MiB));
		memmove(host[i], img->data + s->offset, s->filesz);
	}
	for (unsigned i = 0; i < elf->nr; i++) {
		const struct elf_segment *s = &elf->seg[i];

		if (is_loaded(s))
			loader_zero(host[i] + s->filesz, s->memsz - s->filesz);
	}
	return 0;
}

bool elf_entry(const struct elf_file *elf, uint64_t *entry)
{
	/* Linux and Multiboot kernels give a physical address; some linkers leave a virtual one. */
	for (unsigned i = 0; i < elf->nr; i++) {
		const struct elf_segment *s = &elf->seg[i];

		if (is_loaded(s) && elf->entry - s->paddr < s->memsz) {
			*entry = elf->entry;
			return true;
		}
	}
	for (unsigned i = 0; i < elf->nr; i++) {
		const struct elf_segment *s = &elf->seg[i];

		if (is_loaded(s) && elf->entry - s->vaddr < s->memsz) {
			*entry = elf->entry - s->vaddr + s->paddr;
			return true;
		}
	}
	return false;
}

/* Notes of one segment: sizes are padded to 4 bytes (gABI) whatever p_align says, as Xen has it. */
static const uint8_t *find_note(const uint8_t *p, uint64_t size, uint32_t type, uint32_t *len)
{
	Elf32_Nhdr n; /* the same in both classes */

	while (size >= sizeof(n)) {
		uint64_t name_len, desc_len;

		memcpy(&n, p, sizeof(n));
		name_len = ((uint64_t)n.n_namesz + 3) & ~3ull;
		desc_len = ((uint64_t)n.n_descsz + 3) & ~3ull;
		p += sizeof(n);
		size -= sizeof(n);
		if (name_len + n.n_descsz > size)
			return NULL;
		if (n.n_type == type && n.n_namesz == 4 && !memcmp(p, "Xen", 4)) {
			*len = n.n_descsz;
			return p + name_len;
		}
		if (name_len + desc_len > size)
			return NULL;
		p += name_len + desc_len;
		size -= name_len + desc_len;
	}
	return NULL;
}

const uint8_t *elf_xen_note(const struct image *img, const struct elf_file *elf, uint32_t type,
                            uint32_t *len)
{
	for (unsigned i = 0; i < elf->nr; i++) {
		const struct elf_segment *s = &elf->seg[i];
		const uint8_t *desc;

		if (s->type != PT_NOTE)
			continue;
		desc = find_note(img->data + s->offset, s->filesz, type, len);
		if (desc)
			return desc;
	}
	return NULL;
}

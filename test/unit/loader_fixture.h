/*
 * Small kernel images, made byte by byte, for the tests of the loader.
 */
#pragma once

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "machine/layout.h"
#include "machine/loader.h"

#define IMAGE_MAX (1 * MiB)

struct fixture {
	struct mem *m;
	struct loader_args args;
	struct loader_result r;
	char err[256];
	uint8_t image[IMAGE_MAX];
	uint64_t size;
};

static inline int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f || mem_new(&f->m, 64 * MiB))
		return -1;
	f->args =
	        (struct loader_args){ .kernel = "k", .cmdline = "console=ttyS0", .rsdp = 0xf8000 };
	*state = f;
	return 0;
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	mem_free(f->m);
	free(f);
	return 0;
}

static inline int load(struct fixture *f)
{
	return loader_load_image(f->m, &f->args, f->image, f->size, &f->r, f->err, sizeof(f->err));
}

/* Loading fails with rc, and the message has the words. */
static inline void assert_fails(struct fixture *f, int rc, const char *words)
{
	assert_int_equal(load(f), rc);
	if (!strstr(f->err, words))
		fail_msg("'%s' does not say '%s'", f->err, words);
	assert_null(strchr(f->err, '\n'));
}

static inline const void *guest(struct fixture *f, gpa_t gpa, uint64_t len)
{
	const void *p = mem_host(f->m, gpa, len, false);

	assert_non_null(p);
	return p;
}

/* A file that goes away with the test; returns its path. */
static inline const char *temp_file(char path[32], const void *data, size_t size)
{
	int fd;

	strcpy(path, "/tmp/trapeze-test-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), size);
	close(fd);
	return path;
}

#define ELF_TEXT_OFFSET 0x1000
#define ELF_TEXT_BYTES  0x100
#define ELF_BSS_BYTES   0x800
#define ELF_NOTE_OFFSET 0x800

/* An ELF64 kernel: 256 bytes of 0x90 and bss at paddr, a per-CPU segment of virtual address 0
 * after. */
static inline uint64_t make_elf64(uint8_t *p, uint64_t paddr)
{
	Elf64_Ehdr e = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		         .e_type = ET_EXEC,
		         .e_machine = EM_X86_64,
		         .e_entry = paddr + 0x10,
		         .e_phoff = sizeof(e),
		         .e_phentsize = sizeof(Elf64_Phdr),
		         .e_phnum = 3 };
	Elf64_Phdr ph[3] = {
		{ .p_type = PT_LOAD,
		  .p_offset = ELF_TEXT_OFFSET,
		  .p_vaddr = 0xffffffff80000000 + paddr,
		  .p_paddr = paddr,
		  .p_filesz = ELF_TEXT_BYTES,
		  .p_memsz = ELF_TEXT_BYTES + ELF_BSS_BYTES,
		  .p_align = 0x200000 },
		{ .p_type = PT_LOAD,
		  .p_offset = ELF_TEXT_OFFSET + ELF_TEXT_BYTES,
		  .p_paddr = paddr + 0x2000,
		  .p_filesz = 16,
		  .p_memsz = 16 },
		{ .p_type = PT_NOTE, .p_offset = ELF_NOTE_OFFSET },
	};

	memset(p, 0, ELF_TEXT_OFFSET + ELF_TEXT_BYTES + 16);
	memcpy(p, &e, sizeof(e));
	memcpy(p + sizeof(e), ph, sizeof(ph));
	memset(p + ELF_TEXT_OFFSET, 0x90, ELF_TEXT_BYTES);
	memset(p + ELF_TEXT_OFFSET + ELF_TEXT_BYTES, 0xcc, 16);
	return ELF_TEXT_OFFSET + ELF_TEXT_BYTES + 16;
}

static inline Elf64_Phdr *elf64_segment(struct fixture *f, unsigned i)
{
	return (Elf64_Phdr *)(f->image + sizeof(Elf64_Ehdr)) + i;
}

/* Adds a note of owner Xen to an image of make_elf64(). */
static inline void add_note(struct fixture *f, uint32_t type, const void *desc, uint32_t len)
{
	Elf64_Phdr *ph = elf64_segment(f, 2);
	uint8_t *p = f->image + ELF_NOTE_OFFSET + ph->p_filesz;
	const uint32_t header[] = { 4, len, type };

	memcpy(p, header, 12);
	memcpy(p + 12, "Xen", 4);
	memcpy(p + 16, desc, len);
	ph->p_filesz += 16 + ((len + 3) & ~3u);
}

#define BZ_SETUP (5 * 512)
#define BZ_PREF  0x1000000ull
#define BZ_INIT  0x100000
#define BZ_CODE  0x1000 /* bytes of protected-mode code before the payload */

/* A bzImage of protocol 2.15 around a payload that already lies at BZ_SETUP + BZ_CODE. */
static inline struct setup_header *make_bzimage(struct fixture *f, uint64_t payload)
{
	struct setup_header *h = (struct setup_header *)(f->image + 0x1f1);
	uint64_t code = (BZ_CODE + payload + 15) & ~15ull;

	f->size = BZ_SETUP + code;
	f->image[0x200] = 0xeb;
	f->image[0x201] = 0x6a;
	memset(f->image + BZ_SETUP, 0xb2, BZ_CODE);
	*h = (struct setup_header){ .setup_sects = 4,
		                    .boot_flag = 0xaa55,
		                    .jump = 0x6aeb,
		                    .header = 0x53726448,
		                    .version = 0x20f,
		                    .loadflags = LOADED_HIGH,
		                    .syssize = (uint32_t)(code / 16),
		                    .initrd_addr_max = 0x7fffffff,
		                    .kernel_alignment = 0x200000,
		                    .relocatable_kernel = 1,
		                    .xloadflags = XLF_KERNEL_64,
		                    .cmdline_size = 2047,
		                    .payload_offset = BZ_CODE,
		                    .payload_length = (uint32_t)payload,
		                    .pref_address = BZ_PREF,
		                    .init_size = BZ_INIT };
	return h;
}

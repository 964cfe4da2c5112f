/*
 * Puts a kernel into guest memory and says how the boot CPU is to enter it.
 *
 * The format is found by content: Linux bzImage (boot protocol 2.06 and later), ELF with a
 * Multiboot header, ELF with a PVH entry note, flat Multiboot image. Files are hostile: every
 * offset and size is checked before use, and every failure is one line that names the thing, the
 * value and the limit.
 */
#pragma once

#include "cpu/cpu.h"
#include "mem/mem.h"

struct loader_args {
	const char *kernel;         /* path; also the name used in messages */
	const char *initrd;         /* path, or NULL */
	const char *cmdline;        /* or NULL */
	const char *const *modules; /* Multiboot and PVH modules: "PATH" or "PATH ARGUMENTS" */
	unsigned nr_modules;
	gpa_t rsdp;              /* ACPI root pointer, 0 when there is none */
	bool guest_decompresses; /* bzImage: run its own decompressor instead of ours */
};

enum loader_mode {
	LOADER_FLAT32, /* protected mode, no paging, flat segments */
	LOADER_LONG64, /* 64-bit mode, the first 4 GiB identity-mapped */
};

struct loader_result {
	char format[64]; /* what was found, for people: "Linux 2.15 bzImage, lz4" */
	enum loader_mode mode;
	gpa_t entry;
	uint64_t rax, rbx, rsi, rsp;
	gpa_t gdt; /* null, null, code, data, TSS: selectors as in the Linux boot protocol */
	gpa_t page_tables;             /* PML4, LOADER_LONG64 only */
	gpa_t kernel_base, kernel_end; /* guest memory that the kernel occupies when entered */
};

/* 0, or -errno with one line of text (no newline) in err. Guest memory is then undefined. */
int loader_load(struct mem *m, const struct loader_args *a, struct loader_result *r, char *err,
                size_t errlen);
/* The same for a kernel image that is already in (host) memory; it is not changed. */
int loader_load_image(struct mem *m, const struct loader_args *a, const void *data, uint64_t size,
                      struct loader_result *r, char *err, size_t errlen);

/* The boot CPU, after cpu_reset(), at the kernel's entry point. */
void loader_setup_cpu(const struct loader_result *r, struct cpu *c);
/* Memory types as firmware leaves them, the same on every CPU: all cached but the VGA window. */
void loader_setup_mtrrs(struct cpu *c);

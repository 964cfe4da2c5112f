/*
 * Finding the format, and the state of the CPU that enters what was loaded.
 */
#include "machine/loader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/loader_private.h"

/* Selectors as the Linux boot protocol wants them (__BOOT_CS, __BOOT_DS). */
#define SEL_CODE  0x10
#define SEL_DATA  0x18
#define SEL_TSS   0x20
#define TSS_LIMIT 0x67

/* Access rights in the format of struct segment. */
#define ATTR_CODE32 0xc09b
#define ATTR_CODE64 0xa09b
#define ATTR_DATA   0xc093
#define ATTR_TSS    0x008b

int loader_fail(struct loader *l, int rc, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(l->err, l->errlen, fmt, ap);
	va_end(ap);
	return rc;
}

/* In this order: Xen is both Multiboot and PVH, and wants its modules; a bzImage may look like
 * more. */
static const struct {
	bool (*probe)(const struct image *img);
	int (*load)(struct loader *l, const struct image *img);
} formats[] = {
	{ bzimage_probe, bzimage_load },
	{ multiboot_probe, multiboot_load },
	{ pvh_probe, pvh_load },
};

/* Access rights to a descriptor: the attributes are its bits 40-47 and 52-55 (SDM 3A 3.4.5). */
static uint64_t make_descriptor(uint64_t base, uint64_t limit, uint64_t attr)
{
	if (attr & SEG_G)
		limit >>= 12;
	return (limit & 0xffff) | (base & 0xffffff) << 16 | (attr & 0xff) << 40 |
	       (limit >> 16 & 0xf) << 48 | (attr & 0xf000) << 40 | (base >> 24 & 0xff) << 56;
}

static uint32_t code_attr(const struct loader_result *r)
{
	return r->mode == LOADER_LONG64 ? ATTR_CODE64 : ATTR_CODE32;
}

static int write_gdt(struct loader *l)
{
	uint64_t gdt[] = {
		[SEL_CODE / 8] = make_descriptor(0, UINT32_MAX, code_attr(l->r)),
		[SEL_DATA / 8] = make_descriptor(0, UINT32_MAX, ATTR_DATA),
		[SEL_TSS / 8] = make_descriptor(0, TSS_LIMIT, ATTR_TSS),
		[SEL_TSS / 8 + 1] = 0, /* upper half, in long mode */
	};

	_Static_assert(GPA_GDT + sizeof(gdt) <= GPA_BOOT_INFO, "the GDT overlaps");
	l->r->gdt = GPA_GDT;
	return mem_write(l->m, GPA_GDT, gdt, sizeof(gdt));
}

/*
 * The little of the BIOS data area that kernels look at, Xen most of all: the serial port, the
 * equipment, how much memory there is below 640 KiB and what firmware keeps at its end.
 */
static int write_bios_data(struct loader *l)
{
	const uint16_t com1 = PORT_COM1, ebda = GPA_EBDA >> 4, base_kib = GPA_EBDA / KiB;
	const uint16_t equipment = 1 << 9 | 1 << 1; /* one serial port, an x87 */
	const uint8_t ebda_kib = (0xa0000 - GPA_EBDA) / KiB;
	const struct {
		gpa_t gpa;
		const void *data;
		size_t len;
	} fields[] = {
		{ 0x400, &com1, sizeof(com1) },
		{ 0x40e, &ebda, sizeof(ebda) },
		{ 0x410, &equipment, sizeof(equipment) },
		{ 0x413, &base_kib, sizeof(base_kib) },
		{ GPA_EBDA, &ebda_kib, sizeof(ebda_kib) },
	};
	int rc = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fields) && !rc; i++)
		rc = mem_write(l->m, fields[i].gpa, fields[i].data, fields[i].len);
	return rc;
}

/* Identity map of the first 4 GiB in pages of 2 MiB. */
static int write_page_tables(struct loader *l)
{
	const uint64_t table = 0x3, page = 0x83; /* present, writable; and PS */
	uint64_t *t = mem_host(l->m, GPA_PAGE_TABLES, PAGE_TABLE_PAGES * PAGE_SIZE, true);

	if (!t)
		return -EFAULT;
	memset(t, 0, 2 * PAGE_SIZE);
	t[0] = (GPA_PAGE_TABLES + PAGE_SIZE) | table;
	for (unsigned i = 0; i < 4; i++)
		t[512 + i] = (GPA_PAGE_TABLES + (2 + i) * PAGE_SIZE) | table;
	for (unsigned i = 0; i < 4 * 512; i++)
		t[1024 + i] = i * 2 * MiB | page;
	l->r->page_tables = GPA_PAGE_TABLES;
	return 0;
}

static int write_boot_state(struct loader *l)
{
	int rc = write_bios_data(l);

	if (!rc)
		rc = write_gdt(l);
	if (!rc && l->r->mode == LOADER_LONG64)
		rc = write_page_tables(l);
	if (rc)
		return loader_fail(l, rc, "no memory below 640 KiB for the boot CPU's tables");
	l->r->rsp = GPA_BOOT_STACK;
	return 0;
}

static int load_image(struct loader *l, const struct image *img)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		int rc;

		if (!formats[i].probe(img))
			continue;
		rc = formats[i].load(l, img);
		return rc ? rc : write_boot_state(l);
	}
	return loader_fail(l, -ENOEXEC, "'%s' is not a kernel: no bzImage, ELF or Multiboot header",
	                   img->name);
}

static void start(struct loader *l, struct loader_result *r)
{
	memset(r, 0, sizeof(*r));
	l->r = r;
	if (l->errlen)
		l->err[0] = '\0';
}

int loader_load_image(struct mem *m, const struct loader_args *a, const void *data, uint64_t size,
                      struct loader_result *r, char *err, size_t errlen)
{
	struct loader l = { .m = m, .a = a, .err = err, .errlen = errlen };
	struct image img = { .name = a->kernel, .data = data, .size = size };

	start(&l, r);
	return load_image(&l, &img);
}

int loader_load(struct mem *m, const struct loader_args *a, struct loader_result *r, char *err,
                size_t errlen)
{
	struct loader l = { .m = m, .a = a, .err = err, .errlen = errlen };
	struct image img = { .name = a->kernel };
	struct loader_file f;
	uint8_t *data;
	int rc;

	start(&l, r);
	rc = loader_file_open(&l, "kernel", a->kernel, KERNEL_FILE_MAX, &f);
	if (rc)
		return rc;
	data = malloc(f.size);
	if (data)
		rc = loader_file_read(&l, &f, data);
	else
		rc = loader_fail(&l, -ENOMEM, "no memory to read kernel '%s' (%llu MiB)", a->kernel,
		                 MiB_UP(f.size));
	img.data = data;
	img.size = f.size;
	if (!rc)
		rc = load_image(&l, &img);
	free(data);
	loader_file_close(&f);
	return rc;
}

static void setup_segments(const struct loader_result *r, struct cpu *c)
{
	static const enum seg data[] = { SEG_ES, SEG_SS, SEG_DS, SEG_FS, SEG_GS };

	c->seg[SEG_CS] =
	        (struct segment){ .sel = SEL_CODE, .limit = UINT32_MAX, .attr = code_attr(r) };
	for (size_t i = 0; i < ARRAY_SIZE(data); i++)
		c->seg[data[i]] =
		        (struct segment){ .sel = SEL_DATA, .limit = UINT32_MAX, .attr = ATTR_DATA };
	c->seg[SEG_LDTR] = (struct segment){ .attr = SEG_UNUSABLE };
	c->seg[SEG_TR] = (struct segment){ .sel = SEL_TSS, .limit = TSS_LIMIT, .attr = ATTR_TSS };
	c->gdtr = (struct dtable){ .base = r->gdt, .limit = SEL_TSS + 16 - 1 };
	c->idtr = (struct dtable){ 0 };
}

void loader_setup_cpu(const struct loader_result *r, struct cpu *c)
{
	bool is64 = r->mode == LOADER_LONG64;

	setup_segments(r, c);
	c->cr0 = CR0_PE | CR0_ET | (is64 ? CR0_PG : 0);
	c->cr3 = is64 ? r->page_tables : 0;
	c->cr4 = is64 ? CR4_PAE : 0;
	c->efer = is64 ? EFER_LME | EFER_LMA : 0;
	memset(c->gpr, 0, sizeof(c->gpr));
	c->rax = r->rax;
	c->rbx = r->rbx;
	c->rsi = r->rsi;
	c->rsp = r->rsp;
	c->rip = r->entry;
	c->cpl = 0;
	cpu_set_rflags(c, RFLAGS_1);
	cpu_update_mode(c);
	loader_setup_mtrrs(c);
}

void loader_setup_mtrrs(struct cpu *c)
{
	/* SDM 3A 11.11.2: enabled, fixed ranges enabled, default type write-back. */
	const uint64_t all_wb = 0x0606060606060606ull, enabled_wb = 0xc06;
	const unsigned fix16k_a0000 = 2; /* after fix64k_00000 and fix16k_80000 */

	c->msr.mtrr_def_type = enabled_wb;
	for (size_t i = 0; i < ARRAY_SIZE(c->msr.mtrr_fix); i++)
		c->msr.mtrr_fix[i] = i == fix16k_a0000 ? 0 : all_wb;
}

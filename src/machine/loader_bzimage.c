/*
 * Linux bzImage: Documentation/arch/x86/boot.rst, boot protocol 2.06 to 2.15.
 *
 * The file is a real-mode part, which holds the setup header and is not used otherwise, and the
 * protected-mode part, which is a decompressor around a payload. There are two ways in:
 *
 * - The host unpacks the payload, an ELF vmlinux, to its physical addresses and enters it as the
 *   decompressor would have. An interpreter would spend a second or more on doing that itself. The
 *   kernel is not relocated then: it runs at the address it was linked for.
 * - The guest unpacks: the protected-mode part is put at the preferred address and entered at its
 *   64-bit entry point, 0x200 in, or at its first byte in 32-bit mode. Taken on request, when we do
 *   not know the compression, and when the kernel has no 64-bit entry point.
 *
 * Either way the kernel finds the zero page in RSI, and may use init_size bytes from its load
 * address before it has read the memory map: nothing else may lie there.
 */
#include "machine/loader_private.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "machine/decompress.h"
#include "machine/e820.h"

#define SECTOR           512
#define HEADER_OFFSET    0x1f1
#define BOOT_FLAG        0xaa55
#define HEADER_MAGIC     0x53726448 /* "HdrS" */
#define VERSION_MIN      0x0206     /* has cmdline_size */
#define VERSION_PAYLOAD  0x0208
#define VERSION_PREF     0x020a /* pref_address, init_size */
#define VERSION_XLOAD    0x020c
#define VERSION_RSDP     0x020e
#define ENTRY64_OFFSET   0x200
#define INIT_SIZE_MAX    GiB
#define LOADER_UNDEFINED 0xff /* type_of_loader */
#define VIDEO_NORMAL     0xffff

_Static_assert(offsetof(struct boot_params, hdr) == HEADER_OFFSET, "zero page layout");
_Static_assert(offsetof(struct boot_params, e820_table) == 0x2d0, "zero page layout");
_Static_assert(sizeof(struct boot_params) == PAGE_SIZE, "zero page is a page");

struct bzimage {
	const char *name;
	struct setup_header hdr;
	const uint8_t *code; /* protected-mode part */
	uint64_t code_size;
	const uint8_t *payload; /* NULL when the header does not tell */
	uint64_t payload_size;
	enum compression compression;
	gpa_t base; /* where the kernel is put */
	uint64_t init_size;
};

bool bzimage_probe(const struct image *img)
{
	struct setup_header hdr;

	if (img->size < HEADER_OFFSET + sizeof(hdr))
		return false;
	memcpy(&hdr, img->data + HEADER_OFFSET, sizeof(hdr));
	return hdr.boot_flag == BOOT_FLAG && hdr.header == HEADER_MAGIC;
}

/* Fields past the end of an older header are code or padding: they count as zero. */
static void read_header(struct setup_header *hdr, const uint8_t *data)
{
	/* The jump at 0x200 skips the header; its second byte is a displacement from 0x202. */
	size_t end = 0x202 + data[0x201] - HEADER_OFFSET;

	memset(hdr, 0, sizeof(*hdr));
	memcpy(hdr, data + HEADER_OFFSET, end < sizeof(*hdr) ? end : sizeof(*hdr));
}

static int find_parts(struct loader *l, const struct image *img, struct bzimage *b)
{
	unsigned sectors = b->hdr.setup_sects ? b->hdr.setup_sects : 4;
	uint64_t setup = (sectors + 1) * SECTOR;
	uint64_t need;

	if (img->size <= setup + ENTRY64_OFFSET)
		return loader_fail(l, -EINVAL,
		                   "'%s' is truncated: %" PRIu64 " bytes, of which %" PRIu64
		                   " are real-mode code",
		                   img->name, img->size, setup);
	b->code = img->data + setup;
	b->code_size = img->size - setup;
	need = (uint64_t)b->hdr.syssize *
	       16; /* the file itself may be padded or signed after that */
	if (need > b->code_size + 15)
		return loader_fail(l, -EINVAL,
		                   "'%s' is truncated: %" PRIu64 " bytes of kernel, %" PRIu64
		                   " promised by its header",
		                   img->name, b->code_size, need);
	if (b->hdr.version < VERSION_PAYLOAD || !b->hdr.payload_length)
		return 0;
	if (b->hdr.payload_offset > b->code_size ||
	    b->hdr.payload_length > b->code_size - b->hdr.payload_offset)
		return loader_fail(
		        l, -EINVAL, "'%s' is truncated: payload of %u bytes at %u in %" PRIu64,
		        img->name, b->hdr.payload_length, b->hdr.payload_offset, b->code_size);
	b->payload = b->code + b->hdr.payload_offset;
	b->payload_size = b->hdr.payload_length;
	b->compression = decompress_probe(b->payload, b->payload_size);
	return 0;
}

static int check_header(struct loader *l, const struct image *img, struct bzimage *b)
{
	if (b->hdr.version < VERSION_MIN)
		return loader_fail(
		        l, -ENOEXEC,
		        "'%s' has Linux boot protocol %u.%02u: 2.06 is the oldest supported",
		        img->name, b->hdr.version >> 8, b->hdr.version & 0xff);
	if (!(b->hdr.loadflags & LOADED_HIGH))
		return loader_fail(l, -ENOEXEC,
		                   "'%s' is a zImage, which loads below 1 MiB: "
		                   "only bzImage is supported",
		                   img->name);
	return 0;
}

/* Where the kernel goes and how much memory it needs there. */
static int place_kernel(struct loader *l, struct bzimage *b)
{
	bool has_pref = b->hdr.version >= VERSION_PREF && b->hdr.pref_address;
	uint64_t align = b->hdr.kernel_alignment;
	gpa_t end;

	b->base = has_pref ? b->hdr.pref_address : GPA_HIGH_LOAD;
	b->init_size = b->hdr.version >= VERSION_PREF ? b->hdr.init_size : 0;
	if (b->init_size < b->code_size)
		b->init_size = b->code_size;
	if (b->init_size > INIT_SIZE_MAX || b->base < GPA_HIGH_LOAD || b->base >= MEM_HOLE_BASE)
		return loader_fail(l, -EINVAL,
		                   "'%s' is corrupt: it wants %#" PRIx64 " bytes at %#" PRIx64
		                   ", below 1 MiB, in the device hole or over %llu MiB",
		                   b->name, b->init_size, b->base, INIT_SIZE_MAX / MiB);
	if (b->hdr.relocatable_kernel && align && b->base % align)
		return loader_fail(l, -EINVAL,
		                   "'%s' is corrupt: load address %#" PRIx64
		                   " is not a multiple of %#" PRIx64,
		                   b->name, b->base, align);
	end = b->base + b->init_size;
	if (end > loader_low_end(l))
		return loader_fail(l, -ENOSPC,
		                   "kernel '%s' needs memory from %llu MiB to %llu MiB: "
		                   "the guest has %llu MiB",
		                   b->name, b->base / MiB, MiB_UP(end),
		                   (unsigned long long)(l->m->ram_bytes / MiB));
	return 0;
}

/*
 * The vmlinux that came out of the payload; what follows it (relocations) is not needed. It lies
 * where the kernel goes, and its segments are moved from there to their places.
 */
static int load_vmlinux(struct loader *l, struct bzimage *b, const uint8_t *data, uint64_t size)
{
	char name[256];
	struct image img = { .name = name, .data = data, .size = size };
	struct elf_file elf;
	uint64_t base, end, entry;
	int rc;

	snprintf(name, sizeof(name), "%.200s (unpacked)", b->name);
	if (!elf_probe(&img))
		return loader_fail(l, -ENOEXEC, "'%s' is corrupt: its payload is not an ELF file",
		                   b->name);
	rc = elf_parse(l, &img, &elf);
	if (rc)
		return rc;
	if (!elf.is64 || !elf_extent(&elf, &base, &end) || !elf_entry(&elf, &entry))
		return loader_fail(l, -ENOEXEC,
		                   "'%s' is corrupt: its payload is not a bootable ELF64 file",
		                   b->name);
	if (base < b->base || end > b->base + b->init_size)
		return loader_fail(l, -EINVAL,
		                   "'%s' is corrupt: vmlinux loads at %#" PRIx64 " to %#" PRIx64
		                   ", its header allows %#" PRIx64 " to %#" PRIx64,
		                   b->name, base, end, b->base, b->base + b->init_size);
	if (!elf_moves_in_place(&elf, b->base))
		return loader_fail(l, -EINVAL, "'%s' is corrupt: segments of vmlinux overlap",
		                   b->name);
	l->r->entry = entry;
	return elf_load(l, &img, &elf, 0);
}

/*
 * Unpacks straight into guest memory at the load address, as the decompressor does: the header's
 * init_size has room for it, and the host needs no second copy. The payload ends with the 32-bit
 * size of what it unpacks to; gzip has that in its own trailer.
 */
static int unpack_kernel(struct loader *l, struct bzimage *b)
{
	uint64_t packed = b->payload_size;
	uint32_t size;
	uint8_t *out;
	int rc;

	if (packed < sizeof(size))
		return loader_fail(l, -EINVAL, "'%s' is corrupt: payload of %" PRIu64 " bytes",
		                   b->name, packed);
	memcpy(&size, b->payload + packed - sizeof(size), sizeof(size));
	if (b->compression != COMPRESSION_GZIP)
		packed -= sizeof(size);
	if (!size || size > b->init_size)
		return loader_fail(
		        l, -EINVAL,
		        "'%s' is corrupt: payload of %u bytes, its header allows %" PRIu64, b->name,
		        size, b->init_size);
	out = loader_host(l, b->base, b->init_size);
	if (!out)
		return loader_fail(l, -ENOSPC, "kernel '%s' has no memory at %#" PRIx64, b->name,
		                   b->base);
	rc = decompress(b->compression, b->payload, packed, out, size);
	if (rc)
		return loader_fail(l, rc, "'%s': %s", b->name,
		                   rc == -ENOMEM ? "no memory to unpack it" : "payload is corrupt");
	return load_vmlinux(l, b, out, size);
}

static int load_compressed(struct loader *l, struct bzimage *b)
{
	uint8_t *host = loader_host(l, b->base, b->init_size);

	if (!host)
		return loader_fail(l, -ENOSPC, "kernel '%s' has no memory at %#" PRIx64, b->name,
		                   b->base);
	memcpy(host, b->code, b->code_size);
	l->r->entry = b->base;
	if (l->r->mode == LOADER_LONG64)
		l->r->entry += ENTRY64_OFFSET;
	return 0;
}

static int load_initrd(struct loader *l, struct bzimage *b)
{
	gpa_t limit = loader_low_end(l), gpa;
	uint64_t size;
	int rc;

	if (!l->a->initrd)
		return 0;
	if (limit > (uint64_t)b->hdr.initrd_addr_max + 1)
		limit = (uint64_t)b->hdr.initrd_addr_max + 1;
	rc = loader_put_file_high(l, "initrd", l->a->initrd, b->base + b->init_size, limit, &gpa,
	                          &size);
	if (rc)
		return rc;
	b->hdr.ramdisk_image = (uint32_t)gpa;
	b->hdr.ramdisk_size = (uint32_t)size;
	return 0;
}

static int write_zero_page(struct loader *l, struct bzimage *b)
{
	struct boot_params *zp = mem_host(l->m, GPA_BOOT_INFO, sizeof(*zp), true);
	struct e820_entry map[E820_MAX];
	unsigned n = e820_build(l->m, map);

	if (!zp)
		return loader_fail(l, -EFAULT, "no memory at %#llx", GPA_BOOT_INFO);
	b->hdr.type_of_loader = LOADER_UNDEFINED;
	b->hdr.vid_mode = VIDEO_NORMAL;
	b->hdr.cmd_line_ptr = GPA_CMDLINE;
	b->hdr.code32_start = (uint32_t)b->base;
	b->hdr.setup_data = 0;
	memset(zp, 0, sizeof(*zp));
	zp->hdr = b->hdr;
	if (b->hdr.version >= VERSION_RSDP)
		zp->acpi_rsdp_addr = l->a->rsdp;
	zp->e820_entries = (uint8_t)n;
	for (unsigned i = 0; i < n; i++)
		zp->e820_table[i] =
		        (struct boot_e820_entry){ map[i].base, map[i].size, map[i].type };
	return 0;
}

int bzimage_load(struct loader *l, const struct image *img)
{
	struct bzimage b = { .name = img->name };
	bool unpack;
	int rc;

	read_header(&b.hdr, img->data);
	if ((rc = check_header(l, img, &b)) || (rc = find_parts(l, img, &b)) ||
	    (rc = place_kernel(l, &b)))
		return rc;
	if (l->a->nr_modules)
		return loader_fail(l, -EINVAL, "'%s' is a Linux bzImage, which takes no modules",
		                   img->name);
	l->r->mode = b.hdr.version >= VERSION_XLOAD && (b.hdr.xloadflags & XLF_KERNEL_64)
	                     ? LOADER_LONG64
	                     : LOADER_FLAT32;
	unpack = l->r->mode == LOADER_LONG64 && b.compression != COMPRESSION_NONE &&
	         !l->a->guest_decompresses;
	snprintf(l->r->format, sizeof(l->r->format), "Linux %u.%u bzImage, %s, unpacked by the %s",
	         b.hdr.version >> 8, b.hdr.version & 0xff, decompress_name(b.compression),
	         unpack ? "host" : "guest");
	l->r->kernel_base = b.base;
	l->r->kernel_end = b.base + b.init_size;
	l->r->rsi = GPA_BOOT_INFO;
	rc = unpack ? unpack_kernel(l, &b) : load_compressed(l, &b);
	if (rc || (rc = loader_put_cmdline(l, NULL, b.hdr.cmdline_size)))
		return rc;
	if ((rc = load_initrd(l, &b)))
		return rc;
	return write_zero_page(l, &b);
}

/* The loader on bzImages of every compression, and on what is wrong with them. */
#include "loader_fixture.h"
#include "machine/e820.h"

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

/* Each packs in[0..n) to out, as the kernel's build does, with the size at the end. */
static uint64_t append_size(uint8_t *out, uint64_t packed, uint64_t n)
{
	memcpy(out + packed, &(uint32_t){ (uint32_t)n }, 4);
	return packed + 4;
}

static uint64_t pack_gzip(const uint8_t *in, uint64_t n, uint8_t *out)
{
	z_stream z = { .next_in = (Bytef *)in,
		       .avail_in = (uInt)n,
		       .next_out = out,
		       .avail_out = IMAGE_MAX / 2 };

	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, 0), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

static uint64_t pack_xz(const uint8_t *in, uint64_t n, uint8_t *out)
{
	lzma_options_lzma options;
	lzma_filter filters[] = { { LZMA_FILTER_X86, NULL },
		                  { LZMA_FILTER_LZMA2, &options },
		                  { LZMA_VLI_UNKNOWN, NULL } };
	size_t used = 0;

	assert_false(lzma_lzma_preset(&options, 6));
	assert_int_equal(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, in, n, out,
	                                           &used, IMAGE_MAX / 2),
	                 LZMA_OK);
	return append_size(out, used, n);
}

static uint64_t pack_zstd(const uint8_t *in, uint64_t n, uint8_t *out)
{
	return append_size(out, ZSTD_compress(out, IMAGE_MAX / 2, in, n, 3), n);
}

static uint64_t pack_lz4(const uint8_t *in, uint64_t n, uint8_t *out)
{
	int len = LZ4_compress_default((const char *)in, (char *)out + 8, (int)n, IMAGE_MAX / 2);

	memcpy(out, &(uint32_t){ 0x184c2102 }, 4);
	memcpy(out + 4, &(uint32_t){ (uint32_t)len }, 4);
	return append_size(out, 8 + (unsigned)len, n);
}

static const struct {
	const char *name;
	uint64_t (*pack)(const uint8_t *in, uint64_t n, uint8_t *out);
} packers[] = {
	{ "gzip", pack_gzip }, { "xz", pack_xz }, { "zstd", pack_zstd }, { "lz4", pack_lz4 }
};

static struct setup_header *make_packed(struct fixture *f, unsigned packer, uint64_t paddr)
{
	uint8_t vmlinux[0x4000];
	uint64_t n = make_elf64(vmlinux, paddr);

	return make_bzimage(f, packers[packer].pack(vmlinux, n, f->image + BZ_SETUP + BZ_CODE));
}

static void host_unpacks(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
		uint64_t stale = UINT64_MAX;

		make_packed(f, i, BZ_PREF);
		mem_write(f->m, BZ_PREF + ELF_TEXT_BYTES, &stale, 8);
		assert_int_equal(load(f), 0);
		assert_non_null(strstr(f->r.format, packers[i].name));
		assert_int_equal(f->r.mode, LOADER_LONG64);
		assert_int_equal(f->r.entry, BZ_PREF + 0x10);
		assert_int_equal(f->r.rsi, GPA_BOOT_INFO);
		assert_int_equal(*(uint8_t *)guest(f, BZ_PREF + ELF_TEXT_BYTES - 1, 1), 0x90);
		assert_int_equal(*(uint64_t *)guest(f, BZ_PREF + ELF_TEXT_BYTES, 8), 0);
		assert_int_equal(*(uint8_t *)guest(f, BZ_PREF + 0x2000, 1), 0xcc);
	}
}

static void guest_unpacks(void **state)
{
	struct fixture *f = *state;

	make_packed(f, 0, BZ_PREF);
	f->args.guest_decompresses = true;
	assert_int_equal(load(f), 0);
	assert_int_equal(f->r.mode, LOADER_LONG64);
	assert_int_equal(f->r.entry, BZ_PREF + 0x200);
	assert_int_equal(*(uint8_t *)guest(f, BZ_PREF, 1), 0xb2);
	/* An unknown compression is the guest's business too. */
	f->args.guest_decompresses = false;
	f->image[BZ_SETUP + BZ_CODE] = 'B';
	assert_int_equal(load(f), 0);
	assert_int_equal(f->r.entry, BZ_PREF + 0x200);
}

static void kernel_without_64_bit_entry(void **state)
{
	struct fixture *f = *state;

	make_packed(f, 0, BZ_PREF)->xloadflags = 0;
	assert_int_equal(load(f), 0);
	assert_int_equal(f->r.mode, LOADER_FLAT32);
	assert_int_equal(f->r.entry, BZ_PREF);
}

static void zero_page(void **state)
{
	struct fixture *f = *state;
	const struct boot_params *zp;
	uint64_t ram = 0;

	make_packed(f, 0, BZ_PREF);
	assert_int_equal(load(f), 0);
	zp = guest(f, GPA_BOOT_INFO, sizeof(*zp));
	assert_int_equal(zp->sentinel, 0);
	assert_int_equal(zp->hdr.header, 0x53726448);
	assert_int_equal(zp->hdr.type_of_loader, 0xff);
	assert_int_equal(zp->acpi_rsdp_addr, 0xf8000);
	assert_string_equal(guest(f, zp->hdr.cmd_line_ptr, 16), "console=ttyS0");
	for (unsigned i = 0; i < zp->e820_entries; i++) {
		const struct boot_e820_entry *e = &zp->e820_table[i];

		ram += e->type == 1 ? e->size : 0;
		if (i)
			assert_true(e->addr >= e[-1].addr + e[-1].size);
	}
	assert_int_equal(ram, 64 * MiB - MiB + GPA_EBDA);
}

/* What Xen and others look for in the first page. */
static void bios_data_area(void **state)
{
	struct fixture *f = *state;
	const uint8_t *bda;

	make_packed(f, 0, BZ_PREF);
	assert_int_equal(load(f), 0);
	bda = guest(f, 0x400, 0x20);
	assert_memory_equal(bda, "\xf8\x03", 2);
	assert_memory_equal(bda + 0xe, "\xc0\x9f", 2);
	assert_memory_equal(bda + 0x13, "\x7f\x02", 2);
}

static void memory_map_of_every_size(void **state)
{
	static const uint64_t sizes[] = { 32 * MiB, 3 * GiB, 3 * GiB + PAGE_SIZE, 6 * GiB,
		                          MEM_MAX_BYTES };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct e820_entry e[E820_MAX];
		uint64_t ram = 0;
		struct mem *m;
		unsigned n;

		assert_int_equal(mem_new(&m, sizes[i]), 0);
		n = e820_build(m, e);
		for (unsigned j = 0; j < n; j++) {
			if (e[j].type == E820_RAM) {
				assert_non_null(mem_host(m, e[j].base, e[j].size, true));
				ram += e[j].size;
			}
			assert_true(!j || e[j].base >= e[j - 1].base + e[j - 1].size);
		}
		assert_int_equal(ram, sizes[i] - MiB + GPA_EBDA);
		mem_free(m);
	}
}

static void initrd_goes_high(void **state)
{
	struct fixture *f = *state;
	const struct boot_params *zp = guest(f, GPA_BOOT_INFO, sizeof(*zp));
	static uint8_t data[3 * MiB];
	char path[32];

	memset(data, 0x77, sizeof(data));
	f->args.initrd = temp_file(path, data, sizeof(data) - 1);
	make_packed(f, 0, BZ_PREF);
	assert_int_equal(load(f), 0);
	assert_int_equal(zp->hdr.ramdisk_image, 61 * MiB);
	assert_int_equal(zp->hdr.ramdisk_size, sizeof(data) - 1);
	assert_memory_equal(guest(f, 61 * MiB, 3 * MiB), data, sizeof(data) - 1);
	make_packed(f, 0, BZ_PREF)->initrd_addr_max = 0x2ffffff;
	assert_int_equal(load(f), 0);
	assert_int_equal(zp->hdr.ramdisk_image, 45 * MiB);
	make_packed(f, 0, BZ_PREF)->initrd_addr_max = 0x12fffff;
	assert_fails(f, -ENOSPC, "is 3 MiB and does not fit between");
	make_packed(f, 0, BZ_PREF)->initrd_addr_max = 0;
	assert_fails(f, -ENOSPC, "does not fit");
	unlink(path);
}

static void command_line_has_a_limit(void **state)
{
	struct fixture *f = *state;
	char text[3000];

	memset(text, 'x', sizeof(text));
	text[2047] = '\0';
	f->args.cmdline = text;
	make_packed(f, 0, BZ_PREF);
	assert_int_equal(load(f), 0);
	text[2047] = 'x';
	text[2048] = '\0';
	assert_fails(f, -E2BIG, "2048 bytes long: this kernel takes at most 2047");
}

static void truncated_and_corrupt(void **state)
{
	struct fixture *f = *state;
	uint64_t whole;

	for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
		make_packed(f, i, BZ_PREF);
		whole = f->size;
		f->size = whole - 32;
		assert_fails(f, -EINVAL, "truncated");
		f->size = BZ_SETUP;
		assert_fails(f, -EINVAL, "truncated");
		f->size = 0x1f1;
		assert_fails(f, -ENOEXEC, "not a kernel");
		f->size = whole;
		memset(f->image + BZ_SETUP + BZ_CODE + 24, 0xff, 64);
		assert_fails(f, -EINVAL, "corrupt");
	}
}

static void header_fields_are_checked(void **state)
{
	struct fixture *f = *state;

	make_packed(f, 3, BZ_PREF)->version = 0x205;
	assert_fails(f, -ENOEXEC, "2.05");
	make_packed(f, 3, BZ_PREF)->loadflags = 0;
	assert_fails(f, -ENOEXEC, "zImage");
	make_packed(f, 3, BZ_PREF)->payload_offset = UINT32_MAX;
	assert_fails(f, -EINVAL, "truncated: payload");
	make_packed(f, 3, BZ_PREF)->payload_length = UINT32_MAX;
	assert_fails(f, -EINVAL, "truncated: payload");
	make_packed(f, 3, BZ_PREF)->payload_length = 8;
	assert_fails(f, -EINVAL, "corrupt");
	make_packed(f, 3, BZ_PREF)->init_size = UINT32_MAX;
	assert_fails(f, -EINVAL, "wants 0xffffffff bytes");
	make_packed(f, 3, BZ_PREF)->pref_address = UINT64_MAX;
	assert_fails(f, -EINVAL, "wants");
	make_packed(f, 3, BZ_PREF)->pref_address = 63 * MiB + 512 * KiB;
	assert_fails(f, -EINVAL, "multiple");
	make_packed(f, 3, BZ_PREF)->init_size = 60 * MiB;
	assert_fails(f, -ENOSPC, "from 16 MiB to 76 MiB: the guest has 64 MiB");
	make_packed(f, 3, BZ_PREF)->init_size = 0x1000; /* less than what comes out */
	assert_fails(f, -EINVAL, "its header allows");
	make_packed(f, 3, BZ_PREF + 0x200000);
	assert_fails(f, -EINVAL, "vmlinux loads at");
}

static void payload_that_is_not_a_kernel(void **state)
{
	struct fixture *f = *state;
	uint8_t text[4096] = "not an ELF file";

	make_bzimage(f, pack_lz4(text, sizeof(text), f->image + BZ_SETUP + BZ_CODE));
	assert_fails(f, -ENOEXEC, "payload is not an ELF file");
}

/* Unpacked where it goes: a segment may not be copied over one that is still to come. */
static void segments_that_overlap(void **state)
{
	struct fixture *f = *state;
	uint8_t vmlinux[0x4000];
	uint64_t n = make_elf64(vmlinux, BZ_PREF);
	Elf64_Phdr *ph = (Elf64_Phdr *)(vmlinux + sizeof(Elf64_Ehdr));

	ph[0].p_paddr = BZ_PREF + ELF_TEXT_OFFSET + 8;
	make_bzimage(f, pack_lz4(vmlinux, n, f->image + BZ_SETUP + BZ_CODE));
	assert_fails(f, -ENOEXEC, "not a bootable ELF64");
	((Elf64_Ehdr *)vmlinux)->e_entry = ph[0].p_paddr;
	make_bzimage(f, pack_lz4(vmlinux, n, f->image + BZ_SETUP + BZ_CODE));
	assert_fails(f, -EINVAL, "overlap");
}

static void cpu_state_of_64_bit_entry(void **state)
{
	struct fixture *f = *state;
	static struct cpu c;
	const uint64_t *pml4, *pdpt, *pd;

	make_packed(f, 0, BZ_PREF);
	assert_int_equal(load(f), 0);
	loader_setup_cpu(&f->r, &c);
	assert_int_equal(c.rip, BZ_PREF + 0x10);
	assert_int_equal(c.rsi, GPA_BOOT_INFO);
	assert_int_equal(c.mode, MODE_64);
	assert_int_equal(c.efer, EFER_LME | EFER_LMA);
	assert_int_equal(c.seg[SEG_CS].sel, 0x10);
	assert_int_equal(c.seg[SEG_DS].sel, 0x18);
	assert_int_equal(cpu_get_rflags(&c), RFLAGS_1);
	pml4 = guest(f, c.cr3, PAGE_SIZE);
	pdpt = guest(f, pml4[0] & PAGE_MASK, PAGE_SIZE);
	pd = guest(f, pdpt[3] & PAGE_MASK, PAGE_SIZE);
	assert_int_equal(pd[511], 0xffe00083);
	/* The GDT in memory says what the segment registers say. */
	assert_int_equal(((uint64_t *)guest(f, c.gdtr.base, 48))[2], 0x00af9b000000ffff);
	assert_int_equal(((uint64_t *)guest(f, c.gdtr.base, 48))[3], 0x00cf93000000ffff);
}

static void files_are_checked(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *path, *words;
		int rc;
	} bad[] = {
		{ "/nonexistent/vmlinuz", "No such file", -ENOENT },
		{ "/tmp", "is a directory", -EISDIR },
		{ "/dev/null", "not a regular file", -EINVAL },
	};
	char path[32];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		f->args.kernel = bad[i].path;
		assert_int_equal(loader_load(f->m, &f->args, &f->r, f->err, sizeof(f->err)),
		                 bad[i].rc);
		assert_non_null(strstr(f->err, bad[i].words));
		assert_non_null(strstr(f->err, bad[i].path));
	}
	f->args.kernel = temp_file(path, "", 0);
	assert_int_equal(loader_load(f->m, &f->args, &f->r, f->err, sizeof(f->err)), -EINVAL);
	assert_non_null(strstr(f->err, "is empty"));
	unlink(path);
	make_packed(f, 0, BZ_PREF);
	f->args.kernel = temp_file(path, f->image, f->size);
	assert_int_equal(loader_load(f->m, &f->args, &f->r, f->err, sizeof(f->err)), 0);
	assert_string_equal(f->err, "");
	f->args.initrd = "/nonexistent/initrd";
	assert_int_equal(loader_load(f->m, &f->args, &f->r, f->err, sizeof(f->err)), -ENOENT);
	assert_non_null(strstr(f->err, "initrd '/nonexistent/initrd'"));
	unlink(path);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(host_unpacks),
		T(guest_unpacks),
		T(kernel_without_64_bit_entry),
		T(zero_page),
		T(bios_data_area),
		T(memory_map_of_every_size),
		T(initrd_goes_high),
		T(command_line_has_a_limit),
		T(truncated_and_corrupt),
		T(header_fields_are_checked),
		T(payload_that_is_not_a_kernel),
		T(segments_that_overlap),
		T(cpu_state_of_64_bit_entry),
		T(files_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

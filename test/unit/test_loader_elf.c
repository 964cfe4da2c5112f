/* The loader on ELF kernels with a PVH note and on Multiboot images. */
#include "loader_fixture.h"

#define PVH_BASE   0x200000ull
#define NOTE_ENTRY 18
#define NOTE_RELOC 20

static void make_pvh(struct fixture *f, uint64_t paddr)
{
	f->size = make_elf64(f->image, paddr);
	add_note(f, 6, "something", 9); /* an odd length before it */
	add_note(f, NOTE_ENTRY, &(uint64_t){ paddr + 0x20 }, 8);
}

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

static void pvh_kernel(void **state)
{
	struct fixture *f = *state;
	const struct start_info *info;
	static struct cpu c;

	make_pvh(f, PVH_BASE);
	assert_int_equal(load(f), 0);
	assert_string_equal(f->r.format, "ELF64 with PVH entry");
	assert_int_equal(f->r.mode, LOADER_FLAT32);
	assert_int_equal(f->r.entry, PVH_BASE + 0x20);
	info = guest(f, f->r.rbx, sizeof(*info));
	assert_int_equal(info->magic, 0x336ec578);
	assert_int_equal(info->version, 1);
	assert_int_equal(info->nr_modules, 0);
	assert_int_equal(info->rsdp, 0xf8000);
	assert_string_equal(guest(f, info->cmdline, 16), "console=ttyS0");
	assert_int_equal(((uint64_t *)guest(f, info->memmap, 48))[1], GPA_EBDA);
	loader_setup_cpu(&f->r, &c);
	assert_int_equal(c.mode, MODE_32);
	assert_int_equal(c.cr0, CR0_PE | CR0_ET);
	assert_int_equal(c.cr4, 0);
	assert_true(c.flat);
}

static void pvh_modules(void **state)
{
	struct fixture *f = *state;
	const struct start_info *info;
	const uint64_t *list;
	char path[2][32], string[64];
	const char *modules[] = { string };

	make_pvh(f, PVH_BASE);
	f->args.initrd = temp_file(path[0], "initrd", 6);
	temp_file(path[1], "module", 6);
	snprintf(string, sizeof(string), "%s a b", path[1]);
	f->args.modules = modules;
	f->args.nr_modules = 1;
	assert_int_equal(load(f), 0);
	info = guest(f, f->r.rbx, sizeof(*info));
	assert_int_equal(info->nr_modules, 2);
	list = guest(f, info->modlist, 64);
	assert_memory_equal(guest(f, list[0], 6), "initrd", 6);
	assert_int_equal(list[1], 6);
	assert_memory_equal(guest(f, list[4], 6), "module", 6);
	assert_string_equal(guest(f, list[6], 4), "a b");
	unlink(path[0]);
	unlink(path[1]);
}

static void pvh_relocation(void **state)
{
	struct fixture *f = *state;
	const uint32_t where[] = { 2 * MiB, 8 * MiB, GiB - 1 };

	make_pvh(f, 512 * MiB);
	assert_fails(f, -ENOSPC, "the guest has 64 MiB");
	add_note(f, NOTE_RELOC, where, sizeof(where));
	assert_int_equal(load(f), 0);
	assert_string_equal(f->r.format, "ELF64 with PVH entry, relocated");
	assert_int_equal(f->r.entry, 8 * MiB + 0x20);
	assert_int_equal(*(uint8_t *)guest(f, 8 * MiB, 1), 0x90);
	make_pvh(f, 512 * MiB);
	add_note(f, NOTE_RELOC, &(uint32_t){ 3 }, 4);
	assert_fails(f, -ENOSPC, "needs memory");
}

static void pvh_is_refused(void **state)
{
	struct fixture *f = *state;
	Elf64_Ehdr *e = (Elf64_Ehdr *)f->image;

	make_pvh(f, PVH_BASE);
	elf64_segment(f, 2)->p_type = PT_NULL;
	assert_fails(f, -ENOEXEC, "without a PVH entry note");
	make_pvh(f, PVH_BASE);
	elf64_segment(f, 0)->p_filesz = UINT64_MAX;
	assert_fails(f, -EINVAL, "truncated: segment 0");
	make_pvh(f, PVH_BASE);
	elf64_segment(f, 0)->p_memsz = UINT64_MAX;
	assert_fails(f, -EINVAL, "wraps");
	make_pvh(f, PVH_BASE);
	elf64_segment(f, 0)->p_memsz = 1;
	assert_fails(f, -EINVAL, "corrupt: segment 0");
	make_pvh(f, 0x1000);
	assert_fails(f, -ENOSPC, "needs memory from 0x1000");
	make_pvh(f, PVH_BASE);
	e->e_machine = EM_AARCH64;
	assert_fails(f, -ENOEXEC, "machine 183");
	make_pvh(f, PVH_BASE);
	e->e_type = ET_REL;
	assert_fails(f, -ENOEXEC, "not an executable");
	make_pvh(f, PVH_BASE);
	e->e_phnum = UINT16_MAX;
	assert_fails(f, -EINVAL, "65535 program headers");
	make_pvh(f, PVH_BASE);
	e->e_phoff = UINT64_MAX - 8;
	assert_fails(f, -EINVAL, "truncated");
	make_pvh(f, PVH_BASE);
	f->size = 40;
	assert_fails(f, -EINVAL, "truncated");
	make_pvh(f, PVH_BASE);
	*(uint32_t *)(f->image + ELF_NOTE_OFFSET + 4) = UINT32_MAX; /* a note that never ends */
	assert_fails(f, -ENOEXEC, "without a PVH entry note");
}

struct multiboot_header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

static struct multiboot_header *put_multiboot(struct fixture *f, uint64_t off, uint32_t flags)
{
	struct multiboot_header *h = (struct multiboot_header *)(f->image + off);

	h->magic = 0x1badb002;
	h->flags = flags;
	h->checksum = -(h->magic + h->flags);
	return h;
}

/* A flat image: header at 0x40, loaded at 2 MiB, code after it, bss to 0x2000. */
static struct multiboot_header *make_flat(struct fixture *f)
{
	struct multiboot_header *h;

	f->size = 0x1000;
	memset(f->image, 0xf4, f->size);
	h = put_multiboot(f, 0x40, BIT(16) | 3);
	h->header_addr = 0x200040;
	h->load_addr = 0x200000;
	h->load_end_addr = 0;
	h->bss_end_addr = 0x202000;
	h->entry_addr = 0x200100;
	return h;
}

static void multiboot_flat(void **state)
{
	struct fixture *f = *state;
	const uint32_t *info;
	static struct cpu c;

	make_flat(f);
	assert_int_equal(load(f), 0);
	assert_string_equal(f->r.format, "Multiboot flat image");
	assert_int_equal(f->r.entry, 0x200100);
	assert_int_equal(f->r.kernel_end, 0x202000);
	assert_int_equal(*(uint8_t *)guest(f, 0x200fff, 1), 0xf4);
	assert_int_equal(*(uint8_t *)guest(f, 0x201000, 1), 0);
	info = guest(f, f->r.rbx, 116);
	assert_int_equal(info[0], 0x24d); /* memory, command line, modules, map, loader name */
	assert_int_equal(info[1], 639);
	assert_int_equal(info[2], 63 * 1024);
	assert_string_equal(guest(f, info[4], 32), "k console=ttyS0");
	assert_int_equal(info[5], 0);
	assert_string_equal(guest(f, info[16], 32), "Trapeze " TRAPEZE_VERSION);
	loader_setup_cpu(&f->r, &c);
	assert_int_equal(c.rax, 0x2badb002);
	assert_int_equal(c.rbx, GPA_BOOT_INFO);
	assert_int_equal(c.mode, MODE_32);
}

static void multiboot_modules(void **state)
{
	struct fixture *f = *state;
	const uint32_t *info, *mods;
	char path[32], string[64];
	const char *modules[] = { string, path };

	make_flat(f);
	temp_file(path, "module", 6);
	snprintf(string, sizeof(string), "%s x=1", path);
	f->args.modules = modules;
	f->args.nr_modules = 2;
	assert_int_equal(load(f), 0);
	info = guest(f, f->r.rbx, 116);
	assert_int_equal(info[5], 2);
	mods = guest(f, info[6], 32);
	assert_int_equal(mods[0], 0x202000);
	assert_int_equal(mods[1], 0x202006);
	assert_string_equal(guest(f, mods[2], 40), string);
	assert_int_equal(mods[4], 0x203000);
	assert_string_equal(guest(f, mods[6], 40), path);
	unlink(path);
	assert_fails(f, -ENOENT, "module '");
}

static void multiboot_elf32(void **state)
{
	struct fixture *f = *state;
	Elf32_Ehdr *e = (Elf32_Ehdr *)f->image;
	Elf32_Phdr *ph = (Elf32_Phdr *)(e + 1);

	*e = (Elf32_Ehdr){ .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT },
		           .e_type = ET_EXEC,
		           .e_machine = EM_386,
		           .e_entry = 0xc0400010,
		           .e_phoff = sizeof(*e),
		           .e_phentsize = sizeof(*ph),
		           .e_phnum = 1 };
	*ph = (Elf32_Phdr){ .p_type = PT_LOAD,
		            .p_vaddr = 0xc0400000,
		            .p_paddr = 0x400000,
		            .p_filesz = 0x1000,
		            .p_memsz = 0x3000 };
	f->size = 0x1000;
	put_multiboot(f, 0x200, 7);
	assert_int_equal(load(f), 0);
	assert_string_equal(f->r.format, "Multiboot ELF32");
	assert_int_equal(f->r.entry, 0x400010); /* a virtual entry point, made physical */
	e->e_entry = 0x10;
	assert_fails(f, -EINVAL, "entry point 0x10 is in no segment");
	put_multiboot(f, 0x200, 8);
	assert_fails(f, -ENOTSUP, "features 0x8");
	put_multiboot(f, 0x200, 3)->checksum++;
	assert_fails(f, -ENOEXEC, "without a PVH entry note or a Multiboot header");
}

static void multiboot_elf64(void **state)
{
	struct fixture *f = *state;

	make_pvh(f, PVH_BASE);
	put_multiboot(f, 0x400, 0);
	assert_int_equal(load(f), 0);
	assert_string_equal(f->r.format, "ELF64 with PVH entry");
	elf64_segment(f, 2)->p_type = PT_NULL;
	assert_fails(f, -ENOEXEC, "Multiboot takes 32-bit ELF only");
}

static void multiboot_addresses_are_checked(void **state)
{
	struct fixture *f = *state;

	make_flat(f)->header_addr = 0x1fffff;
	assert_fails(f, -EINVAL, "contradict");
	make_flat(f)->header_addr = 0x200044;
	assert_fails(f, -EINVAL, "contradict");
	make_flat(f)->load_end_addr = 0x1ff000;
	assert_fails(f, -EINVAL, "contradict");
	make_flat(f)->load_end_addr = 0x201001;
	assert_fails(f, -EINVAL, "truncated");
	make_flat(f)->bss_end_addr = 0x200800;
	assert_fails(f, -EINVAL, "contradict");
	make_flat(f)->bss_end_addr = UINT32_MAX;
	assert_fails(f, -ENOSPC, "the guest has 64 MiB");
	make_flat(f)->entry_addr = 0x202000;
	assert_fails(f, -EINVAL, "contradict");
	make_flat(f);
	put_multiboot(f, 0x40, 3);
	assert_fails(f, -ENOEXEC, "is not an ELF file");
	/* A header that only begins within the first 8 KiB does not count. */
	memset(f->image, 0, sizeof(f->image));
	f->size = 0x4000;
	put_multiboot(f, 8192 - 12, BIT(16));
	assert_fails(f, -ENOEXEC, "not a kernel");
	put_multiboot(f, 8192 - 12, 0);
	assert_fails(f, -ENOEXEC, "is not an ELF file");
	memset(f->image, 0, sizeof(f->image));
	put_multiboot(f, 8192, 0);
	assert_fails(f, -ENOEXEC, "not a kernel");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(pvh_kernel),      T(pvh_modules),     T(pvh_relocation),
		T(pvh_is_refused),  T(multiboot_flat),  T(multiboot_modules),
		T(multiboot_elf32), T(multiboot_elf64), T(multiboot_addresses_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

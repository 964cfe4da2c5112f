/* What a Multiboot loader tells: command line, modules, memory. */
#include "device.h"

struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr;
};

struct module {
	uint32_t start, end, string, reserved;
};

struct map_entry {
	uint32_t size;
	uint64_t base, length;
	uint32_t type;
} __attribute__((packed));

#define WANTED 0x4d /* memory, command line, modules, map */

static bool contains(uint32_t text, const char *part)
{
	const char *s = (const char *)(uintptr_t)text;

	for (; *s; s++) {
		size_t n = 0;

		while (part[n] && s[n] == part[n])
			n++;
		if (!part[n])
			return true;
	}
	return false;
}

static void test_modules(const struct info *info)
{
	const struct module *m = (const void *)(uintptr_t)info->mods_addr;
	static const char *const arguments[] = { "first one", "second two" };

	ok_equal("two modules", info->mods_count, 2);
	for (unsigned i = 0; i < 2 && info->mods_count == 2; i++) {
		ok("its arguments", contains(m[i].string, arguments[i]));
		ok("on a page", !(m[i].start & 0xfff));
		ok("clear of the kernel", m[i].start >= (uintptr_t)guest_end);
		ok_equal("its length", m[i].end - m[i].start, 15);
		ok("its content", !memcmp((void *)(uintptr_t)m[i].start, "module content\n", 15));
	}
	ok("one behind the other", m[0].end <= m[1].start || m[1].end <= m[0].start);
}

static void test_map(const struct info *info)
{
	uintptr_t at = info->mmap_addr, end = at + info->mmap_length;
	uint64_t usable = 0, last = 0;
	bool sorted = true, ours = false;

	while (at < end) {
		const struct map_entry *e = (const void *)at;

		sorted = sorted && e->base >= last;
		last = e->base + e->length;
		usable += e->type == 1 ? e->length : 0;
		ours |= e->type == 1 && e->base <= 0x100000 && last > (uintptr_t)guest_end;
		at += e->size + 4;
	}
	ok("the map ends where it should", at == end);
	ok("in order, without overlap", sorted);
	ok("with the memory that we are in", ours);
	ok("almost all of it usable", usable <= 128ul << 20 && usable > 126ul << 20);
}

void guest_run(void)
{
	const struct info *info = (const void *)(uintptr_t)multiboot_info;

	ok_equal("flags", info->flags & WANTED, WANTED);
	ok("command line", contains(info->cmdline, "one two=2 \"three\""));
	ok("lower memory in KiB", info->mem_lower > 512 && info->mem_lower <= 640);
	ok("upper memory in KiB", is_near(info->mem_upper, 127 * 1024, 2));
	test_modules(info);
	test_map(info);
}

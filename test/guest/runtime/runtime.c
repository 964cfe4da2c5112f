/* Printing, counting checks, ending; memory. */
#include "guest.h"

static unsigned checks, failures;

/* On the debug port, which reads as its number where it exists, or on COM1. Never on both: the host
 * may show them in one place. */
static void put(char ch)
{
	if (in8(PORT_DEBUG) == PORT_DEBUG) {
		out8(PORT_DEBUG, (uint8_t)ch);
		return;
	}
	while (!(in8(PORT_COM1 + 5) & 0x20))
		;
	out8(PORT_COM1, (uint8_t)ch);
}

void print(const char *text)
{
	while (*text)
		put(*text++);
}

void print_hex(uint64_t value)
{
	int shift = 60;

	print("0x");
	while (shift && !(value >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		put("0123456789abcdef"[value >> shift & 15]);
}

static void print_decimal(unsigned value)
{
	if (value >= 10)
		print_decimal(value / 10);
	put((char)('0' + value % 10));
}

void ok(const char *name, bool condition)
{
	checks++;
	failures += !condition;
	print(condition ? "ok " : "not ok ");
	print_decimal(checks);
	print(" - ");
	print(name);
	print("\n");
}

void note(const char *text)
{
	print("# ");
	print(text);
	print("\n");
}

static void note_difference(const char *what, uint64_t got, uint64_t want)
{
	print("# ");
	print(what);
	print(" is ");
	print_hex(got);
	print(", should be ");
	print_hex(want);
	print("\n");
}

void ok_equal(const char *name, uint64_t got, uint64_t want)
{
	if (got != want)
		note_difference("value", got, want);
	ok(name, got == want);
}

static bool has_error(int vector)
{
	return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
}

void ok_trap(const char *name, int vector, word error)
{
	const struct trap *t = &this_cpu()->trap;
	bool same = t->vector == vector && (!has_error(vector) || t->regs.error == error);

	if (!same) {
		note_difference("vector", (uint64_t)t->vector, (uint64_t)vector);
		if (t->vector != NO_TRAP) {
			note_difference("error code", t->regs.error, error);
			note_difference("instruction pointer", t->regs.ip, 0);
		}
	}
	ok(name, same);
}

void guest_exit(void)
{
	print("1..");
	print_decimal(checks);
	print("\n");
	for (;;) {
		out8(PORT_EXIT, failures ? EXIT_FAIL : EXIT_PASS);
		__asm__ volatile("cli; hlt");
	}
}

void guest_die(const char *why)
{
	ok(why, false);
	guest_exit();
}

void guest_main(void);
void guest_main(void)
{
	cpu_setup(0);
	guest_run();
	guest_exit();
}

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 |
	       (uint64_t)(base >> 24) << 56;
}

void *page_alloc(void)
{
	static uintptr_t next;

	if (!next)
		next = ((uintptr_t)guest_end + 0x1fffff) & ~(uintptr_t)0x1fffff;
	next += 4096;
	return memset((void *)(next - 4096), 0, 4096);
}

void *memcpy(void *to, const void *from, size_t n)
{
	return memmove(to, from, n);
}

void *memset(void *to, int value, size_t n)
{
	volatile uint8_t *t = to;

	while (n--)
		*t++ = (uint8_t)value;
	return to;
}

void *memmove(void *to, const void *from, size_t n)
{
	volatile uint8_t *t = to;
	const volatile uint8_t *f = from;

	for (size_t i = 0; t <= f && i < n; i++)
		t[i] = f[i];
	while (t > f && n--)
		t[n] = f[n];
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const volatile uint8_t *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

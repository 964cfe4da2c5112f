/*
 * String instructions that fault in the middle: registers say where it went on, so that it can go
 * on (SDM 1 7.3.9.1); directions, sizes, counts, and I/O.
 */
#include "paging.h"

#define VA   (TEST_AREA + 0x10000)
#define PHYS 0x2000000ul

static uint8_t *const bytes = (uint8_t *)PHYS;

static const struct regs *regs(void)
{
	return &this_cpu()->trap.regs;
}

static void unmap_second(void)
{
	map_page(VA, PHYS | PTE_P | PTE_W);
	map_page(VA + 0x1000, 0);
}

static void test_faults(void)
{
	unmap_second();
	memset(bytes, 0, 4096);
	TRAPS("REP STOSB into an unmapped page", EXC_PF, PF_WRITE, "rep stosb",
	      :
	      : "D"(VA + 0xff0), "c"(100), "a"(0x5a)
	      : "memory");
	ok_equal("RCX: what is left", regs()->cx, 84);
	ok_equal("RDI: the page", regs()->di, VA + 0x1000);
	ok_equal("CR2", this_cpu()->trap.cr2, VA + 0x1000);
	ok("what was done is done", bytes[0xff0] == 0x5a && bytes[0xfff] == 0x5a && !bytes[0xfef]);
	TRAPS("REP MOVSQ from an unmapped page", EXC_PF, 0, "rep movsq",
	      :
	      : "D"(PHYS + 0x8000), "S"(VA + 0xfe8), "c"(10)
	      : "memory");
	ok_equal("RCX", regs()->cx, 7);
	ok_equal("RSI", regs()->si, VA + 0x1000);
	ok_equal("RDI", regs()->di, PHYS + 0x8018);
	TRAPS("REP MOVSQ, the last across", EXC_PF, 0, "rep movsq",
	      :
	      : "D"(PHYS + 0x8000), "S"(VA + 0xfec), "c"(10)
	      : "memory");
	ok_equal("RCX", regs()->cx, 8);
	ok_equal("CR2 is in the second page", this_cpu()->trap.cr2, VA + 0x1000);
	TRAPS("REP MOVSB to an unmapped page, backwards", EXC_PF, PF_WRITE, "std; rep movsb",
	      :
	      : "D"(VA + 0x1003), "S"(PHYS + 0x100), "c"(10)
	      : "memory", "cc");
	ok_equal("RCX: nothing done", regs()->cx, 10);
	ok("DF is in the flags", regs()->flags & FLAG_DF);
	TRAPS("REPE CMPSB", EXC_PF, 0, "repe cmpsb",
	      :
	      : "D"(VA + 0xff8), "S"(VA + 0xff8), "c"(100)
	      : "memory", "cc");
	ok_equal("RCX", regs()->cx, 92);
	TRAPS("REPNE SCASB", EXC_PF, 0, "repne scasb",
	      :
	      : "D"(VA + 0xff8), "c"(100), "a"(1)
	      : "memory", "cc");
	ok_equal("RCX", regs()->cx, 92);
	ok_equal("RDI", regs()->di, VA + 0x1000);
	TRAPS("REP OUTSB", EXC_PF, 0, "rep outsb",
	      :
	      : "d"(0x80), "S"(VA + 0xffe), "c"(5)
	      : "memory");
	ok_equal("RCX", regs()->cx, 3);
	TRAPS("REP INSB", EXC_PF, PF_WRITE, "rep insb",
	      :
	      : "d"(0x80), "D"(VA + 0xffe), "c"(5)
	      : "memory");
	ok_equal("RCX", regs()->cx, 3);
	TRAPS("RCX 0 touches nothing", NO_TRAP, 0, "rep stosb; rep movsb; rep lodsb",
	      :
	      : "D"(VA + 0x1000), "S"(VA + 0x1000), "c"(0)
	      : "memory", "rax");
}

static bool give_page(struct regs *r)
{
	if (r->vector != EXC_PF)
		return false;
	map_page(read_cr2() & ~0xffful, (PHYS + 0x1000) | PTE_P | PTE_W);
	return true;
}

static void test_restart(void)
{
	word c = 0x200, d = VA + 0xf00;

	unmap_second();
	memset(bytes, 0, 0x2000);
	trap_hook = give_page;
	__asm__ volatile("rep stosb" : "+D"(d), "+c"(c) : "a"(7) : "memory");
	trap_hook = NULL;
	ok_equal("a fault that is repaired: RCX", c, 0);
	ok_equal("RDI", d, VA + 0x1100);
	c = 0;
	for (unsigned n = 0; n < 0x2000; n++)
		c += bytes[n];
	ok_equal("every byte once", c, 0x200 * 7);
}

static void test_results(void)
{
	static const char text[] = "abcdefghijklmnop";
	word c, s, d;
	uint32_t a;
	bool zf;

	c = 16, d = (word)text;
	__asm__ volatile("repne scasb" : "+D"(d), "+c"(c), "=@ccz"(zf) : "a"('f') : "memory");
	ok("REPNE SCASB finds", zf && d == (word)text + 6 && c == 10);
	memcpy(bytes, text, 16);
	bytes[9] = 'X';
	c = 16, d = (word)text, s = (word)bytes;
	__asm__ volatile("repe cmpsb" : "+D"(d), "+S"(s), "+c"(c), "=@ccz"(zf) : : "memory");
	ok("REPE CMPSB stops", !zf && s == (word)bytes + 10 && c == 6);
	c = 7, s = (word)bytes, d = (word)bytes + 1;
	__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c) : : "memory");
	ok("overlapping forward: repeats", !memcmp(bytes, "aaaaaaaa", 8));
	memcpy(bytes, text, 16);
	c = 7, s = (word)bytes + 6, d = (word)bytes + 7;
	__asm__ volatile("std; rep movsb; cld" : "+D"(d), "+S"(s), "+c"(c) : : "memory", "cc");
	ok("overlapping backward: moves", !memcmp(bytes, "aabcdefg", 8));
	c = 3, s = (word)text;
	__asm__ volatile("rep lodsl" : "+S"(s), "+c"(c), "=a"(a) : : "memory");
	ok("REP LODSD keeps the last", a == 0x6c6b6a69 && s == (word)text + 12);
	c = 0xffffffff00000002, d = (word)bytes + 0x5500000000;
	__asm__ volatile("addr32 rep stosb" : "+D"(d), "+c"(c) : "a"(0x33) : "memory");
	ok("32-bit addresses: ECX and EDI", c == 0 && d == (word)bytes + 2 && bytes[1] == 0x33);
}

void guest_run(void)
{
	test_faults();
	test_restart();
	test_results();
}

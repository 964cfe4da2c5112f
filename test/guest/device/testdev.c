/* pc-testdev: the echo port, memory that is a device's, the flush port. */
#include "device.h"

#define ECHO  0xe0
#define FLUSH 0xe4
#define IOMEM 0xff000000ul

static void test_echo(void)
{
	out32(ECHO, 0x12345678);
	ok_equal("a dword", in32(ECHO), 0x12345678);
	ok_equal("read as a word", in16(ECHO), 0x5678);
	ok_equal("read as a byte", in8(ECHO), 0x78);
	out8(ECHO + 1, 0xab);
	ok_equal("a byte changes a byte", in32(ECHO), 0x1234ab78);
	out16(ECHO + 2, 0xcdef);
	ok_equal("a word changes a word", in32(ECHO), 0xcdefab78);
}

/* REP OUTS and INS, up and down. */
static void test_strings(void)
{
	static uint32_t from[4] = { 1, 2, 3, 4 }, to[4];
	void *source = from, *target = to;
	word n = 4;

	__asm__ volatile("rep outsl" : "+S"(source), "+c"(n) : "d"(ECHO) : "memory");
	ok("REP OUTS", source == from + 4 && !n && in32(ECHO) == 4);
	n = 3;
	__asm__ volatile("rep insl" : "+D"(target), "+c"(n) : "d"(ECHO) : "memory");
	ok("REP INS", target == to + 3 && to[0] == 4 && to[2] == 4 && !to[3]);
	target = to + 3;
	n = 2;
	__asm__ volatile("std; rep insl; cld" : "+D"(target), "+c"(n) : "d"(ECHO) : "memory");
	ok("down", target == to + 1 && to[3] == 4);
}

static void test_iomem(void)
{
	volatile uint8_t *p = (void *)IOMEM;
	uint64_t v;

	*(volatile uint64_t *)(p + 8) = 0x1122334455667788;
	ok_equal("a quadword", *(volatile uint64_t *)(p + 8), 0x1122334455667788);
	ok_equal("its bytes", p[9], 0x77);
	*(volatile uint16_t *)(p + 10) = 0xbeef;
	ok_equal("a word within", *(volatile uint64_t *)(p + 8), 0x11223344beef7788);
	*(volatile uint32_t *)(p + 0x11) = 0xcafef00d;
	ok_equal("unaligned", *(volatile uint32_t *)(p + 0x11), 0xcafef00d);
	*(volatile uint32_t *)(p + 0xffe) = 0x01020304;
	ok_equal("across a page", *(volatile uint32_t *)(p + 0xffe), 0x01020304);
	p[0] = 1;
	__asm__ volatile("lock incb %0" : "+m"(*p) : : "memory");
	ok_equal("a locked increment", p[0], 2);
	__asm__ volatile("addl $0x10, %0" : "+m"(*(volatile uint32_t *)p) : : "memory");
	ok_equal("a read and a write", p[0], 0x12);
	v = 0x5a5a;
	__asm__ volatile("xchg %0, %1"
	                 : "+r"(v), "+m"(*(volatile uint64_t *)(p + 0x20))
	                 :
	                 : "memory");
	ok_equal("an exchange", *(volatile uint64_t *)(p + 0x20), 0x5a5a);
}

static void test_moves(void)
{
	static uint8_t text[32] = "device memory moves bytes", back[32];
	void *to = (void *)(IOMEM + 0x1003), *from = text;
	word n = sizeof(text);

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	to = back;
	from = (void *)(IOMEM + 0x1003);
	n = sizeof(back);
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	ok("REP MOVS there and back", !memcmp(text, back, sizeof(text)));
	to = (void *)(IOMEM + 0xfff8);
	n = 8;
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0x5a) : "memory");
	ok_equal("to its last byte", *(volatile uint64_t *)(IOMEM + 0xfff8), 0x5a5a5a5a5a5a5a5a);
}

/* A function in device memory: mov $42, %eax; ret. */
static void test_execution(void)
{
	static const uint8_t code[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
	uint32_t (*function)(void) = (void *)(IOMEM + 0x2000);

	memcpy((void *)(IOMEM + 0x2000), code, sizeof(code));
	ok_equal("code runs from there", function(), 42);
}

static void test_flush(void)
{
	volatile uint32_t *page = page_alloc();

	*page = 0x600d;
	out32(FLUSH, (uint32_t)(uintptr_t)page);
	out32(FLUSH, 0xfffff000);
	ok_equal("a flushed page keeps its content", *page, 0x600d);
}

void guest_run(void)
{
	test_echo();
	test_strings();
	test_iomem();
	test_moves();
	test_execution();
	test_flush();
}

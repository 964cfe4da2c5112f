/*
 * Code that changes code: a store is seen by the next instruction fetch, whichever instruction
 * stores, through whichever address, however close (SDM 3A 12.1.3 asks for a jump only when another
 * processor wrote; a processor's own stores need none on any since the Pentium).
 */
#include "paging.h"

#define ALIAS TEST_AREA

static uint8_t *code; /* a page for code, identity mapped and at ALIAS */

typedef uint32_t (*function)(void);

/* mov $value, %eax; ret */
static void put_return(uint8_t *at, uint32_t value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

static uint32_t call(void *at)
{
	return ((function)at)();
}

static void test_rewritten(void)
{
	put_return(code, 1);
	ok_equal("new code", call(code), 1);
	put_return(code, 2);
	ok_equal("rewritten", call(code), 2);
	code[1] = 3;
	ok_equal("one byte of it", call(code), 3);
	__asm__ volatile("lock addb $1, (%0)" : : "r"(code + 1) : "memory");
	ok_equal("by a locked add", call(code), 4);
	__asm__ volatile("xchgb %b0, (%1)" : : "r"(5), "r"(code + 1) : "memory");
	ok_equal("by XCHG", call(code), 5);
	__asm__ volatile("movb $5, %%al; movb $6, %%cl; cmpxchgb %%cl, (%0)"
	                 :
	                 : "r"(code + 1)
	                 : "rax", "rcx", "memory", "cc");
	ok_equal("by CMPXCHG", call(code), 6);
	__asm__ volatile("mov %%rsp, %%rdx; lea 9(%0), %%rsp; push $7; mov %%rdx, %%rsp"
	                 :
	                 : "r"(code)
	                 : "rdx", "memory");
	put_return(code + 64, 1);
	__asm__ volatile("mov %0, %%rdi; mov $8, %%eax; mov $1, %%ecx; rep stosb"
	                 :
	                 : "r"(code + 65)
	                 : "rdi", "rax", "rcx", "memory");
	ok_equal("by REP STOS", call(code + 64), 8);
	__asm__ volatile("movq %0, %%xmm0; movq %%xmm0, (%1)"
	                 :
	                 : "r"(0xc300000009b8ul), "r"(code + 64)
	                 : "memory");
	ok_equal("by an SSE store", call(code + 64), 9);
	__asm__ volatile("btsl $4, (%0)" : : "r"(code + 65) : "memory", "cc");
	ok_equal("by BTS", call(code + 64), 25);
	__asm__ volatile("fninit; fnstcw (%0)" : : "r"(code + 65) : "memory");
	ok_equal("by FNSTCW", call(code + 64), 0x37f);
}

static void test_pushed(void)
{
	uint64_t insns = 0xc30000000ab8;

	put_return(code, 1);
	call(code);
	__asm__ volatile("mov %%rsp, %%rdx; lea 8(%1), %%rsp; push %0; mov %%rdx, %%rsp"
	                 :
	                 : "r"(insns), "r"(code)
	                 : "rdx", "memory");
	ok_equal("by PUSH", call(code), 10);
}

static void test_close(void)
{
	uint32_t a;
	word wide;

	__asm__ volatile("movb $1, 1f+1(%%rip); 1: mov $0, %0" : "=a"(a) : : "memory");
	ok_equal("the next instruction", a, 1);
	__asm__ volatile("movl $2, 1f+1(%%rip); nop; nop; nop; 1: mov $0, %0"
	                 : "=a"(a)
	                 :
	                 : "memory");
	ok_equal("ahead in the block", a, 2);
	__asm__ volatile("xor %0, %0; mov $5, %%ecx; movl $0, 2f+1(%%rip)\n"
	                 "1: incl 2f+1(%%rip); 2: .byte 5; .long 0; loop 1b"
	                 : "=a"(a)
	                 :
	                 : "rcx", "memory", "cc");
	ok_equal("each time round a loop", a, 15);
	__asm__ volatile("movw $0x9090, 1f(%%rip); mov $3, %0; 1: jmp 2f; jmp 3f; 2: mov $4, %0; 3:"
	                 : "=a"(a)
	                 :
	                 : "memory");
	ok_equal("a jump that becomes NOPs", a, 3);
	__asm__ volatile("mov $-1, %k0; jmp 1f; 2: jmp 3f; 1: movb $0x48, 3f(%%rip); jmp 2b\n"
	                 "3: .byte 0x3e; inc %k0"
	                 : "=a"(wide)
	                 :
	                 : "memory", "cc");
	ok_equal("a prefix that becomes another", wide, 1ul << 32);
}

static void test_rep_over_itself(void)
{
	uint32_t a;

	/* The copied bytes are "mov $2, %eax" over "mov $1, %eax" right behind REP MOVSB. */
	__asm__ volatile("lea 2f(%%rip), %%rsi; lea 1f(%%rip), %%rdi; mov $5, %%ecx; rep movsb\n"
	                 "1: mov $1, %%eax; jmp 3f; 2: mov $2, %%eax; 3:"
	                 : "=a"(a)
	                 :
	                 : "rcx", "rsi", "rdi", "memory");
	ok_equal("REP MOVS over what follows it", a, 2);
	__asm__ volatile("lea 2f(%%rip), %%rdi; mov $0x90, %%al; mov $3, %%ecx\n"
	                 "1: rep stosb; 2: inc %%ecx; nop; mov %%ecx, %0"
	                 : "=&r"(a)
	                 :
	                 : "rax", "rcx", "rdi", "memory", "cc");
	ok_equal("REP STOS over what follows it", a, 0);
}

static void test_alias(void)
{
	volatile uint8_t *alias = (volatile uint8_t *)ALIAS;

	map_page(ALIAS, (uintptr_t)code | PTE_P | PTE_W);
	put_return(code, 1);
	ok_equal("at its address", call(code), 1);
	ok_equal("at another", call((void *)ALIAS), 1);
	alias[1] = 2;
	ok_equal("rewritten through another address", call(code), 2);
	code[1] = 3;
	ok_equal("and executed there", call((void *)ALIAS), 3);
}

static void test_remapped(void)
{
	uint8_t *other = page_alloc();

	put_return(code, 1);
	put_return(other, 2);
	map_page(ALIAS, (uintptr_t)code | PTE_P | PTE_W);
	ok_equal("before", call((void *)ALIAS), 1);
	map_page(ALIAS, (uintptr_t)other | PTE_P | PTE_W);
	ok_equal("another page at the same address", call((void *)ALIAS), 2);
	put_return(code, 3);
	map_page(ALIAS, (uintptr_t)code | PTE_P | PTE_W);
	ok_equal("and back, rewritten meanwhile", call((void *)ALIAS), 3);
}

static void test_across(void)
{
	uint8_t *two = page_alloc();
	uint8_t *second = page_alloc();

	ok("two pages in a row", second == two + 4096);
	put_return(two + 4094, 1);
	ok_equal("code across two pages", call(two + 4094), 1);
	second[0] = 7;
	ok_equal("its second page rewritten", call(two + 4094), 0x701);
	*(volatile uint64_t *)(two + 4092) = 0xc300000203b89090;
	ok_equal("by a store across both", call(two + 4094), 0x203);
	for (unsigned n = 0; n < 4090; n++)
		two[n] = 0x90;
	put_return(two + 4090, 5);
	ok_equal("a page of NOPs", call(two), 5);
	put_return(two + 2000, 6);
	ok_equal("cut short in the middle", call(two), 6);
}

void guest_run(void)
{
	write_cr4(read_cr4() | CR4_OSFXSR);
	code = page_alloc();
	test_rewritten();
	test_pushed();
	test_close();
	test_rep_over_itself();
	test_alias();
	test_remapped();
	test_across();
}

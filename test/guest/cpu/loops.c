/*
 * Loops over memory: what an engine may have found out about an address in one turn has to hold in
 * the next, and only as long as it does. Pages that follow each other in linear memory lie the
 * other way round in physical memory here; a loop runs into a page that is not there, that is
 * read-only, a device's, or has code; it is interrupted, and its own code changes under it.
 */
#include "device.h"
#include "paging.h"

#define AREA   TEST_AREA
#define PAGES  4
#define RIGHTS (PTE_P | PTE_W)
#define WORDS  512 /* in a page */
#define VECTOR 0x60

static uint64_t *pages[PAGES];

/* Backwards in physical memory; one page too few. */
static void map_area(void)
{
	for (unsigned n = 0; n < PAGES; n++)
		pages[n] = page_alloc();
	for (unsigned n = 0; n < PAGES; n++)
		map_page(AREA + 4096 * n, (uintptr_t)pages[PAGES - 1 - n] | RIGHTS);
	map_page(AREA + 4096 * PAGES, 0);
}

static uint64_t *word_at(unsigned n)
{
	return &pages[PAGES - 1 - n / WORDS][n % WORDS];
}

/* Stores 1, 2, 3 ... from `from` on until it faults; gives the last address it tried. */
static uint64_t fill(uint64_t from)
{
	TRY("mov $1, %%eax; 1: mov %%rax, (%0); add $1, %%rax; add $8, %0; jmp 1b",
	    :
	    : "r"(from)
	    : "rax", "memory", "cc");
	return this_cpu()->trap.cr2;
}

static void test_end(void)
{
	uint64_t n = PAGES * WORDS, wrong = 0;

	ok_equal("a store loop ends where the memory does", fill(AREA), AREA + 8 * n);
	ok_trap("by a page fault", EXC_PF, PF_WRITE);
	ok_equal("in its turn", this_cpu()->trap.regs.ax, n + 1);
	for (unsigned k = 0; k < n; k++)
		wrong += *word_at(k) != k + 1;
	ok_equal("and all words before have their values", wrong, 0);
	*word_at(n - 1) = ~0ul;
	ok_equal("off the words' bounds, too", fill(AREA + 4), AREA + 8 * n);
	ok_equal("where nothing of the last store is done", *word_at(n - 1) >> 32, ~0u);
}

/* Sums bytes backwards until the page before the area. */
static void test_backwards(void)
{
	uint64_t sum = 0, want = 0, at = AREA + 4096 * PAGES - 1;

	map_page(AREA - 4096, 0);
	for (unsigned n = 0; n < PAGES; n++)
		for (unsigned k = 0; k < WORDS; k++)
			pages[n][k] = 0x0102030405060708 * (n + 1) + k;
	for (unsigned n = 0; n < PAGES; n++)
		for (unsigned k = 0; k < 4096; k++)
			want += ((uint8_t *)pages[n])[k];
	TRY("xor %%eax, %%eax; xor %%ecx, %%ecx; 1: movb (%0), %%cl; add %%rcx, %%rax; sub $1, %0; "
	    "jmp 1b",
	    :
	    : "r"(at)
	    : "rax", "rcx", "memory", "cc");
	sum = this_cpu()->trap.regs.ax;
	ok_trap("a loop backwards ends at the page before", EXC_PF, 0);
	ok_equal("at its last byte", this_cpu()->trap.cr2, AREA - 1);
	ok_equal("with all bytes before read", sum, want);
}

/* Three streams, flags carried from turn to turn: a long addition. */
static void test_carries(void)
{
	uint64_t wrong = 0, carry = 0;
	uint8_t last;

	for (unsigned n = 0; n < 2 * WORDS; n++) {
		*word_at(n) = n % 3 ? ~0ul : 1;
		*word_at(n + WORDS) = n % 5 ? n : ~0ul - n;
	}
	/* Sum of words 0 ... 511 and 512 ... 1023 to 1024 on. */
	__asm__ volatile(
	        "mov %1, %%rsi; lea 4096(%1), %%rdi; lea 8192(%1), %%rbx; mov $512, %%rcx; "
	        "xor %%eax, %%eax; 1: mov (%%rsi), %%rax; adc (%%rdi), %%rax; "
	        "mov %%rax, (%%rbx); lea 8(%%rsi), %%rsi; lea 8(%%rdi), %%rdi; "
	        "lea 8(%%rbx), %%rbx; dec %%rcx; jnz 1b; setc %0"
	        : "=q"(last)
	        : "r"(AREA)
	        : "rax", "rbx", "rcx", "rsi", "rdi", "memory", "cc");
	for (unsigned n = 0; n < WORDS; n++) {
		unsigned __int128 sum =
		        (unsigned __int128)*word_at(n) + *word_at(n + WORDS) + carry;

		wrong += *word_at(n + 2 * WORDS) != (uint64_t)sum;
		carry = sum >> 64;
	}
	ok_equal("an addition of 512 words", wrong, 0);
	ok_equal("and its carry", last, carry);
}

/* The third page is read-only: flags and registers are those of the turn that met it. */
static void test_read_only(void)
{
	map_page(AREA + 2 * 4096, (uintptr_t)pages[1] | PTE_P);
	write_cr0(read_cr0() | CR0_WP);
	TRY("xor %%eax, %%eax; stc; 1: adc %%eax, (%0); lea 4(%0), %0; jmp 1b",
	    :
	    : "r"(AREA)
	    : "rax", "memory", "cc");
	ok_trap("a loop meets a read-only page", EXC_PF, PF_P | PF_WRITE);
	ok_equal("at its first byte", this_cpu()->trap.cr2, AREA + 2 * 4096);
	write_cr0(read_cr0() & ~CR0_WP);
	map_page(AREA + 2 * 4096, (uintptr_t)pages[1] | RIGHTS);
}

/* The second page becomes another while a loop goes on over it. */
static void test_remapped(void)
{
	uint64_t sum = 0, *entry = page_entry(boot_pml4, AREA + 4096, 1);

	memset(pages[2], 1, 4096);
	memset(pages[1], 2, 4096);
	for (unsigned turn = 0; turn < 4; turn++) {
		*entry = (uintptr_t)pages[turn % 2 ? 1 : 2] | RIGHTS;
		flush_page(AREA + 4096);
		__asm__ volatile("mov %1, %%rsi; mov $4096, %%ecx; 1: movzbl (%%rsi), %%eax; "
		                 "add %%rax, %0; add $1, %%rsi; sub $1, %%ecx; jnz 1b"
		                 : "+r"(sum)
		                 : "r"(AREA + 4096)
		                 : "rax", "rcx", "rsi", "memory", "cc");
	}
	ok_equal("a page that changes between loops", sum, 2 * 4096 * 3);
	*entry = (uintptr_t)pages[2] | RIGHTS;
	flush_page(AREA + 4096);
}

/* A device's registers, one after the other: the I/O APIC's version by its index and its window. */
static void test_device(void)
{
	volatile uint32_t *index = (void *)IOAPIC_BASE;
	uint32_t want = 0, got = 0;

	for (unsigned n = 0; n < 16; n++) {
		*index = 1;
		want ^= index[4] + n;
	}
	__asm__ volatile(
	        "xor %%ecx, %%ecx; 1: movl $1, (%1); movl 16(%1), %%eax; add %%ecx, %%eax; "
	        "xor %%eax, %0; add $1, %%ecx; cmp $16, %%ecx; jb 1b"
	        : "+r"(got)
	        : "r"(IOAPIC_BASE)
	        : "rax", "rcx", "memory", "cc");
	ok_equal("a loop over a device", got, want);
}

/* The loop stores to the page that it lies in, and at last to its own first instruction, which
 * becomes RET. */
static void test_own_code(void)
{
	static const uint8_t insns[] = {
		0xff, 0xc0,             /* 1: inc %eax */
		0xc6, 0x07, 0xc3,       /* movb $0xc3, (%rdi) */
		0x48, 0x83, 0xc7, 0x01, /* add $1, %rdi */
		0xeb, 0xf5,             /* jmp 1b */
	};
	uint8_t *code = page_alloc();
	word turns = 0, from = (word)code + 100;

	memcpy(code + 512, insns, sizeof(insns));
	__asm__ volatile("call *%2" : "+a"(turns), "+D"(from) : "r"(code + 512) : "memory", "cc");
	ok_equal("a loop that overwrites itself ends at once", turns, 512 - 100 + 1);
}

/* Loops with more ways out to another page than most: each of them is one of the translator's
 * exits, in both copies. RSI points to memory. */
static void put(uint8_t **p, const char *bytes, unsigned n)
{
	memcpy(*p, bytes, n);
	*p += n;
}

static void put_far(uint8_t **p, const uint8_t *to, const char *jcc)
{
	int32_t rel = (int32_t)(to - (*p + 6));

	put(p, jcc, 2);
	put(p, (const char *)&rel, 4);
}

static void put_exits(uint8_t *page, unsigned exits)
{
	uint8_t *p = page, *far = page + 4096;

	put(&p, "\x31\xc0", 2);               /* xor %eax, %eax */
	put(&p, "\x48\x8b\x1e", 3);           /* 1: mov (%rsi), %rbx */
	put(&p, "\x83\xc0\x01", 3);           /* add $1, %eax */
	put(&p, "\x48\x83\xf9\x01", 4);       /* cmp $1, %rcx */
	put_far(&p, page + 2048, "\x0f\x84"); /* je to RET */
	for (unsigned n = 0; n < exits; n++)
		put_far(&p, far + 16 * n, "\x0f\x80"); /* jo */
	put(&p, "\x48\x83\xe9\x01", 4);                /* sub $1, %rcx */
	put_far(&p, page + 2, "\x0f\x85");             /* jnz 1b */
	page[2048] = 0xc3;
}

static void test_many_exits(void)
{
	static uint64_t value;
	uint8_t *page = page_alloc();
	unsigned wrong = 0;

	page_alloc(); /* the next page, where nobody goes */
	for (unsigned exits = 20; exits <= 60; exits++) {
		word turns = 0, left = 50;

		put_exits(page, exits);
		__asm__ volatile("call *%3"
		                 : "=&a"(turns), "+c"(left)
		                 : "S"(&value), "r"(page)
		                 : "rbx", "memory", "cc");
		wrong += turns != 50 || left != 1;
	}
	ok_equal("loops with 20 to 60 exits to another page", wrong, 0);
}

/* What is compared lives where the engine has no register of its own for it, and RET is next. */
static void test_flags_behind_ret(void)
{
	static uint64_t a = 5, b = 5;
	word flags;

	__asm__ volatile("jmp 2f; 1: lea (%1), %%r10; lea (%2), %%r11; cmp %%r11, %%r10; ret; "
	                 "2: call 1b; pushfq; popq %0"
	                 : "=&r"(flags)
	                 : "r"(a), "r"(b)
	                 : "r10", "r11", "memory", "cc");
	ok_equal("flags behind RET", flags & (FLAG_ZF | FLAG_CF | FLAG_SF), FLAG_ZF);
}

/* Two accesses whose distances from the register, as at the first, are more than 32 bits apart. */
static void test_far_displacements(void)
{
	uint64_t first, second;

	map_page(AREA + (1ul << 32), (uintptr_t)page_alloc() | RIGHTS);
	*word_at(9) = 0x1111;
	*word_at(8) = 0x2222;
	__asm__ volatile("mov -0x80000000(%2), %0; sub $8, %2; mov -0x80000000(%2), %1"
	                 : "=&r"(first), "=&r"(second)
	                 : "r"(AREA + 8 * 9 + 0x80000000ul)
	                 : "memory", "cc");
	ok("accesses at the farthest displacement", first == 0x1111 && second == 0x2222);
}

/* Interrupts take a loop out of its turns at any place; it has to go on as if there were none. */
static void test_interrupted(void)
{
	uint64_t sum = 0, want = 0;

	for (unsigned n = 0; n < PAGES * WORDS; n++) {
		*word_at(n) = n * 0x9e3779b97f4a7c15;
		want += *word_at(n);
	}
	irq_clear();
	apic_write(APIC_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, APIC_PERIODIC | VECTOR);
	apic_write(APIC_INITIAL, 100000);
	irq_enable();
	for (unsigned turn = 0; turn < 2000 || irq_mine()->of[VECTOR] < 20; turn++) {
		sum = 0;
		__asm__ volatile("mov %1, %%rsi; mov %2, %%ecx; 1: add (%%rsi), %0; add $8, %%rsi; "
		                 "sub $1, %%ecx; jnz 1b"
		                 : "+r"(sum)
		                 : "r"(AREA), "i"(PAGES * WORDS)
		                 : "rcx", "rsi", "memory", "cc");
		if (sum != want)
			break;
	}
	irq_disable();
	apic_write(APIC_INITIAL, 0);
	ok_equal("sums under a timer's interrupts", sum, want);
	ok("which came", irq_mine()->of[VECTOR] >= 20);
}

void guest_run(void)
{
	pic_disable();
	apic_enable();
	apic_write(APIC_LVT_LINT0, APIC_MASKED);
	irq_begin(apic_end);
	map_area();
	test_end();
	test_backwards();
	test_carries();
	test_read_only();
	test_remapped();
	test_device();
	test_own_code();
	test_many_exits();
	test_flags_behind_ret();
	test_far_displacements();
	test_interrupted();
}

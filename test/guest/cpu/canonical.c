/*
 * Addresses that are not canonical, one for each value of bits 63:48 that the processor's page
 * tables cannot express and an engine's own tables might use for something: loads, stores, the
 * stack and jumps fault on all of them (SDM 1 3.3.7.1), whatever has been there before.
 */
#include "guest.h"

/* The next value of bits 63:48 to try: all around 0x4000, every seventh elsewhere. */
static uint64_t next(uint64_t top)
{
	return top + (top >= 0x3ff0 && top < 0x4400 ? 1 : 7);
}

/* How many of the addresses with these low bits, called `at`, do not raise it. */
#define COUNT(low, vector, ...)                                             \
	({                                                                  \
		unsigned others_ = 0;                                       \
                                                                            \
		for (uint64_t top_ = 1; top_ < 0xffff; top_ = next(top_)) { \
			uint64_t at = top_ << 48 | (low);                   \
                                                                            \
			others_ += (__VA_ARGS__) != (vector);               \
		}                                                           \
		others_;                                                    \
	})

static void test_memory(void)
{
	ok_equal("loads",
	         COUNT(0x10, EXC_GP,
	               TRY("movb (%0), %%al",
	                   :
	                   : "r"(at)
	                   : "rax", "memory")),
	         0);
	ok_equal("stores", COUNT(0x10, EXC_GP, TRY("movb $1, (%0)", : : "r"(at) : "memory")), 0);
	ok_equal("loads in a loop",
	         COUNT(0xff8, EXC_GP,
	               TRY("1: mov (%0), %%rax; add $8, %0; sub $1, %%ecx; jnz 1b",
	                   :
	                   : "r"(at), "c"(10)
	                   : "rax", "memory")),
	         0);
}

static void test_stack(void)
{
	ok_equal("PUSH",
	         COUNT(0x10, EXC_SS,
	               TRY_USER("mov %0, %%rsp; push %%rax",
	                        :
	                        : "r"(at))),
	         0);
	ok_equal("POP",
	         COUNT(0x20, EXC_SS,
	               TRY_USER("mov %0, %%rsp; pop %%rdx",
	                        :
	                        : "r"(at)
	                        : "rdx")),
	         0);
	ok_equal("an operand at RSP",
	         COUNT(0, EXC_SS,
	               TRY_USER("mov %0, %%rsp; mov 8(%%rsp), %%rax; mov %%rax, 16(%%rsp)",
	                        :
	                        : "r"(at)
	                        : "rax", "memory")),
	         0);
	ok_equal("RET", COUNT(0x28, EXC_SS, TRY_USER("mov %0, %%rsp; ret", : : "r"(at))), 0);
}

static void test_jumps(void)
{
	ok_equal("JMP", COUNT(0, EXC_GP, TRY("jmp *%0", : : "r"(at))), 0);
	ok_equal("JMP to other low bits", COUNT(8, EXC_GP, TRY("jmp *%0", : : "r"(at))), 0);
	ok_equal("RET to one", COUNT(0, EXC_GP, TRY("push %0; ret", : : "r"(at))), 0);
}

void guest_run(void)
{
	test_memory();
	test_stack();
	test_jumps();
}

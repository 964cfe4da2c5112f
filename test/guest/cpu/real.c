/*
 * Real-address mode (SDM 3A 20.1): paragraphs and wraps, limits, interrupts through the vector
 * table, and segments that keep a 4 GiB limit from protected mode.
 *
 * The 16-bit code is copied to REAL_CODE and runs with CS = REAL_CODE / 16; what it finds it leaves
 * behind itself in memory, at REAL_DATA.
 */
#include "guest.h"

#define REAL_CODE 0x20000
#define REAL_DATA 0x30000
enum { SEL_CODE16 = SEL_FREE, SEL_DATA16 = SEL_FREE + 8 };

struct results {
	uint16_t msw, int_ip, int_cs, int_flags, div_ip, wrap_vector, wrap_ip, far_vector, sp,
	        big_vector;
	uint32_t high, unreal, back_esp, ud_vector, unused, far_call_cs;
};
_Static_assert(offsetof(struct results, high) == 20, "the assembly knows the offsets");
#define R ((volatile struct results *)REAL_DATA)

extern char real_start[], real_end[];
void real_run(void);

/* Handlers: each notes its vector in BP, the frame in the results, and returns to DI. */
__asm__("real_run:\n"
        "pushal\n pushl %ds\n pushl %es\n pushl %fs\n"
        "mov %esp, 0x3001c\n"
        "lidt real_idt\n"
        "mov $0x48, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n"
        "mov $0x18, %eax\n mov %eax, %fs\n" /* stays 4 GiB wide */
        "ljmp $0x40, $0\n"
        "real_back:\n"
        "mov $0x18, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n"
        "mov 0x3001c, %esp\n"
        "popl %fs\n popl %es\n popl %ds\n popal\n ret\n"
        "real_idt: .short 0x3ff; .long 0\n"
        ".code16\n"
        "real_start:\n"
        "mov %cr0, %eax\n and $0xfe, %al\n mov %eax, %cr0\n"
        "ljmp $0x2000, $1f - real_start\n"
        "1: mov $0x3000, %ax\n mov %ax, %ds\n mov %ax, %ss\n mov $0x1000, %sp\n"
        "smsw %ax\n mov %ax, 0\n"
        /* the vector table: 0, 6, 13, 12, 0x44 */
        "xor %ax, %ax\n mov %ax, %es\n"
        "movl $(0x20000000 + note_fault_0 - real_start), %es:(4 * 0)\n"
        "movl $(0x20000000 + note_fault_6 - real_start), %es:(4 * 6)\n"
        "movl $(0x20000000 + note_fault_12 - real_start), %es:(4 * 12)\n"
        "movl $(0x20000000 + note_fault_13 - real_start), %es:(4 * 13)\n"
        "movl $(0x20000000 + take_int - real_start), %es:(4 * 0x44)\n"
        /* INT n */
        "stc\n int $0x44\n"
        "int_after:\n"
        "mov %sp, 16\n"
        /* #DE */
        "xor %cx, %cx\n mov $(1f - real_start), %di\n"
        "div_at: div %cx\n"
        "1: mov %bx, 8\n"
        /* a word across 64 KiB */
        "xor %bp, %bp\n mov $(1f - real_start), %di\n"
        "wrap_at: mov 0xffff, %ax\n"
        "1: mov %bp, 10\n mov %bx, 12\n"
        /* an address beyond 64 KiB */
        "xor %bp, %bp\n mov $(1f - real_start), %di\n mov $0x10000, %eax\n"
        "mov (%eax), %cx\n"
        "1: mov %bp, 14\n"
        /* the same with ES */
        "xor %bp, %bp\n mov $(1f - real_start), %di\n mov $0x3000, %ax\n mov %ax, %es\n"
        "mov %es:0xffff, %cx\n"
        "1: mov %bp, 18\n"
        /* ffff:0010 is 1 MiB */
        "mov $0xffff, %ax\n mov %ax, %es\n mov %es:0x10, %eax\n mov %eax, 20\n"
        /* FS keeps its limit, and its base until it is loaded */
        "mov $0x100000, %eax\n mov %fs:(%eax), %ecx\n mov %ecx, 24\n"
        /* LLDT exists in protected mode only */
        "xor %bp, %bp\n mov $(1f - real_start), %di\n lldt %ax\n"
        "1: movzwl %bp, %ebp\n mov %ebp, 32\n"
        /* far call and return */
        "lcall $0x1ff0, $(far_target - real_start + 0x100)\n"
        /* back */
        "lgdtl %cs:(gdt_copy - real_start)\n"
        "mov %cr0, %eax\n or $1, %al\n mov %eax, %cr0\n"
        "ljmpl $0x08, $real_back\n"
        "far_target: xor %eax, %eax\n mov %cs, %ax\n mov %eax, 40\n lret\n"
        "take_int: mov %sp, %bx\n mov %ss:(%bx), %ax\n mov %ax, 2\n mov %ss:2(%bx), %ax\n mov %ax, "
        "4\n"
        "mov %ss:4(%bx), %ax\n mov %ax, 6\n iret\n"
        "note_fault_0: pop %bx\n push %di\n mov $100, %bp\n iret\n"
        "note_fault_6: pop %bx\n push %di\n mov $6, %bp\n iret\n"
        "note_fault_12: pop %bx\n push %di\n mov $12, %bp\n iret\n"
        "note_fault_13: pop %bx\n push %di\n mov $13, %bp\n iret\n"
        "gdt_copy: .short 511; .long gdt\n"
        "real_end:\n"
        ".code32");

extern char int_after[], div_at[], wrap_at[];

void guest_run(void)
{
	uint32_t ivt[256];

	gdt[SEL_CODE16 / 8] = descriptor(REAL_CODE, 0xffff, 0x9b, 0);
	gdt[SEL_DATA16 / 8] = descriptor(REAL_DATA, 0xffff, 0x93, 0);
	memcpy(ivt, (void *)0, sizeof(ivt));
	memcpy((void *)REAL_CODE, real_start, (size_t)(real_end - real_start));
	memset((void *)REAL_DATA, 0xee, 64);
	real_run();
	memcpy((void *)0, ivt, sizeof(ivt));
	idt_load();
	ok("there and back", true);
	ok_equal("CR0.PE was clear", R->msw & 1, 0);
	ok_equal("INT pushes IP behind itself", R->int_ip, (word)(int_after - real_start));
	ok_equal("and CS", R->int_cs, REAL_CODE / 16);
	ok("and FLAGS", R->int_flags & FLAG_CF);
	ok_equal("IRET takes three words", R->sp, 0x1000);
	ok_equal("#DE is a fault", R->div_ip, (word)(div_at - real_start));
	ok_equal("a word across 64 KiB raises #GP", R->wrap_vector, 13);
	ok_equal("at the instruction", R->wrap_ip, (word)(wrap_at - real_start));
	ok_equal("an offset beyond 64 KiB raises #GP", R->far_vector, 13);
	ok_equal("the same with ES", R->big_vector, 13);
	ok_equal("ffff:0010 is 1 MiB", R->high, *(volatile uint32_t *)0x100000);
	ok_equal("FS reaches 1 MiB from real mode", R->unreal, *(volatile uint32_t *)0x100000);
	ok_equal("LLDT raises #UD", R->ud_vector, 6);
	ok_equal("far call to another paragraph", R->far_call_cs, 0x1ff0);
	TRAPS("protected mode works as before", EXC_UD, 0, "ud2");
}

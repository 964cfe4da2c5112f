/*
 * From a Multiboot loader's 32-bit protected mode to guest_main(), for 32-bit guests as it is, for
 * 64-bit guests in long mode with the first 4 GiB identity mapped in 2 MiB pages open to user code.
 */
#include "layout.h"

#define HEADER_MAGIC 0x1badb002
#define HEADER_FLAGS 3 /* page-aligned modules, memory fields */

	.section .multiboot, "a"
	.balign 4
	.long HEADER_MAGIC, HEADER_FLAGS, -(HEADER_MAGIC + HEADER_FLAGS)

	.text
	.code32
	.globl guest_start
guest_start:
	cli
	cld
	movl $main_stacks + STACK_BYTES, %esp
	movl %ebx, multiboot_info
	lgdt gdt_pointer
	ljmp $SEL_CODE32, $1f
1:	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
#ifdef __x86_64__
	call fill_tables
	call enter_long_mode
	ljmp $SEL_CODE64, $2f
	.code64
2:	movl $main_stacks + STACK_BYTES, %esp
#endif
	xorl %ebp, %ebp
	call guest_main
1:	hlt
	jmp 1b

#ifdef __x86_64__
	.code32
/* 4 page directories of 2 MiB pages: present, writable, user. */
fill_tables:
	movl $boot_directories, %edi
	movl $0x87, %eax
	movl $2048, %ecx
1:	movl %eax, (%edi)
	movl $0, 4(%edi)
	addl $8, %edi
	addl $0x200000, %eax
	loop 1b
	movl $boot_pointers, %edi
	movl $boot_directories + 7, %eax
	movl $4, %ecx
1:	movl %eax, (%edi)
	addl $8, %edi
	addl $0x1000, %eax
	loop 1b
	movl $boot_pointers + 7, boot_pml4
	ret

/* Also an AP's way, from 32-bit protected mode; clobbers EAX, ECX, EDX. */
	.globl enter_long_mode
enter_long_mode:
	movl %cr4, %eax
	orl $0x20, %eax /* PAE */
	movl %eax, %cr4
	movl $boot_pml4, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	orl $0x100, %eax /* LME */
	wrmsr
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
	ret
#endif

	.data
	.globl gdt_pointer, multiboot_info
	.balign 4
	.short 0
gdt_pointer:
	.short 511
	.long gdt
	.long 0
multiboot_info:
	.long 0

	.bss
	.globl main_stacks
	.balign 16
main_stacks:
	.skip MAX_CPUS * STACK_BYTES
#ifdef __x86_64__
	.globl boot_pml4
	.balign 4096
boot_pml4:
	.skip 4096
boot_pointers:
	.skip 4096
boot_directories:
	.skip 4 * 4096
#endif
	.section .note.GNU-stack, "", @progbits

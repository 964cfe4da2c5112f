/* From a SIPI to smp_main(): real mode at 0x8000, protected mode, then long mode. */
#include "layout.h"

	.text
	.globl trampoline, trampoline_end, trampoline_gdt
	.code16
trampoline:
	cli
	xorw %ax, %ax
	movw %cs, %ax
	movw %ax, %ds
	lgdtl trampoline_gdt - trampoline
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $SEL_CODE32, $protected
	.balign 8
trampoline_gdt:
	.word 511
	.long gdt
trampoline_end:

	.code32
protected:
	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl $1f, %esp
	jmp 2f
	/* enter_long_mode() returns through a stack that several CPUs may share: it is not written. */
	.balign 8
1:	.long 3f
2:	jmp enter_long_mode
3:	ljmp $SEL_CODE64, $4f
	.code64
4:	movl $1, %eax
	cpuid
	shrl $24, %ebx
	movl %ebx, %edi
	incl %ebx
	imull $STACK_BYTES, %ebx
	leaq main_stacks(%rbx), %rsp
	xorl %ebp, %ebp
	call smp_main
	.section .note.GNU-stack, "", @progbits

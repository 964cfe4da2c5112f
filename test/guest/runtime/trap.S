/*
 * 256 entry points that push what `struct regs` (guest.h) describes and call handle_trap(), which
 * says where the frame to return with lies.
 */
#include "layout.h"

#define HAS_ERROR_CODE(n) \
	((n) == 8 || ((n) >= 10 && (n) <= 14) || (n) == 17 || (n) == 21 || (n) == 29 || (n) == 30)

#ifdef __x86_64__
	.macro push_all
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rbx
	pushq %rbp
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	.endm

	.text
trap_common:
	push_all
	cld
	movq %rsp, %rdi
	movq %rsp, %rbp
	andq $-16, %rsp
	call handle_trap
	movq %rax, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rbp
	popq %rbx
	popq %rdx
	popq %rcx
	popq %rax
	addq $16, %rsp
	iretq
#else
	.text
trap_common:
	pushal
	pushl %ds
	pushl %es
	pushl %fs
	pushl %gs
	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	cld
	pushl %esp
	call handle_trap
	movl %eax, %esp
	popl %gs
	popl %fs
	popl %es
	popl %ds
	popal
	addl $8, %esp
	iretl
#endif

	.balign 16
	.globl trap_entries
trap_entries:
	.set vector, 0
	.rept 256
	.balign 16
	.if !HAS_ERROR_CODE(vector)
	push $0
	.endif
#ifdef __x86_64__
	pushq $vector
#else
	pushl $vector
#endif
	jmp trap_common
	.set vector, vector + 1
	.endr
	.section .note.GNU-stack, "", @progbits

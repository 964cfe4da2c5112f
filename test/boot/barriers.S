/*
 * Memory barriers as kernels write them, and then power-off. Multiboot 1, 32-bit, no memory beyond
 * this file.
 */
	.code32
	.section .text
	.align 4
	.long 0x1badb002, 0, -0x1badb002

	.globl _start
_start:	mov $stack, %esp
	lock addl $0, -4(%esp)
	lock orl $0, (%esp)
	lock orb $0, variable
	lock subw $0, variable
	lock xorl $0, variable(,%eax,1)
	mfence
	xchg %eax, variable
	mov $0x604, %dx		/* PM1 control: S5, SLP_EN */
	mov $0x3400, %ax
	out %ax, %dx
	mov $0x2000, %ax	/* S5 is type 0 in QEMU */
	out %ax, %dx
	hlt

	.balign 4096
variable:
	.long 0
	.skip 1020
stack:	.skip 64

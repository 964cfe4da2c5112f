/*
 * Multiboot v1 entry of the benchmark guest: from 32-bit protected mode to 64-bit code with the first
 * 64 MiB mapped by 2 MiB pages, then bench_main(), whose result goes to the exit port.
 */
	.set MAGIC, 0x1badb002
	.text
	.align 4
	.long MAGIC, 0, -MAGIC      /* must lie in the first 8 KiB of the file */
	.code32
	.globl start
start:
	movl $stack_top, %esp
	movl $pdpt + 3, pml4
	movl $directory + 3, pdpt
	movl $0x83, %eax            /* 2 MiB pages: present, writable, PS */
	xorl %ecx, %ecx
1:	movl %eax, directory(,%ecx,8)
	addl $0x200000, %eax
	incl %ecx
	cmpl $32, %ecx
	jb 1b
	movl $pml4, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $0x620, %eax            /* PAE, OSFXSR, OSXMMEXCPT */
	movl %eax, %cr4
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax            /* LME */
	wrmsr
	movl %cr0, %eax
	orl $0x80000002, %eax       /* PG, MP */
	andl $~4, %eax              /* EM off */
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $8, $long_mode

	.code64
long_mode:
	movl $16, %eax
	movl %eax, %ss
	movl %eax, %ds
	movl %eax, %es
	call bench_main
	outb %al, $0xf4
1:	hlt
	jmp 1b

	.section .rodata
	.align 8
gdt:
	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
	.word . - gdt - 1
	.long gdt

	.bss
	.align 4096
pml4:	.skip 4096
	.globl pdpt
pdpt:	.skip 4096
directory:	.skip 4096
	.skip 65536
stack_top:

	.section .note.GNU-stack, "", @progbits

/*
 * A guest for the tests of the command line: answers keys on the serial port. Multiboot 1, no
 * interrupts, no memory beyond this file.
 *
 * The port is used as it comes out of reset, without FIFOs: enabling them would drop what a test has
 * sent already. It prints "ready", then echoes what it gets, except:
 *   Q power off   R reset   C triple fault   D halt for good with interrupts off
 *   S spin        X write 0x10 to the exit port   F print lines without end
 *   N print N lines, numbered "000000" to "009999", then "done"
 */
#define COM1     0x3f8
#define LSR      (COM1 + 5)
#define LSR_DR   1
#define LSR_THRE 0x20

	.code32
	.section .text
	.align 4
	.long 0x1badb002, 0, -0x1badb002

	.globl _start
_start:	mov $stack, %esp
	mov $ready, %esi
	call puts
next:	call getc
	mov $actions, %esi
1:	cmpb $0, (%esi)
	je 2f
	cmp (%esi), %al
	je 3f
	add $5, %esi
	jmp 1b
2:	call putc
	jmp next
3:	call *1(%esi)
	jmp next

actions:
	.byte 'Q'; .long poweroff
	.byte 'R'; .long reset
	.byte 'C'; .long triple_fault
	.byte 'D'; .long halt
	.byte 'S'; .long spin
	.byte 'X'; .long exit_port
	.byte 'F'; .long flood
	.byte 'N'; .long lines
	.byte 0

poweroff:
	mov $0x604, %dx		/* PM1 control: S5, SLP_EN */
	mov $0x3400, %ax
	out %ax, %dx
	mov $0x2000, %ax	/* S5 is type 0 in QEMU */
	out %ax, %dx
	ret

reset:	mov $0xcf9, %dx
	mov $6, %al
	out %al, %dx
	ret

triple_fault:
	lidt no_idt
	int3

halt:	cli
	hlt
	jmp halt

spin:	jmp spin

exit_port:
	mov $0x10, %al
	out %al, $0xf4
	ret

flood:	mov $ready, %esi
	call puts
	jmp flood

/* Decimal counting on the digits themselves. */
lines:	mov $10000, %ebx
	movl $0x30303030, digits
	movw $0x3030, digits + 4
1:	mov $digits, %esi
	call puts
	mov $digits + 5, %edi
2:	incb (%edi)
	cmpb $'9', (%edi)
	jbe 3f
	movb $'0', (%edi)
	dec %edi
	jmp 2b
3:	dec %ebx
	jnz 1b
	mov $done, %esi

puts:	lodsb
	test %al, %al
	jz 1f
	call putc
	jmp puts
1:	ret

putc:	mov %al, %cl
	mov $LSR, %dx
1:	in %dx, %al
	test $LSR_THRE, %al
	jz 1b
	mov %cl, %al
	mov $COM1, %dx
	out %al, %dx
	ret

getc:	mov $LSR, %dx
1:	in %dx, %al
	test $LSR_DR, %al
	jz 1b
	mov $COM1, %dx
	in %dx, %al
	ret

	.data
ready:	.asciz "ready\r\n"
done:	.asciz "done\r\n"
digits:	.asciz "000000\r\n"
	.align 8
no_idt:	.word 0
	.long 0

	.bss
	.skip 4096
stack:

/*
 * A Multiboot image without ELF headers, placed by the address fields of its header: the file is
 * loaded to 2 MiB, its header 16 bytes in, with a page of zeros behind it.
 */
#include "layout.h"

#define BASE   0x200000
#define MAGIC  0x1badb002
#define FLAGS  0x10003 /* and the address fields */
#define LOADED 0x2badb002

	.code32
	.text
	.globl guest_start
guest_start:
	.ascii "not the header.."
header:
	.long MAGIC, FLAGS, -(MAGIC + FLAGS)
	.long BASE + (header - guest_start)
	.long BASE
	.long BASE + (loaded_end - guest_start)
	.long BASE + (loaded_end - guest_start) + 4096
	.long BASE + (entry - guest_start)

entry:
	cmpl $LOADED, %eax
	jne fail
	cmpl $0x600dda7a, BASE + (last_word - guest_start)
	jne fail
	movl $BASE + (loaded_end - guest_start), %edi
	movl $4096, %ecx
	xorl %eax, %eax
	repe scasb
	jne fail
	movl %edi, %esp
	call 1f
1:	popl %eax
	cmpl $BASE + (1b - guest_start), %eax
	jne fail
	movb $EXIT_PASS, %al
	jmp 2f
fail:	movb $EXIT_FAIL, %al
2:	outb %al, $PORT_EXIT
3:	hlt
	jmp 3b
last_word:
	.long 0x600dda7a
loaded_end:
	.section .note.GNU-stack, "", @progbits

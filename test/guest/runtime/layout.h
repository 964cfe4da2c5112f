/*
 * Numbers that the runtime's assembly and C share: selectors, control bits, the exit port.
 */
#pragma once

/*
 * The GDT. The order serves SYSCALL and SYSRET (kernel code, stack; user 32, stack, user 64) and,
 * in 64-bit mode, SYSENTER and SYSEXIT with IA32_SYSENTER_CS = SEL_CODE64.
 */
#define SEL_CODE32  0x08
#define SEL_CODE64  0x10
#define SEL_DATA    0x18
#define SEL_UCODE32 (0x20 | 3)
#define SEL_UDATA   (0x28 | 3)
#define SEL_UCODE64 (0x30 | 3)
#define SEL_UDATA2  (0x38 | 3)
#define SEL_FREE    0x40  /* to 0xff: for the guest under test */
#define SEL_TSS     0x100 /* one of 16 bytes a CPU */

#ifdef __x86_64__
#define SEL_CODE  SEL_CODE64
#define SEL_UCODE SEL_UCODE64
#else
#define SEL_CODE  SEL_CODE32
#define SEL_UCODE SEL_UCODE32
#endif

#define MAX_CPUS    16
#define STACK_BYTES 0x4000 /* a CPU's main stack, and each of its trap stacks */

#define VECTOR_DONE 0x20 /* INT of user code that got to its end */

#define PORT_EXIT  0xf4
#define EXIT_PASS  0x10 /* status 33 */
#define EXIT_FAIL  0x11 /* status 35 */
#define PORT_DEBUG 0xe9
#define PORT_COM1  0x3f8

#define MSR_EFER 0xc0000080

/*
 * The runtime of the tiny guests: programs without an operating system that try one part of the
 * machine and print a line a check, "ok N - name" or "not ok N - name", on port 0xe9 or COM1. They
 * end through the exit port with EXIT_PASS or EXIT_FAIL. run.py starts them and reads the lines.
 *
 * A guest defines guest_run(), which is entered on CPU 0 with a GDT (layout.h), a TSS and an IDT
 * that sends every vector to handle_trap(). 64-bit guests run in long mode, the first 4 GiB
 * identity mapped and open to user code; 32-bit guests without paging.
 *
 * Faults. TRY("instruction", operands) executes it and gives the vector of the exception that it
 * raised, or NO_TRAP; what the handler saw is in this_cpu()->trap. After an exception execution
 * goes on behind TRY with all general registers as they were at the fault, back at CPL 0 with the
 * stack as before. TRY_USER does the same at CPL 3. Anything in between may go wrong: the stack,
 *CS, CPL.
 *
 *	ok("read of page 0", TRY("movl (%0), %%eax", : : "r"(0l) : "eax") == EXC_PF);
 *	ok_equal("its address", this_cpu()->trap.cr2, 0);
 *
 * In extended asm form (with operands) registers are written %%eax, without operands %eax.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

enum {
	EXC_DE,
	EXC_DB,
	EXC_NMI,
	EXC_BP,
	EXC_OF,
	EXC_BR,
	EXC_UD,
	EXC_NM,
	EXC_DF,
	EXC_TS = 10,
	EXC_NP,
	EXC_SS,
	EXC_GP,
	EXC_PF,
	EXC_MF = 16,
	EXC_AC,
	EXC_MC,
	EXC_XM
};
#define NO_TRAP (-1)

#define PF_P     1u
#define PF_WRITE 2u
#define PF_USER  4u
#define PF_RSVD  8u
#define PF_FETCH 16u
#define PF_PK    32u

#define FLAG_CF   0x1ul
#define FLAG_PF   0x4ul
#define FLAG_AF   0x10ul
#define FLAG_ZF   0x40ul
#define FLAG_SF   0x80ul
#define FLAG_TF   0x100ul
#define FLAG_IF   0x200ul
#define FLAG_DF   0x400ul
#define FLAG_OF   0x800ul
#define FLAG_IOPL 0x3000ul
#define FLAG_NT   0x4000ul
#define FLAG_RF   0x10000ul
#define FLAG_VM   0x20000ul
#define FLAG_AC   0x40000ul
#define FLAG_VIF  0x80000ul
#define FLAG_VIP  0x100000ul

#define CR0_MP (1ul << 1)
#define CR0_EM (1ul << 2)
#define CR0_TS (1ul << 3)
#define CR0_NE (1ul << 5)
#define CR0_WP (1ul << 16)
#define CR0_AM (1ul << 18)
#define CR0_NW (1ul << 29)
#define CR0_CD (1ul << 30)
#define CR0_PG (1ul << 31)

#define CR4_VME        (1ul << 0)
#define CR4_PVI        (1ul << 1)
#define CR4_TSD        (1ul << 2)
#define CR4_DE         (1ul << 3)
#define CR4_PSE        (1ul << 4)
#define CR4_PAE        (1ul << 5)
#define CR4_PGE        (1ul << 7)
#define CR4_PCE        (1ul << 8)
#define CR4_OSFXSR     (1ul << 9)
#define CR4_OSXMMEXCPT (1ul << 10)
#define CR4_UMIP       (1ul << 11)
#define CR4_LA57       (1ul << 12)
#define CR4_FSGSBASE   (1ul << 16)
#define CR4_PCIDE      (1ul << 17)
#define CR4_OSXSAVE    (1ul << 18)
#define CR4_SMEP       (1ul << 20)
#define CR4_SMAP       (1ul << 21)
#define CR4_PKE        (1ul << 22)

#define EFER_SCE (1ul << 0)
#define EFER_LME (1ul << 8)
#define EFER_LMA (1ul << 10)
#define EFER_NXE (1ul << 11)

typedef unsigned long word; /* a general register */

/* The frame as trap.S and the CPU push it. */
#ifdef __x86_64__
struct regs {
	word r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
	word vector, error;
	word ip, cs, flags, sp, ss;
};

struct tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t ist[7];
	uint64_t reserved2;
	uint16_t reserved3, iomap_base;
	uint8_t iomap[32]; /* ports 0-0xff all allowed, none above */
	uint8_t iomap_end;
} __attribute__((packed));
#else
struct regs {
	word gs, fs, es, ds;
	word di, si, bp, sp_ignored, bx, dx, cx, ax;
	word vector, error;
	word ip, cs, flags;
	word sp, ss; /* only in a frame that comes from CPL 1-3 or virtual-8086 mode */
};

struct tss {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2;
	uint32_t cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
	uint32_t es, cs, ss, ds, fs, gs, ldt;
	uint16_t trap, iomap_base;
	uint8_t iomap[32]; /* ports 0-0xff all allowed, none above */
	uint8_t iomap_end;
} __attribute__((packed));
#endif

/* What the last exception looked like. */
struct trap {
	int vector;
	struct regs regs; /* in 32-bit guests sp and ss are what lay on the stack there */
	word cr2;
	word sp_at_entry; /* stack pointer before the CPU pushed its frame, at the same CPL */
};

struct cpu {
	word resume_ip, resume_sp; /* where TRY goes on, 0 outside */
	struct trap trap;
	unsigned index;
	struct tss tss;
	uint8_t trap_stack[STACK_BYTES] __attribute__((aligned(16)));
	uint8_t df_stack[STACK_BYTES] __attribute__((aligned(16))); /* IST 1 */
};

extern struct cpu cpus[MAX_CPUS];
extern uint64_t gdt[64];
extern uint32_t multiboot_info;
extern char main_stacks[];
extern char guest_end[];
#ifdef __x86_64__
extern uint64_t boot_pml4[512];
#endif

/* The guest's own code. Its return ends the guest. */
void guest_run(void);

/* By the task register; 32-bit guests, which change it, have one CPU. */
struct cpu *this_cpu(void);

/* GDT, TSS, IDT and segment registers of the CPU that calls; the runtime does it for CPU 0. */
void cpu_setup(unsigned index);

/* If set, sees every trap first. true: it is done, go on with the registers as they are now. */
extern bool (*trap_hook)(struct regs *r);

/* Every vector's gate leads to trap.S; these change how: privilege to INT, IST, or another handler.
 */
void gate_set(unsigned vector, void (*handler)(void), unsigned type, unsigned dpl, unsigned ist);
void gate_set_dpl(unsigned vector, unsigned dpl);
void gate_set_ist(unsigned vector, unsigned ist);
void gate_default(unsigned vector);
uint64_t *gate_raw(unsigned vector); /* the descriptor itself, one or two quadwords */
void idt_load(void);
void gdt_load(void);
#define GATE_INTERRUPT 14
#define GATE_TRAP      15
#define GATE_TASK      5

/* Results. */
void ok(const char *name, bool condition);
void ok_equal(const char *name, uint64_t got, uint64_t want);
/* The last trap: vector, and for vectors with one, the error code. */
void ok_trap(const char *name, int vector, word error);
void note(const char *text); /* a line of comment */
void print(const char *text);
void print_hex(uint64_t value);
_Noreturn void guest_exit(void); /* by the checks so far */
_Noreturn void guest_die(const char *why);

/* Descriptors: access is byte 5, flags the high nibble of byte 6 (G 8, D/B 4, L 2). */
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags);

/* 4 KiB of zeros from memory behind the image, never given back. */
void *page_alloc(void);

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);
void *memmove(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#ifdef __x86_64__
#define ASM_TRY_BEGIN_(label) "movq %%rsp, %0\n\tmovq $" #label "f, %1"
#define ASM_USER_(label)                                                                         \
	"movq %%rsp, %%rax\n\tpushq %0\n\tpushq %%rax\n\tpushq $2\n\tpushq %1\n\tpushq $" #label \
	"f\n\tiretq\n" #label ":"
#else
#define ASM_TRY_BEGIN_(label) "movl %%esp, %0\n\tmovl $" #label "f, %1"
#define ASM_USER_(label)                                                                         \
	"movl %%esp, %%eax\n\tpushl %0\n\tpushl %%eax\n\tpushl $2\n\tpushl %1\n\tpushl $" #label \
	"f\n\tmovl %0, %%ds\n\tmovl %0, %%es\n\tiretl\n" #label ":"
#endif

/*
 * The asm statements follow each other without code between that moves the stack pointer; the first
 * stores where the last ends. Labels are numbers of their own, and meson.build forbids the compiler
 * to share code between branches, so that first and last are always of the same TRY.
 */
#define TRY_BEGIN_(label)                                               \
	struct cpu *try_ = this_cpu();                                  \
	try_->trap.vector = NO_TRAP;                                    \
	__asm__ volatile(ASM_TRY_BEGIN_(label)                          \
	                 : "=m"(try_->resume_sp), "=m"(try_->resume_ip) \
	                 :                                              \
	                 : "memory")
#define TRY_END_()                           \
	__asm__ volatile("" : : : "memory"); \
	try_->resume_ip = 0;                 \
	try_->trap.vector
#define TRY_(label, insn, ...)                                      \
	({                                                          \
		TRY_BEGIN_(label);                                  \
		__asm__ volatile(insn "\n" #label ":" __VA_ARGS__); \
		TRY_END_();                                         \
	})
#define TRY_USER_(label, user, insn, ...)                                        \
	({                                                                       \
		TRY_BEGIN_(label);                                               \
		__asm__ volatile(ASM_USER_(user)                                 \
		                 :                                               \
		                 : "r"((word)SEL_UDATA), "i"(SEL_UCODE)          \
		                 : "rax", "memory");                             \
		__asm__ volatile(insn "\n\tint $0x20\n" #label ":" __VA_ARGS__); \
		TRY_END_();                                                      \
	})
#define TRY_EXPAND_(...)      TRY_(__VA_ARGS__)
#define TRY_USER_EXPAND_(...) TRY_USER_(__VA_ARGS__)
#define TRY_LABEL_2_(n)       10##n
#define TRY_LABEL_(n)         TRY_LABEL_2_(n)
#define TRY(...)              TRY_EXPAND_(TRY_LABEL_(__COUNTER__), __VA_ARGS__)
#define TRY_USER(...) \
	TRY_USER_EXPAND_(TRY_LABEL_(__COUNTER__), TRY_LABEL_(__COUNTER__), __VA_ARGS__)

/* A check in one line: the instruction raises this and nothing else; NO_TRAP, 0: nothing at all. */
#define TRAPS(name, vector, error, ...)       \
	do {                                  \
		TRY(__VA_ARGS__);             \
		ok_trap(name, vector, error); \
	} while (0)
#define USER_TRAPS(name, vector, error, ...)  \
	do {                                  \
		TRY_USER(__VA_ARGS__);        \
		ok_trap(name, vector, error); \
	} while (0)

/* Instructions. */
#define REGISTER_ACCESS_(name, reg)                                           \
	static inline word read_##name(void)                                  \
	{                                                                     \
		word v;                                                       \
		__asm__ volatile("mov %%" reg ", %0" : "=r"(v) : : "memory"); \
		return v;                                                     \
	}                                                                     \
	static inline void write_##name(word v)                               \
	{                                                                     \
		__asm__ volatile("mov %0, %%" reg : : "r"(v) : "memory");     \
	}
REGISTER_ACCESS_(cr0, "cr0")
REGISTER_ACCESS_(cr2, "cr2")
REGISTER_ACCESS_(cr3, "cr3")
REGISTER_ACCESS_(cr4, "cr4")
REGISTER_ACCESS_(dr0, "dr0")
REGISTER_ACCESS_(dr1, "dr1")
REGISTER_ACCESS_(dr2, "dr2")
REGISTER_ACCESS_(dr3, "dr3")
REGISTER_ACCESS_(dr6, "dr6")
REGISTER_ACCESS_(dr7, "dr7")

static inline word read_flags(void)
{
	word v;
	__asm__ volatile("pushf; pop %0" : "=r"(v) : : "memory");
	return v;
}

static inline void write_flags(word v)
{
	__asm__ volatile("push %0; popf" : : "r"(v) : "memory", "cc");
}

static inline uint64_t read_msr(uint32_t msr)
{
	uint32_t lo, hi;
	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (uint64_t)hi << 32 | lo;
}

static inline void write_msr(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr"
	                 :
	                 : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))
	                 : "memory");
}

/* WRMSR and RDMSR that may fault. */
int try_write_msr(uint32_t msr, uint64_t v);
int try_read_msr(uint32_t msr, uint64_t *v);

struct cpuid {
	uint32_t a, b, c, d;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub)
{
	struct cpuid r;
	__asm__ volatile("cpuid"
	                 : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
	                 : "a"(leaf), "c"(sub));
	return r;
}

static inline void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline void out32(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

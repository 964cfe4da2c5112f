/*
 * The architectural state of one vCPU, x86-64. This struct is the reference: an engine may hold
 * parts of it elsewhere while it runs, and gives them back with sync_out().
 *
 * Arithmetic flags are kept lazily, as the last result and the carries out of each bit position
 * (the scheme of Mihocka and Shwartsman, "Virtualization Without Direct Execution", ISCA AMAS-BT
 * 2008): ZF, SF and PF follow from the result, CF, OF and AF from the carries. src/cpu/flags.h has
 * the accessors; nobody else reads flag_res and flag_aux.
 *
 * Threads: a vCPU's own thread owns all of it, except `attention`, which anyone may set,
 * and msr.tsc_offset, which anyone may read.
 */
#pragma once

#include <setjmp.h>
#include <stdatomic.h>
#include "base/base.h"
#include "cpu/exit.h"

/* Register numbers as the instruction encoding has them. */
enum { R_RAX, R_RCX, R_RDX, R_RBX, R_RSP, R_RBP, R_RSI, R_RDI };
#define GPR_ZERO 16 /* always 0: an address without base or index */
#define GPR_RIP  17 /* address of the next instruction while one executes */

enum seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

/* Segment register with its hidden part. attr is the VMX access-rights format (SDM 3C 24.4.1): bits
 * 3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G, 16 unusable. limit is in bytes, scaled.
 */
struct segment {
	uint64_t base;
	uint32_t limit;
	uint32_t attr;
	uint16_t sel;
};
#define SEG_TYPE     0x000fu
#define SEG_S        BIT(4)
#define SEG_DPL(a)   (((a) >> 5) & 3)
#define SEG_P        BIT(7)
#define SEG_L        BIT(13)
#define SEG_DB       BIT(14)
#define SEG_G        BIT(15)
#define SEG_UNUSABLE BIT(16)

struct dtable {
	uint64_t base;
	uint16_t limit;
};

#define RFLAGS_CF    BIT(0)
#define RFLAGS_1     BIT(1)
#define RFLAGS_PF    BIT(2)
#define RFLAGS_AF    BIT(4)
#define RFLAGS_ZF    BIT(6)
#define RFLAGS_SF    BIT(7)
#define RFLAGS_TF    BIT(8)
#define RFLAGS_IF    BIT(9)
#define RFLAGS_DF    BIT(10)
#define RFLAGS_OF    BIT(11)
#define RFLAGS_IOPL  (3ull << 12)
#define RFLAGS_NT    BIT(14)
#define RFLAGS_RF    BIT(16)
#define RFLAGS_VM    BIT(17)
#define RFLAGS_AC    BIT(18)
#define RFLAGS_VIF   BIT(19)
#define RFLAGS_VIP   BIT(20)
#define RFLAGS_ID    BIT(21)
#define RFLAGS_ARITH (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME        BIT(0)
#define CR4_PVI        BIT(1)
#define CR4_TSD        BIT(2)
#define CR4_DE         BIT(3)
#define CR4_PSE        BIT(4)
#define CR4_PAE        BIT(5)
#define CR4_MCE        BIT(6)
#define CR4_PGE        BIT(7)
#define CR4_PCE        BIT(8)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP       BIT(11)
#define CR4_LA57       BIT(12)
#define CR4_FSGSBASE   BIT(16)
#define CR4_PCIDE      BIT(17)
#define CR4_OSXSAVE    BIT(18)
#define CR4_SMEP       BIT(20)
#define CR4_SMAP       BIT(21)
#define CR4_PKE        BIT(22)

#define EFER_SCE   BIT(0)
#define EFER_LME   BIT(8)
#define EFER_LMA   BIT(10)
#define EFER_NXE   BIT(11)
#define EFER_FFXSR BIT(14)

#define XCR0_X87    BIT(0)
#define XCR0_SSE    BIT(1)
#define XCR0_AVX    BIT(2)
#define XCR0_AVX512 (7ull << 5) /* opmasks, upper halves of ZMM0-15, ZMM16-31 */
#define XCR0_PKRU   BIT(9)

/* Vectors, SDM 3A table 6-1. */
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

/* Bits of cpu.attention: reasons to leave the inner loop and look. */
#define ATTN_INTR \
	BIT(0) /* the interrupt controller has something; ask with EXIT_INTACK when IF allows */
#define ATTN_NMI  BIT(1)
#define ATTN_INIT BIT(2)
#define ATTN_SIPI BIT(3) /* cpu.sipi_vector is valid */
#define ATTN_KICK BIT(4) /* return EXIT_KICK to the monitor */
#define ATTN_CODE BIT(5) /* translated code has been written; the translator's own */
#define ATTN_EVENT                                                                     \
	BIT(6) /* cpu.event is on its way: an engine was stopped while it delivered it \
	        */

enum mp_state { MP_RUNNABLE, MP_HALTED, MP_WAIT_SIPI };

/* The mode that decoding depends on. */
enum cpu_mode { MODE_16, MODE_32, MODE_64, MODE_COUNT };

/* x87, SSE and AVX state in the standard (not compacted) XSAVE layout, SDM 1 13.4: legacy region
 * 512 bytes (MXCSR at 24, ST0.. at 32, XMM0.. at 160), header 64, AVX high halves at 576. */
#define FPU_MXCSR 24
#define FPU_ST    32
#define FPU_XMM   160
#define FPU_YMMH  576
#define FPU_BYTES 832
struct fpu {
	_Alignas(64) uint8_t area[FPU_BYTES];
};
/* What AVX-512 adds, in the order of its components 5, 6 and 7. Only an engine that runs the guest
 * on the CPU itself has it. */
struct fpu_wide {
	uint8_t opmask[64], upper[512], high[1024];
};

struct cpu_msrs {
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux;
	uint64_t pat, misc_enable, spec_ctrl, xss, mtrr_def_type;
	uint64_t mtrr_phys[16], mtrr_fix[11];
	uint64_t mcg_status, mcg_ctl, bios_sign_id, debugctl;
	int64_t tsc_offset; /* guest TSC = host TSC + this */
	uint64_t tsc_adjust;
	uint64_t steal_time; /* KVM's MSR for it; an engine that fills the page keeps it */
};

struct cpuid_model; /* cpu/cpuid.h */
struct tlb_entry;   /* mmu/mmu.h */
struct mmu;
struct interp; /* interp/interp.h */
struct bt;
struct kvm_vcpu;  /* engine/kvm/kvm.h */
struct engine_vm; /* engine/engine.h */
struct insn;
struct lapic;
struct mem;
struct engine_options;
struct cpu;

/* How the vCPU reaches the rest of the machine. */
struct cpu_ops {
	void (*exit)(struct cpu *c, struct exit *e);
};

struct cpu_stats {
	uint64_t insns;      /* guest instructions retired */
	uint64_t tlb_misses; /* page walks */
	uint64_t blocks;     /* decoded */
	uint64_t user_ns;    /* clock_ns() of the first instruction at CPL 3, 0 before */
	uint64_t exits[EXIT_REASONS];
	uint64_t exceptions[32];
	uint64_t interrupts;
};

struct cpu {
	union {
		uint64_t gpr[18];
		struct {
			uint64_t rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi;
			uint64_t r8, r9, r10, r11, r12, r13, r14, r15, zero, rip;
		};
	};
	uint64_t flag_res; /* last result, sign extended to 64 bits */
	uint32_t flag_aux; /* see flags.h */
	uint8_t cpl;
	uint8_t mode; /* enum cpu_mode of the code segment in force */
	bool flat; /* ES, CS, SS and DS have base 0 and no limit check can fail (always in MODE_64)
	            */
	bool shadow; /* interrupts are held off for one instruction (STI, MOV SS, POP SS) */
	const struct insn *cur;     /* instruction in execution; the block loop's own */
	const struct insn *stop_at; /* the block loop ends when it reaches this; NULL: after cur */
	struct tlb_entry *tlb;      /* the TLB of the current privilege mode, see mmu.h */
	uint64_t tlb_tag;           /* current address-space tag, low 12 bits */
	uintptr_t code_page;        /* host page of the code in execution, 1 when none */
	uint64_t rflags;            /* all but RFLAGS_ARITH; use cpu_get_rflags() for the whole */
	_Atomic uint32_t attention;
	uint32_t pkru;

	struct segment seg[SEG_COUNT];
	struct dtable gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
	uint64_t pdpte[4]; /* PAE paging loads these with CR3 (SDM 3A 4.4.1) */
	uint64_t dr[4], dr6, dr7;
	struct cpu_msrs msr;
	struct fpu fpu;
	struct fpu_wide fpu_wide;

	enum mp_state mp_state;
	uint8_t sipi_vector;
	bool nmi_masked;
	uint32_t db_pending; /* DR6 bits collected for a #DB after this instruction */

	/* The exception on its way through longjmp; see interp/interp.h. */
	struct {
		int vector; /* -1 when none */
		uint32_t error;
	} fault;
	struct {
		uint8_t *host; /* NULL: none */
		unsigned len;
	} wrote; /* a store through mmu_host() into a page with watched code */
	/* With ATTN_EVENT: what is delivered before the next instruction. */
	struct cpu_event {
		uint8_t vector;
		bool external; /* an interrupt or NMI; else an exception */
		bool has_error;
		uint32_t error;
	} event;
	int delivering;    /* vector being delivered, -1 when none: decides double faults */
	struct exit *exit; /* where the engine wants the exit written that ends run() */

	unsigned id;         /* APIC id */
	struct lapic *lapic; /* device/lapic.h; NULL without a board */
	const struct cpuid_model *cpuid;
	const struct cpu_ops *ops;
	const struct engine_options *options; /* engine/engine.h; NULL: none */
	unsigned nr_cpus;                     /* of the machine, 0 when unknown */
	void *host;                           /* the monitor's vCPU */
	struct mem *mem;
	struct mmu *mmu;
	struct interp *interp;
	struct bt *bt; /* engine/bt/bt.h */
	struct kvm_vcpu *kvm;
	struct engine_vm *engine_vm; /* what the engine holds for the machine, or NULL */
	/*
	 * __builtin_setjmp() buffer of the run loop. Whoever sets it is a function of its own that
	 * returns after a jump and uses nothing that it had before, for Clang may have given the
	 * place on the stack away.
	 */
	void *jmp[5];
	struct cpu_stats stats;
};

static inline bool cpu_long_mode(const struct cpu *c)
{
	return c->efer & EFER_LMA;
}

/* Power-on and INIT state (SDM 3A table 9-1). INIT keeps FPU, TSC, MTRRs and CR0.CD/NW. */
void cpu_reset(struct cpu *c);
void cpu_init_signal(struct cpu *c);

/* All of RFLAGS, arithmetic flags included; set takes every bit as given (bit 1 forced). */
uint64_t cpu_get_rflags(const struct cpu *c);
void cpu_set_rflags(struct cpu *c, uint64_t value);

/* All that the guest can see of a vCPU, and nothing of its engine or machine: from one to another,
 * neither of which runs. The caller flushes what was derived from the old state. */
void cpu_copy_state(struct cpu *to, const struct cpu *from);

/* Recomputes cpl-independent derived state (mode, flat) after CS, DS, ES, SS, CR0 or EFER changed.
 */
void cpu_update_mode(struct cpu *c);

/* Records a fault and jumps to the run loop, which delivers it (interp/interp.h says more). The
 * second sets CR2 as well; its error is the page-fault error code. */
_Noreturn void cpu_raise(struct cpu *c, int vector, uint32_t error);
_Noreturn void cpu_raise_pf(struct cpu *c, gva_t va, uint32_t error);

/* Sets bits in attention from any thread. Waking a halted thread is the monitor's part. */
static inline void cpu_raise_attention(struct cpu *c, uint32_t bits)
{
	atomic_fetch_or_explicit(&c->attention, bits, memory_order_seq_cst);
}

/* Writes registers, segments and control registers to stderr-like text; returns bytes written. */
int cpu_dump(const struct cpu *c, char *buf, size_t size);

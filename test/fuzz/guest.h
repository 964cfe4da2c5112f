/*
 * A vCPU with hostile registers, descriptor tables and page tables, for the fuzzers that give it
 * code: what an input looks like, and the state that it asks for.
 */
#pragma once

#include "cpu/cpu.h"
#include "mem/mem.h"

/* Guest memory, identity mapped. */
#define GDT_PA      0x1000
#define IDT_PA      0x2000
#define TSS_PA      0x4000
#define OTHER_PA    0x5000 /* a second TSS, for task switches */
#define LDT_PA      0x6000
#define STACK_PA    0x8000
#define DATA_PA     0x9000
#define CODE_PA     0xa000
#define PML5_PA     0x10000
#define PML4_PA     0x11000
#define PDPT_PA     0x12000
#define PD_PA       0x13000
#define PT_PA       0x14000
#define LEGACY_PA   0x15000
#define SYSTEM_SIZE 0x18000
#define ROM_PA      0xf0000 /* filled with HLT */
#define ROM_BYTES   0x10000
#define RAM_BYTES   MEM_MIN_BYTES

#define MAX_INPUT 4096 /* bytes; the code does not reach the tables */

/* An input begins with it; nr_pokes struct guest_pokes and the code follow. */
struct __attribute__((packed)) guest_header {
	uint8_t mode; /* row of modes[] */
	uint8_t run;  /* how the vCPU runs: the fuzzer's own */
	uint8_t nr_pokes;
	uint8_t gpr[16]; /* rows of values[] */
	uint8_t segment[6];
	uint32_t cr0, cr4, rflags, dr7, pkru; /* bits that differ from the mode's usual ones */
	uint8_t efer, xcr0;
	uint8_t events; /* how often interrupts and NMIs come */
	uint16_t rip;   /* within the code page */
	uint64_t value; /* what devices answer */
};

/* A byte of the system structures that is not as an honest guest has it. */
struct __attribute__((packed)) guest_poke {
	uint16_t page_offset;
	uint8_t page, value;
};

enum { FLAG_REAL = 1, FLAG_PAGED = 2, FLAG_PAE = 4, FLAG_LONG = 8, FLAG_LA57 = 16, FLAG_V86 = 32 };

struct guest_mode {
	uint32_t flags;
	uint8_t cpl;
	uint16_t cs; /* selector in the GDT below */
};

enum { SEL_CODE64 = 0x08, SEL_CODE32 = 0x10, SEL_CODE16 = 0x18, SEL_DATA = 0x20 };
enum { SEL_USER = 0x20 }; /* distance to the same with DPL 3 */
enum { SEL_LDT = 0x48, SEL_TSS = 0x58, SEL_OTHER = 0x68, SEL_GATE = 0x78, SEL_TASK = 0x88 };

/* A vCPU with its memory and its devices. */
struct guest {
	struct mem *mem;
	struct cpuid_model *model;
	struct cpu *cpu;
	uint64_t value;
	uint64_t events; /* shift register that decides when something comes */
	unsigned exits;  /* that the devices answered */
};

/* Its vCPU runs on the engine that create() makes. After libFuzzer has installed its signal
 * handlers, which those of the engines replace. */
struct guest *guest_new(int (*create)(struct cpu *c));
/*
 * The state that an input asks for: memory is cleared, then the system structures are built, poked,
 * and followed by the code, in a page of `filler`. What the engine has derived from memory before
 * is the caller's to drop.
 */
void guest_load(struct guest *g, const struct guest_header *h, const uint8_t *data, size_t size,
                uint8_t filler);
const struct guest_mode *guest_mode_of(const struct guest_header *h);
/* Sets what the shift register says of interrupts and NMIs, and shifts it. */
void guest_send_event(struct guest *g);

/* What must hold between any two instructions, and of the TLB. */
void guest_check_state(const struct guest *g);
void guest_check_tlb(const struct guest *g);

/*
 * Binary translation, x86-64 to x86-64: what the files of this folder share. The essay is
 * doc/binary-translation.md; the terms in short:
 *
 * block    translated code for a run of guest instructions within one physical page
 * site     a place in a block where control may leave to C with the guest's state exact: a memory
 *          access that missed, an instruction that the interpreter does
 * exit     a jump out of a block to a known address, linked to the next block or to its stub
 * segment  a part of the code cache that is emptied as a whole
 *
 * Everything belongs to one vCPU and its thread, but for `post`, which other vCPUs write, and what
 * the signal handler of that same thread touches (signal.c says when).
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <Zydis/Zydis.h>
#include "cpu/cpu.h"
#include "interp/insn.h"
#include "mmu/mmu.h"

#define BT_TLB_BITS    12
#define BT_TLB_ENTRIES (1u << BT_TLB_BITS)
#define BT_JC_ENTRIES  8192u
#define BT_JOURNAL     2048
#define BT_POSTS       64
#define BT_WORLD_MAX   64
#define BT_SPILLS      6

/*
 * A hit: tag ^ address is the offset in the page. Code looks with any 64 bits, canonical or not; so
 * an empty entry has the tag of a page whose entry is another one.
 */
struct bt_tlb_entry {
	uint64_t tag;  /* linear address of the page */
	uint64_t host; /* its host address */
};
static inline uint64_t bt_tlb_empty(unsigned n)
{
	return n % BT_TLB_ENTRIES ? 0 : PAGE_SIZE;
}

/* Where an indirect jump goes; empty entries likewise. */
struct bt_jc_entry {
	uint64_t tag;  /* target ^ space */
	uint64_t code; /* host address: the entry for flags in the slot */
	uint64_t page; /* linear address of the target's page */
	uint64_t unused;
};

static inline uint64_t bt_jc_empty(unsigned n)
{
	return n ? 0 : 8;
}

enum { BT_READ, BT_WRITE };
/* A space of the jump cache for each MMU mode, with 64-bit and with 32-bit code. */
#define BT_SPACES (2 * MMU_MODES)

/* Why translated code came back to C. */
enum bt_reason {
	BT_LINK,     /* r15: offset of a struct bt_exit */
	BT_INDIRECT, /* r14: target address */
	BT_SITE,     /* r15: offset of a struct bt_site, whose instruction the interpreter does */
};

struct bt_stats {
	uint64_t blocks, code_bytes, evictions, flushes, invalidated;
	uint64_t links, jump_misses, lookups, fills, fallbacks, kicks, unmerged, posts;
	uint64_t checked, unchecked; /* blocks */
	uint32_t fallback[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

/* A decoded instruction of a site. */
#define BT_KEPT 1024
struct bt_kept {
	const struct bt_site *site;
	unsigned generation, drops;
	struct insn insn;
};

struct bt_block;
struct bt_site;
struct bt_cache;
struct bt_xlat;
struct bt_world;
struct bt_check;

/* The vCPU block: at GS:0 while translated code runs. */
struct bt {
	/* Translated code knows the offsets of these. */
	uint64_t gpr[16];     /* those without a host register always, all while C runs */
	uint64_t pc;          /* linear address of the page in execution */
	uint64_t seg_base[2]; /* FS, GS */
	uint64_t slot;        /* RFLAGS saved before something clobbered them */
	uint64_t host_flags;  /* RFLAGS of the host */
	uint64_t target;      /* host address at which enter() goes on */
	uint64_t host_rsp;
	uint64_t r13, r14, r15; /* the scratch registers */
	uint64_t reason;
	uint64_t bit_address;      /* see translate.c, bit() */
	uint64_t fill_site;        /* offset of the site that bt_fill() works for, or 0 */
	uint64_t space[BT_SPACES]; /* of the jump cache, in bits 63:48; poisoned by kicks */
	uint32_t space_id;         /* the user space's again, for links across pages */
	uint32_t kicked;
	uint64_t x87_page, x87_control; /* page of the last x87 code; a control word on its way */
	uint32_t x87_ok, sse_ok,
	        avx_ok; /* vector instructions may run: state is live, enabled, masked */
	struct cpu *cpu;
	struct bt_tlb_entry tlb[MMU_MODES][2][BT_TLB_ENTRIES];
	struct bt_jc_entry jc[BT_JC_ENTRIES];
	/* The stack's page in each mode, a copy of an entry for writes; empty whenever C is left:
	 * with the tag of a page that no guest has, and a host address that traps (signal.c), for
	 * there is nothing that a guest cannot have in RSP. */
	struct bt_tlb_entry stack[MMU_MODES];
	uint64_t saved;            /* a value that flags were made of, see flags.c */
	uint64_t trap_page;        /* host address of a page that cannot be accessed */
	uint64_t stack_va;         /* an address on its way there */
	uint8_t *meta, *exec;      /* of the cache */
	uint64_t spill[BT_SPILLS]; /* host addresses that a block has found, see access.c */

	/* For C only. */
	_Atomic uint32_t in_code; /* the thread is in translated code, or on its way to or from */
	_Atomic int tid;
	bool fsgsbase; /* the host's kernel lets us set GS by an instruction */
	bool fpu_live; /* the guest's vector state is in the host's registers */
	bool want_vector, want_sse, want_avx, want_x87,
	        x87_live;  /* at the next entry: see enter_vector() */
	bool kernel_local; /* jump cache or links hold kernel code that is not on a global page */
	unsigned flushes;  /* counts what src/mmu told */
	bool any_filled;   /* an L1 entry since the last whole flush */
	bool any_global;
	unsigned nr_journal;
	struct bt_tlb_entry
	        *journal[BT_JOURNAL];   /* entries filled from pages that are not global */
	uint16_t next_space, kernel_id; /* of the jump cache's spaces */
	uint16_t asid_space[4096];      /* space id of an ASID of src/mmu, 0: none yet */
	uint64_t code_pages[1024]; /* hashed set: pages that the jump cache and links lead to */
	bool kernel_low;           /* they are not all either the kernel's or of one user space */
	struct bt_kept kept[BT_KEPT];
	struct bt_cache *cache;
	struct bt_xlat *xlat;
	struct bt_world *world;
	_Atomic uint64_t epoch; /* counts returns to C */
	uint64_t revocations;   /* of the world, when code was entered at a block's start */
	pthread_mutex_t post_lock;
	_Atomic bool posted;
	bool post_all;
	unsigned nr_posts;
	struct {
		uint64_t page, granules;
	} post[BT_POSTS];
	struct {
		unsigned nr, max, nr_old; /* the first nr_old: epochs noted since */
		struct bt_doubt {
			struct bt_block *block; /* or NULL: */
			uint64_t page;
		} * list;
		uint64_t epoch[BT_WORLD_MAX];
	} doubt;                /* see world.c */
	FILE *trace, *perf_map; /* or NULL */
	struct bt_check *check; /* or NULL: see check.c */
	struct bt_stats stats;
};

/* ---- stubs.c ---- */

typedef void (*bt_enter_fn)(struct bt *b);

/* The jump cache's entry for a target: flow.c has the same in machine code. */
static inline unsigned bt_jc_index(gva_t va)
{
	uint32_t v = (uint32_t)va;

	return ((v >> 9) + (v << 3)) >> 3 & (BT_JC_ENTRIES - 1);
}

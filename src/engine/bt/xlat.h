/*
 * One translation in progress: what scan.c finds, and what access.c, rewrite.c, flow.c and
 * translate.c make of it. Private to src/engine/bt.
 */
#pragma once

#include "engine/bt/cache.h"
#include "engine/bt/emit.h"
#include "engine/bt/stubs.h"
#include "isa/isa.h"

#define XLAT_INSNS   64
#define XLAT_SITES   384
#define XLAT_EXITS   (2 * XLAT_INSNS + 8)
#define XLAT_PENDING 400
#define INSN_MAX     15
#define HOLD_REGS    3

#define NO_REG  (-1)
#define REG_PC  (-2) /* the base of a RIP-relative operand */
#define REG_BIT (-3) /* bt.bit_address, the word that BT and its like access */

/* An operand in memory, by guest register numbers. */
struct operand {
	bool present;
	int8_t base, index; /* NO_REG, REG_PC */
	uint8_t scale;      /* shift */
	uint8_t asize;      /* bytes */
	int8_t seg;         /* 0 FS, 1 GS, NO_REG: base 0 */
	int64_t disp;       /* for REG_PC relative to the page */
	uint16_t size;      /* bytes accessed */
	bool read, write;
};

struct guest_insn {
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	enum isa_class class;
	struct isa_flags flags;
	uint16_t off; /* in the page */
	uint8_t len;
	const uint8_t *bytes;
	struct operand mem;   /* the explicit memory operand */
	struct operand stack; /* what a stack instruction accesses besides */
	int8_t stack_step;    /* that RSP changes by; imm of RET not counted */
	uint32_t writes;      /* general registers written, a mask */
	uint32_t reads;       /* and read, also as part of an address */
	int64_t target;       /* of a direct branch, relative to the page */
};

/* A conditional branch. */
static inline bool xlat_branches(const struct guest_insn *g)
{
	return g->class == ISA_JCC || g->class == ISA_JCXZ || g->class == ISA_LOOP;
}

/* Of a jump or call: is its target known? */
static inline bool xlat_is_direct(const struct guest_insn *g)
{
	return g->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

static inline bool xlat_same_page(int64_t target)
{
	return target >= 0 && target < (int64_t)PAGE_SIZE;
}

/* The registers of an address, as in struct operand. */
struct place {
	int8_t base, index;
	uint8_t scale;
};

/* A scratch register that holds the host address of a place plus `bias`; good for offsets lo to hi
 * from the place. */
struct cached {
	bool valid;
	uint8_t host; /* R13 or R14 */
	struct place place;
	int64_t lo, hi, bias;
	bool write;
	bool pinned; /* of the second copy of a loop, from its start to its end */
	int8_t home; /* number of the word of bt.spill that has it, or NO_REG */
};

enum pending_kind { PENDING_ACCESS, PENDING_SITE, PENDING_EXIT, PENDING_CROSS };

/* Code out of line, to be written behind the block. */
struct pending {
	enum pending_kind kind;
	uint8_t *jump; /* displacement to aim here */
	struct bt_site *site;
	unsigned exit;
	/* PENDING_ACCESS */
	struct operand operand;
	unsigned address;
	/* PENDING_CROSS: as at the jump */
	enum bt_flags flags;
	struct bt_recipe recipe;
	int64_t target;
	uint8_t mode;
};

struct bt_xlat {
	struct bt *b;
	struct emit e;
	struct bt_segment *seg;
	struct bt_block *block;
	uint32_t key;
	uint8_t mode; /* MMU_*, follows STAC and CLAC */
	bool user;
	unsigned nr, at; /* instructions; the one being translated */
	unsigned loop;   /* the first so many are a loop that carries addresses; 0: none */
	bool second;     /* at the second copy of the loop */
	struct guest_insn insn[XLAT_INSNS];
	enum bt_flags flags;
	struct bt_recipe recipe;
	struct bt_recipe shift; /* of the instruction at hand, or RECIPE_NONE */
	bool unseen; /* the instruction at hand ends the recipe, and nobody will miss it */
	bool announced, packed; /* the next recipe is in the slot already; this one is, too */
	struct cached cached[2];
	struct cached spilled[BT_SPILLS]; /* what bt.spill holds */
	int8_t held[HOLD_REGS]; /* guest register of which R13, R14, R15 are copies, or NO_REG */
	uint32_t fresh;         /* mask of those that the instruction at hand has set */
	int32_t rsp_late;       /* what is still to be added to the host register of RSP */
	bool sse_checked, avx_checked, x87_checked;
	bool x87;   /* may run on the host, see translate.c */
	bool bmi2;  /* of the host */
	bool spans; /* what follows the last instruction does not end on this page */
	const uint8_t *host2;
	uint32_t insn_start; /* offset of the rewritten instruction, behind what it needed */
	unsigned nr_sites, nr_exits, nr_pending, nr_windows;
	unsigned nr_crosses;    /* of the pending: each becomes an exit, with a site and a window */
	unsigned sites_checked; /* sites up to the last check of an address that was kept */
	struct bt_site *site;   /* in the segment's tables */
	struct bt_exit exit[XLAT_EXITS];
	struct bt_window window[XLAT_EXITS];
	struct pending pending[XLAT_PENDING];
	ZydisDecoder decoder64, decoder32;
	bool offers[ZYDIS_ISA_SET_MAX_VALUE + 1]; /* of general instructions: unless known not to */
	bool vectors[ZYDIS_ISA_SET_MAX_VALUE + 1]; /* and x87: only what is known */
	uint8_t copy[PAGE_SIZE + 16];              /* the bytes of the block as they were read */
};

/* scan.c: fills insn[] from the bytes at host (avail of them), which lie at off in their page. */
void scan_block(struct bt_xlat *x, const uint8_t *bytes, unsigned avail, unsigned off);
/* Number of a general register of any width, or NO_REG; AH to BH count as RAX to RBX. */
int scan_gpr(ZydisRegister r);
/* Value added to guest register reg by an instruction; false when it is not a constant. */
bool scan_step(const struct guest_insn *g, int reg, int64_t *step);

/* access.c */
/* The host register and displacement that reach an operand; checks it first unless a cached
 * register covers it. Registers in `avoid` (mask) are not used. */
struct reach {
	uint8_t base;
	int32_t disp;
};
struct reach access_reach(struct bt_xlat *x, const struct operand *o, uint32_t avoid);
/* Linear address of an operand into a host register; uses R15. */
void access_address(struct bt_xlat *x, const struct operand *o, unsigned to);

/* place.c: addresses that checks have found */
void place_forget(struct bt_xlat *x); /* all of them */
void place_forget_host(struct bt_xlat *x, unsigned host);
void place_insn_done(struct bt_xlat *x, const struct guest_insn *g); /* registers have changed */
/* Whether the address in R13 or R14 serves an access to come. */
bool place_is_live(const struct bt_xlat *x, unsigned host);
/* The second copy of a loop, see translate.c: at its start, where flags are in the slot if there is
 * anything to step; before the jump back, given what the registers are to hold. */
bool place_steps(const struct bt_xlat *x);
void place_begin_turn(struct bt_xlat *x);
void place_end_turn(struct bt_xlat *x, const struct cached first[2]);
/* Can the next turn step on from the address? */
bool place_is_wanted_again(const struct bt_xlat *x, const struct cached *c);
/* Instruction n, seen from the one at hand: are its operands reached by addresses that are known
 * now? For a second copy's own that is certain. */
bool place_is_at_hand(const struct bt_xlat *x, unsigned n);

/* hold.c */
void hold_forget(struct bt_xlat *x, unsigned host); /* its content changes */
void hold_forget_all(struct bt_xlat *x);
/* A scratch register is a copy of a guest register whose place is struct bt. */
void hold_set(struct bt_xlat *x, unsigned host, int reg);
int hold_find(const struct bt_xlat *x, int reg); /* a copy's host register, or NO_REG */
void hold_insn_done(struct bt_xlat *x, const struct guest_insn *g);
uint16_t hold_pack(const struct bt_xlat *x); /* as bt_site has it */
/* Does an instruction soon to come read the register as it is after the one at hand? */
bool hold_is_wanted(const struct bt_xlat *x, int reg);
/* The scratch register, not in the mask, that is missed least; keeps: for something worth keeping.
 */
unsigned hold_pick(const struct bt_xlat *x, uint32_t busy, bool keeps);

/* flags.c */
void flags_free(struct bt_xlat *x); /* the host's may be clobbered next */
void flags_host(struct bt_xlat *x); /* the guest's are wanted in the host's */
/* If they are in the slot and one decides the condition: puts that into the host's CF, and the
 * condition that tests it into *cc. The others stay where they are. */
bool flags_from_bit(struct bt_xlat *x, unsigned *cc);
void flags_slot(struct bt_xlat *x); /* in the slot, the host's may be clobbered */
/* Before an instruction that destroys what a recipe needs: makes the flags. */
void flags_keep(struct bt_xlat *x, const struct guest_insn *g);
void flags_done(struct bt_xlat *x, const struct guest_insn *g); /* it has been executed natively */
/* Before g: puts the recipe of its flags into the slot if a jump of this page comes next. */
void flags_announce(struct bt_xlat *x, const struct guest_insn *g);
/* With flags in the host's: the mask of registers that the recipe in the slot is made of, after it
 * has been put there if there is one; else 0. */
uint16_t flags_pack(struct bt_xlat *x);
/* Of the whole block: whether its flags are overwritten before anybody reads them, and which
 * registers change before that. */
bool flags_unread(const struct bt_xlat *x, uint16_t *spoils);
void flags_from_slot(struct emit *e); /* from slot to host; uses R15 */
void flags_emit_recipe(struct bt_xlat *x, const struct bt_recipe *r);

/* rewrite.c: the instruction itself, its operands moved. */
bool rewrite_possible(const struct guest_insn *g);
void rewrite_insn(struct bt_xlat *x, const struct guest_insn *g, const struct reach *r);
/* Guest register in a host register that can be read: its own, a copy's, or temp, which is loaded.
 */
unsigned rewrite_read(struct bt_xlat *x, int reg, unsigned temp);

/* insn.c: host code for an instruction. */
/* Pushes and pops that need no check of their own move RSP together, later. Before anybody looks at
 * it: */
void insn_settle_rsp(struct bt_xlat *x);
/* Does an instruction look at it, other than as a push or pop? */
bool insn_minds_rsp(const struct guest_insn *g);
/* May the host trap at it, at an address that has been checked? */
bool insn_may_trap(const struct guest_insn *g);
void insn_translate(struct bt_xlat *x, const struct guest_insn *g);

/* flow.c */
enum { FLOW_RCX_ZERO = 16, FLOW_ECX_ZERO, FLOW_RCX, FLOW_ECX }; /* beside condition codes */
void flow_exit(struct bt_xlat *x, int64_t target, int cc);      /* cc < 0: always */
/* To an instruction of this page that ends on the next one. */
void flow_exit_span(struct bt_xlat *x, int64_t target);
void flow_indirect(struct bt_xlat *x, const struct guest_insn *g, int undo); /* to R14 */
void flow_finish(struct bt_xlat *x);       /* everything out of line but the stubs of exits, */
void flow_finish_exits(struct bt_xlat *x); /* which need block->exit */

/* translate.c */
bool xlat_has_site(const struct guest_insn *g);
/* Will instruction n, which may have a site, leave none that flags must be saved for? As far as can
 * be seen now, with place_is_at_hand(). */
bool xlat_needs_no_check(const struct bt_xlat *x, unsigned n);
struct bt_site *xlat_site(struct bt_xlat *x, const struct guest_insn *g, unsigned kind);
struct pending *xlat_pending(struct bt_xlat *x, enum pending_kind kind, uint8_t *jump);
/* The block at host, off bytes into its page; NULL when its first instruction ends on the next
 * page: then host2 has to be given, the host address of that page. */
struct bt_block *translate(struct bt *b, const uint8_t *host, unsigned off, uint32_t key,
                           const uint8_t *host2);
int translate_new(struct bt *b);
void translate_free(struct bt *b);

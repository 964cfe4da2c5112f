/*
 * The code cache: blocks, where they are found, what links them. Private to src/engine/bt.
 */
#pragma once

#include "engine/bt/bt.h"

/* What a block was translated for besides its bytes. */
#define BT_KEY_MMU      3u     /* MMU_* mode at its start */
#define BT_KEY_32       BIT(2) /* 32-bit code with flat segments, else 64-bit code */
#define BT_KEY_SMAP     BIT(3) /* CR4.SMAP: STAC and CLAC change the mode */
#define BT_KEY_UNMERGED BIT(4) /* each memory access is checked by itself */
#define BT_KEY_CPL3     BIT(6)
#define BT_KEY_SPAN     BIT(7) /* one instruction, whose end is on the next page */
#define BT_KEY_KIND     (BT_KEY_UNMERGED | BT_KEY_SPAN) /* what the vCPU's state does not decide */

/* Which space of the jump cache the code of a key looks in. */
static inline unsigned bt_space(uint32_t key, unsigned mode)
{
	return mode + (key & BT_KEY_32 ? MMU_MODES : 0);
}

/* Where the guest's arithmetic flags are. */
enum bt_flags { BT_FLAGS_HOST, BT_FLAGS_SLOT, BT_FLAGS_RECIPE };

/* Flags that nobody saved, for they follow from registers: those of op a, b (or imm). */
enum {
	RECIPE_NONE,
	RECIPE_CMP,
	RECIPE_TEST,
	RECIPE_SUB_DONE, /* b from a, done: a is the result */
	RECIPE_ADD_DONE,
	RECIPE_SHL, /* of a, which is as before, by imm */
	RECIPE_SHR,
	RECIPE_SAR,
};
#define RECIPE_SAVED 16  /* in place of a register: bt.saved */
#define RECIPE_IMM   255 /* for b: the immediate */
struct bt_recipe {
	uint8_t op;   /* RECIPE_* */
	uint8_t size; /* bytes: 1, 2, 4, 8 */
	uint8_t a, b; /* general registers */
	int32_t imm;
};

/*
 * The slot holds RFLAGS or, packed, a recipe: a block that ends in a comparison and a jump says by
 * it what its flags were made of, for a block to come that will not read them.
 */
#define BT_SLOT_RECIPE BIT(31) /* RFLAGS has it clear */
#define BT_SLOT_IMM    BIT(30)
static inline bool bt_pack_recipe(const struct bt_recipe *r, uint32_t *slot)
{
	bool imm = r->b == RECIPE_IMM;

	if (r->op == RECIPE_NONE || r->a == RECIPE_SAVED || r->b == RECIPE_SAVED ||
	    (imm && (r->imm < -(1 << 20) || r->imm >= 1 << 20)))
		return false;
	*slot = (uint32_t)BT_SLOT_RECIPE | r->op | (uint32_t)__builtin_ctz(r->size) << 3 |
	        (uint32_t)r->a << 5;
	*slot |= imm ? (uint32_t)BT_SLOT_IMM | ((uint32_t)r->imm << 9 & 0x3ffffe00u)
	             : (uint32_t)r->b << 9;
	return true;
}
static inline struct bt_recipe bt_unpack_recipe(uint32_t slot)
{
	bool imm = slot & BT_SLOT_IMM;

	return (struct bt_recipe){
		.op = slot & 7,
		.size = (uint8_t)(1u << (slot >> 3 & 3)),
		.a = slot >> 5 & 15,
		.b = imm ? RECIPE_IMM : slot >> 9 & 15,
		.imm = imm ? (int32_t)(slot << 2) >> 11 : 0,
	};
}

enum { SITE_ACCESS, SITE_INSN, SITE_VECTOR, SITE_CHECK };

/* What C needs to know about a place in a block. */
struct bt_site {
	struct bt_block *block;
	uint32_t trap;      /* offset of an instruction that may trap, or 0 */
	uint32_t retry;     /* where to try again, with the address in the scratch register */
	uint32_t hit;       /* where to go on with the host address in the scratch register */
	uint32_t resume;    /* behind the guest instruction; 0: do not go on in this block */
	uint16_t off;       /* of the guest instruction in its page */
	uint16_t span;      /* bytes that the check covers */
	uint8_t kind;       /* SITE_* */
	uint8_t len;        /* of the guest instruction */
	uint8_t flags;      /* enum bt_flags */
	uint8_t mode;       /* MMU_* */
	bool write_tag : 1; /* the check is against the write tags */
	bool write : 1;     /* the access at hand is a write */
	bool group : 1;     /* others rely on the check */
	bool stack : 1;     /* the check is against bt.stack */
	bool single : 1;    /* those are in turns of a loop to come, or on other pages there */
	uint8_t addr_reg;   /* R13 or R14: holds the address */
	uint8_t light;      /* enum light */
	uint16_t held; /* at resume: the registers that R13, R14 and R15 are copies of, 4 bits each;
	                * 0: none */
	uint16_t mnemonic;
	struct bt_recipe recipe;
};

struct bt_exit {
	struct bt_block *from, *to; /* to: NULL when not linked */
	struct bt_exit *next_in;    /* next of to's incoming exits, or of the cross-page list */
	struct bt_exit *next_cross;
	uint32_t patch; /* offset of the displacement that leads to the next block */
	uint32_t stub;  /* what it leads to when not linked */
	uint32_t guard; /* offset of the space id that a link across pages is guarded by, or 0 */
	/* With a guard: displacement of the jump for another space, where it leads when linked, and
	 * where the link leads when not linked: a vCPU may be between the two. */
	uint32_t miss, lookup, moved;
	uint16_t off; /* of the target in its page */
	uint8_t key;
	bool slot : 1;  /* flags are in the slot */
	bool cross : 1; /* the target is on another page */
	bool in_cross : 1;
	bool loop : 1; /* back to the block's start, with the registers as at loop_slot, loop_host
	                */
	/* A mask: what the recipe in the slot is made of, which holds beside the host's flags; 0:
	 * it is RFLAGS, or nothing. */
	uint16_t recipe;
};

/* A place in a block where an indirect jump is under way; see signal.c. */
struct bt_window {
	uint32_t start, end;
};

#define BT_JC_MANY 0xffff
/* What cache_find() and who asked it read comes first, and lies on one line of the host's cache
 * more often than not. */
struct bt_block {
	const uint8_t *host; /* of its first guest byte */
	uint32_t key;
	uint32_t next_hash;                          /* as in bt_cache.bucket */
	uint32_t entry_slot, entry_host, start, end; /* offsets of code */
	bool dead, global;
	uint16_t jc; /* 0: not in the jump cache; one more than where; BT_JC_MANY: at several places
	              */
	uint32_t hash;                 /* of its bytes */
	uint32_t loop_slot, loop_host; /* entries for exits with `loop`; see translate.c */
	struct bt_block *next_page;
	uint64_t granules; /* of its page */
	uint16_t bytes;    /* of guest code */
	uint16_t nr_sites, nr_exits, nr_windows, nr_insns;
	bool sse, avx, x87; /* has such instructions: legacy and VEX encoded vectors, x87 */
	/* Flags are overwritten unread: the slot may hold a recipe at entry_slot, if it is made of
	 * none of these registers. */
	bool takes_recipe;
	uint16_t spoils;
	struct bt_site *site;
	struct bt_exit *exit;
	struct bt_window *window;
	struct bt_exit *incoming;
	/* With BT_KEY_SPAN: the part on the next page. */
	const uint8_t *host2;
	uint64_t granules2;
	uint16_t bytes2;
	struct bt_block *next_span;
};

#define BT_SEGMENTS    8
#define BT_BUCKET_BITS 17
#define BT_BUCKETS     (1u << BT_BUCKET_BITS)
#define BT_PAGES       (1u << 12)

struct bt_segment {
	uint32_t code_start, code_end; /* offsets */
	uint32_t code_used;
	uint8_t *meta;
	size_t meta_used, meta_size;
	struct bt_block **block; /* by address */
	unsigned nr_blocks, max_blocks;
};

struct bt_cache {
	uint8_t *write; /* the code as we write it */
	uint8_t *exec;  /* and as it runs */
	uint8_t *meta;  /* sites, exits, blocks: offsets count from here */
	size_t size, meta_size;
	uint32_t stubs_end; /* offset */
	struct bt_segment seg[BT_SEGMENTS];
	unsigned current;
	unsigned drops; /* counts segments emptied: what pointed into one may be gone */
	/* One more than a sixteenth of the block's offset in meta; 0: none. A guest that boots a
	 * distribution has a quarter of a million blocks, and each step of a chain misses the
	 * host's caches. */
	uint32_t bucket[BT_BUCKETS];
	struct bt_block *page[BT_PAGES];
	struct bt_block *span[BT_PAGES]; /* by host2 */
	struct bt_exit *cross;           /* linked exits to other pages, without guard */
	/* Stubs that blocks jump to. */
	uint32_t stub_link, stub_indirect, stub_site, stub_fill[2], stub_light, stub_lookup;
	uint32_t stub_stack[MMU_MODES][2];
	uint32_t site_end; /* in the stubs from stub_fill up to here R15 is a site */
	bt_enter_fn enter;
};

int cache_new(struct bt *b, size_t bytes);
void cache_free(struct bt *b);
/* Room for a block of at most `code` bytes with `meta` bytes of tables: evicts if need be. */
#define BT_BLOCK_CODE_MAX (24 * KiB)
#define BT_BLOCK_META_MAX (48 * KiB)
struct bt_segment *cache_room(struct bt *b);
void *cache_meta(struct bt_segment *s, size_t bytes);
struct bt_block *cache_find(struct bt *b, const uint8_t *host, uint32_t key);
/* Enters a finished block: from now on it is found, and its code is watched. */
void cache_insert(struct bt *b, struct bt_segment *s, struct bt_block *k);
void cache_link(struct bt *b, struct bt_exit *x, struct bt_block *to);
void cache_unlink(struct bt *b, struct bt_exit *x);
/* Makes the exits of a block lead to their stubs; safe in a signal handler that interrupted code.
 */
void cache_unlink_exits(struct bt *b, struct bt_block *k);
/* The links across pages that hold no space id, and those that do. */
void cache_unlink_cross(struct bt *b);
void cache_unlink_guarded(struct bt *b);
/* Drops the blocks of a page that have code in the granules. */
void cache_invalidate(struct bt *b, const uint8_t *page, uint64_t granules);
void cache_flush(struct bt *b);
/* The block whose code holds a host address, or NULL. */
struct bt_block *cache_block_at(struct bt *b, uint64_t address);
/* A block whose second page is another one now. */
void cache_drop(struct bt *b, struct bt_block *k);
uint32_t cache_hash_bytes(const uint8_t *p, unsigned n);
/* Of the block's bytes as they are in memory now. */
uint32_t cache_hash_block(const struct bt_block *k);

static inline void *cache_at_meta(struct bt *b, uint64_t offset)
{
	return b->cache->meta + (uint32_t)offset;
}
static inline uint32_t cache_meta_offset(struct bt *b, const void *p)
{
	return (uint32_t)((const uint8_t *)p - b->cache->meta);
}
static inline uint64_t cache_address(struct bt *b, uint32_t offset)
{
	return (uint64_t)(uintptr_t)(b->cache->exec + offset);
}
